"""Named views of an image: pipelines in YAML, and what they make of its pixels and boxes.

A pipeline is a list of operations (``ssod.transforms.augmentations``). ``{start: weak, ops: [...]}`` continues from
what the view ``weak`` of the same image ended with, so that the two are pixel-aligned unless ``ops`` moves pixels
again.

What a view draws depends on (seed, stream, image, position, view name) and on nothing else; how far an operation's ramp
is depends on the step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from PIL import Image
from pydantic import AfterValidator, Field, model_serializer, model_validator

from ssod.structures import Pieces, Targets, Tiles
from ssod.transforms.augmentations import Asks, Augmentations, asks, dump_list, leaves, nearest
from ssod.transforms.patch_shuffle import PatchShuffle
from ssod.transforms.picture import Picture
from ssod.transforms.tile import begin_with_tile
from ssod.transforms.transform import ALONE, Seen, Setting, chain
from ssod.transforms.zoom import TILES
from ssod.utils import seeding
from ssod.utils.errors import SsodError
from ssod.utils.schema import Section


class Pipeline(Section):
    """Operations in order; a plain list is short for ``{ops: list}``."""

    ops: Augmentations = Field((), validate_default=True)
    "Names, {name: {parameter: value}}, one_of, shuffle, presets."
    start: str | None = None
    "Name of another view of the same image to continue from; None = the image as it is in the file."
    hidden: bool = False
    "Only a start for other views; not part of the batch."

    @model_validator(mode="before")
    @classmethod
    def _from_list(cls, value: Any) -> Any:
        if isinstance(value, Mapping | Pipeline):
            return value
        return {"ops": value}  # what is no list is refused there

    @model_serializer
    def _to_plain(self) -> Any:
        ops = dump_list(self.ops)
        if self.start is None and not self.hidden:
            return ops
        plain: dict[str, Any] = {"start": self.start, "ops": ops, "hidden": self.hidden}
        return {name: value for name, value in plain.items() if value not in (None, False)}

    @classmethod
    def __get_pydantic_json_schema__(cls, core: Any, handler: Any) -> dict[str, Any]:
        """Both forms, for editors that complete a YAML file."""
        schema = handler(core)
        return {"anyOf": [handler.resolve_ref_schema(schema)["properties"]["ops"], schema]}


def order(pipelines: Mapping[str, Pipeline]) -> list[str]:
    """Return the names so that every view comes after the one it starts from.

    Raises:
        ValueError: a ``start`` that does not exist, or a circle of them.
    """
    done: list[str] = []
    for name in pipelines:
        path, here = [], name
        while here not in done:
            if here in path:
                raise ValueError(f"views start from each other in a circle: {' -> '.join([*path, here])}")
            path.append(here)
            start = pipelines[here].start
            if start is None:
                break
            if start not in pipelines:
                raise ValueError(f"view '{here}' starts from unknown view '{start}'; {nearest(start, list(pipelines))}")
            here = start
        done.extend(reversed(path))
    return done


def _connected(pipelines: dict[str, Pipeline]) -> dict[str, Pipeline]:
    order(pipelines)
    if pipelines and all(p.hidden for p in pipelines.values()):
        raise ValueError("every view is hidden; at least one must reach the batch")
    return pipelines


def _without_labels(pipelines: dict[str, Pipeline]) -> dict[str, Pipeline]:
    for name, pipeline in pipelines.items():
        if found := [one for one in asks(pipeline.ops) if one.boxes]:
            why = "an unlabelled image does not have when its views are made"
            raise ValueError(_nobody_answers(found[0], f"view '{name}'", why))
    pipelines = _connected(pipelines)
    for name in pipelines:
        cuts = count_cuts(pipelines, name)
        if cuts > 1:
            fix = "leave one of them"
            raise ValueError(f"view '{name}': is cut {cuts} times by 'patch_shuffle', and boxes follow one cut; {fix}")
        if cuts and name == "weak":
            fix = "put it into 'strong'"
            raise ValueError(f"view 'weak': 'patch_shuffle' tears apart what the teacher is to find whole; {fix}")
    return pipelines


def count_cuts(pipelines: Mapping[str, Pipeline], name: str) -> int:
    """Return how often a view, or what it starts from, may be cut into parts that change places."""
    pipeline = pipelines[name]
    own = sum(isinstance(op, PatchShuffle) for op in leaves(pipeline.ops))
    return own if pipeline.start is None else own + count_cuts(pipelines, pipeline.start)


def _nobody_answers(one: Asks, where: str, why: str) -> str:
    """Return the message about an operation that asks for what is not there."""
    what = "other images" if not one.boxes else "boxes and other labelled images" if one.others else "boxes"
    fix = f"write {one.instead}, or remove it" if one.instead else "remove it, or put it in a view of labelled images"
    return f"{where}: '{one.name}' asks for {what}, which {why}; {fix}"


def _alone(pipeline: Pipeline) -> Pipeline:
    if found := asks(pipeline.ops):
        raise ValueError(_nobody_answers(found[0], "the view of evaluation", "are not shown to a detector"))
    if count_cuts({"val": pipeline.model_copy(update={"start": None})}, "val"):
        raise ValueError("the view of evaluation: 'patch_shuffle' tears apart what is to be found whole; remove it")
    if pipeline.start is not None or pipeline.hidden:
        raise ValueError("the view of evaluation is the only one: it has no 'start' and is not 'hidden'")
    return pipeline


Views = Annotated[dict[str, Pipeline], AfterValidator(_connected)]
UnlabeledViews = Annotated[dict[str, Pipeline], AfterValidator(_without_labels)]


class ViewsConfig(Section):
    """What the student and the teacher get to see of each image."""

    labeled: Views = Field(min_length=1)
    "Views of a labelled image by name; the image enters the batch once for each."
    unlabeled: UnlabeledViews = {}
    "Views of an unlabelled image by name; methods read `weak` (the teacher's) and `strong` (the student's)."
    val: Annotated[Pipeline, AfterValidator(_alone)]
    "The one view of evaluation, prediction and export; keep it free of chance."
    group_by_aspect: bool = False
    "Batches of either wide images or the others, to waste less on padding; unstated sizes come from headers."
    tiles: Tiles | None = None
    "Look at large images in parts, in training and ever after; None = every view shows a whole image."


@dataclass(frozen=True)
class Sample:
    """One view of one image.

    Attributes:
        image: the picture; one of Pillow's is taken, too.
        matrix: [3, 3] float64, pixels of the file's upright image -> pixels of this view.
        key: random key of this view of this image at this position.
        targets: its boxes in this view's pixels, or None where there are no labels.
        pieces: how an image without labels was cut (``Seen.pieces``); None = it is whole.
    """

    image: Picture
    matrix: np.ndarray
    key: int
    targets: Targets | None
    pieces: Pieces | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "image", Picture.of(self.image))


def check_others(pipelines: Mapping[str, Pipeline], count: int, kind: str = "labeled") -> None:
    """Test that there are images enough for operations that take parts of others.

    Args:
        pipelines: views of images of one kind.
        count: of these images.
        kind: ``labeled`` or ``unlabeled``.

    Raises:
        SsodError: code 2, too few.
    """
    for name, pipeline in pipelines.items():
        wanting = [one.name for one in asks(pipeline.ops) if one.others]
        if wanting and count < TILES:
            kinds, fix = ("labelled", "label more") if kind == "labeled" else ("unlabelled", "add some")
            problem = f"'{wanting[0]}' puts {TILES} {kinds} images together, and there are {count}"
            raise SsodError("config", f"views.{kind}.{name}", problem, f"{fix}, or remove it")


def misaligned(pipelines: Mapping[str, Pipeline], first: str, second: str) -> bool:
    """Whether two views of one image may have its pixels in different places.

    Found out by drawing: 64 matrices of each for pictures of several sizes. What moves pixels with a probability of a
    few per cent can escape it.
    """
    for draw in range(64):
        size = [(640, 480), (333, 500), (97, 61)][draw % 3]
        ends: dict[str, tuple[tuple[int, int], np.ndarray]] = {}
        for name in order(pipelines):
            start, matrix = (size, np.eye(3)) if (p := pipelines[name]).start is None else ends[p.start]
            transform = chain(p.ops, seeding.generator(draw, name), start)
            ends[name] = transform.size, transform.matrix @ matrix
        if ends[first][0] != ends[second][0] or not np.array_equal(ends[first][1], ends[second][1]):
            return True
    return False


def takes_others(pipelines: Mapping[str, Pipeline], name: str) -> bool:
    """Whether a view, or one that it starts from, has parts of other images in it."""
    pipeline = pipelines[name]
    own = any(one.others for one in asks(pipeline.ops))
    return own or (pipeline.start is not None and takes_others(pipelines, pipeline.start))


def unfit(
    pipelines: Mapping[str, Pipeline], name: str, method: str, *, aligned: bool, places: bool
) -> tuple[str, str] | None:
    """Return why a method's student cannot learn from a view, and what to write; None where it can.

    Args:
        pipelines: views of unlabelled images.
        name: the student's.
        method: the method's name.
        aligned: whether its pixels must be where those of ``weak`` are.
        places: whether the teacher is asked for more than boxes.
    """
    if places and count_cuts(pipelines, name):
        problem = f"is cut by 'patch_shuffle', which boxes alone follow, and '{method}' asks its teacher for more"
        return problem, "remove it"
    if aligned and misaligned(pipelines, "weak", name):
        problem = f"not pixel-aligned with weak, which '{method}' compares row by row"
        return problem, "write {start: weak, ops: [what moves no pixel]}"
    return None


def by_chance(pipelines: Mapping[str, Pipeline], name: str) -> bool:
    """Whether a view of one image may be another one the next time.

    Found out by drawing it 64 times. What happens with a probability of a few per cent can escape it.
    """
    chain_of = {name: pipelines[name].model_copy(update={"hidden": False})}
    while (start := pipelines[min(chain_of, key=list(chain_of).index)].start) is not None:
        chain_of = {start: pipelines[start].model_copy(update={"hidden": True})} | chain_of
    noise = np.random.Generator(np.random.Philox(0)).integers(0, 256, (61, 97, 3), np.uint8)
    drawn = (make_views(Image.fromarray(noise), None, chain_of, draw)[name] for draw in range(64))
    return len({(view.image.size, view.image.tobytes(), view.matrix.tobytes()) for view in drawn}) > 1


def make_views(
    image: Image.Image,
    targets: Targets | None,
    pipelines: Mapping[str, Pipeline],
    *draw: int | str,
    setting: Setting = ALONE,
    tiles: Tiles | None = None,
) -> dict[str, Sample]:
    """Make the views of one image.

    Args:
        image: upright RGB picture.
        targets: its boxes in its own pixels, or None.
        pipelines: view name -> pipeline.
        draw: what the random draw depends on besides the view's name: seed, stream, image index, position.
        setting: what operations may ask for besides the image.
        tiles: begin with a tile of the image, the same for all views.

    Returns:
        The views that are not hidden, in the order of ``pipelines``. Boxes are warped by the view's matrix to the hull
        of their corners, clipped, and dropped when a side is ``transform.MIN_SIDE`` pixels or less; operations that
        read boxes say more.
    """
    made: dict[str, Seen] = {}
    first = Seen(Picture.of(image), np.eye(3), targets, setting=setting)
    first = first if tiles is None else begin_with_tile(first, tiles, *draw)
    for name in order(pipelines):
        pipeline = pipelines[name]
        seen = first if pipeline.start is None else made[pipeline.start]
        made[name] = chain(pipeline.ops, seeding.generator(*draw, name), seen.image.size).follow(seen)
    return {
        name: Sample(seen.image, seen.matrix, seeding.key(*draw, name), _carried(seen), seen.pieces)
        for name, seen in ((name, made[name]) for name, pipeline in pipelines.items() if not pipeline.hidden)
    }


def _carried(seen: Seen) -> Targets | None:
    if seen.targets is None:
        return None
    moved = seen.boxes()
    moved.boxes = moved.boxes.float()
    moved.weight = None if moved.weight is None else moved.weight.float()
    return moved

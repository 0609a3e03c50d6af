"""A trained teacher, ready to look at images from Python."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from PIL import Image
from pydantic import TypeAdapter, ValidationError

from ssod.data.formats.image import Pixels
from ssod.data.formats.records import Classes
from ssod.detectors.build import DetectorConfig, build
from ssod.detectors.d2.card import Bounded, judge, refuse_files
from ssod.detectors.d2.config import D2Config
from ssod.evaluation.merge_tiles import Merging
from ssod.inference import graph_content
from ssod.inference.draw_boxes import Picture, as_picture
from ssod.inference.graph import detector_of
from ssod.inference.shown import Shown
from ssod.inference.weights_file import weights_file
from ssod.structures import Detector, Targets, Tiles
from ssod.transforms.tile_view import view_tile
from ssod.transforms.views import Pipeline, Sample, make_views
from ssod.utils import graph_file, model_file
from ssod.utils.distributed import pick_device
from ssod.utils.errors import Exit, SsodError
from ssod.utils.given import given
from ssod.utils.threads import in_order

BATCH = 8
MISFIT = "use a file whose card is of its own weights"


@dataclass
class Detected(Targets):
    """Detections in one image, best first, in pixels of the original image (a file: after its EXIF rotation).

    Attributes:
        classes: the class name of each label ``0..K-1``.
    """

    classes: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        """The class name of each box."""
        return [self.classes[label] for label in self.labels.tolist()]


class Model:
    """A detector that is ready to look at images of any size.

    Args:
        detector: with its weights.
        card: what ``model_file.read`` returned.
        device: where it runs.

    Attributes:
        classes: names, and the ids that the training data's file used.
        pipeline: the view in which images are shown to the detector, the one it was evaluated in.
        tiles: large images are looked at in parts, as in training; None = every image is looked at whole.
        pixels: how pixels of more than 8-bit RGB are read: as in training.
    """

    def __init__(self, detector: Detector, card: model_file.Card, device: torch.device) -> None:
        self.detector, self.card, self.device = detector, card, device
        self.classes = Classes(tuple(card["classes"]["names"]), tuple(card["classes"]["ids"]))
        self.pipeline = Pipeline.model_validate(card["val_view"])
        self.tiles = _tiles(card)
        self.pixels = _pixels(card)

    @overload
    def __call__(self, images: Sequence[Picture], *, score: float | None = None) -> list[Detected]: ...

    @overload
    def __call__(self, images: Picture, *, score: float | None = None) -> Detected: ...

    def __call__(self, images: Any, *, score: float | None = None) -> Any:
        """Detect objects.

        Args:
            images: one image or a list of them: paths, PIL images, uint8 arrays [H, W, 3] (RGB), tensors [3, H, W].
            score: detections must score above this, 0..1; None = as the detector was evaluated
                (``detector.decode.score``).

        Returns:
            ``Detected`` of the image, or a list of them. What is found in an image does not depend on the others.

        Raises:
            SsodError: an image that cannot be read or is of the wrong shape, type or range; a score outside of 0..1.
        """
        check_score(score)
        if not isinstance(images, (list, tuple)):
            return self._found([as_picture(images, pixels=self.pixels)], score)[0]
        found = []
        for start in range(0, len(images), BATCH):
            part = images[start : start + BATCH]
            pictures = [as_picture(image, f"images[{i}]", self.pixels) for i, image in enumerate(part, start)]
            found += self._found(pictures, score)
        return found

    def _found(self, pictures: Sequence[Image.Image], score: float | None) -> list[Detected]:
        return self.look(pictures, self.batch(pictures, [self.prepare(p) for p in pictures]), score)

    def prepare(self, picture: Image.Image) -> Sample | None:
        """Return what the detector gets to see of a picture, without padding; None where it is looked at in tiles."""
        if self.tiles is not None:
            return None
        seen = make_views(picture, None, {"val": self.pipeline}, 0, "val", 0, 0)["val"]
        seen.image.array()  # computed here, in the thread of whoever prepares
        return seen

    def batch(self, pictures: Sequence[Image.Image], prepared: Sequence[Sample | None]) -> list[Shown]:
        """Return what the detector looks at together of some pictures; nothing of those that it looks at in tiles."""
        if self.tiles is not None:
            return []
        whole = [given(sample, "prepare made no view of this picture") for sample in prepared]
        return Shown.batched(whole, [picture.size for picture in pictures])

    def look(
        self, pictures: Sequence[Image.Image], shown: Sequence[Shown], score: float | None, workers: int = 0
    ) -> list[Detected]:
        """Detect objects in pictures; ``shown`` is what ``batch`` returned of them.

        Of pictures in tiles, up to ``BATCH`` tiles are looked at together, whichever pictures they are of; ``workers``
        threads cut them meanwhile, 0 = none.
        """
        if self.tiles is None:
            return self.detect(shown, score)
        merging, found = Merging.of(self.detector.decode), {}
        grids = [self.tiles.grid(p.size) for p in pictures]
        parts = [(i, rect) for i, grid in enumerate(grids) for rect in grid]
        batches = [parts[start : start + BATCH] for start in range(0, len(parts), BATCH)]

        def cut(number: int) -> list[Shown]:
            samples = [view_tile(pictures[i], rect, self.pipeline) for i, rect in batches[number]]
            return Shown.batched(samples, [pictures[i].size for i, _ in batches[number]])

        with closing(in_order(cut, len(batches), workers, workers + 1)) as coming:
            for part, views in zip(batches, coming):
                for (i, rect), detected in zip(part, self.detect(views, score)):
                    done = merging.add(i, len(grids[i]), detected, np.array(rect))
                    if done is not None:
                        found[i] = Detected(done.boxes, done.labels, done.scores, classes=self.classes.names)
        return [found[i] for i in range(len(pictures))]

    @torch.no_grad()
    def detect(self, shown: Sequence[Shown], score: float | None) -> list[Detected]:
        """Run the detector on views that were batched, and return what is found in each, in their order before."""
        found: dict[int, Detected] = {}
        for views in shown:
            seen = self.detector.predict(views.view.to(self.device)).detections(score)
            moved = views.to_originals(seen)
            found |= {i: Detected(*one, classes=self.classes.names) for i, one in zip(views.rows, moved)}
        return [found[i] for i in range(len(found))]


def load(path: str | os.PathLike, device: str | torch.device = "cpu") -> Model:
    """Load a trained teacher.

    Args:
        path: ``best.safetensors``, or a run folder that holds one; or an exported graph, ``*.onnx`` or ``*.pt2``.
        device: where it runs; ``auto`` = the GPU, where there is one that can run it.

    Raises:
        SsodError: code 2 for a device that is not there; code 4 for a file that is absent, damaged or of another
            detector than it says; code 7 for a pickle, or a graph that may run code (``inference.graph_content``).
    """
    must, device = device != "auto", pick_device("auto") if device == "auto" else _present(device)
    file = weights_file(path)
    graph = graph_content.read(file) if graph_file.is_graph(file) else None
    card = model_file.read_card(file) if graph is None else graph.card
    try:
        refuse_files(card["detector"])
        cfg = TypeAdapter(DetectorConfig).validate_python(card["detector"])
        classes = len(card["classes"]["names"])
        Pipeline.model_validate(card["val_view"])
        _tiles(card)
        if graph is not None:
            detector = detector_of(graph, classes, device, must=must)
            return Model(detector.eval(), card, detector.device)
        if isinstance(cfg, D2Config):
            judge(cfg)
        else:
            _refuse_other(cfg, classes, file)
        detector = _built(cfg, classes, file)
        _fill(detector, model_file.weights(file), file, cfg.name)
        return Model(detector.to(device).eval().requires_grad_(False), card, device)
    except SsodError as error:  # of the detector's builder, which knows of no file
        if error.file != "config":
            raise
        raise _refused(file, f"card.{error.field}", error.problem, error.fix, _code(error)) from None
    except ValidationError as error:
        first = error.errors()[0]
        name = card["detector"].get("name")  # which stands for the section that it makes it
        where = ".".join(str("detector" if part == name else part) for part in first["loc"])
        raise _refused(file, f"card.{where}", first["msg"], "read it with the version that wrote it") from None
    except (KeyError, TypeError, ValueError) as error:
        raise _refused(file, "card", f"damaged ({error})", "use a run's best.safetensors") from None


def _refuse_other(cfg: DetectorConfig, classes: int, file: Path) -> None:
    """Refuse a card that says another detector than the weights are of, before memory is taken for either."""
    with torch.device("meta"):
        own = {name: tuple(value.shape) for name, value in build(cfg, classes, pretrained=False).state_dict().items()}
    theirs = model_file.shapes(file)
    wrong = next((name for name in own if theirs.get(name) != own[name]), None)
    if wrong is None:
        wrong = next((name for name in theirs if name not in own), None)
    if wrong is not None:
        have, want = (f"{list(part[wrong])}" if wrong in part else "none" for part in (theirs, own))
        raise _refused(file, "weights", f"do not fit {cfg.name}: {wrong} is {have}, the card asks for {want}", MISFIT)


def _built(cfg: DetectorConfig, classes: int, file: Path) -> Detector:
    """Return the detector; of one of detectron2's no more than the file has weights for.

    detectron2's builder moves what it has built, which a device without memory cannot do: it is counted as it goes.
    """
    with Bounded(list(model_file.shapes(file).values())) if isinstance(cfg, D2Config) else nullcontext():
        return build(cfg, classes, pretrained=False)


def _tiles(card: model_file.Card) -> Tiles | None:
    """Return the tiles that images are looked at in; a file that says nothing of them looks at whole images."""
    if card.get("tiles") is None:
        return None
    return TypeAdapter(dict[str, Tiles]).validate_python({"tiles": card["tiles"]})["tiles"]  # errors name card.tiles


def _pixels(card: model_file.Card) -> Pixels:
    """Return how images were read in training; a file of an earlier version read them as they are."""
    said = card.get("pixels") or {}
    levels, alpha = said.get("levels"), said.get("alpha")
    if levels is not None and (len(levels) != 2 or not float(levels[0]) < float(levels[1])):
        raise TypeError(f"pixels.levels is {levels!r:.40}")
    return Pixels(None if levels is None else (float(levels[0]), float(levels[1])), alpha)


def check_score(score: float | None) -> None:
    """Refuse a threshold that no probability can be compared with; None stands for the detector's own.

    Raises:
        SsodError: naming it.
    """
    if score is not None and not 0 <= score <= 1:
        raise SsodError("score", "", f"{score:g} is not between 0 and 1", "give a probability, as in 0.5")


def _present(device: str | torch.device) -> torch.device:
    """Return a device that tensors can be put on."""
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:  # a build without CUDA asserts
        why = str(error).splitlines()[0].split(". ")[0]
        raise SsodError("device", str(device), f"cannot be used: {why}", "use 'cpu'") from None


def _fill(detector: Detector, state: dict[str, torch.Tensor], file: Path, name: str) -> None:
    try:
        detector.load_state_dict(state)
    except RuntimeError as error:
        problem = "; ".join(line.strip() for line in str(error).splitlines()[1:2]) or str(error)
        raise _refused(file, "weights", f"do not fit {name}: {problem}", MISFIT) from None


def _code(error: SsodError) -> Exit:
    return Exit.UNSAFE if error.code == Exit.UNSAFE else Exit.CHECKPOINT


def _refused(file: Path, field: str, problem: str, fix: str, code: Exit = Exit.CHECKPOINT) -> SsodError:
    return SsodError(file, field, problem, fix, code=code)

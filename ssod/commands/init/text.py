"""The text of the config that ``ssod init`` writes: the numbers of its rule, and a remark where users change things."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ssod.commands.init.edit import flow
from ssod.commands.init.sizes import Sizes, long_side
from ssod.commands.init.start import line_of
from ssod.commands.pace import NO_PACE, Pace, shared, steps_of
from ssod.data.datasets import DataSets
from ssod.methods.registry import find
from ssod.structures import Tiles
from ssod.utils.errors import SsodError
from ssod.utils.recipes import Recipe
from ssod.utils.schema import named

FEW_PASSES, FEW = 90, 750  # passes, and steps, to which a small detector's steps may be brought down; docs/results.md
WRITTEN = 640  # shorter side of the views of configs/data/own.yaml and own_small.yaml, in pixels


@dataclass(frozen=True)
class Numbers:
    """What the rule of this module gives for a data set.

    Attributes:
        labeled: labelled images per step.
        unlabeled: unlabelled images per step.
        steps: optimiser steps.
        fewest: to how many they may be brought down, where larger images are to fit a time; those where a user says so.
        lr: learning rate.
        rule: where the steps come from.
    """

    labeled: int
    unlabeled: int
    steps: int
    fewest: int
    lr: float
    rule: str = ""


def numbers(
    data: DataSets, train: Mapping[str, Any], own: Any = None, pace: Pace = NO_PACE, *, small: bool = False
) -> Numbers:
    """Apply the rule; the size of the images is chosen in ``sizes``.

    Args:
        data: what is trained on.
        train: the recipe's section, whose rate holds for its batch.
        own: ``train.batch`` as far as a user says it; steps and rate follow from it. None = not at all.
        pace: the batch and the steps as a user says them by totals.
        small: a net without pretrained weights, which soon knows a few images by heart.

    Raises:
        SsodError: code 2, a batch that cannot be shared, or for which there are too few images.
    """
    labeled, unlabeled = (_power_of_two(min(8, len(part))) for part in (data.labeled, data.unlabeled))
    own = own if isinstance(own, dict) else {}
    labeled, unlabeled = (_whole(own.get(key), n) for key, n in (("labeled", labeled), ("unlabeled", unlabeled)))
    if pace.batch is not None:
        labeled, unlabeled = shared(pace.batch, labeled, unlabeled)
        for kind, size, part in (("labelled", labeled, data.labeled), ("unlabelled", unlabeled, data.unlabeled)):
            if size > len(part):
                problem = f"{size} {kind} images a step, but there are {len(part)}"
                raise SsodError("command line", "--batch", problem, "give a smaller one")
    passes, least = (200, 1500) if small else (100, 3000)
    once = len(data.labeled) / labeled
    steps = int(min(max(round(passes * once, -2), least), 30_000))
    fewest = int(min(max(round(FEW_PASSES * once, -1), FEW), least)) if small else least
    rule = f"the rule: {passes} passes over the labelled images, at least {least} and at most 30000 steps"
    if pace.epochs is not None:
        steps = fewest = steps_of(pace.epochs, len(data.labeled), labeled)
        rule = f"{pace.epochs:g} passes over the labelled images, as --epochs says"
    lr = train["lr"] / train["batch"]["labeled"] * labeled
    return Numbers(labeled, unlabeled, steps, fewest, lr, rule)


def brought_down(n: Numbers, steps: int) -> Numbers:
    """Return the numbers with fewer steps, where larger images have to fit the same time."""
    if steps >= n.steps:
        return n
    return replace(n, steps=steps, rule=f"{n.rule}; brought down from {n.steps}, for larger images in the same time")


def _whole(value: Any, other: int) -> int:
    """Return a number that a user may have said, where it is one that can be worked with; it is checked later."""
    return value if isinstance(value, int) and value > 0 else other


def compose(
    out: Path, section: dict[str, Any], data: DataSets, recipe: Recipe, tree: dict[str, Any], n: Numbers, sizes: Sizes
) -> str:
    """Return the text of the config, comments included; ``tree`` has the sections of the recipe."""
    val_view, views = _val_view(sizes), tree["views"]
    weak = val_view if _labels_once(tree) else flow(_scaled(views["unlabeled"]["weak"], sizes))
    found = f"{len(data.labeled)} labelled and {len(data.unlabeled)} unlabelled images, {len(data.classes)} classes"
    file = shlex.quote(str(out))
    return f"""\
# {recipe.detector}, {recipe.method}; {found}.
#   ssod check {file}    what is wrong with the data
#   ssod plan {file}     how long this will take here
#   ssod train {file}
#   ssod train {file} method.name=supervised    the baseline: the same labels alone, measured by the same `ema`
# Every key can be changed here or on the command line: ssod train {file} train.lr=0.005
# All keys with their values, and where each comes from: ssod config {file}

# What is not said below comes from configs/methods/{recipe.method}.yaml, configs/detectors/{recipe.detector}.yaml and
# configs/data/{recipe.data}.yaml.
recipe: {{method: {recipe.method}, detector: {recipe.detector}, data: {recipe.data}}}

data:{" # move the folder and only `root` changes" if "root" in section else ""}
{lines_of(section)}

views: # add flip_vertical where pictures have no up; drop flip where left and right differ (text, signs)
{_tiles(sizes)}  labeled: {{weak: {flow(_scaled(views["labeled"]["weak"], sizes))}}}
  unlabeled:
    weak: {weak} # the teacher's
    strong: {_strong(tree, sizes)}
  val: {val_view}
{_detector(tree["detector"], sizes)}
{_method(tree["method"], sizes)}

train: # {n.rule}{"" if sizes.tiles is None else ", one tile of each"}; here {_made(n, data)} passes
  steps: {n.steps}
  batch: {{labeled: {n.labeled}, unlabeled: {n.unlabeled}}} # totals; out of memory: {_more_parts(sizes)} keeps them
{_parts(sizes)}  lr: {n.lr:g} # {n.lr / n.labeled:g} for each labelled image of a batch
{_optimizer(tree["train"])}  schedule: {flow(tree["train"]["schedule"])}
  warm_up: {flow(tree["train"]["warm_up"])}
  clip: 10
  eval_every: {tree["train"]["eval_every"]}
  save_every: {tree["train"]["save_every"]}
  precision: fp32 # bf16 on a recent GPU: faster and smaller
"""


def _val_view(sizes: Sizes) -> str:
    """Return the view of evaluation."""
    if sizes.tiles is not None:
        zoom = _zoom(sizes, sizes.tiles)
        return flow([] if zoom == 1 else [{"resize": {"ratio": zoom}}])
    return flow([{"resize": {"short": sizes.short, "long": long_side(sizes.short)}}])


def _zoom(sizes: Sizes, tiles: Tiles) -> float:
    return round(sizes.short / tiles.size, 3)


def _scaled(ops: Sequence[Any], sizes: Sizes) -> list[Any]:
    """Return a view of the recipe's with the sizes that were chosen, in proportion."""
    scaled = []
    for op in ops:
        resize = op.get("resize", {}) if isinstance(op, dict) else {}
        if "short" not in resize:
            scaled.append(op)
            continue
        sides = resize["short"] if isinstance(resize["short"], list) else [resize["short"]]
        if sizes.tiles is not None:
            found = [round(side / WRITTEN * _zoom(sizes, sizes.tiles), 3) for side in sides]
            changed: dict[str, Any] = {"ratio": found if len(found) > 1 else found[0]}
        else:
            found = [round(side / WRITTEN * sizes.short) for side in sides]
            changed = {"short": found if len(found) > 1 else found[0], "long": 2 * sizes.short}
        scaled += [] if changed == {"ratio": 1} else [{"resize": changed}]
    return scaled


def _tiles(sizes: Sizes) -> str:
    """Return the line of the tiles; nothing where images are looked at whole."""
    if sizes.tiles is None:
        return ""
    written = {"size": sizes.tiles.size, "overlap": round(sizes.tiles.overlap, 3)}
    return f"  tiles: {flow(written)} # looked at one by one, everywhere; sizes below are theirs: docs/tiles.md\n"


def _made(n: Numbers, data: DataSets) -> int:
    return round(n.steps * n.labeled / len(data.labeled))


def lines_of(section: dict[str, Any]) -> str:
    """Return the lines of the ``data`` section."""
    return "\n".join(f"  {key}: {flow(section[key])}{_remark(key, section)}" for key in section)


def with_remarks(text: str, remarks: Sequence[str]) -> str:
    """Return a config's text with remarks below its first line, each on a line of its own."""
    first, rest = text.split("\n", 1)
    return "\n".join([first, *(f"#   {line}" for line in remarks), rest])


def _remark(key: str, section: dict[str, Any]) -> str:
    if key == "held_out":
        return " # the images of `labeled` that are `val`"
    if key != "split":
        return ""
    what = "are left out" if "unlabeled" in section else "are the unlabelled ones"
    return f" # the other images of `labeled` {what}; another fold draws anew"


def _detector(section: dict[str, Any], sizes: Sizes) -> str:
    """Return what users may change of the detector, and what was chosen for their boxes; nothing where both is empty.

    A line of weights, from which users start elsewhere, is left out where there are none.
    """
    weights = sizes.detector.get("weights")
    lines = [f"{key}: {flow(value)}" for key, value in sizes.detector.items() if key != "weights"]
    if lines:
        lines[0] += " # chosen, with the size of the views, for the sides of the boxes"
    if "weights" in section:
        lines = [line_of(section | {"weights": weights or section["weights"]}), *lines]
    return "".join(["\ndetector:\n", *(f"  {line}\n" for line in lines)]) if lines else ""


def _optimizer(section: dict[str, Any]) -> str:
    """Return the line of an optimiser that is not the usual one."""
    return f"  optimizer: {flow(section['optimizer'])}\n" if "optimizer" in section else ""


def _more_parts(sizes: Sizes) -> str:
    return f"train.accumulate={2 * sizes.accumulate}"


def _parts(sizes: Sizes) -> str:
    """Return the line that cuts a step into parts, where one is needed."""
    if sizes.accumulate == 1:
        return ""
    return f"  accumulate: {sizes.accumulate} # parts of a step, looked at one after another, to fit into memory\n"


def _labels_once(tree: dict[str, Any]) -> bool:
    """Return whether the teacher sees the view of evaluation, as where an image is labelled once."""
    return tree["views"]["unlabeled"]["weak"] == tree["views"]["val"]


def _colors(ops: Sequence[Any]) -> list[Any]:
    """Return what a view does besides resizing and flipping."""
    return [op for op in ops if op != "flip" and not (isinstance(op, dict) and "resize" in op)]


def _strong(tree: dict[str, Any], sizes: Sizes) -> str:
    """Return the student's view, which a method that compares rows one by one needs in place."""
    view = tree["views"]["unlabeled"]["strong"]
    own = isinstance(view, list)  # drawn apart from the teacher's
    ops = view if own else view["ops"]
    moving = ("soft_teacher_strong", "stac_strong", "mix_pl_strong", "translate_x")
    moves = any(name in flow(ops) for name in moving)
    what = "of another size" if own else "moved or turned" if moves else "the same pixels"
    later = "colors" in find(tree["method"]["name"]).Config.model_fields
    colors = "; colours and holes come on the device, method.colors" if later else ", colours changed"
    if not later and _colors(ops) != _colors(tree["views"]["labeled"]["weak"]):  # labelled images lose no part
        colors += ", parts erased"
    written = _scaled(ops, sizes) if own else {**view, "ops": _scaled(ops, sizes)}
    return f"{flow(written)} # the student's: {what}{colors}"


_REMARKS = {
    "burn_in": "labelled images only; later if the first pseudo-labels are bad",
    "start": "from burn-in to here pseudo-labels are made, to find thresholds, but not learned from",
    "score": "lower it when the log says that no pseudo box is kept",
}


_THRESHOLDS = {
    "fixed": "what scores more is a label",
    "gmm": "a score for each class, from a mixture that is fitted to its last scores",
    "label_count": "a score for each class, such that it has six labels for ten boxes of labelled images",
}


def _method(section: dict[str, Any], sizes: Sizes) -> str:
    """Return what nearly everyone changes of the method's section, at the recipe's values for data of one's own."""
    unread = {"score"} if section.get("threshold") else set()
    kept = section.keys() - unread
    lines = [f"  {key}: {section[key]} # {remark}" for key, remark in _REMARKS.items() if key in kept]
    # Also where a method starts its average after burn-in, and none is needed: the baseline's starts at once.
    ema = {"decay": section["ema"]["decay"], "warm_up": True}
    half = round(math.log(0.5) / math.log(ema["decay"]), -1)
    if section.get("threshold"):
        about = _THRESHOLDS[named(section["threshold"])["name"]]
        lines.append(f"  threshold: {flow(section['threshold'])} # {about}; or {{name: fixed, score: 0.5}}")
    lines += [f"  ema: {flow(ema)} # half of the teacher is newer than {half:.0f} steps"]
    if "mosaic_size" in section:  # of four pictures, each three to six tenths of the longest side of a view
        side = 2 * sizes.short
        lines += [f"  mosaic_size: {flow([round(0.3 * side), round(0.6 * side) - 1])}", f"  cache: {{side: {side}}}"]
    return "\n".join(["method:", *lines])


def _power_of_two(limit: int) -> int:
    return 1 << (limit.bit_length() - 1)

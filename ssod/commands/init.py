"""``ssod init``: look at a user's data and write a config that trains on it.

The numbers follow from the data by a rule that suits a few hundred labelled images, and the file says so:

* batch: 8 labelled and 8 unlabelled images, or the largest power of two that there are;
* steps: 100 passes over the labelled images, at least 3 000 and at most 30 000;
* burn-in: half of the steps, so that the teacher knows something before it teaches;
* learning rate: 0.00125 per labelled image of a batch, a tenth of it for the last tenth of the steps;
* size: the median shorter side of the labelled images, a multiple of 32 in 224..800 (``tiny``: 128), varied by a fifth.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ssod import config
from ssod.data import datasets
from ssod.data.datasets import DataConfig, DataSets
from ssod.data.formats.infer import data_section
from ssod.utils import recipes
from ssod.utils.config_errors import nearest
from ssod.utils.errors import Exit, SsodError
from ssod.utils.merging import merge
from ssod.utils.recipes import Recipe
from ssod.utils.yaml_io import dump_yaml, parse_yaml


def write_config(
    out: Path | str,
    labeled: str | None = None,
    unlabeled: str | None = None,
    val: str | None = None,
    *,
    percent: float | None = None,
    detector: str = "retinanet_r50_fpn",
    method: str = "mean_teacher",
    images: str | None = None,
    val_images: str | None = None,
    fold: int | None = None,
) -> str:
    """Write a starting config for a user's own data.

    Args:
        out: the file to write; never overwritten.
        labeled: COCO JSON, VOC folder or YOLO folder.
        unlabeled: folder, glob or .txt list of images, or one of the above. None = with ``percent``, the labelled
            set's other images.
        val: like ``labeled``.
        percent: share of the labelled images that keep their labels; needed where ``unlabeled`` is None. With both,
            the unlabelled images are those of ``unlabeled`` alone, and the labelled set's others are left out.
        detector: a file of ``configs/detectors``.
        method: a file of ``configs/methods``.
        images: image folder of ``labeled``, a COCO JSON; the others' images may lie there, too. None = one of the
            usual folders.
        val_images: image folder of ``val``, a COCO JSON. None = one of the usual folders, or ``images``.
        fold: number of the draw, where ``percent`` is given; None = 1.

    Returns:
        A few lines for people: what was found, and what to do next.

    Raises:
        SsodError: what was not recognised, or the first error in the data.
    """
    out = Path(out)
    if out.exists():
        raise SsodError(out, "", "exists", "choose another name, or remove it first")
    for option, path in (("--labeled", labeled), ("--val", val)):
        if path is None:
            raise SsodError("command line", option, "missing", "name your data, or one of configs/data with --data")
    if fold is not None and percent is None:
        raise SsodError("command line", "--fold", "nothing is drawn", "give --percent, too, or leave it out")
    recipe = own_recipe(method, detector)  # an unknown name is told before the data is read
    section = data_section(labeled, unlabeled, val, percent, images, val_images, fold=1 if fold is None else fold)
    data = _read(section)
    if section["labeled"]["format"] == "voc":
        section["classes"] = list(data.classes.names)  # a VOC folder has no list; this one stays the same
    text = compose(out, section, data, recipe)
    _check(text, recipe, out)
    _write_new(out, text)
    return (
        f"labelled   {_found(section['labeled'], data.labeled)}{_kept(section)}, {len(data.classes)} classes\n"
        f"unlabelled {_unlabeled(section, data)}\n"
        f"val        {_found(section['val'], data.val)}\n"
        f"wrote {out}; next: ssod check, ssod plan and ssod train {shlex.quote(str(out))}"
    )


def write_recipe(
    out: Path | str,
    data: str,
    own: Mapping[str, str],
    *,
    method: str,
    detector: str,
    percent: float | None = None,
    fold: int | None = None,
) -> str:
    """Write a config that names a recipe of ``configs`` and changes nothing of it.

    Args:
        out: the file to write; never overwritten.
        data: a file of ``configs/data``.
        own: options about other data, which are refused: name -> value.
        method, detector, percent, fold: the rest of the recipe.

    Returns:
        A line for people.

    Raises:
        SsodError: an unknown name, or a file that is there.
    """
    out = Path(out)
    for option in own:
        problem = f"--data {data} names all images"
        raise SsodError("command line", f"--{option.replace('_', '-')}", problem, "leave one of the two out")
    named = {"method": method, "detector": detector, "data": data, "percent": percent, "fold": fold}
    named = {key: value for key, value in named.items() if value is not None}
    config.load_recipe(**named)
    if percent is not None and percent == int(percent):
        named["percent"] = int(percent)
    file = shlex.quote(str(out))
    text = f"""\
# {detector}, {method} on {data}. All keys with their values, and where each comes from: ssod config {file}
recipe: {_flow(named)}
# What is written below changes it, such as
# train: {{batch: {{labeled: 4, unlabeled: 4}}}}
"""
    _write_new(out, text)
    return f"wrote {out}; next: ssod check, ssod plan and ssod train {file}"


def _check(text: str, recipe: Recipe, out: Path) -> None:
    """Load the text as if it stood in ``out``: what is written can be trained."""
    tree, origins = recipes.compose(recipe)
    own = parse_yaml(text, str(out))
    merge(tree, {key: value for key, value in own.items() if key != "recipe"}, origins, str(out))
    config.validate(tree, str(out), stem=out.stem, origins=origins)


def _read(section: dict[str, Any]) -> DataSets:
    try:
        return datasets.load(DataConfig.model_validate(section))
    except SsodError as error:
        if error.field == "data.split.percent":
            raise SsodError("command line", "--percent", error.problem, error.fix, code=error.code) from None
        raise


@dataclass(frozen=True)
class Numbers:
    """What the rule of this module gives for a data set.

    Attributes:
        labeled: labelled images per step.
        unlabeled: unlabelled images per step.
        steps: optimiser steps.
        lr: learning rate.
        short: shorter side of an image in evaluation, pixels.
    """

    labeled: int
    unlabeled: int
    steps: int
    lr: float
    short: int


def numbers(data: DataSets, backbone: str) -> Numbers:
    """Apply the rule; ``backbone`` matters for the size of the images only."""
    labeled = _power_of_two(min(8, len(data.labeled)))
    steps = round(100 * len(data.labeled) / labeled, -2)
    sizes = data.labeled.images.sizes
    median = float(np.median(sizes.min(1))) if sizes is not None else 640.0
    short = 128 if backbone == "tiny" else min(max(round(median / 32) * 32, 224), 800)
    return Numbers(
        labeled=labeled,
        unlabeled=_power_of_two(min(8, len(data.unlabeled))),
        steps=int(min(max(steps, 3000), 30_000)),
        lr=0.00125 * labeled,
        short=short,
    )


def own_recipe(method: str, detector: str) -> Recipe:
    """Return the recipe of a method and a detector on data of one's own.

    Raises:
        SsodError: an unknown name.
    """
    recipe = Recipe(method=method, detector=detector, data=recipes.OWN)
    for option, name in (("method", recipe.method), ("detector", recipe.detector)):
        if name not in recipes.names(option):
            raise SsodError("command line", f"--{option}", f"'{name}' unknown", nearest(name, recipes.names(option)))
    return recipe


def compose(out: Path, section: dict[str, Any], data: DataSets, recipe: Recipe) -> str:
    """Return the text of the config, comments included."""
    tree, _ = recipes.compose(recipe)
    n = numbers(data, tree["detector"].get("backbone", ""))
    low, high, long = round(n.short * 0.8), round(n.short * 1.2), round(n.short * 5 / 3)
    train_view = _flow([{"resize": {"short": [low, high], "long": 2 * n.short}}, "flip"])
    first = "\n".join(f"  {key}: {_flow(section[key])}{_remark(key, section)}" for key in section)
    found = f"{len(data.labeled)} labelled and {len(data.unlabeled)} unlabelled images, {len(data.classes)} classes"
    file = shlex.quote(str(out))
    return f"""\
# {recipe.detector}, {recipe.method}; {found}.
#   ssod check {file}    what is wrong with the data
#   ssod plan {file}     how long this will take here
#   ssod train {file}
#   ssod train {file} method.name=supervised    the twin: the same labels alone, measured by the same `ema`
# Every key can be changed here or on the command line: ssod train {file} train.lr=0.005
# All keys with their values, and where each comes from: ssod config {file}

# What is not said below comes from configs/methods/{recipe.method}.yaml, configs/detectors/{recipe.detector}.yaml and
# configs/data/own.yaml.
recipe: {{method: {recipe.method}, detector: {recipe.detector}, data: own}}

data:{" # move the folder and only `root` changes" if "root" in section else ""}
{first}

views: # add flip_vertical where pictures have no up; drop flip where left and right differ (text, signs)
  labeled: {{weak: [{train_view[1:-1]}, unbiased_color]}}
  unlabeled:
    weak: {train_view} # the teacher's
    strong: {_strong(tree)}
  val: {_flow([{"resize": {"short": n.short, "long": long}}])}
{_detector(tree["detector"])}
{_method(tree["method"])}

train: # the rule behind these numbers: 100 passes over the labelled images, at least 3000 and at most 30000 steps
  steps: {n.steps}
  batch: {{labeled: {n.labeled}, unlabeled: {n.unlabeled}}} # totals; out of memory: train.accumulate=2 keeps them
  lr: {n.lr:g} # 0.00125 for each labelled image of a batch
  schedule: {{name: multistep, milestones: [90%]}}
  warm_up: {{steps: 5%}}
  clip: 10
  eval_every: 10%
  save_every: 5%
  precision: fp32 # bf16 on a recent GPU: faster and smaller
"""


def _remark(key: str, section: dict[str, Any]) -> str:
    if key != "split":
        return ""
    what = "are left out" if "unlabeled" in section else "are the unlabelled ones"
    return f" # the other images of `labeled` {what}; another fold draws anew"


def _detector(section: dict[str, Any]) -> str:
    """Return the line from which users change the weights to start from; nothing where there are none."""
    if "weights" not in section:
        return ""
    remark = "or a file of your own"
    if section.get("backbone") == "resnet50" and section["name"] in ("fcos", "faster_rcnn"):
        remark = "coco: a whole detector to start from, good for everyday objects; or a file"
    return f"\ndetector: {{weights: {section['weights']}}} # {remark}\n"


def _strong(tree: dict[str, Any]) -> str:
    """Return the student's view, which a method that compares rows one by one needs in place."""
    view = tree["views"]["unlabeled"]["strong"]
    what = "moved or turned" if "soft_teacher_strong" in view["ops"] else "the same pixels"
    return f"{_flow(view)} # the student's: {what}, colours changed, parts erased"


_REMARKS = {
    "burn_in": "labelled images only; later if the first pseudo-labels are bad",
    "start": "from burn-in to here pseudo-labels are made, to find thresholds, but not learned from",
    "score": "lower it when the log says that no pseudo box is kept",
}


def _method(section: dict[str, Any]) -> str:
    """Return what nearly everyone changes of the method's section, at the recipe's values for data of one's own."""
    lines = [f"  {key}: {section[key]} # {remark}" for key, remark in _REMARKS.items() if key in section]
    # Also where a method starts its average after burn-in, and none is needed: the twin's starts at once.
    ema = {"decay": section["ema"]["decay"], "warm_up": section["ema"].get("warm_up", True)}
    lines += [f"  ema: {_flow(ema)} # half of the teacher is newer than 700 steps"]
    return "\n".join(["method:", *lines])


def _found(source: dict[str, str], images: Any) -> str:
    what = {"coco": "COCO", "voc": "VOC", "yolo": "YOLO", "folder": "no labels"}[source["format"]]
    if source["format"] == "coco":
        place = f"{source['ann']}, images in {source['images']}"
    else:
        place = source.get("path") or f"{source['root']}, {source['split']}"
    return f"{len(images)} images ({what}: {place})"


def _kept(section: dict[str, Any]) -> str:
    return f": {section['split']['percent']:g} % keep their labels" if "split" in section else ""


def _unlabeled(section: dict[str, Any], data: DataSets) -> str:
    if "unlabeled" not in section:
        return f"{len(data.unlabeled)} images (the others of the labelled set)"
    left = "; the labelled set's other images are left out" if "split" in section else ""
    return _found(section["unlabeled"], data.unlabeled) + left


def _power_of_two(limit: int) -> int:
    return 1 << (limit.bit_length() - 1)


def _flow(value: Any) -> str:
    return dump_yaml(value, default_flow_style=True, width=10_000).strip().removesuffix("\n...")


def _write_new(out: Path, text: str) -> None:
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with open(out, "x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise SsodError(out, "", f"cannot be written: {reason}", "choose another place", code=Exit.IO) from error

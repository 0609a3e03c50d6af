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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ssod import config
from ssod.data import datasets
from ssod.data.datasets import DataConfig, DataSets
from ssod.errors import Exit, SsodError
from ssod.methods.find import find
from ssod.mistakes import nearest
from ssod.recognise import below_one_root, labeled_source, unlabeled_source
from ssod.yamlfile import dump_yaml, parse_yaml

KINDS = ("retinanet", "fcos", "faster_rcnn")
BACKBONES = {
    "r18_fpn": "resnet18",
    "r50_fpn": "resnet50",
    "r101_fpn": "resnet101",
    "mobilenet_fpn": "mobilenet_v3_large",
    "tiny": "tiny",
}
DETECTORS = {f"{kind}_{short}": (kind, backbone) for kind in KINDS for short, backbone in BACKBONES.items()}


def write_config(
    out: Path | str,
    labeled: str,
    unlabeled: str | None,
    val: str,
    *,
    percent: float | None = None,
    detector: str = "retinanet_r50_fpn",
    method: str = "mean_teacher",
    images: str | None = None,
    val_images: str | None = None,
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
        detector: a name of ``DETECTORS``.
        method: a name of ``ssod methods``.
        images: image folder of ``labeled``, a COCO JSON; the others' images may lie there, too. None = one of the
            usual folders.
        val_images: image folder of ``val``, a COCO JSON. None = one of the usual folders, or ``images``.

    Returns:
        A few lines for people: what was found, and what to do next.

    Raises:
        SsodError: what was not recognised, or the first error in the data.
    """
    out = Path(out)
    if out.exists():
        raise SsodError(out, "", "exists", "choose another name, or remove it first")
    if detector not in DETECTORS:
        raise SsodError("command line", "--detector", f"'{detector}' unknown", nearest(detector, list(DETECTORS)))
    find(method)  # an unknown name is told before the data is read
    section = data_section(labeled, unlabeled, val, percent, images, val_images)
    data = _read(section)
    if section["labeled"]["format"] == "voc":
        section["classes"] = list(data.classes.names)  # a VOC folder has no list; this one stays the same
    text = compose(out, section, data, detector, method)
    config.validate(parse_yaml(text, str(out)), str(out), stem=out.stem)
    _write_new(out, text)
    return (
        f"labelled   {_found(section['labeled'], data.labeled)}{_kept(section)}, {len(data.classes)} classes\n"
        f"unlabelled {_unlabeled(section, data)}\n"
        f"val        {_found(section['val'], data.val)}\n"
        f"wrote {out}; next: ssod check, ssod plan and ssod train {shlex.quote(str(out))}"
    )


def _read(section: dict[str, Any]) -> DataSets:
    try:
        return datasets.load(DataConfig.model_validate(section))
    except SsodError as error:
        if error.field == "data.split.percent":
            raise SsodError("command line", "--percent", error.problem, error.fix, code=error.code) from None
        raise


def data_section(
    labeled: str,
    unlabeled: str | None,
    val: str,
    percent: float | None = None,
    images: str | None = None,
    val_images: str | None = None,
) -> dict[str, Any]:
    """Return the ``data`` section for what the user named, with paths below one root."""
    if unlabeled is None and percent is None:
        fix = (
            "name images without boxes, or give --percent 10 to keep the labels of 10 % of --labeled and hide the rest"
        )
        raise SsodError("command line", "--unlabeled", "missing", fix)
    if percent is not None and not 0 < percent < 100:
        fix = "give the share of the images that keep their labels, in per cent"
        raise SsodError("command line", "--percent", f"{percent:g} is not between 0 and 100", fix)
    measured = labeled_source(val, "--val", ("test", "val", "valid"), val_images, also=images)
    # Where the labels end with `val`, trainval would hold the very images to measure on.
    first = ("train", "trainval") if measured.get("split") in ("val", "valid") else ("trainval", "train")
    taught = labeled_source(labeled, "--labeled", first, images)
    if taught == measured:
        raise SsodError("command line", "--val", f"'{val}' is the labelled set itself", "name images to measure on")
    sources = {"labeled": taught, "val": measured}
    if unlabeled is not None:
        free = unlabeled_source(unlabeled, "--unlabeled", taught, also=images)
        sources = {"labeled": taught, "unlabeled": free, "val": measured}
    _refuse_idle("--images", images, list(sources.values()))
    _refuse_idle("--val-images", val_images, [measured])
    root, below = below_one_root(list(sources.values()))
    section: dict[str, Any] = {} if root is None else {"root": root}
    section |= dict(zip(sources, below))
    if percent is not None:
        share = int(percent) if percent == int(percent) else percent
        section["split"] = {"percent": share, "fold": 1, "family": "without_replacement"}
    return section


def _refuse_idle(option: str, folder: str | None, sources: list[dict[str, str]]) -> None:
    """Refuse an image folder that belongs to no COCO JSON."""
    if folder is not None and all(source["format"] != "coco" for source in sources):
        raise SsodError("command line", option, f"'{folder}' is for a COCO JSON, and there is none", "leave it out")


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


def compose(out: Path, section: dict[str, Any], data: DataSets, detector: str, method: str) -> str:
    """Return the text of the config, comments included."""
    kind, backbone = DETECTORS[detector]
    n = numbers(data, backbone)
    low, high, long = round(n.short * 0.8), round(n.short * 1.2), round(n.short * 5 / 3)
    train_view = _flow([{"resize": {"short": [low, high], "long": 2 * n.short}}, "flip"])
    first = "\n".join(f"  {key}: {_flow(section[key])}{_remark(key, section)}" for key in section)
    found = f"{len(data.labeled)} labelled and {len(data.unlabeled)} unlabelled images, {len(data.classes)} classes"
    file = shlex.quote(str(out))
    return f"""\
# {detector}, {method}; {found}.
#   ssod check {file}    what is wrong with the data
#   ssod plan {file}     how long this will take here
#   ssod train {file}
#   ssod train {file} method.name=supervised    the twin: the same labels alone, measured by the same `ema`
# Every key can be changed here or on the command line: ssod train {file} train.lr=0.005
# All keys with their defaults: ssod config {file}

data:{" # move the folder and only `root` changes" if "root" in section else ""}
{first}

views: # add flip_vertical where pictures have no up; drop flip where left and right differ (text, signs)
  labeled: {{weak: [{train_view[1:-1]}, unbiased_color]}}
  unlabeled:
    weak: {train_view} # the teacher's
    strong: {_strong(method)}
  val: {_flow([{"resize": {"short": n.short, "long": long}}])}

detector:
{_detector(kind, backbone)}

{_method(method)}

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
    return f" # the other images of `labeled` {what}; fold: 2 draws anew"


def _detector(kind: str, backbone: str) -> str:
    lines = [f"name: {kind}", f"backbone: {backbone}"]
    if backbone == "tiny":
        lines += ["channels: 64", "levels: [2, 5]" if kind == "faster_rcnn" else "levels: [3, 6]"]
    elif backbone == "resnet50":
        lines += ["weights: imagenet # coco: a whole detector to start from, good for everyday objects; or a file"]
    else:
        lines += ["weights: imagenet # or a file of your own"]
    if kind == "retinanet":
        lines += ["loss: {box: {name: giou, weight: 2}}"]
    return "\n".join(f"  {line}" for line in lines)


def _strong(method: str) -> str:
    """Return the student's view, which a method that compares rows one by one needs in place."""
    kind = find(method)
    if kind.uses_unlabeled and kind.Config.model_validate({"name": method}).taught_by != "boxes":
        return "{start: weak, ops: [unbiased_strong]} # the student's: the same pixels, colours changed, parts erased"
    return "{start: weak, ops: [soft_teacher_strong]} # the student's: moved or turned, colours changed, parts erased"


def _method(method: str) -> str:
    """Return the method's section: what nearly everyone changes, at values for short runs."""
    cfg = find(method).Config
    lines = ["method:", f"  name: {method}"]
    if "burn_in" in cfg.model_fields:
        lines += ["  burn_in: 50% # labelled images only; later if the first pseudo-labels are bad"]
    if "start" in cfg.model_fields:
        lines += [
            "  start: 60% # from burn-in to here pseudo-labels are made, to find thresholds, but not learned from"
        ]
    if "score" in cfg.model_fields:
        score = cfg.model_fields["score"].default
        lines += [f"  score: {score} # lower it when the log says that no pseudo box is kept"]
    # Also where a method starts its average after burn-in, and none is needed: the twin's starts at once.
    lines += ["  ema: {decay: 0.999, warm_up: true} # half of the teacher is newer than 700 steps"]
    return "\n".join(lines)


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

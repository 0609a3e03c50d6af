"""Any recipe made small enough for a second on a CPU core: a few tiny images, a detector of few channels, two steps.

``write_data`` lays out images wherever the recipe's ``data`` section looks for them; ``shrunk`` is the recipe with
smaller numbers in it. What is not a size stays as the recipe has it: operations of views, losses, assigners, thresholds
but for scores, optimizer, clipping, metric. The precision is fp32.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from ssod.config import Config, load_recipe, validate
from tests.data.nano import picture, voc_object, xml

STEPS = 2
IMAGES = {"labeled": 8, "unlabeled": 6, "val": 4}
CLASSES = ("a", "b", "c")  # of a set whose recipe names none
SIZES = ((64, 48), (48, 64))  # (width, height), wide and tall
BOX = (6, 8, 40, 36)  # x1, y1, x2, y2
LONG = 56  # pixels of the longer side of the largest view
D2_OPTS = {
    "d2_fcos": {"model.backbone.bottom_up.freeze_at": 0, "model.head.conv_dims": [32]},
    "d2_retinanet": {"MODEL.RESNETS.DEPTH": 18, "MODEL.RESNETS.RES2_OUT_CHANNELS": 64, "MODEL.FPN.OUT_CHANNELS": 32},
}
D2_OPTS["d2_faster_rcnn"] = D2_OPTS["d2_retinanet"] | {
    "MODEL.ROI_BOX_HEAD.FC_DIM": 32,
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 16,
}


# ---- data ----------------------------------------------------------------------------------------------------------


def write_data(data: dict[str, Any], root: Path) -> None:
    """Write the images that a ``data`` section names, below ``root``; no two are alike."""
    seeds, classes = count(), data.get("classes") or CLASSES
    for part, images in IMAGES.items():
        if part in data:
            WRITERS[data[part]["format"]](data[part], root, [f"{part}{i}" for i in range(images)], classes, seeds)


def _coco(source: dict, root: Path, stems: list[str], classes: Sequence[str], seeds: Iterator[int]) -> None:
    rows, boxes = [], []
    for i, stem in enumerate(stems, start=1):
        width, height = SIZES[i % 2]
        rows.append({"id": i, "file_name": f"{stem}.jpg", "width": width, "height": height})
        box = {"bbox": [BOX[0], BOX[1], BOX[2] - BOX[0], BOX[3] - BOX[1]], "area": 952, "iscrowd": 0}
        boxes.append({"id": i, "image_id": i, "category_id": 1 + i % len(classes), **box})
        picture(root / source["images"] / f"{stem}.jpg", next(seeds), (width, height))
    categories = [{"id": i, "name": name} for i, name in enumerate(classes, start=1)]
    ann = root / source["ann"]
    ann.parent.mkdir(parents=True, exist_ok=True)
    ann.write_text(json.dumps({"images": rows, "annotations": boxes, "categories": categories}))


def _voc(source: dict, root: Path, stems: list[str], classes: Sequence[str], seeds: Iterator[int]) -> None:
    base = root / source["root"]
    for folder in ("ImageSets/Main", "Annotations"):
        (base / folder).mkdir(parents=True, exist_ok=True)
    (base / "ImageSets/Main" / f"{source['split']}.txt").write_text("\n".join(stems) + "\n")
    for i, stem in enumerate(stems):
        picture(base / "JPEGImages" / f"{stem}.jpg", next(seeds), SIZES[i % 2])
        text = xml(SIZES[i % 2], voc_object(classes[i % len(classes)], BOX), f"{stem}.jpg")
        (base / "Annotations" / f"{stem}.xml").write_text(text)


def _folder(source: dict, root: Path, stems: list[str], _: Sequence[str], seeds: Iterator[int]) -> None:
    """A folder, or a list of images that lie in two folders."""
    listed = source["path"].endswith(".txt")
    names = [f"{'even' if i % 2 else 'odd'}/{stem}.jpg" if listed else f"{stem}.jpg" for i, stem in enumerate(stems)]
    for i, name in enumerate(names):
        picture(root / source.get("images", source["path"]) / name, next(seeds), SIZES[i % 2])
    if listed:
        (root / source["path"]).parent.mkdir(parents=True, exist_ok=True)
        (root / source["path"]).write_text("\n".join(names) + "\n")


WRITERS = {"coco": _coco, "voc": _voc, "folder": _folder}


# ---- the rest of a recipe ------------------------------------------------------------------------------------------


def shrunk(method: str, detector: str, data: str, percent: int | None, root: Path) -> Config:
    """Return a recipe in miniature, with its data below ``root``."""
    full = load_recipe(method=method, detector=detector, data=data, percent=percent)
    tree = full.dump()
    tree["data"]["root"] = str(root)
    if "split" in tree["data"]:
        tree["data"]["split"]["percent"] = 50
    tree["views"] = _resized(tree["views"], LONG / (_longest(tree["views"]) or max(SIZES[0])))
    _shrink_detector(tree["detector"])
    _shrink_method(tree["method"])
    _shrink_train(tree["train"])
    tree["eval"] |= {"batch": 4}
    return validate(tree, "miniature", stem=full.stem)


MOSAIC = 32  # pixels of the pictures of a mosaic, and of what becomes of it


def _longest(views: Any) -> int:
    """Return the longest side that a view can have, 0 without a resize."""
    if isinstance(views, dict):
        own = [views["long"] if views.get("long") else 2 * max(views["short"])] if "short" in views else []
        return max([*own, *map(_longest, views.values())], default=0)
    return max(map(_longest, views), default=0) if isinstance(views, list) else 0


def _resized(views: Any, factor: float) -> Any:
    """Return views with every ``resize`` smaller; ``step`` goes, as fewer than it are left between the ends."""
    if isinstance(views, list):
        return [_resized(item, factor) for item in views]
    if not isinstance(views, dict):
        return views
    for name in ("mosaic", "affine", "stretch"):
        if name in views:
            sides = {"size": MOSAIC, "height": MOSAIC, "width": MOSAIC}
            return {name: {key: sides.get(key, value) for key, value in views[name].items()}}
    if set(views) == {"long"}:
        return {"long": LONG}
    if "short" not in views:
        return {key: _resized(value, factor) for key, value in views.items()}
    short = [max(1, round(side * factor)) for side in views["short"]]
    return {"short": short} | ({"long": round(views["long"] * factor)} if views.get("long") else {})


def _shrink_detector(detector: dict[str, Any]) -> None:
    if detector["name"] in D2_OPTS:
        detector |= {"weights": "none", "opts": detector.get("opts", {}) | D2_OPTS[detector["name"]]}
        return
    detector.pop("trainable_layers", None)
    detector |= {"backbone": "tiny", "weights": "none", "norm": "group", "channels": 16}
    if "rpn" in detector:
        detector["rpn"] |= {"rows": 32, "before": [60, 40], "after": [24, 16]}
        detector["roi"] |= {"rows": 16, "hidden": 32}
    # A detector that has learned nothing finds something at that score, so that there are pseudo-boxes.
    detector["decode"] |= {"score": 1e-5, "per_level": 50, "detections": 10}


def _shrink_method(method: dict[str, Any]) -> None:
    """Reach the unlabelled part in the second of two steps, with boxes that pass."""
    for key in ("burn_in", "start", "ramp"):
        if key in method:
            method[key] = min(method[key], 1)
    if "look" in method:  # at labelled images, in the first step
        method |= {"burn_in": 0, "look": 1}
    if method["ema"].get("start") is not None:  # None: where burn-in ends
        method["ema"]["start"] = min(method["ema"]["start"], 1)
    form = method.get("form")  # Mean Teacher's forms refuse each other's keys
    for key in ("score", "candidate_score"):
        if key in method and form != "consistency":
            method[key] = 1e-4
    if "unsure_score" in method:  # with 20 classes and objectness, scores begin lower still
        method |= {"score": 1e-7, "unsure_score": 1e-8}
    if "queue" in method:
        method["queue"] = 64
    if "mosaic_size" in method:
        method["mosaic_size"], method["cache"]["side"] = [16, 32], LONG
    if method.get("proposals") and form != "pseudo_label":
        method["proposals"] = 16
    if "ramp_down" in method:  # the first step of such a ramp weighs nothing, and a second one there is not
        method |= {"ramp": 0, "ramp_down": None}


def _shrink_train(train: dict[str, Any]) -> None:
    unlabeled = min(train["batch"]["unlabeled"], 2)
    more = train["batch"]["unlabeled"] > train["batch"]["labeled"]
    train["batch"] = {"labeled": 1 if more else 2, "unlabeled": unlabeled}
    train |= {"steps": STEPS, "workers": 0, "eval_every": 0, "save_every": 1, "log_every": 1, "device": "cpu"}
    train["precision"] = "fp32"  # fp16 skips its first steps until its scale fits, and two steps are all there are
    train["warm_up"]["steps"] = min(train["warm_up"]["steps"], 1)
    if "milestones" in train["schedule"]:
        train["schedule"]["milestones"] = [1]

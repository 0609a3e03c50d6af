"""Evaluators as their authors have them: pycocotools itself, and VOC's rule as a walk down the scores of a class."""

from __future__ import annotations

import contextlib
import io
import math
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ssod.evaluation.greedy import IOUS
from ssod.evaluation.voc import average_precision


def coco(truth: dict[str, Any], results: list[dict], limits: list[int]) -> COCOeval:
    """Return what pycocotools accumulates; ids become numbers in the order of images and categories.

    Where an image is ``incomplete`` in a class, what matches nothing is ignored, as LVIS's evaluator changes the rule.
    """
    ids = sorted((image["id"] for image in truth["images"]), key=lambda i: (isinstance(i, str), i))
    number = {image: n for n, image in enumerate(ids, 1)}
    place = {category["id"]: k for k, category in enumerate(truth["categories"], 1)}
    tables = [COCO(), COCO()]
    with contextlib.redirect_stdout(io.StringIO()):
        for table, rows in zip(tables, (truth["annotations"], results)):
            table.dataset = {
                "images": [{"id": n} for n in number.values()],
                "categories": [{"id": k} for k in place.values()],
                "annotations": [
                    {"iscrowd": 0, "area": row["bbox"][2] * row["bbox"][3]}
                    | row
                    | {"id": i, "image_id": number[row["image_id"]], "category_id": place[row["category_id"]]}
                    for i, row in enumerate(rows, 1)
                ],
            }
            table.createIndex()
        run = COCOeval(*tables, "bbox")
        run.params.imgIds, run.params.catIds = list(number.values()), list(place.values())
        run.params.maxDets = limits
        run.evaluate()
        open = {
            (number[image["id"]], place[category["id"]])
            for image in truth["images"]
            for category in truth["categories"]
            if (said := image.get("incomplete")) and (said is True or category["name"] in said)
        }
        for cell in filter(None, run.evalImgs):
            if (cell["image_id"], cell["category_id"]) in open:
                cell["dtIgnore"] |= np.asarray(cell["dtMatches"]) == 0
        run.accumulate()
        run.summarize()
    return run


def voc(truth: dict[str, Any], results: list[dict], eleven_points: bool) -> list[list[float]]:
    """Return AP of each class at each IoU: the loop of the devkit, a detection at a time."""
    place = {image["id"]: i for i, image in enumerate(truth["images"])}
    results = sorted(results, key=lambda row: place[row["image_id"]])
    table = []
    for category in truth["categories"]:
        rows = [row for row in truth["annotations"] if row["category_id"] == category["id"]]
        found = [row for row in results if row["category_id"] == category["id"]]
        table.append([_voc_class(rows, found, iou, eleven_points) for iou in IOUS])
    return table


def _voc_class(rows: list[dict], found: list[dict], iou: float, eleven_points: bool) -> float:
    boxes: dict[Any, list[dict]] = {}
    for row in rows:
        boxes.setdefault(row["image_id"], []).append(row)
    skip = {id(row): bool(row.get("difficult", 0) or row.get("iscrowd", 0)) for row in rows}
    total = sum(not flag for flag in skip.values())
    if total == 0:
        return math.nan
    order = np.argsort([-row["score"] for row in found], kind="stable")
    taken: set[int] = set()
    right, wrong = np.zeros(len(order)), np.zeros(len(order))
    for i, index in enumerate(order):
        here = boxes.get(found[index]["image_id"], [])
        overlap = [_overlap(found[index]["bbox"], row["bbox"]) for row in here]
        best = int(np.argmax(overlap)) if here else -1
        if best < 0 or overlap[best] <= iou:
            wrong[i] = 1
        elif not skip[id(here[best])]:
            right[i], wrong[i] = id(here[best]) not in taken, id(here[best]) in taken
            taken.add(id(here[best]))
    right, wrong = right.cumsum(), wrong.cumsum()
    return average_precision(right / total, right / np.maximum(right + wrong, np.finfo(float).eps), eleven_points)


def _overlap(one: list[float], other: list[float]) -> float:
    """Return the IoU of two boxes ``x, y, w, h``, from their corners."""
    (x1, y1, x2, y2), (u1, v1, u2, v2) = ((x, y, x + w, y + h) for x, y, w, h in (one, other))
    shared = max(min(x2, u2) - max(x1, u1), 0.0) * max(min(y2, v2) - max(y1, v1), 0.0)
    return shared / max((x2 - x1) * (y2 - y1) + (u2 - u1) * (v2 - v1) - shared, np.finfo(float).eps)

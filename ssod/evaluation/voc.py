"""PASCAL VOC average precision: 11-point (VOC 2007) and area under the curve (VOC 2010 on), difficult boxes ignored.

Boxes are continuous ``x, y, w, h`` as everywhere here; a VOC file's inclusive 1-based ``xmin..xmax`` is then
``x = xmin - 1, w = xmax - xmin + 1``, and overlaps come out as in the devkit, which adds 1 to every side.
"""

import math
from collections import defaultdict
from typing import Any

import numpy as np

IOUS = tuple(round(0.5 + 0.05 * i, 2) for i in range(10))


def voc_metrics(truth: dict[str, Any], detections: list[dict], *, eleven_points: bool = False) -> dict[str, float]:
    """Return VOC's mean AP at IoU 0.5, and at COCO's ten thresholds for comparison.

    Args:
        truth: COCO layout; a box with ``difficult`` or ``iscrowd`` is neither to be found nor wrong to find.
        detections: COCO results; a category without any detection has AP 0. Equal scores are ordered as the images
            are, as in ``matching.match``: in which order ranks hand them in does not matter.
        eleven_points: VOC 2007's average over eleven points of recall instead of the area under the curve.

    Returns:
        ``AP`` (mean over IoU .50:.95), ``AP50``, ``AP75``, and ``AP/<class>``, ``AP50/<class>``, fractions; NaN
        where a class has nothing to find. Means are over the classes that have.
    """
    boxes = _by_class_and_image(truth["annotations"])
    place = {image["id"]: i for i, image in enumerate(truth["images"])}
    found = defaultdict(list)
    for row in sorted(detections, key=lambda row: place.get(row["image_id"], 0)):
        found[row["category_id"]].append(row)
    table = {}
    for category in truth["categories"]:
        key = category["id"]
        table[category["name"]] = [class_ap(boxes[key], found[key], iou, eleven_points) for iou in IOUS]
    values = np.array([row for row in table.values() if not math.isnan(row[0])])
    result = {"AP": values.mean(), "AP50": values[:, 0].mean(), "AP75": values[:, 5].mean()} if len(values) else {}
    result = {name: float(result.get(name, math.nan)) for name in ("AP", "AP50", "AP75")}
    for name, row in table.items():
        result[f"AP/{name}"], result[f"AP50/{name}"] = float(np.mean(row)), row[0]
    return result


def class_ap(
    truth: dict[Any, tuple[np.ndarray, np.ndarray]], detections: list[dict], iou: float, eleven_points: bool
) -> float:
    """Return the AP of one class.

    Going down the scores, a detection is right when the box it overlaps most does so by more than ``iou`` and is not
    taken yet; a second hit on the same box is wrong; a hit on a difficult box counts as neither.

    Args:
        truth: image id -> ([M, 4] ``x1, y1, x2, y2``, [M] bool difficult).
        detections: COCO results of the class.
        iou: the overlap needed.
        eleven_points: see ``voc_metrics``.
    """
    total = sum(int((~difficult).sum()) for _, difficult in truth.values())
    if total == 0:
        return math.nan
    order = np.argsort([-row["score"] for row in detections], kind="stable")
    taken = {image: np.zeros(len(difficult), bool) for image, (_, difficult) in truth.items()}
    right, wrong = np.zeros(len(order)), np.zeros(len(order))
    for i, index in enumerate(order):
        row = detections[index]
        boxes, difficult = truth.get(row["image_id"], (np.zeros((0, 4)), np.zeros(0, bool)))
        overlap = _overlaps(_corners(row["bbox"]), boxes)
        best = int(overlap.argmax()) if len(overlap) else -1
        if best < 0 or overlap[best] <= iou:
            wrong[i] = 1
        elif not difficult[best]:
            again = taken[row["image_id"]][best]
            taken[row["image_id"]][best] = True
            right[i], wrong[i] = not again, again
    right, wrong = right.cumsum(), wrong.cumsum()
    recall, precision = right / total, right / np.maximum(right + wrong, np.finfo(float).eps)
    return average_precision(recall, precision, eleven_points)


def average_precision(recall: np.ndarray, precision: np.ndarray, eleven_points: bool) -> float:
    """Average ``precision`` [D] over ``recall`` [D], both after each detection in falling order of score.

    At each recall counts the best precision at that recall or above: at the eleven points 0, 0.1, ..., 1, or over the
    whole curve.
    """
    if eleven_points:
        points = np.arange(0, 1.1, 0.1)
        return float(np.mean([precision[recall >= point].max(initial=0.0) for point in points]))
    recall = np.concatenate([[0.0], recall, [1.0]])
    envelope = np.maximum.accumulate(np.concatenate([[0.0], precision, [0.0]])[::-1])[::-1]
    return float(np.sum(np.diff(recall) * envelope[1:]))


def _by_class_and_image(rows: list[dict]) -> dict[int, dict[Any, tuple[np.ndarray, np.ndarray]]]:
    lists: dict[int, dict[Any, list]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        skip = bool(row.get("difficult", 0) or row.get("iscrowd", 0))
        lists[row["category_id"]][row["image_id"]].append((_corners(row["bbox"]), skip))
    arrays: dict[int, dict[Any, tuple[np.ndarray, np.ndarray]]] = defaultdict(dict)
    for category, images in lists.items():
        for image, pairs in images.items():
            arrays[category][image] = (np.stack([b for b, _ in pairs]), np.array([d for _, d in pairs]))
    return arrays


def _corners(xywh: list[float]) -> np.ndarray:
    x, y, w, h = xywh
    return np.array([x, y, x + w, y + h])


def _overlaps(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Return [M] IoU of ``box`` [4] with ``boxes`` [M, 4]."""
    sides = np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2])
    shared = sides.clip(min=0).prod(1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    return shared / np.maximum((box[2:] - box[:2]).prod() + areas - shared, np.finfo(float).eps)

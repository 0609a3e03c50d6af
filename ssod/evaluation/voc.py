"""PASCAL VOC average precision: 11-point (VOC 2007) and area under the curve (VOC 2010 on), difficult boxes ignored.

Boxes are continuous ``x, y, w, h`` as everywhere here; a VOC file's inclusive 1-based ``xmin..xmax`` is then
``x = xmin - 1, w = xmax - xmin + 1``, and overlaps come out as in the devkit, which adds 1 to every side.
"""

import math
from collections.abc import Sequence

import numpy as np

from ssod.evaluation.columns import Found, Truth
from ssod.evaluation.greedy import IOUS
from ssod.evaluation.matching import Matches, match


def voc_metrics(truth: Truth, detections: Found | Sequence[dict], *, eleven_points: bool = False) -> dict[str, float]:
    """Return VOC's mean AP at IoU 0.5, and at COCO's ten thresholds for comparison.

    Args:
        truth: COCO layout; a box with ``difficult`` or ``iscrowd`` is neither to be found nor wrong to find.
        detections: columns, or COCO results; a category without any detection has AP 0. Equal scores are ordered as the
            images are: in which order ranks hand them in does not matter.
        eleven_points: VOC 2007's average over eleven points of recall instead of the area under the curve.

    Returns:
        ``AP`` (mean over IoU .50:.95), ``AP50``, ``AP75``, and ``AP/<class>``, ``AP50/<class>``, fractions; NaN
        where a class has nothing to find. Means are over the classes that have.
    """
    matches = match(truth, detections, "voc")
    table = {name: class_ap(matches, k, eleven_points) for k, name in enumerate(matches.classes)}
    values = np.array([row for row in table.values() if not math.isnan(row[0])])
    result = {"AP": values.mean(), "AP50": values[:, 0].mean(), "AP75": values[:, 5].mean()} if len(values) else {}
    result = {name: float(result.get(name, math.nan)) for name in ("AP", "AP50", "AP75")}
    for name, row in table.items():
        result[f"AP/{name}"], result[f"AP50/{name}"] = float(np.mean(row)), row[0]
    return result


def class_ap(matches: Matches, label: int, eleven_points: bool) -> list[float]:
    """Return the AP of one class at each IoU; NaN where it has nothing to find.

    Going down the scores, a detection is right when the box it overlaps most does so by more than the IoU and is not
    taken yet; a second hit on the same box is wrong; a hit on a difficult box counts as neither.
    """
    total = int(matches.wanted[:, label].sum())
    if total == 0:
        return [math.nan] * len(IOUS)
    rows = matches.label == label
    right = matches.right[rows].cumsum(0, dtype=float)
    wrong = (matches.counted[rows] & ~matches.right[rows]).cumsum(0, dtype=float)
    recall, precision = right / total, right / np.maximum(right + wrong, np.finfo(float).eps)
    return [average_precision(recall[:, t], precision[:, t], eleven_points) for t in range(len(IOUS))]


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

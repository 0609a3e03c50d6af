"""COCO's average precision and recall."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ssod.evaluation.columns import Found, Truth, Wanted, as_columns
from ssod.evaluation.matching import MOST
from ssod.evaluation.precision import curves

NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")

Metrics = dict[str, float]


def coco_metrics(truth: Truth, detections: Found | Sequence[dict], most: int = MOST) -> Metrics:
    """Return COCO's twelve numbers, and AP and AP50 of each class, to the last bit as pycocotools has them.

    Args:
        truth: COCO layout; ``iscrowd`` and ``area`` default to 0 and the box's area.
        detections: columns, or COCO results.
        most: detections of an image and class that count, the best ones: COCO's 100, or more where images have more
            objects.

    Returns:
        ``AP`` (.50:.95), ``AP50``, ``AP75``, ``APs``, ``APm``, ``APl``, ``AR1``, ``AR10``, ``AR100`` (of ``most``),
        ``ARs``, ``ARm``, ``ARl``, and ``AP/<class>``, ``AP50/<class>``, all fractions; NaN where nothing is to be
        found.
    """
    found = curves(as_columns(detections, truth), Wanted.of(truth, sort=True), (1, 10, most))
    result = _numbers(found.precision, found.recall)
    precision = found.precision[:, :, :, 0]
    for k, category in enumerate(truth["categories"]):
        result[f"AP/{category['name']}"] = _mean(precision[:, :, k])
        result[f"AP50/{category['name']}"] = _mean(precision[0, :, k])
    return result


def _numbers(precision: np.ndarray, recall: np.ndarray) -> Metrics:
    """Return COCO's twelve numbers.

    Args:
        precision: [T, R, K, A]: thresholds, recalls, classes, areas (all, small, medium, large).
        recall: [T, K, A, M], M limits of detections.
    """
    ap = [precision[..., 0], precision[0, ..., 0], precision[5, ..., 0], *(precision[..., a] for a in (1, 2, 3))]
    ar = [recall[..., 0, m] for m in range(3)] + [recall[..., area, -1] for area in (1, 2, 3)]
    return dict(zip(NAMES, map(_mean, (*ap, *ar))))


def _mean(values: np.ndarray) -> float:
    values = values[values > -1]
    return float(values.mean()) if values.size else math.nan

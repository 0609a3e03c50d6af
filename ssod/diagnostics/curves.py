"""The numbers behind the figures of an evaluation: one source for the report's page and for what trackers are shown."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ssod.diagnostics.pseudofile import Pseudo
from ssod.evaluation.matching import Matches, average_precision

BINS = 20  # of score histograms
CELLS = 10  # of the heat map, each way
SURE = 0.3  # from this score on there is a histogram of its own
MOST_CLASSES = 8  # lines in one chart
POINTS = 80  # of one line of precision against recall


@dataclass(frozen=True)
class Scored:
    """D detections that were held against a truth.

    Attributes:
        score, iou: [D] in 0..1; the IoU is the highest with a true box of the class.
        right, wrong: [D] bool, at IoU 0.5; neither for one that matched a box which does not count.
        where: the images, in words.
    """

    score: np.ndarray
    iou: np.ndarray
    right: np.ndarray
    wrong: np.ndarray
    where: str


def scored(table: Matches | None, look: Pseudo | None) -> Scored | None:
    """Return the detections on the fixed unlabelled images, or on val where the truth of those is not known."""
    if look is not None and look.known:
        columns, where = (look.score, look.iou, look.right, look.counted), "fixed unlabelled images"
    elif table is not None:
        columns, where = (table.score, table.iou, table.right[:, 0], table.counted[:, 0]), "val images"
    else:
        return None
    score, iou, right, counted = columns
    score, iou = np.clip(score.astype(float), 0, 1), np.clip(iou.astype(float), 0, 1)
    return Scored(score, iou, right, counted & ~right, where)


def histogram(boxes: Scored, low: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return [BINS + 1] edges from ``low`` to 1, and how many right and wrong boxes, [BINS] each, score between."""
    edges = np.linspace(low, 1, BINS + 1)
    right, wrong = (np.histogram(boxes.score[mask], edges)[0] for mask in (boxes.right, boxes.wrong))
    return edges, right, wrong


def confidence_iou(boxes: Scored) -> np.ndarray:
    """Return [CELLS, CELLS] counts of boxes: rows by IoU, columns by score, from 0 to 1."""
    return np.histogram2d(boxes.iou, boxes.score, bins=CELLS, range=((0, 1), (0, 1)))[0]


def ranked(table: Matches) -> list[int]:
    """Return the classes that val has boxes of, from the lowest AP to the highest."""
    values = average_precision(table)[0].mean(1)  # [K]; NaN where there is nothing to find
    return [int(k) for k in np.argsort(values, kind="stable") if table.wanted[:, k].any()]


def precision_recall(table: Matches, k: int) -> tuple[list[float], list[float]]:
    """Return recall and precision of class ``k`` at IoU 0.5, at up to ``POINTS`` of its right detections."""
    rows = table.label == k
    right, counted = table.right[rows, 0].cumsum(), table.counted[rows, 0].cumsum()
    hits = np.flatnonzero(table.right[rows, 0])
    keep = hits[np.unique(np.linspace(0, len(hits) - 1, POINTS).round().astype(int))] if len(hits) else hits
    recall, precision = right / max(table.wanted[:, k].sum(), 1), right / np.maximum(counted, 1)
    return recall[keep].tolist(), precision[keep].tolist()

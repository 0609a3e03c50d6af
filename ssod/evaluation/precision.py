"""COCO's precision and recall from what detections took, bit for bit as pycocotools accumulates them.

Where labels of a class are incomplete, a detection that takes nothing is left out, as LVIS's evaluator does.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ssod.evaluation.columns import Found, Wanted
from ssod.evaluation.greedy import IOUS, Cells, coco_rule, in_cells

RECALLS = np.linspace(0, 1, 101)
AREAS = ((0.0, 1e10), (0.0, 32.0**2), (32.0**2, 96.0**2), (96.0**2, 1e10))  # all, small, medium, large


@dataclass(frozen=True)
class Curves:
    """T IoU thresholds, R recalls, K classes, A ranges of areas, M limits of detections.

    Attributes:
        precision: [T, R, K, A] with the highest limit; -1 where nothing is to be found.
        recall: [T, K, A, M], likewise.
    """

    precision: np.ndarray
    recall: np.ndarray


def curves(found: Found, wanted: Wanted, limits: tuple[int, ...]) -> Curves:
    """Return precision and recall.

    Args:
        found: the detections.
        wanted: the truth, its images sorted.
        limits: detections of an image and class that count, the best ones; the highest limit last.
    """
    cells = in_cells(found, wanted, limits[-1])
    areas = cells.wanted.areas
    ignored = np.stack([cells.wanted.crowd | (areas < low) | (areas > high) for low, high in AREAS])
    taken = coco_rule(cells, ignored)
    classes = len(wanted.classes)
    total = np.stack([np.bincount(cells.wanted.label[~skip], minlength=classes) for skip in ignored])  # [A, K]
    order = _by_class(cells)
    sizes = cells.boxes[order, 2] * cells.boxes[order, 3]
    closed = ~cells.open()[order]
    starts = np.searchsorted(cells.label[order], np.arange(classes + 1))
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    rows = np.argsort(place[taken.rows])  # what took something, by class and falling score
    at, rank, label = place[taken.rows[rows]], cells.rank[taken.rows[rows]], cells.label[taken.rows[rows]]
    precision = np.full((len(IOUS), len(RECALLS), classes, len(AREAS)), -1.0)
    recall = np.full((len(IOUS), classes, len(AREAS), len(limits)), -1.0)
    for a, (low, high) in enumerate(AREAS):
        known = total[a] > 0
        counts = closed & (sizes >= low) & (sizes <= high)  # of those that take nothing
        seen = np.cumsum(counts, dtype=np.int64)
        seen = seen - np.concatenate([[0], seen])[starts[cells.label[order]]]
        for t in range(len(IOUS)):
            right, skipped = taken.right[rows, a, t], taken.ignored[rows, a, t]
            some = right | skipped
            change = right[some].astype(np.int64) - counts[at[some]]
            hits = right[some]
            after = (seen[at[some]] + _cumsum(change, label[some]))[hits]
            precision[t, :, known, a] = _at_recalls(after, label[some][hits], total[a])[known]
            for m, limit in enumerate(limits):
                reached = np.bincount(label[right & (rank < limit)], minlength=classes)
                recall[t, known, a, m] = reached[known] / total[a, known]
    return Curves(precision, recall)


def _by_class(cells: Cells) -> np.ndarray:
    """Return the order by class, then falling score, then image."""
    order = np.argsort(-cells.scores, kind="stable")
    return order[np.argsort(cells.label[order], kind="stable")]


def _cumsum(values: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Return the running sum [H] of ``values`` [H], which starts afresh with each class."""
    sums = np.cumsum(values)
    starts = np.flatnonzero(np.diff(label, prepend=-1))
    before = np.concatenate([[0], sums])[starts]
    return sums - np.repeat(before, np.diff(starts, append=len(label)))


def _at_recalls(after: np.ndarray, label: np.ndarray, total: np.ndarray) -> np.ndarray:
    """Return the best precision at each recall or above [K, R]; 0 where that recall is not reached.

    Args:
        after: [H] detections that count up to each that is right, by class.
        label: [H] its class.
        total: [K] boxes to find.
    """
    out = np.zeros((len(total), len(RECALLS)))
    if not len(label):
        return out
    starts = np.flatnonzero(np.diff(label, prepend=-1))
    ends = np.append(starts[1:], len(label))
    nth = np.arange(1, len(label) + 1) - np.repeat(starts, ends - starts)
    best = nth / (after + np.spacing(1))
    for start, end in zip(starts, ends):
        best[start:end] = np.maximum.accumulate(best[start:end][::-1])[::-1]
    reached = np.searchsorted(RECALLS, nth / total[label], "right")
    gained = np.diff(reached, prepend=0)
    gained[starts] = reached[starts]
    last = np.zeros(len(total), np.int64)
    last[label[starts]] = reached[ends - 1]
    out[np.arange(len(RECALLS)) < last[:, None]] = np.repeat(best, gained)
    return out

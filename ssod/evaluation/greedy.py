"""Which detection takes which box, by COCO's and by VOC's rule, for all images and classes at once.

Detections and boxes meet in cells, one for each image and class. COCO's rule goes down the scores of a cell, so that
what a detection may take depends on those before it; but cells are independent. Round n decides the n-th detection of
every cell, for all IoU thresholds and areas together, and there are as many rounds as a cell has detections that
overlap a box of it enough.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from ssod.evaluation.columns import Found, Wanted

IOUS = tuple(round(0.5 + 0.05 * i, 2) for i in range(10))
_PAIRS = 500_000  # of a detection and a box that are looked at together, so that memory is bounded


@dataclass(frozen=True)
class Cells:
    """Detections by cell, best first, cut to the best of each; boxes by cell, in the order of the file.

    Attributes:
        wanted: the boxes, sorted.
        image, label, boxes, scores: of D detections; see ``Found``.
        rank: [D] place of a detection in its cell, from 0.
        starts, counts: [D] where the boxes of a detection's cell begin, and how many there are.
    """

    wanted: Wanted
    image: np.ndarray
    label: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    rank: np.ndarray
    starts: np.ndarray
    counts: np.ndarray

    def __len__(self) -> int:
        return len(self.scores)

    def open(self) -> np.ndarray:
        """Return [D] bool: of a class of which the image may have more objects than boxes."""
        open = self.wanted.open
        return np.zeros(len(self), bool) if open is None else open[self.image, self.label]

    def pairs(self) -> Iterator[tuple[slice, np.ndarray, np.ndarray, np.ndarray]]:
        """Yield parts of the detections: (rows, detections [P], boxes [P], starts).

        A pair is a detection, numbered within ``rows``, and a box of its cell. ``starts`` [d] says where the pairs of
        each of the detections that have any begin, so that ``np.ufunc.reduceat`` runs over them.
        """
        ends = np.cumsum(self.counts)
        first = 0
        while first < len(self):
            before = ends[first - 1] if first else 0
            last = max(first + 1, int(np.searchsorted(ends, before + _PAIRS, "right")))
            counts = self.counts[first:last]
            found = np.repeat(np.arange(last - first), counts)
            begin = ends[first:last] - counts - before
            boxes = np.arange(len(found)) + (self.starts[first:last] - begin)[found]
            yield slice(first, last), found, boxes, begin[counts > 0]
            first = last


def in_cells(found: Found, wanted: Wanted, most: int | None) -> Cells:
    """Bring detections and boxes together.

    Args:
        found: an image that ``wanted`` has not is an error.
        wanted: the truth.
        most: detections of each cell that count; None = all.
    """
    number = {image: i for i, image in enumerate(wanted.ids)}
    here = np.array([number[image] for image in found.ids], np.int64)
    image, classes = here[found.image] if len(found) else found.image, len(wanted.classes)
    cell = image * classes + found.label
    order = np.argsort(-found.scores, kind="stable")
    order = order[np.argsort(cell[order], kind="stable")]
    cell = cell[order]
    new = np.flatnonzero(np.diff(cell, prepend=-1))
    rank = np.arange(len(cell)) - np.repeat(new, np.diff(new, append=len(cell)))
    if most is not None:
        kept = rank < most
        order, cell, rank = order[kept], cell[kept], rank[kept]
    theirs = wanted.image * classes + wanted.label
    rows = np.argsort(theirs, kind="stable")
    columns = (wanted.image, wanted.label, wanted.boxes, wanted.areas, wanted.crowd, wanted.difficult)
    wanted = Wanted(wanted.ids, wanted.classes, *(column[rows] for column in columns), open=wanted.open)
    starts = np.searchsorted(theirs[rows], cell, "left")
    counts = np.searchsorted(theirs[rows], cell, "right") - starts
    own = (image[order], found.label[order], found.boxes[order], found.scores[order])
    return Cells(wanted, *own, rank, starts, counts)


# ---- COCO ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Taken:
    """What C of the D detections took, each of which overlaps some box enough; the others took nothing.

    Attributes:
        rows: [C] which detections, ascending.
        right: [C, A, T] whether a box to find was taken.
        ignored: [C, A, T] whether a box was taken that is neither to be found nor wrong to find.
        best: [D] highest IoU with a box that is no crowd.
    """

    rows: np.ndarray
    right: np.ndarray
    ignored: np.ndarray
    best: np.ndarray


def coco_rule(cells: Cells, ignored: np.ndarray) -> Taken:
    """Best box that is free; boxes to find before the others, the later of two equal ones; as pycocotools does.

    Args:
        cells: the detections.
        ignored: [A, G] boxes of ``cells.wanted`` that are not to be found, in each range of areas. They are taken like
            others, but a crowd is never used up.
    """
    lowest = np.minimum(np.array(IOUS), 1 - 1e-10)
    crowd, best = cells.wanted.crowd, np.zeros(len(cells))
    parts: list[tuple[np.ndarray, ...]] = [(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))]
    for rows, found, boxes, starts in cells.pairs():
        iou = _iou(cells.boxes[rows][found], cells.wanted.boxes[boxes], crowd[boxes])
        if len(starts):
            best[rows][found[starts]] = np.maximum.reduceat(np.where(crowd[boxes], 0.0, iou), starts)
        enough = np.flatnonzero(iou >= lowest[0])
        parts.append((found[enough] + rows.start, boxes[enough], iou[enough]))
    found, boxes, iou = (np.concatenate(column) for column in zip(*parts))
    rows, which = np.unique(found, return_inverse=True)
    right, skipped = _rounds(cells, rows, which, boxes, iou, ignored, lowest)
    return Taken(rows, right, skipped, best)


def _rounds(
    cells: Cells,
    rows: np.ndarray,
    which: np.ndarray,
    boxes: np.ndarray,
    iou: np.ndarray,
    ignored: np.ndarray,
    lowest: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Return ``right`` and ``ignored`` of ``Taken``.

    Args:
        cells: the detections.
        rows: [C] those that overlap a box enough.
        which: [P] which of them a pair is of, ascending.
        boxes: [P] its box.
        iou: [P].
        ignored: [A, G].
        lowest: [T] IoU that a pair must have.
    """
    # What a detection prefers: among its pairs, the place of each by falling wish. No two are equal.
    order = np.lexsort((boxes, iou, which))
    wish = np.empty(len(order), np.int32)
    wish[order] = np.arange(len(order))
    to_find = np.int32(len(order))  # added for a box to find, which comes before all others
    nth = _nth(cells, rows)
    by_round = np.argsort(nth[which], kind="stable")
    rounds = np.searchsorted(nth[which][by_round], np.arange(nth.max(initial=-1) + 2))
    right = np.zeros((len(rows), len(ignored), len(lowest)), bool)
    skipped, free = np.zeros_like(right), np.ones((ignored.shape[1], *right.shape[1:]), bool)
    for begin, end in pairwise(rounds.tolist()):
        pairs = by_round[begin:end]
        mine, box = which[pairs], boxes[pairs]
        starts = np.flatnonzero(np.diff(mine, prepend=-1))
        may = free[box] & (iou[pairs, None] >= lowest)[:, None, :]
        finds = ~ignored.T[box, :, None]
        value = np.where(may, wish[pairs, None, None] + finds * to_find, np.int32(-1))
        chosen = np.repeat(np.maximum.reduceat(value, starts), np.diff(starts, append=len(pairs)), axis=0)
        pair, area, threshold = np.nonzero(may & (value == chosen))
        found = finds[pair, area, 0]
        right[mine[pair[found]], area[found], threshold[found]] = True
        skipped[mine[pair[~found]], area[~found], threshold[~found]] = True
        used = ~cells.wanted.crowd[box[pair]]
        free[box[pair[used]], area[used], threshold[used]] = False
    return right, skipped


def _nth(cells: Cells, rows: np.ndarray) -> np.ndarray:
    """Return [C] the place of each of ``rows`` among those of its cell."""
    new = np.flatnonzero(np.diff(cells.image[rows] * len(cells.wanted.classes) + cells.label[rows], prepend=-1))
    return np.arange(len(rows)) - np.repeat(new, np.diff(new, append=len(rows)))


def _iou(found: np.ndarray, boxes: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """Return [P] IoU of ``x, y, w, h`` boxes [P, 4]; of a crowd, the share of the detection that lies inside."""
    ends = np.minimum(found[:, :2] + found[:, 2:], boxes[:, :2] + boxes[:, 2:])
    sides = (ends - np.maximum(found[:, :2], boxes[:, :2])).clip(min=0)
    shared, own = sides[:, 0] * sides[:, 1], found[:, 2] * found[:, 3]
    union = np.where(crowd, own, own + boxes[:, 2] * boxes[:, 3] - shared)
    return shared / np.maximum(union, np.finfo(float).eps)


# ---- VOC -----------------------------------------------------------------------------------------------------------


def voc_rule(cells: Cells, ignored: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The box overlapped most decides; a second hit on it is wrong, a hit on an ignored one is neither.

    Args:
        cells: the detections.
        ignored: [G] boxes of ``cells.wanted`` that are not to be found.

    Returns:
        Whether a detection found a box [D, T], whether it counts [D, T], and its highest IoU with a box to find [D].
    """
    box, most, best = np.full(len(cells), -1), np.zeros(len(cells)), np.zeros(len(cells))
    for rows, found, boxes, starts in cells.pairs():
        if not len(starts):
            continue
        iou = _iou_of_corners(cells.boxes[rows][found], cells.wanted.boxes[boxes])
        have, highest = found[starts], np.maximum.reduceat(iou, starts)
        most[rows][have] = highest
        at = np.flatnonzero(iou == np.repeat(highest, np.diff(starts, append=len(iou))))[::-1]
        box[rows][found[at]] = boxes[at]  # the first of equal ones is written last
        best[rows][have] = np.maximum.reduceat(np.where(ignored[boxes], 0.0, iou), starts)
    hit = (most[:, None] > np.array(IOUS)) & (box >= 0)[:, None]
    skipped = hit & ignored[box][:, None] if len(ignored) else np.zeros_like(hit)
    right = np.zeros_like(hit)
    for t in range(hit.shape[1]):
        rows = np.flatnonzero(hit[:, t] & ~skipped[:, t])
        right[rows[np.unique(box[rows], return_index=True)[1]], t] = True
    return right, ~skipped, best


def _iou_of_corners(found: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Return [P] IoU of ``x, y, w, h`` boxes [P, 4], by way of their corners."""
    low, low_box, high, high_box = found[:, :2], boxes[:, :2], found[:, :2] + found[:, 2:], boxes[:, :2] + boxes[:, 2:]
    shared = (np.minimum(high, high_box) - np.maximum(low, low_box)).clip(min=0).prod(1)
    union = (high - low).prod(1) + (high_box - low_box).prod(1) - shared
    return shared / np.maximum(union, np.finfo(float).eps)

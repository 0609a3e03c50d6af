"""From which score on the boxes of a class are right often enough: one threshold a class, from the matches of val."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ssod.evaluation.matching import Matches

LEAST = 20  # boxes of a class that a precision must stand on: of fewer, some are all right by chance
PRECISION = 0.9


@dataclass(frozen=True)
class Cutoff:
    """The threshold of a class.

    Attributes:
        name: the class.
        score: the lowest score such that, of all boxes that score at least so, enough are right; None = there is none.
        precision: of those boxes; without a score the highest precision of ``LEAST`` boxes or more, NaN where there
            are fewer.
        boxes: how many boxes that precision is of.
        right: how many of them are right.
        wanted: boxes of the class in val.
    """

    name: str
    score: float | None
    precision: float
    boxes: int
    right: int
    wanted: int

    def line(self) -> str:
        """Return it for people."""
        if self.score is not None:
            found = f"{self.right} of {self.wanted} val boxes found"
            return f"{self.name}: from {self.score:.3f}, {100 * self.precision:.1f} % of {self.boxes} right, {found}"
        if math.isnan(self.precision):
            return f"{self.name}: none, fewer than {LEAST} detections on val"
        return f"{self.name}: none, at most {100 * self.precision:.1f} % of {self.boxes} right"


def cutoffs(matches: Matches, precision: float, least: int = LEAST) -> list[Cutoff]:
    """Return the threshold of each class, at IoU 0.5.

    The score is the lowest that will do, so precision may be missed at some higher score. It is chosen on the boxes
    that it is measured on, which flatters it a little.

    Args:
        matches: detections on val.
        precision: share of the boxes that must be right, 0..1. A box that matches one that does not count, such as
            COCO's crowds, is neither right nor wrong.
        least: boxes that the share must be of.
    """
    return [_cutoff(matches, k, precision, least) for k in range(len(matches.classes))]


def _cutoff(matches: Matches, k: int, precision: float, least: int) -> Cutoff:
    rows = np.flatnonzero((matches.label == k) & matches.counted[:, 0])  # by falling score
    scores, right = matches.score[rows], matches.right[rows, 0].cumsum()
    boxes = np.arange(1, len(rows) + 1)
    last = np.append(scores[1:] < scores[:-1], True)[: len(rows)]  # of its score: a threshold takes all or none
    share = np.where(last & (boxes >= least), right / boxes, math.nan)
    wanted = int(matches.wanted[:, k].sum())
    good = np.flatnonzero(right >= precision * boxes - 1e-9)
    good = good[~np.isnan(share[good])]
    if len(good):
        at, score = int(good[-1]), float(scores[good[-1]])
    elif not np.isnan(share).all():
        at, score = int(np.nanargmax(share)), None
    else:
        return Cutoff(matches.classes[k], None, math.nan, len(rows), int(right[-1]) if len(rows) else 0, wanted)
    return Cutoff(matches.classes[k], score, float(share[at]), int(boxes[at]), int(right[at]), wanted)


def lines(found: Sequence[Cutoff], precision: float) -> list[str]:
    """Return the thresholds for people, a heading first."""
    head = f"scores from which {100 * precision:g} % of the boxes are right (IoU 0.5, {LEAST} boxes or more):"
    return [head, *(f"  {cutoff.line()}" for cutoff in found)]

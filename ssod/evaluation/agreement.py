"""How far labels agree with what a person made of them: precision and recall with their intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ssod.evaluation.columns import Found, Truth
from ssod.evaluation.matching import match

Z = 1.959963984540054  # 95 % of a normal distribution lie within so many standard deviations
ALL = "all classes"


@dataclass(frozen=True)
class Agreement:
    """The labels of a class against the truth.

    Attributes:
        name: the class.
        labels: boxes among the labels, without those that match a crowd.
        right: those of them that find a true box, each its own.
        true: boxes to find.
    """

    name: str
    labels: int
    right: int
    true: int

    @property
    def precision(self) -> float:
        """Share of the labels that are right; NaN without a label."""
        return self.right / self.labels if self.labels else math.nan

    @property
    def recall(self) -> float:
        """Share of the true boxes that have a label; NaN where there is nothing to find."""
        return self.right / self.true if self.true else math.nan

    @property
    def precision_interval(self) -> tuple[float, float]:
        """Its 95 % interval; see ``wilson``."""
        return wilson(self.right, self.labels)

    @property
    def recall_interval(self) -> tuple[float, float]:
        """Its 95 % interval; see ``wilson``."""
        return wilson(self.right, self.true)


def wilson(right: int, total: int) -> tuple[float, float]:
    """Return the 95 % interval of a share, in 0..1; NaN of nothing.

    E. B. Wilson, Probable inference, the law of succession, and statistical inference, Journal of the American
    Statistical Association 22 (1927), pages 209 to 212: the shares p for which ``right`` lies within Z standard
    deviations, sqrt(p (1 - p) / total), of what p would give. Boxes are taken for independent of each other, which
    those of one image are not quite: the true interval is somewhat wider.
    """
    if not total:
        return math.nan, math.nan
    share, square = right / total, Z**2 / total
    center = (share + square / 2) / (1 + square)
    half = Z / (1 + square) * math.sqrt(share * (1 - share) / total + square / (4 * total))
    return max(0.0, min(center - half, share)), min(1.0, max(center + half, share))  # rounding keeps it inside


def agreement(truth: Truth, labels: Found | Sequence[dict]) -> list[Agreement]:
    """Return the agreement of each class and of all together, at IoU 0.5, by COCO's rule of matching.

    Args:
        truth: COCO layout; its categories are all classes.
        labels: columns, or COCO results; those of equal score are taken in their order.
    """
    found = match(truth, labels, "coco", most=1 << 30)
    right, counted = found.right[:, 0], found.counted[:, 0]
    rows = []
    for k, name in enumerate(found.classes):
        mine = (found.label == k) & counted
        rows.append(Agreement(name, int(mine.sum()), int(right[mine].sum()), int(found.wanted[:, k].sum())))
    sums = [sum(column) for column in zip(*((row.labels, row.right, row.true) for row in rows))]
    return [*rows, Agreement(ALL, *sums)]

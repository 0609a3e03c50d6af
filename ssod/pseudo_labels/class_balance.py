"""Thresholds that rise a little for classes with many labels. (DSL, arXiv:2207.05536, "adaptive filtering")"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ssod.structures import Pseudo, Targets
from ssod.structures.ragged import select
from ssod.utils import collective


def balanced(count: Tensor, total: Tensor, lowest: float, rise: float, power: float) -> Tensor:
    """Return [K]: ``clip(lowest (s / n)^power, lowest, lowest + rise)``, 0 for a class without a counted box.

    Args:
        count: [K] boxes of each class.
        total: [K] the sum of their scores, s. With n it is compared, the mean count of classes that have a box.
        lowest: no threshold is lower.
        rise: no threshold is higher than ``lowest`` by more.
        power: 0 makes all alike.
    """
    some = count > 0
    mean = count.sum() / some.sum().clamp(min=1)
    raised = lowest * (total / mean.clamp(min=1)) ** power
    return torch.where(some, raised.clamp(lowest, lowest + rise), 0.0)


class ClassBalance(nn.Module):
    """Divides detections by thresholds of their classes, and counts them for the next ones.

    All ranks and all parts of a step (``train.accumulate``) count what all of them see, and agree.

    Args:
        num_classes: K.
        floor: a detection below this is neither a label nor in doubt.
        lowest, rise, power: see ``balanced``.

    Attributes:
        values: [K] the thresholds, from which on a detection is counted; 0 = its class had no box when they were chosen
            last, and all boxes from ``floor`` on are counted.
        count: [K] int64, boxes since then.
        total: [K] float64, the sum of their scores.
    """

    values: Tensor
    count: Tensor
    total: Tensor
    alike = ("values", "count", "total")  # on all processes

    def __init__(self, num_classes: int, *, floor: float, lowest: float, rise: float, power: float) -> None:
        super().__init__()
        self.floor, self.lowest, self.rise, self.power = floor, lowest, rise, power
        self.register_buffer("values", torch.full((num_classes,), lowest))
        self.register_buffer("count", torch.zeros(num_classes, dtype=torch.long))
        self.register_buffer("total", torch.zeros(num_classes, dtype=torch.float64))

    def thresholds(self) -> Tensor:
        """Return [K]: from which score on a box is a label; a copy."""
        return torch.where(self.values > 0, self.values, self.lowest)

    def divide(self, detections: list[Targets]) -> Pseudo:
        """N Targets with scores -> labels, and boxes in doubt as ``unsure``; what is below ``floor`` is left out."""
        scores = torch.cat([t.confidence() for t in detections])
        good = scores >= self.thresholds()[torch.cat([t.labels for t in detections])]
        doubt = (scores >= self.floor) & ~good
        return Pseudo(select(detections, good), None, select(detections, doubt))

    @torch.no_grad()
    def see(self, detections: list[Targets]) -> None:
        """Count the detections of N images; on several ranks, all call it together. Ignore regions are no boxes."""
        scores = torch.cat([t.confidence() for t in detections])
        labels = torch.cat([t.labels for t in detections])
        real = torch.cat([t.trust() for t in detections]) > 0
        counted = ((scores >= self.values[labels].clamp(min=self.floor)) & real).float()
        found = scores.new_zeros(2, len(self.values), dtype=torch.float32)
        found.index_add_(1, labels, torch.stack([counted, counted * scores.float()]))
        count, total = collective.sum_over_ranks(found)
        self.count += count.round().long()
        self.total += total

    @torch.no_grad()
    def choose(self) -> None:
        """Let thresholds follow what was counted, and begin to count anew."""
        self.values.copy_(balanced(self.count, self.total, self.lowest, self.rise, self.power))
        self.count.zero_()
        self.total.zero_()

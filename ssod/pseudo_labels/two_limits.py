"""Detections in two kinds, by two thresholds of their class: reliable ones, and those that are unsure."""

from __future__ import annotations

import torch
from torch import Tensor

from ssod.structures import Targets
from ssod.structures.ragged import select


def divide(detections: list[Targets], limits: Tensor) -> tuple[list[Targets], None, list[Targets]]:
    """Return the reliable detections, None, and the unsure ones: what ``Pseudo`` is made of.

    Args:
        detections: N Targets with scores.
        limits: [2, K] thresholds of reliable and of unsure boxes.
    """
    scores = torch.cat([t.confidence() for t in detections])
    reliable, unsure = scores >= limits[:, torch.cat([t.labels for t in detections])]
    return select(detections, reliable), None, select(detections, unsure & ~reliable)

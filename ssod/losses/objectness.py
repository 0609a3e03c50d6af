"""What an objectness branch is asked for: on rows of objects how well they fit, on all others 0."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ssod.losses.box import ciou_pairs
from ssod.losses.elements import upcast
from ssod.structures import Assignment, Predictions


@torch.no_grad()
def fit(p: Predictions, a: Assignment) -> Tensor:
    """Return [R]: for rows of objects the CIoU of the box that they predict with ``a.box``, at least 0; else 0 (YOLO).

    A row of an object is one with a class, whether or not it regresses a box; of soft classes, what they lack to 1 is
    background, and takes its share of the overlap. All rows are decoded and none is searched for, so that nothing waits
    for the device.

    Args:
        p: R rows of a head with one box a row.
        a: their assignment.
    """
    boxes = p.coder.decode(upcast(p.deltas[:, 0]), p.priors)
    near = 1 - ciou_pairs(boxes, a.box.to(boxes))
    if a.cls.ndim == 1:
        return torch.where(named(a, p.num_classes), near.clamp(min=0), 0.0)
    return near.clamp(min=0) * a.cls.sum(-1).clamp(max=1).to(near)


def with_objectness(p: Predictions, a: Assignment) -> Assignment:
    """Ask all rows for their objectness, which is how well they ``fit``.

    Where ``a`` does not say how much the quality of a row counts, it counts as its class would on a head without
    objectness, background included: by ``cls_weight``. A row that may be of an object nobody labelled is not asked.
    """
    weight = a.cls_weight if a.quality_weight is None else a.quality_weight
    return replace(a, quality=fit(p, a), quality_weight=known_weight(p, a, weight))


def known_weight(p: Predictions, a: Assignment, weight: Tensor) -> Tensor:
    """Return ``weight`` [R], 0 where nobody knows whether a row is of an object."""
    return weight if a.open is None else weight * ~a.doubtful(p.image)


def named(a: Assignment, num_classes: int) -> Tensor:
    """Return [R] bool: rows that are asked for some class, whatever it counts."""
    return a.cls < num_classes if a.cls.ndim == 1 else a.cls.sum(-1) > 0

"""Boxes in doubt: their rows learn no class, and of their quality what a teacher says. (arXiv:2302.07577, Sec. 3.2)"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ssod.assign.matches import BACKGROUND
from ssod.structures import Assignment, Pseudo
from ssod.utils.given import given


@torch.no_grad()
def with_soft_quality(
    sure: Assignment, unsure: Assignment, labels: Pseudo, least: float, num_classes: int
) -> Assignment:
    """Put the rows of boxes in doubt into an assignment to boxes that are sure.

    A row of a box in doubt is asked for the quality that a teacher gives this box. A sure box that has the row, too,
    still teaches its class and its place there. Without one the row learns no class, and the place of its own box where
    that quality is high enough.

    Args:
        sure: R rows matched to the sure boxes alone, with ``quality`` and ``quality_weight`` [R].
        unsure: the same rows, matched to the boxes in doubt alone.
        labels: the boxes, sure ones as ``cls``, those in doubt as ``unsure`` with ``Targets.quality``.
        least: a box in doubt teaches its place when its quality is at least this.
        num_classes: K.

    Returns:
        An assignment that is divided as ``sure`` is; ``matched`` counts the boxes of both kinds, image by image, those
        in doubt behind the others.
    """
    in_doubt = given(labels.unsure, "there is a list of boxes in doubt, and be it empty")
    first, second = numbers([len(t) for t in labels.cls], [len(t) for t in in_doubt], sure.cls.device)
    known = [given(t.quality, "a teacher was asked about these boxes").float() for t in in_doubt]
    own_quality = given(sure.quality, "the quality branch is asked for something")
    own_weight = given(sure.quality_weight, "... on rows that are weighed")
    box, own = unsure.matches(), sure.matches()
    quality = of_row(torch.cat(known), box, 0.0)
    alone, soft = own < 0, box >= 0
    doubt = alone & (box != BACKGROUND)  # boxes that an assigner ignores are neither, too
    hard = sure.cls.ndim == unsure.cls.ndim == 1
    cls, other = (sure.cls, unsure.cls) if hard else (sure.soft(num_classes), unsure.soft(num_classes))
    return replace(
        sure,
        cls=torch.where(doubt if hard else doubt[:, None], other, cls),
        cls_weight=sure.cls_weight * ~doubt,
        box=torch.where(doubt[:, None], unsure.box, sure.box),
        box_weight=torch.where(doubt, unsure.box_weight * (quality >= least), sure.box_weight),
        quality=torch.where(soft, quality, own_quality),
        quality_weight=torch.where(soft, unsure.cls_weight, own_weight),
        matched=torch.where(doubt, of_row(second, box, box), of_row(first, own, own)),
    )


def of_row(values: Tensor, box: Tensor, other: Tensor | float) -> Tensor:
    """Return [R]: the value [M] of each row's box, ``other`` where it has none; ``box`` is below 0 there."""
    padded = torch.cat([values, values.new_zeros(1)])
    return torch.where(box >= 0, padded[box.clamp(min=-1)], other)


def numbers(first: list[int], second: list[int], device: torch.device | str) -> tuple[Tensor, Tensor]:
    """Return the places of two kinds of boxes, so many in each image, in a list where the second follow the first.

    ``([2, 1], [1, 0])`` gives ``[0, 1, 3]`` and ``[2]``.
    """
    kind = torch.cat([torch.full((n,), k, device=device) for pair in zip(first, second) for k, n in enumerate(pair)])
    return (kind == 0).nonzero().squeeze(1), (kind == 1).nonzero().squeeze(1)

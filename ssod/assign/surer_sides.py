"""Each side learns where the teacher is surer of it than the student (Unbiased Teacher v2, Liu et al. 2022, Sec. 4.2).

A detector that predicts the deviation of a side, ``sigmoid(box_std)`` in (0, 1), is as certain of it as one minus that.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ssod.structures import Assignment, Predictions
from ssod.utils.given import given

_ABSENT = "this detector predicts no deviation of its boxes"


def certainty(box_std: Tensor) -> Tensor:
    """[...] logits of deviations -> [...] float32 in (0, 1), 1 = certain."""
    return (-box_std.float()).sigmoid()


def by_place(p: Predictions) -> Tensor:
    """Rank rows for places, [R, K] float32: the geometric mean of class probability and mean certainty of the sides."""
    sure = certainty(given(p.box_std, _ABSENT)).mean(1, keepdim=True)
    return (p.probs() * sure).sqrt()


@torch.no_grad()
def surer_sides(p: Predictions, a: Assignment, least: float, margin: float) -> Assignment:
    """Let a side of a box learn where the teacher is certain of it, and surer than the student.

    Args:
        p: the student's rows, whose coder tells sides.
        a: their assignment to boxes that a teacher found, with its ``box_std``.
        least: the teacher's certainty must be above this.
        margin: ... and above the student's and this.

    Returns:
        The assignment with a ``box_weight`` for each side, [R, 4]; a side that does not learn weighs nothing.
    """
    theirs, mine = certainty(given(a.box_std, _ABSENT)), certainty(given(p.box_std, _ABSENT))
    learns = (theirs > least) & (theirs > mine + margin)
    return replace(a, box_weight=a.box_weight[:, None] * learns)

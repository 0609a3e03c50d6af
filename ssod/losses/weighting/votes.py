"""Box losses by the agreement of an object's rows: positive-proposal consistency. (PseCo, arXiv:2203.16317, Sec. 3.2)

If the rows of a pseudo-label predict boxes that fit it, its place is likely right.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ssod.structures import Assignment, Predictions
from ssod.structures.boxes import paired_iou
from ssod.utils.collective import mean_over_ranks


def votes(p: Predictions, a: Assignment, objects: int) -> Tensor:
    """Return the vote [R] of each row: the mean IoU of the boxes that the rows of its object predict with the object.

    It is 0 for rows without a box to regress. All rows are decoded and none is searched for, so that nothing waits for
    the device.

    Args:
        p: predictions.
        a: their assignment.
        objects: how many boxes ``a.matched`` counts.
    """
    fg = a.fg
    near = paired_iou(p.boxes(a.labels().clamp(max=p.num_classes - 1)), a.box)
    owner = torch.where(fg, a.matches(), objects)  # one more, which has the rows of none
    rows = near.new_zeros(objects + 1).index_add(0, owner, torch.ones_like(near))
    fit = near.new_zeros(objects + 1).index_add(0, owner, near) / rows.clamp(min=1)
    return torch.where(fg, fit[owner], 0.0)


@torch.no_grad()
def by_votes(p: Predictions, a: Assignment, objects: int, squared: bool) -> Assignment:
    """Multiply the box weight of each row by its object's vote s.

    Args:
        p: predictions.
        a: their assignment.
        objects: how many boxes ``a.matched`` counts.
        squared: by ``s^2 * (sum s / sum s^2)``, the sums over all rows with a box, on all ranks, as released; else by s
            (Eq. 6). Where all votes are 0 so are the weights, in the place of the released 0 / 0.
    """
    vote = votes(p, a, objects)
    if squared:
        total, squares = mean_over_ranks(torch.stack([vote.sum(), vote.square().sum()]))
        vote = vote.square() * (total / squares.clamp(min=torch.finfo(vote.dtype).tiny))
    return replace(a, box_weight=a.box_weight * (vote if a.box_weight.ndim == 1 else vote[:, None]))

"""Which unsure boxes may be trusted after all? Those on which the teacher agrees. (LabelMatch, arXiv:2206.06608)"""

from __future__ import annotations

import torch
from torch import Tensor


@torch.no_grad()
def mined(iou: Tensor, score: Tensor, box: Tensor, count: int, *, least_iou: float, least_score: float) -> Tensor:
    """Decide about boxes by what a teacher says of their rows ("reliable pseudo label mining", as released).

    A box is mined when its mean IoU with what the teacher makes of its rows, and the mean score that the teacher gives
    its class there, are both high enough. A box without a row is not mined.

    Args:
        iou: [R] of the box with each row's refined box.
        score: [R] of the box's class.
        box: [R] int64, whose row it is; ``count`` for those of no such box.
        count: M, boxes.
        least_iou, least_score: means from which a box is mined.

    Returns:
        [M + 1] bool; the last one is no box, and False.
    """
    sums = iou.new_zeros(count + 1, 3).index_add(0, box, torch.stack([iou, score, torch.ones_like(iou)], 1))
    means = sums[:, :2] / sums[:, 2:].clamp(min=1)
    good = (means[:, 0] >= least_iou) & (means[:, 1] >= least_score) & (sums[:, 2] > 0)
    return good & (torch.arange(count + 1, device=good.device) < count)

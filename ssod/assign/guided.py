"""Assignment by what a teacher makes of each row: prediction-guided labels. (PseCo, arXiv:2203.16317, Sec. 3.2)

A row learns a pseudo-label if the teacher's own box of that row fits it and the teacher's class says the same; how well
the row's prior fits it is not asked.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ssod.assign.matches import BACKGROUND
from ssod.structures import Targets
from ssod.structures.boxes import area, iou
from ssod.structures.ragged import rank_within


@dataclass
class Guide:
    """What a teacher says of P rows of one image.

    Attributes:
        priors: [P, 4] the rows' own boxes, clipped to the image; one without an area learns nothing.
        boxes: [P, 4] the teacher's boxes of them, each of its likeliest class, clipped to the image.
        scores: [P, K] the teacher's scores of classes.
    """

    priors: Tensor
    boxes: Tensor
    scores: Tensor


@torch.no_grad()
def guided_matches(guide: Guide, t: Targets, overlap: float, top: int) -> Tensor:
    """Match the rows of an image to its pseudo-labels; [P] int64, the label's index or -1.

    A row is in the bag of the label that the teacher's box overlaps most, if that is ``overlap`` or more; of two labels
    at one place the first has it. Of a bag with the IoUs u the ``max(1, int(sum of the top largest u))`` rows of the
    best quality ``sqrt(u * score of the label's class)`` learn the label. All other rows are background, and a row
    without an area is, too, whose place among the best stays empty.
    """
    if not len(t) or not len(guide.boxes):
        return torch.full_like(guide.boxes[:, 0], BACKGROUND, dtype=torch.long)
    near = iou(t.boxes.float(), guide.boxes.float())
    best, owner = near.max(0)
    member = best >= overlap
    label = torch.arange(len(t), device=owner.device)[:, None]
    bags = torch.where(member & (owner == label), near, 0.0)
    count = bags.topk(min(top, bags.shape[1]), 1).values.sum(1).long().clamp(min=1)
    quality = (best * guide.scores.gather(1, t.labels[owner, None])[:, 0]).sqrt()
    place = rank_within(torch.where(member, owner, len(t)), quality)
    chosen = member & (place < count[owner]) & (area(guide.priors) > 0)
    return torch.where(chosen, owner, BACKGROUND)

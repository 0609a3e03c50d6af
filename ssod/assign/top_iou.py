"""Assignment of each box to the priors that overlap it most, however little that is (Li et al. 2020, sec. 3.1)."""

from __future__ import annotations

import torch
from torch import Tensor

from ssod.assign.adaptive import strictly_inside
from ssod.assign.center import in_padded_image
from ssod.assign.matches import BACKGROUND, IGNORED, from_matches
from ssod.structures import Assignment, Predictions, Targets
from ssod.structures.boxes import LtrbCoder, iou

TOP = 40  # N of the paper
SIDE = 8.0  # of the square that a point counts as, in strides


class TopIoUAssigner:
    """A box takes the priors of largest IoU with it; the others are background, and none is ignored for its IoU.

    There is no threshold, but a prior that does not meet a box is not taken by it. A prior that several boxes would
    take goes to the one of them that it overlaps most.

    A head of points (FCOS) has no anchors: a point counts as a square of 8 strides, as in ATSS (Zhang et al. 2020, sec.
    3), and a box takes points inside of it alone, as distances are not negative.

    Args:
        top: rows that a box takes, 1 or more; fewer where fewer meet it or others take them.
        divisor: see ``IoUConfig``.
    """

    def __init__(self, top: int = TOP, divisor: int | None = None) -> None:
        self.top, self.divisor = top, divisor

    @torch.no_grad()
    def __call__(self, p: Predictions, targets: list[Targets]) -> Assignment:
        """Assign the rows of a dense head (the same number of rows per image) to the boxes of N images."""
        points = isinstance(p.coder, LtrbCoder)
        priors = squares(p.priors, SIDE / p.coder.strides) if isinstance(p.coder, LtrbCoder) else p.priors
        priors = priors.view(p.num_images, -1, 4)
        exists = [None] * len(priors) if self.divisor is None else in_padded_image(p, self.divisor)
        matches = [self.match(b, t.boxes, there, inside=points) for b, t, there in zip(priors, targets, exists)]
        return from_matches(matches, targets, p.num_classes)

    @torch.no_grad()
    def match(self, priors: Tensor, boxes: Tensor, exists: Tensor | None = None, *, inside: bool = False) -> Tensor:
        """Match priors [P, 4] to boxes [M, 4], M = 0 included.

        Args:
            priors: [P, 4].
            boxes: [M, 4].
            exists: [P]; where it is False, a prior is ignored.
            inside: whether a box takes priors alone whose center lies inside of it.

        Returns:
            [P] int64, the box's index, -1 background, -2 ignored.
        """
        free = torch.full_like(priors[:, 0], BACKGROUND, dtype=torch.long)
        if exists is not None:
            free = torch.where(exists, free, IGNORED)
        if not len(boxes):
            return free
        overlap = iou(boxes.float(), priors.float())  # [M, P]
        if exists is not None:
            overlap = overlap * exists
        if inside:
            overlap = overlap * strictly_inside((priors[:, :2] + priors[:, 2:]) / 2, boxes.float())
        value, row = overlap.topk(min(self.top, overlap.shape[1]), 1)
        best, index = torch.zeros_like(overlap).scatter_(1, row, value).max(0)
        return torch.where(best > 0, index, free)


def squares(priors: Tensor, factor: float) -> Tensor:
    """Return boxes [R, 4] ``factor`` times as large around the same centers."""
    center, half = (priors[:, :2] + priors[:, 2:]) / 2, (priors[:, 2:] - priors[:, :2]) * (factor / 2)
    return torch.cat([center - half, center + half], 1)

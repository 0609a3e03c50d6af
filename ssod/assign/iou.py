"""Assignment by overlap of the prior with the box: R-CNN, RPN, RetinaNet."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from ssod.assign.center import in_padded_image
from ssod.assign.matches import BACKGROUND, IGNORED, from_matches
from ssod.structures import Assignment, Predictions, Targets
from ssod.structures.boxes import iou
from ssod.utils.schema import Section


class IoUConfig(Section):
    """Rows whose prior overlaps a box enough learn it (R-CNN, RetinaNet)."""

    name: Literal["iou"] = "iou"
    "The assigner."
    high: float = Field(0.5, gt=0, le=1)
    "Overlap from which a row is foreground."
    low: float = Field(0.4, ge=0, le=1)
    "Overlap below which a row is background; between `low` and `high` it learns nothing."
    claim: Literal[True, False, "own"] = True
    """Every box also claims the rows that overlap it best, however little that is. With `true` a claimed row learns the
    box that it overlaps most, which may be another one (torchvision, detectron2); with `own` it learns the box that
    claims it, and of several the last (mmdetection). With `false` nothing is claimed."""
    divisor: int | None = Field(None, ge=1)
    """Rows whose anchor has its center beyond their image, padded to a multiple of this, learn nothing and are taken
    by no box: 32 in mmdetection. By default they are background like others (torchvision, detectron2)."""

    @model_validator(mode="after")
    def _ordered(self) -> IoUConfig:
        if self.low > self.high:
            raise ValueError(f"low {self.low} is above high {self.high}")
        return self


class IoUAssigner:
    """A prior takes the box that it overlaps most, if it overlaps it enough (Ren et al. 2015; Lin et al. 2017).

    Args:
        high: overlap from which a prior is foreground.
        low: overlap below which it is background; between the two it is ignored.
        allow_low_quality: let every box claim the priors that overlap it best, ties included, however little that is;
            the config's key is ``claim``.
        divisor: see ``IoUConfig``.
        own: a claimed prior takes the box that claims it, in the place of the box that it overlaps most.
    """

    def __init__(
        self,
        high: float = 0.5,
        low: float = 0.4,
        allow_low_quality: bool = True,
        divisor: int | None = None,
        *,
        own: bool = False,
    ) -> None:
        self.high, self.low, self.allow_low_quality, self.divisor = high, low, allow_low_quality, divisor
        self.own = own

    @torch.no_grad()
    def __call__(self, p: Predictions, targets: list[Targets]) -> Assignment:
        """Assign the rows of a dense head (the same number of rows per image) to the boxes of N images."""
        priors = p.priors.view(p.num_images, -1, 4)
        exists = [None] * len(priors) if self.divisor is None else in_padded_image(p, self.divisor)
        matches = [self.match(b, t.boxes, there, t.weight) for b, t, there in zip(priors, targets, exists)]
        return from_matches(matches, targets, p.num_classes)

    @torch.no_grad()
    def match(
        self, priors: Tensor, boxes: Tensor, exists: Tensor | None = None, weight: Tensor | None = None
    ) -> Tensor:
        """Match priors [P, 4] to boxes [M, 4], M = 0 included; where ``exists`` [P] is False, a prior is ignored.

        Args:
            weight: [M] of the boxes, None = 1; with ``own``, one of weight 0 takes no prior from a box that counts.

        Returns:
            [P] int64, the box's index, -1 background, -2 ignored.
        """
        if exists is not None:
            # A prior without size overlaps nothing, so that no box takes it.
            match = self.match(torch.where(exists[:, None], priors, 0.0), boxes, weight=weight)
            return torch.where(exists, match, IGNORED)
        if not len(boxes):
            return torch.full_like(priors[:, 0], BACKGROUND, dtype=torch.long)
        overlap = iou(boxes.float(), priors.float())
        best, index = overlap.max(0)
        match = torch.where(best >= self.high, index, torch.where(best < self.low, BACKGROUND, IGNORED))
        if not self.allow_low_quality:
            return match
        top = overlap.amax(1, keepdim=True)
        # A box that meets no prior takes none; otherwise it would "tie" with every prior at 0.
        claims = (overlap == top) & (top > 0)
        if not self.own:
            return torch.where(claims.any(0), index, match)
        order = torch.arange(1, len(boxes) + 1, device=boxes.device)
        if weight is not None:
            order = torch.where(weight > 0, order, 0)
        last = (claims * order[:, None]).amax(0) - 1
        return torch.where(last >= 0, last, match)

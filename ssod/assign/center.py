"""Assignment by place: FCOS with center sampling (Tian et al. 2019 and the released code's improvements)."""

from typing import Annotated, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor

from ssod.assign.matches import BACKGROUND, from_matches
from ssod.structures import Assignment, Predictions, Targets
from ssod.utils.schema import Section


class CenterConfig(Section):
    """Rows near a box's center learn it, on the level that suits its size (FCOS)."""

    name: Literal["centre", "center"] = "centre"
    "The assigner, in either spelling."
    radius: Literal["box"] | Annotated[float, Field(gt=0)] = 1.5
    "Half side of the sampled square around a box's center, in strides; `box`: rows anywhere in the box learn it."

    @field_validator("name")
    @classmethod
    def _one_spelling(cls, name: str) -> str:
        """Both are one assigner, to checkpoints that have the first spelling as well."""
        return "centre"


class CenterAssigner:
    """A point takes the smallest box whose middle it is in and whose size suits its level.

    A point is near a box's center within ``radius`` strides (on both axes), strictly inside the box, and the farthest
    side of the box lies within (4, 8) strides of it; the first level has no lower and the last no upper bound.

    Args:
        radius: half side of the sampled square around a box's center, in strides.
    """

    def __init__(self, radius: float = 1.5) -> None:
        self.radius = radius

    @torch.no_grad()
    def __call__(self, p: Predictions, targets: list[Targets]) -> Assignment:
        """Assign the rows of a dense head to the boxes of N images."""
        low, high = self.reach(p)
        stride = per_row(p, p.strides)
        centers = (p.priors[:, :2] + p.priors[:, 2:]).view(p.num_images, -1, 2) / 2
        matches = [self.match(c, stride, low, high, t.boxes) for c, t in zip(centers, targets)]
        return from_matches(matches, targets, p.num_classes)

    @staticmethod
    def reach(p: Predictions) -> tuple[Tensor, Tensor]:
        """Return [P] bounds on the distance to a box's farthest side, of the rows of one image."""
        low = per_row(p, (0, *(4 * s for s in p.strides[1:])))
        high = per_row(p, (*(8 * s for s in p.strides[:-1]), float("inf")))
        return low, high

    def match(self, points: Tensor, stride: Tensor, low: Tensor, high: Tensor, boxes: Tensor) -> Tensor:
        """Match points [P, 2] to boxes [M, 4], M = 0 included; ``stride``, ``low`` and ``high`` are [P].

        Returns:
            [P] int64, the box's index or -1 for background.
        """
        if not len(boxes):
            return torch.full_like(stride, BACKGROUND, dtype=torch.long)
        boxes = boxes.float()
        near = (points[:, None] - (boxes[:, :2] + boxes[:, 2:]) / 2).abs().amax(2) < self.radius * stride[:, None]
        sides = torch.cat([points[:, None] - boxes[:, :2], boxes[:, 2:] - points[:, None]], 2)  # [P, M, 4]
        far = sides.amax(2)
        fits = near & (sides.amin(2) > 0) & (far > low[:, None]) & (far < high[:, None])
        areas = (boxes[:, 2:] - boxes[:, :2]).prod(1).expand(len(points), -1)
        smallest, index = areas.masked_fill(~fits, float("inf")).min(1)
        return torch.where(smallest.isfinite(), index, BACKGROUND)


def per_row(p: Predictions, values: tuple[float, ...]) -> Tensor:
    """Spread one value per level over the rows of one image, [P] float32."""
    return torch.cat([p.priors.new_full((n,), v) for n, v in zip(p.levels, values)])


def in_padded_image(p: Predictions, divisor: int) -> Tensor:
    """Return [N, P] bool: rows of a dense head centered in their image, padded to a multiple of ``divisor``."""
    center = (p.priors[:, :2] + p.priors[:, 2:]).view(p.num_images, -1, 2) / 2
    canvas = (p.sizes.flip(1) + divisor - 1) // divisor * divisor
    return (center < canvas[:, None]).all(2)

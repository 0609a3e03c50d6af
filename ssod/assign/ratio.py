"""Assignment by shape and cell: YOLO's rule, as Efficient Teacher has it (Xu et al. 2023, arXiv:2302.07577)."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from ssod.assign.matches import BACKGROUND, from_matches
from ssod.structures import Assignment, Predictions, Targets
from ssod.utils.schema import Section


class RatioConfig(Section):
    """Anchors of about a box's shape learn it, in the cell of its center and the two cells nearest to that (YOLO)."""

    name: Literal["ratio"] = "ratio"
    "The assigner."
    most: float = Field(4.0, gt=1)
    "Width and height of box and anchor differ by less than this factor, each."


class RatioAssigner:
    """A box takes the anchors of its shape in three cells of every level.

    An anchor has a box's shape where neither side is ``most`` times the other's or more. Cells are the one that the
    box's center is in, and of its four neighbours the one on the nearer side of either axis, if there is such a cell;
    an axis on which the center is in the middle of its cell has none. All other rows are background; no overlap is
    asked for.

    Where several boxes take one row, YOLO's code lists that row once for each of them, and asks its objectness for the
    last. Here a row has one box: that whose sides differ least from the anchor's, of equal ones the first. A box of
    weight 0 takes no row from one that counts.

    Args:
        most: see ``RatioConfig``.
    """

    def __init__(self, most: float = 4.0) -> None:
        self.most = most

    @torch.no_grad()
    def __call__(self, p: Predictions, targets: list[Targets]) -> Assignment:
        """Assign the rows of a dense head to the boxes of N images; each cell of a level has the same anchors."""
        levels = list(zip(p.priors[: sum(p.levels)].split(p.levels), p.grids, p.strides))
        matches = []
        for t in targets:
            boxes, weight = t.boxes.float(), t.trust()
            matches.append(torch.cat([self.match(*level, boxes, weight) for level in levels]))
        return from_matches(matches, targets, p.num_classes)

    def match(self, priors: Tensor, grid: tuple[int, int], stride: int, boxes: Tensor, weight: Tensor) -> Tensor:
        """Match the rows of one level and image, [cells * anchors], to boxes [M, 4] of ``weight`` [M]; M may be 0.

        Args:
            priors: [cells * anchors, 4], row-major, anchors of a cell together.
            grid: cells (height, width).
            stride: pixels per cell.
            boxes: of the image.
            weight: of the boxes.

        Returns:
            int64, the box's index or -1 for background.
        """
        if not len(boxes):
            return torch.full_like(priors[:, 0], BACKGROUND, dtype=torch.long)
        cells = priors.view(*grid, -1, 4)
        differ = self.shapes(boxes, cells[0, 0], weight)  # [M, anchors]
        middle = (cells[:, :, 0, :2] + cells[:, :, 0, 2:]) / 2
        center = (boxes[:, :2] + boxes[:, 2:]) / 2
        own_x, near_x = around(center[:, 0], middle[0, :, 0], stride)
        own_y, near_y = around(center[:, 1], middle[:, 0, 1], stride)
        inside = (near_y[:, :, None] & own_x[:, None]) | (own_y[:, :, None] & near_x[:, None])  # [M, h, w]
        cost = torch.where(inside[..., None], differ[:, None, None], torch.inf)
        least, index = cost.min(0)
        return torch.where(least.isfinite(), index, BACKGROUND).flatten()

    def shapes(self, boxes: Tensor, anchors: Tensor, weight: Tensor) -> Tensor:
        """Return [M, A]: the factor by which shapes differ, more for boxes of weight 0, inf where it is too large."""
        ratio = (boxes[:, None, 2:] - boxes[:, None, :2]) / (anchors[:, 2:] - anchors[:, :2])
        differ = torch.maximum(ratio, 1 / ratio).amax(2)
        return torch.where(differ < self.most, differ + self.most * (weight[:, None] == 0), torch.inf)


def around(center: Tensor, middle: Tensor, stride: int) -> tuple[Tensor, Tensor]:
    """Say on one axis which cells a box's center is in, and which it is in or nearest to, [M, cells] bool each.

    Args:
        center: [M] pixels.
        middle: [cells] pixels, the middles of the cells.
        stride: pixels per cell.
    """
    away = (center[:, None] - middle) / stride
    own = (away >= -0.5) & (away < 0.5)
    return own, own | ((away.abs() < 1) & own.any(1, keepdim=True))

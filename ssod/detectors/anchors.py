"""The priors of anchor-based heads, and of FCOS, whose points are square anchors of one stride."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator

from ssod.structures import Priors
from ssod.utils.schema import Section


class AnchorConfig(Section):
    """Anchor boxes, the same on every level but for its stride."""

    scale: float = Field(4.0, gt=0)
    "Side of the smallest square anchor, in strides of its level; lower it for small images or objects."
    octaves: int = Field(3, ge=1, le=100)
    "Anchors per ratio, each 2**(1/octaves) times larger than the one before."
    ratios: tuple[float, ...] = Field((0.5, 1.0, 2.0), min_length=1, max_length=100)
    "Heights over widths."
    spacing: Literal["stride"] | None = None
    """`stride` puts anchors on whole multiples of their level's stride (detectron2, mmdetection); by default they are
    canvas // cells pixels apart (torchvision), which is less on coarse levels whose stride the canvas is no multiple
    of: 61 instead of 64 for 13 cells on 800 pixels."""

    rounding: Literal["none"] | None = None
    "`none` keeps fractions of pixels (detectron2); by default sides are whole pixels (torchvision)."

    def sizes(self, strides: tuple[int, ...]) -> list[tuple[float, ...]]:
        """Return the anchor sides of each level, as torchvision has them in whole pixels beyond the first."""
        base = [self.scale * s for s in strides]
        if self.rounding == "none":
            return [tuple(b * 2 ** (i / self.octaves) for i in range(self.octaves)) for b in base]
        return [(b, *(float(int(b * 2 ** (i / self.octaves))) for i in range(1, self.octaves))) for b in base]

    def build(self, strides: tuple[int, ...]) -> Anchors:
        """Return the priors of levels with these strides."""
        spacing = strides if self.spacing else None
        return Anchors(self.sizes(strides), self.ratios, spacing, exact=self.rounding == "none")


class Anchors(Priors):
    """The priors of a canvas, level by level, row-major, anchors of a cell together, always float32.

    The boxes of a cell come from torchvision's ``AnchorGenerator`` and are laid out as it does: the first around the
    corner of the canvas, cells ``canvas // cells`` pixels apart, which is the stride where the stride divides the
    canvas. (Its own forward lays them out in the features' type, which is too coarse under autocast.)

    Args:
        sizes: box sides of each level, in pixels.
        ratios: height over width.
        spacing: pixels between the cells of each level, whatever the canvas; None = as torchvision does.
        exact: keep fractions of pixels.
        offset: where the boxes of the first cell lie, in cells from the corner of the canvas.
    """

    def __init__(
        self,
        sizes: list[tuple[float, ...]],
        ratios: tuple[float, ...],
        spacing: tuple[int, ...] | None = None,
        *,
        exact: bool = False,
        offset: float = 0.0,
    ) -> None:
        super().__init__()
        self.spacing, self.offset = spacing, offset
        generator = AnchorGenerator(tuple(sizes), (tuple(ratios),) * len(sizes))
        self.keep([unrounded(s, ratios) for s in sizes] if exact else generator.cell_anchors)

    def keep(self, cells: list[Tensor]) -> None:
        """Keep the boxes of a cell of each level, [A, 4] around 0."""
        self.per_cell, self.count = len(cells[0]), len(cells)
        for level, cell in enumerate(cells):
            self.register_buffer(f"cell{level}", cell, persistent=False)

    def forward(self, canvas: tuple[int, int], grids: list[tuple[int, int]]) -> Tensor:
        """Canvas (H, W) and cells (h, w) of each level -> [rows of one image, 4]."""
        out = []
        for level, (h, w) in enumerate(grids):
            cell = getattr(self, f"cell{level}")
            dy, dx = (canvas[0] // h, canvas[1] // w) if self.spacing is None else [self.spacing[level]] * 2
            y, x = torch.arange(h, device=cell.device) * dy, torch.arange(w, device=cell.device) * dx
            if self.offset:
                y, x = y + self.offset * dy, x + self.offset * dx
            y, x = torch.meshgrid(y, x, indexing="ij")
            shift = torch.stack([x, y, x, y], -1).view(-1, 1, 4)
            out.append((shift + cell).view(-1, 4))
        return torch.cat(out)


class SidesAnchors(Anchors):
    """Priors of which each level has widths and heights of its own, around the middles of cells that are a stride wide.

    Args:
        sides: width and height in pixels, of each anchor of each level.
        strides: pixels per cell of each level.
    """

    def __init__(self, sides: Sequence[Sequence[tuple[float, float]]], strides: tuple[int, ...]) -> None:
        Priors.__init__(self)
        self.spacing, self.offset = strides, 0.5
        half = [torch.tensor(level, dtype=torch.float32) / 2 for level in sides]
        self.keep([torch.cat([-h, h], 1) for h in half])


def grid_of(features: Tensor) -> tuple[int, int]:
    """Return the (height, width) of a feature map [..., h, w], in cells."""
    height, width = features.shape[-2:]
    return height, width


def unrounded(sizes: tuple[float, ...], ratios: tuple[float, ...]) -> Tensor:
    """Return the boxes of a cell as torchvision orders them, ratio by ratio, [ratios * sizes, 4], centered at 0."""
    height = torch.tensor(ratios, dtype=torch.float64).sqrt()[:, None]
    side = torch.tensor(sizes, dtype=torch.float64)
    w, h = (side / height).flatten() / 2, (side * height).flatten() / 2
    return torch.stack([-w, -h, w, h], 1).float()

"""FAM-3D: boxes taken from where the features that classify them are (Consistent-Teacher, Wang et al. 2023, Sec. 3.2).

The cell that classifies an object best is seldom the one that places its box best. So every cell predicts, from the
features of both towers, where its box should come from: how far towards the finer or the coarser level (one number per
coordinate of the box) and how many cells away (two numbers per coordinate). Boxes are blended across levels first, then
sampled in their own level, as the released code has it. All boxes are corners in grid units, pixels over the stride of
their level.

What is not offered: the paper's own form, one shift of three numbers for all four coordinates, first in space and then
in scale. How far it may go and how a box is read between two levels is not known to us, and no code of it was released.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torchvision.models.detection.retinanet import RetinaNetHead

from ssod.utils.given import given
from ssod.utils.schema import Section, named

FAR = math.log(1000)  # of the largest distance that a head may tell, in strides


class AlignConfig(Section):
    """Alignment of boxes with features (FAM-3D)."""

    name: Literal["2d", "3d"]
    "`3d`: from neighbouring levels and cells, as published; `2d`: from cells of the same level only."
    hidden: int = Field(64, ge=1, le=1 << 16)
    "Channels of the map from which offsets are predicted."
    keep_inverted: bool = True
    """Keep a row's box whose corners changed places, since its coordinates come from different cells (as released); it
    is never a detection. false takes such a box from its own cell instead, as mmdetection's TOOD head does since its
    pull request 7567, so that it can learn where the assigner is another than `adaptive`, which never chooses it."""
    decode: Literal["distances"] | None = None
    """What the box outputs are before they are moved. `distances`: how far the four sides lie from the cell's point, as
    exp of the output in strides, times `level_scale`; Consistent-Teacher when it was submitted. By default they shift
    and stretch the anchor (as released since March 2023), which then decides by its size."""


def named_or_none(value: object) -> object:
    """Read ``3d`` as ``{name: 3d}`` and ``none`` as None."""
    return None if value == "none" else named(value)


class TowerHead(RetinaNetHead):
    """torchvision's RetinaNet head, under torchvision's names, that also tells what its towers saw on the way.

    Args:
        channels: of the features.
        per_cell: anchors per cell.
        num_classes: K.
        norm_layer: of the towers.
        distances: answer with distances, the exponential of the box outputs, in float32.
    """

    def __init__(
        self,
        channels: int,
        per_cell: int,
        num_classes: int,
        norm_layer: Callable[[int], nn.Module] | None = None,
        *,
        distances: bool = False,
    ) -> None:
        super().__init__(channels, per_cell, num_classes, norm_layer=norm_layer)
        self.distances = distances

    def forward(self, features: list[Tensor]) -> dict[str, Any]:
        """Return ``cls_logits`` and ``bbox_regression`` as torchvision does, ``cls_features`` and ``towers``.

        ``cls_features`` holds, for each level, what the class output reads, [N, channels, h, w]; ``towers`` the outputs
        of all convolutions of the class tower, then of the box tower, [N, 2 * convolutions * channels, h, w].
        """
        seen: list[list[Tensor]] = [[] for _ in features]
        read = [self._branch(self.classification_head.conv, x, into) for x, into in zip(features, seen)]
        deltas = [self._branch(self.regression_head.conv, x, into) for x, into in zip(features, seen)]
        cls, box = self.classification_head.cls_logits, self.regression_head.bbox_reg
        outputs = torch.cat([to_rows(box(x), 4) for x in deltas], 1)
        return {
            "cls_logits": torch.cat([to_rows(cls(x), self.classification_head.num_classes) for x in read], 1),
            "cls_features": read,
            "bbox_regression": outputs.float().clamp(max=FAR).exp() if self.distances else outputs,
            "towers": [torch.cat(parts, 1) for parts in seen],
        }

    @staticmethod
    def _branch(tower: nn.Sequential, x: Tensor, into: list[Tensor]) -> Tensor:
        for block in tower:
            x = block(x)
            into.append(x)
        return x


class Align(nn.Module):
    """Take every box of a pyramid from the cells and levels that its own cell points to.

    It starts close to the identity: offsets begin with weights of standard deviation 0.001.

    Args:
        channels: of ``towers``.
        hidden: of the map from which offsets are predicted.
        strides: pixels per cell of each level, at least two levels where ``across`` is set.
        across: blend neighbouring levels (3-D), else move within the level only (2-D).
        keep_inverted: see ``AlignConfig``.
    """

    def __init__(
        self, channels: int, hidden: int, strides: tuple[int, ...], *, across: bool = True, keep_inverted: bool = True
    ) -> None:
        super().__init__()
        self.strides, self.keep_inverted = strides, keep_inverted
        self.mapping = nn.Conv2d(channels, hidden, 1)
        self.scale_offset = nn.Conv2d(3 * hidden, 4, 3, padding=1) if across else None
        self.space_offset = nn.Conv2d(3 * hidden, 8, 3, padding=1)
        for layer in (self.mapping, self.scale_offset, self.space_offset):
            if layer is not None:
                nn.init.normal_(layer.weight, std=0.001)
                nn.init.zeros_(bias_of(layer))

    def forward(self, towers: list[Tensor], boxes: list[Tensor]) -> list[Tensor]:
        """Align boxes; per level [N, channels, h, w] features and [N, 4, h, w] boxes in grid units -> such boxes."""
        scale, space = self.offsets(towers)
        if self.scale_offset is not None:
            boxes = blend(boxes, scale, self.strides)
        aligned = [sample(b, o.to(b)) for b, o in zip(boxes, space)]
        if self.keep_inverted:
            return aligned
        return [upright(new, old) for new, old in zip(aligned, boxes)]

    def offsets(self, towers: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Return, per level, raw scale offsets [N, 4, h, w] (none in 2-D) and space offsets [N, 8, h, w]."""
        maps = [F.relu(self.mapping(x)) for x in towers]
        scale, space = [], []
        for level, own in enumerate(maps):
            finer = resize(maps[level - 1], own) if level else own
            coarser = resize(maps[level + 1], own) if level + 1 < len(maps) else own
            near = torch.cat([finer, own, coarser], 1)
            space.append(self.space_offset(near))
            if self.scale_offset is not None:
                scale.append(self.scale_offset(near))
        return scale, space


def bias_of(layer: nn.Conv2d) -> Tensor:
    """Return the bias of a convolution that has one."""
    return given(layer.bias, "this convolution has no bias")


def to_rows(x: Tensor, width: int) -> Tensor:
    """[N, A * width, h, w] -> [N, h * w * A, width], as torchvision lays out its rows."""
    n, _, h, w = x.shape
    return x.view(n, -1, width, h, w).permute(0, 3, 4, 1, 2).reshape(n, -1, width)


def blend(boxes: list[Tensor], offsets: list[Tensor], strides: tuple[int, ...]) -> list[Tensor]:
    """Move every coordinate towards its value on the coarser (offset > 0) or finer (offset < 0) level.

    Args:
        boxes: per level [N, 4, h, w] in grid units.
        offsets: per level [N, 4, h, w]; clamped to [-1, 1], and at the ends of the pyramid to the side that exists.
        strides: pixels per cell, which turn grid units of one level into those of another.
    """
    last, out = len(boxes) - 1, []
    for level, (own, offset) in enumerate(zip(boxes, offsets)):
        # At 0, where a new head begins, and at 1 its slope is 0 in every torch; that of clamp is 0 or 1.
        coarser = F.hardtanh(offset.to(own), 0, 1) if level < last else torch.zeros_like(own)
        finer = F.hardtanh(-offset.to(own), 0, 1) if level > 0 else torch.zeros_like(own)
        mixed = (1 - coarser - finer) * own
        if level < last:
            mixed = mixed + coarser * (strides[level + 1] / strides[level]) * resize(boxes[level + 1], own)
        if level > 0:
            mixed = mixed + finer * (strides[level - 1] / strides[level]) * resize(boxes[level - 1], own)
        out.append(mixed)
    return out


def sample(maps: Tensor, offset: Tensor) -> Tensor:
    """Read every coordinate map bilinearly at its own offset; outside the map is 0, at an offset that is no number NaN.

    The same as a depth-wise 1 x 1 deformable convolution of weight 1, or ``grid_sample`` with aligned corners. Written
    with ``gather``, because ``grid_sample`` goes through coordinates divided by the map's size: at the border their
    rounding loses part of a box that has not moved, a map of one cell divides by 0, and its gradient on a GPU is not
    deterministic.

    Args:
        maps: [N, C, h, w].
        offset: [N, 2 C, h, w] cells, (dy, dx) of the first map, then of the second, and so on.
    """
    n, c, h, w = maps.shape
    dy, dx = offset.view(n, c, 2, h, w).unbind(2)
    y = torch.arange(h, device=maps.device, dtype=maps.dtype)[:, None] + dy
    x = torch.arange(w, device=maps.device, dtype=maps.dtype) + dx
    top, left = y.detach().floor(), x.detach().floor()
    down, right = y - top, x - left
    flat = maps.flatten(2)

    def corner(row: Tensor, column: Tensor, weight: Tensor) -> Tensor:
        inside = (row >= 0) & (row < h) & (column >= 0) & (column < w)
        # What is not inside, NaN included, reads cell 0: no index is out of bounds, and a weight of NaN stays.
        cell = torch.where(inside, row * w + column, 0.0).long()
        return flat.gather(2, cell.flatten(2)).view_as(maps) * (weight * inside)

    return (
        corner(top, left, (1 - down) * (1 - right))
        + corner(top, left + 1, (1 - down) * right)
        + corner(top + 1, left, down * (1 - right))
        + corner(top + 1, left + 1, down * right)
    )


def upright(boxes: Tensor, other: Tensor) -> Tensor:
    """Return boxes [N, 4, h, w], from ``other`` where x1 > x2 or y1 > y2."""
    inverted = (boxes[:, :2] > boxes[:, 2:]).any(1, keepdim=True)
    return torch.where(inverted, other, boxes)


def resize(x: Tensor, like: Tensor) -> Tensor:
    """Resize [N, C, ...] bilinearly, with half-pixel centers, to the height and width of ``like``."""
    return F.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=False)

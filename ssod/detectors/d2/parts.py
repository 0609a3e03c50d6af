"""What detectron2's detectors share, in our terms: pixels, anchors, coders, row losses, detections."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ssod.detectors.d2.config import FIELD, PLAIN
from ssod.detectors.d2.model import D2Model
from ssod.detectors.decode import DecodeConfig, Detections, candidates, suppress, without_empty
from ssod.losses.build import LossSpec, pick
from ssod.structures import Kind, Predictions, Priors, RowLoss
from ssod.structures.boxes import DeltaCoder, clip
from ssod.utils.errors import SsodError


class Pixels(nn.Module):
    """RGB, uint8 0..255 or float 0..1, to what a detectron2 model was made for; padding is 0.

    Args:
        model: has ``pixel_mean`` and ``pixel_std`` [3, 1, 1], in 0..255.
        bgr: whether its channels are blue, green, red.
    """

    def __init__(self, model: D2Model, bgr: bool) -> None:
        super().__init__()
        self.bgr = bgr
        self.register_buffer("mean", model.pixel_mean.clone(), persistent=False)
        self.register_buffer("std", model.pixel_std.clone(), persistent=False)

    def forward(self, images: Tensor, sizes: Tensor) -> Tensor:
        """[N, 3, H, W] and [N, 2] (height, width) without padding -> [N, 3, H, W]."""
        x = images.to(self.mean) * 255.0 if images.is_floating_point() else images.to(self.mean)
        x = ((x.flip(1) if self.bgr else x) - self.mean) / self.std
        rows = torch.arange(images.shape[-2], device=images.device) < sizes[:, 0, None]  # [N, H]
        columns = torch.arange(images.shape[-1], device=images.device) < sizes[:, 1, None]  # [N, W]
        return torch.where((rows[:, :, None] & columns[:, None, :])[:, None], x, 0.0)


class D2Anchors(Priors):
    """The priors of detectron2's ``DefaultAnchorGenerator``: whole strides apart, sides in fractions of pixels.

    Args:
        generator: with ``cell_anchors`` (the boxes of one cell, size by size), ``strides`` and ``offset`` (in strides).
    """

    cell0: Tensor

    def __init__(self, generator: Any) -> None:
        super().__init__()
        if type(generator).__name__ != "DefaultAnchorGenerator" or len(set(generator.num_anchors)) > 1:
            raise SsodError("config", FIELD, "has rotated anchors, or levels that differ in how many they have", PLAIN)
        self.strides, self.offset = tuple(generator.strides), generator.offset
        self.per_cell = generator.num_anchors[0]
        for level, cell in enumerate(generator.cell_anchors):
            self.register_buffer(f"cell{level}", cell.clone(), persistent=False)

    def forward(self, canvas: tuple[int, int], grids: list[tuple[int, int]]) -> Tensor:
        """Cells (h, w) of each level -> [rows of one image, 4]; the canvas is not looked at."""
        out = []
        for level, ((h, w), stride) in enumerate(zip(grids, self.strides)):
            cell = getattr(self, f"cell{level}")
            y, x = ((torch.arange(n, device=cell.device) + self.offset) * stride for n in (h, w))
            y, x = torch.meshgrid(y, x, indexing="ij")
            out.append((torch.stack([x, y, x, y], -1).view(-1, 1, 4) + cell).view(-1, 4))
        return torch.cat(out)


def delta_coder(transform: Any) -> DeltaCoder:
    """Return our coder for a detectron2 ``Box2BoxTransform``.

    Raises:
        SsodError: x and y, or width and height, have different factors.
    """
    weights = tuple(transform.weights)
    if len(weights) != 4 or weights[0] != weights[1] or weights[2] != weights[3]:
        raise SsodError("config", FIELD, f"BBOX_REG_WEIGHTS {weights}: x and y differ, or rotated boxes", PLAIN)
    return DeltaCoder(weights[0], weights[2], transform.scale_clamp)


def box_loss(kind: str, beta: float) -> RowLoss:
    """Return the row loss that detectron2 calls ``BBOX_REG_LOSS_TYPE``; smooth L1 with no width is L1."""
    if kind != "smooth_l1":
        return loss(kind, "box")
    return loss("l1", "box") if beta < 1e-5 else loss("smooth_l1", "box", beta=beta)


def loss(name: str, kind: Kind, **params: float) -> RowLoss:
    """Return one of our row losses."""
    return pick(LossSpec(name=name, **params), kind, FIELD)


def assert_levels(found: list[str], wanted: list[str]) -> None:
    """Refuse a head that leaves out levels of its pyramid."""
    if list(found) != list(wanted):
        raise SsodError("config", FIELD, f"the head looks at {list(wanted)} of levels {list(found)}", "use them all")


def body_of(backbone: D2Model) -> nn.Module:
    """Return what is below the pyramid; a backbone without one is all body."""
    return getattr(backbone, "bottom_up", backbone)


# ---- rows to detections ----------------------------------------------------------------------------------------------


def clip_first(
    p: Predictions, scores: Tensor, levels: tuple[int, ...], cfg: DecodeConfig, *, clusters: bool = False
) -> Detections:
    """detectron2's two-stage detectors clip, suppress, and then drop what has no area."""
    boxes, values, labels, _ = candidates(p, scores, levels, cfg)
    boxes = clip(boxes, p.sizes[:, None])
    found = suppress(boxes, values, labels, scores.shape[1], cfg.nms, cfg.detections, clusters=clusters)
    return without_empty(found)

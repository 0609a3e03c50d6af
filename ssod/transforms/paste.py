"""Crops pasted onto images after their boxes are known. (ACRST, arXiv:2107.05031, foreground/background rebalancing)

No code was published, and where crops go is ours: a hard paste, uniform over the image, cut at its right and bottom
border; later crops lie on top. What is hidden too much is dropped. All chance is in numbers that the caller gives.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ssod.structures import Targets, View, join
from ssod.structures.boxes import clip
from ssod.structures.ragged import image_index, select


@dataclass
class Crops:
    """C crops for each of N images, in the order in which they are pasted.

    Attributes:
        pixels: [N, C, 3, S, S] uint8, each stretched to a square.
        sides: [N, C, 2] (width, height) of each before it was stretched, in pixels; 0 = no crop.
        labels: [N, C] int64.
    """

    pixels: Tensor
    sides: Tensor
    labels: Tensor


def places(draws: Tensor, sides: Tensor, sizes: Tensor, scale: tuple[float, float], inside: float = 0.0) -> Tensor:
    """Return [N, C, 4] float, whole pixels: where crops lie; what hangs over the border is not cut yet.

    Args:
        draws: [N, C, 3] in [0, 1), for scale, x and y.
        sides: [N, C, 2] (width, height) of the crops; a crop of no size has an empty place.
        sizes: [N, 2] (height, width) of the images.
        scale: smallest and largest factor of a crop's sides, drawn uniformly.
        inside: a crop of which a smaller share would lie inside the image has an empty place, too.
    """
    low, high = scale
    factor = low + (high - low) * draws[..., :1]
    extent = (sides * factor).round().clamp(min=1) * (sides > 0)
    room = sizes.flip(1)[:, None].to(draws)
    corner = torch.minimum((draws[..., 1:] * room).floor(), room - 1)
    shown = torch.minimum(extent, room - corner).prod(-1, keepdim=True)
    extent = extent * (shown >= inside * extent.prod(-1, keepdim=True))
    return torch.cat([corner, corner + extent], -1)


def visible(boxes: Tensor, covers: Tensor) -> Tensor:
    """Return [M], the share of each box's pixels that none of its covers hides; 0 for an empty box.

    Args:
        boxes: [M, 4] in whole pixels.
        covers: [M, C, 4] in whole pixels; empty ones hide nothing.
    """
    parts, spans = [], []
    for axis in (0, 1):
        ends = boxes[:, axis::2]  # [M, 2]
        cut = torch.minimum(torch.maximum(covers[..., axis::2], ends[:, None, :1]), ends[:, None, 1:])  # [M, C, 2]
        edges = torch.cat([ends, cut.flatten(1)], 1).sort(1).values
        middle = (edges[:, 1:] + edges[:, :-1])[:, None] / 2
        parts.append((middle > cut[..., :1]) & (middle < cut[..., 1:]))  # [M, C, cells]
        spans.append(edges.diff(dim=1))
    hidden = (parts[1][:, :, :, None] & parts[0][:, :, None, :]).any(1)
    area = spans[1][:, :, None] * spans[0][:, None, :]
    return (area * ~hidden).sum((1, 2)) / (boxes[:, 2:] - boxes[:, :2]).prod(1).clamp(min=1)


def owners(rects: Tensor, size: Tensor, canvas: tuple[int, int]) -> Tensor:
    """Return [H, W] int64: which of C crops a pixel belongs to, the last that covers it; -1 = none.

    Args:
        rects: [C, 4], where the crops lie in one image.
        size: [2] (height, width) of the image; its padding belongs to none.
        canvas: (H, W).
    """
    y, x = (torch.arange(side, device=rects.device) for side in canvas)
    x1, y1, x2, y2 = rects[:, :, None].unbind(1)
    rows = (y >= y1) & (y < y2) & (y < size[0])
    columns = (x >= x1) & (x < x2) & (x < size[1])
    order = torch.arange(1, len(rects) + 1, dtype=torch.int16, device=rects.device)[:, None, None]
    return (order * (rows[:, :, None] & columns[:, None, :])).amax(0).long() - 1


def painted(image: Tensor, rects: Tensor, pixels: Tensor, size: Tensor) -> Tensor:
    """Return an image [3, H, W] in 0..1 with C crops [C, 3, S, S] uint8 at ``rects`` [C, 4], bilinear."""
    height, width = image.shape[-2:]
    count, side = len(pixels), pixels.shape[-1]
    owner = owners(rects, size, (height, width))
    index = owner.clamp(min=0)
    x1, y1, x2, y2 = rects[index].unbind(-1)
    y, x = (torch.arange(n, device=image.device) + 0.5 for n in (height, width))
    # All crops lie in one tall picture, one below the other; half a cell inside, no neighbour shines through.
    u = ((x - x1) / (x2 - x1).clamp(min=1) * side).clamp(0.5, side - 0.5)
    v = ((y[:, None] - y1) / (y2 - y1).clamp(min=1) * side).clamp(0.5, side - 0.5) + index * side
    grid = torch.stack([2 * u / side - 1, 2 * v / (count * side) - 1], -1)[None].to(image)
    tall = pixels.transpose(0, 1).flatten(1, 2)[None].to(image) / 255
    return torch.where(owner >= 0, F.grid_sample(tall, grid, align_corners=False)[0], image)


@torch.no_grad()
def paste(view: View, targets: list[Targets], crops: Crops, rects: Tensor, least: float) -> tuple[View, list[Targets]]:
    """Paste crops onto N images.

    Args:
        view: the images.
        targets: their boxes.
        crops: what is pasted.
        rects: [N, C, 4], where: from ``places``.
        least: a box, or an earlier crop, of which a smaller share stays visible, or nothing, is dropped.

    Returns:
        The view with float images in 0..1, and its boxes: those given, then the crops', which teach no place.
    """
    images = view.images if view.images.is_floating_point() else view.images.float() / 255
    if rects.shape[1] == 0:
        return replace(view, images=images), targets
    pictures = zip(images, rects, crops.pixels, view.sizes)
    images = torch.stack([painted(*picture) for picture in pictures])
    cut, own, pasted = visible_shares(targets, rects, view.sizes)
    both = []
    for t, b, labels in zip(targets, cut.to(targets[0].boxes), crops.labels):
        both.append(join([t, Targets(b, labels, box_weight=torch.zeros_like(b[:, 0]))]))
    shares = torch.cat([s for pair in zip(own.split([len(t) for t in targets]), pasted) for s in pair])
    return replace(view, images=images), select(both, (shares >= least) & (shares > 0))


def visible_shares(targets: list[Targets], rects: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the crops' places cut at the border [N, C, 4], and the visible share of all boxes [M] and crops [N, C]."""
    n, count = rects.shape[:2]
    cut = clip(rects.flatten(0, 1), sizes.repeat_interleave(count, 0)).view(n, count, 4)
    image = image_index([len(t) for t in targets], rects.device)
    boxes = torch.cat([t.boxes for t in targets]).to(rects)
    boxes = torch.cat([boxes[:, :2].floor(), boxes[:, 2:].ceil()], 1)
    later = torch.ones(count, count, dtype=torch.bool, device=rects.device).triu(1)[None, :, :, None]
    above = torch.where(later, cut[:, None], 0).flatten(0, 1)
    return cut, visible(boxes, cut[image]), visible(cut.flatten(0, 1), above).view(n, count)

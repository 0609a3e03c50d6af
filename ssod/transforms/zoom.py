"""Zoom in, zoom out and scale jitter: the image level of scale-aware AutoAugment. (arXiv:2103.17220)

Pixels and boxes are those of the released code: pixel ``i`` of the new side comes from ``floor(i old / new)`` of the
old one, and boxes are multiplied by new / old. So pixels lie up to half an old pixel from where the matrix puts them.

A box that a zoom cuts stays where half of its area, counted with sides one pixel longer, is still seen. Ignore regions
stay as long as any of them is: they say where nothing is to be learnt.

The released zoom out takes its three further images from the last hundred that a worker has seen, sized and flipped as
they were. Here they are three images of the labelled set, drawn by the image's own key: the same whatever the number of
workers, and after a restart. They come from their files, unflipped, and are brought to the size of the picture first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from PIL import Image
from pydantic import Field, field_validator
from torch import Tensor

from ssod.structures import Targets, join
from ssod.structures.boxes import clip, warp
from ssod.transforms.geometry import Span, resized, shift_matrix
from ssod.transforms.picture import Picture
from ssod.transforms.transform import MIN_SIDE, Seen, Size, Transform, needs_boxes
from ssod.utils.schema import Section

TILES = 4  # images of a zoom out, the picture itself among them
HALF = 0.5  # of a box has to be seen


def nearest(pixels: np.ndarray, to: Size) -> np.ndarray:
    """Return [H, W, ...] pixels of another size (width, height); each is one of the old."""
    height, width = pixels.shape[:2]
    rows, columns = np.arange(to[1]) * height // to[1], np.arange(to[0]) * width // to[0]
    return pixels[rows[:, None], columns]


def scale_matrix(size: Size, to: Size) -> np.ndarray:
    """Return the matrix that takes pixels of a picture of ``size`` to those of the same picture of size ``to``."""
    return np.diag([to[0] / size[0], to[1] / size[1], 1.0])


def scaled_size(size: Size, ratio: float) -> Size:
    """Return (width, height) times ``ratio``, cut off to whole pixels, at least 1."""
    return max(1, int(size[0] * ratio)), max(1, int(size[1] * ratio))


def still_seen(moved: Tensor, size: Size, trust: Tensor) -> tuple[Tensor, Tensor]:
    """Clip boxes to a picture and say which of them stay.

    Args:
        moved: [M, 4], in pixels of a picture of ``size`` (width, height), which they may leave.
        trust: [M] weights; 0 is an ignore region.

    Returns:
        [M, 4] clipped boxes, and [M] bool.
    """
    inside = clip(moved, torch.tensor([size[::-1]]))
    sides = inside[:, 2:] - inside[:, :2]
    share = (sides + 1).prod(1) / (moved[:, 2:] - moved[:, :2] + 1).prod(1)
    return inside, ((share >= HALF) | (trust == 0)) & (sides > MIN_SIDE).all(1)


class ZoomIn(Section):
    """Enlarge, and keep a random part of the size that the picture had.

    A picture with boxes stays as it is where no object would be left.
    """

    ratio: Span
    "How much larger, 1 or more: a number, or [lowest, highest] to draw from."

    @field_validator("ratio")
    @classmethod
    def _enlarges(cls, ratio: tuple[float, float]) -> tuple[float, float]:
        if ratio[0] < 1:
            raise ValueError(f"ratios of zoom_in are 1 or more, got {list(ratio)}; zoom_out makes smaller")
        return ratio

    def draw(self, rng: np.random.Generator, size: Size) -> Transform:
        """See ``transform.Augmentation.draw``."""
        to = scaled_size(size, rng.uniform(*self.ratio))
        left, top = (int(rng.integers(max(1, new - old))) for new, old in zip(to, size))
        return zoomed_in(size, to, left, top)


def zoomed_in(size: Size, to: Size, left: int, top: int) -> Transform:
    """Enlarge a picture of ``size`` to ``to`` and cut out its old size from (left, top) on."""
    matrix = shift_matrix(-left, -top) @ scale_matrix(size, to)

    def act(picture: Picture) -> Picture:
        part = nearest(picture.array(), to)[top : top + size[1], left : left + size[0]]
        return Picture(np.ascontiguousarray(part))

    def boxed(seen: Seen) -> Seen:
        targets = seen.boxes()
        boxes, keep = still_seen(warp(targets.boxes, torch.from_numpy(matrix)), size, targets.trust())
        if not (keep & (targets.trust() > 0)).any():
            return seen
        left_over = replace(targets, boxes=boxes)[keep]
        return replace(seen, image=act(seen.image), matrix=matrix @ seen.matrix, targets=left_over, since=np.eye(3))

    return Transform(size, matrix, act, boxed)


class ZoomOut(Section):
    """Shrink the picture into the top left corner of its own size, and fill the rest with three labelled images.

    They are squeezed to the size of the small picture, and lie right of it, below it and across, cut off at the border.
    Sides are rounded up to even numbers first. Only for labelled images in training.
    """

    ratio: Span
    "Size of the small picture, a share of the sides in [0.5, 1): a number, or [lowest, highest] to draw from."

    @field_validator("ratio")
    @classmethod
    def _fills(cls, ratio: tuple[float, float]) -> tuple[float, float]:
        if not 0.5 <= ratio[0] <= ratio[1] < 1:
            raise ValueError(f"ratios of zoom_out lie in [0.5, 1), got {list(ratio)}; four smaller ones leave gaps")
        return ratio

    def draw(self, rng: np.random.Generator, size: Size) -> Transform:
        """See ``transform.Augmentation.draw``."""
        canvas = (size[0] + size[0] % 2, size[1] + size[1] % 2)
        tile = scaled_size(canvas, rng.uniform(*self.ratio))
        seed = int(rng.integers(1 << 63))

        def boxed(seen: Seen) -> Seen:
            picks = np.random.Generator(np.random.Philox(seed)).choice(seen.setting.count, TILES - 1, replace=False)
            others = [_brought_to(size, *seen.setting.read(int(i))) for i in picks]
            return zoomed_out(seen, others, canvas, tile)

        return Transform(canvas, scale_matrix(size, tile), needs_boxes, boxed)


def _brought_to(size: Size, image: Image.Image, targets: Targets | None) -> Seen:
    return resized(image.size, size).follow(Seen(Picture.of(image), np.eye(3), targets))


def zoomed_out(seen: Seen, others: Sequence[Seen], canvas: Size, tile: Size) -> Seen:
    """Put four pictures on one canvas.

    Args:
        seen: the one at the top left, whose matrix the result has.
        others: those to the right, below and across.
        canvas: (width, height) of the result.
        tile: (width, height) that each of the four is squeezed to.
    """
    pixels = np.empty((canvas[1], canvas[0], 3), np.uint8)
    parts: list[Targets] = []
    for k, one in enumerate([seen, *others]):
        left, top = tile[0] * (k % 2), tile[1] * (k // 2)
        room = (min(tile[0], canvas[0] - left), min(tile[1], canvas[1] - top))
        pixels[top : top + room[1], left : left + room[0]] = tiled(one.image.array(), tile, room)
        parts.append(tile_boxes(one, tile, room, (left, top)))
    matrix = scale_matrix(seen.image.size, tile) @ seen.matrix
    return replace(seen, image=Picture(pixels), matrix=matrix, targets=join(parts), since=np.eye(3))


def tiled(pixels: np.ndarray, tile: Size, room: Size) -> np.ndarray:
    """Squeeze [H, W, C] pixels to the size of a tile, and keep what there is room for from the top left on."""
    return nearest(pixels, tile)[: room[1], : room[0]]


def tile_boxes(one: Seen, tile: Size, room: Size, corner: tuple[int, int]) -> Targets:
    """Return the boxes of a tile where they come to lie on the canvas.

    Args:
        one: picture and boxes before they are squeezed.
        tile: size that they are squeezed to.
        room: how much of it is seen.
        corner: (x, y) of the tile on the canvas.
    """
    targets = one.boxes()
    moved = warp(targets.boxes, torch.from_numpy(scale_matrix(one.image.size, tile)))
    boxes, keep = still_seen(moved, room, targets.trust())
    return replace(targets, boxes=boxes + torch.tensor([*corner, *corner]))[keep]


class ScaleJitter(Section):
    """Scale by one of a few factors; sides are cut off to whole pixels."""

    factors: tuple[float, ...] = Field((0.75, 0.875, 1.0, 1.125, 1.25), min_length=1)
    "What to choose from."

    @field_validator("factors")
    @classmethod
    def _positive(cls, factors: tuple[float, ...]) -> tuple[float, ...]:
        if min(factors) <= 0:
            raise ValueError(f"factors are above 0, got {list(factors)}")
        return factors

    def draw(self, rng: np.random.Generator, size: Size) -> Transform:
        """See ``transform.Augmentation.draw``."""
        to = scaled_size(size, self.factors[int(rng.integers(len(self.factors)))])
        return Transform(to, scale_matrix(size, to), lambda picture: Picture(nearest(picture.array(), to)))

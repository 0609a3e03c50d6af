"""A picture whose moves are made at once: one resampling of its pixels, however many moves there were.

``resize``, flips, crops and affine maps note a matrix. Pixels are computed where something reads them, such as a change
of colors, or at the end of the view. What is laid open takes its color at the end, too: a pixel shows the picture where
it lay on every canvas that the picture went through, else the fill.

How pixels are read:

- scaled and flipped alone: bilinear; a side that shrinks is antialiased (a triangle as wide as the pixels that become
  one, Pillow's ``resize``);
- else bilinear at one place of the picture a pixel, where no side of a pixel of the picture becomes shorter. Where one
  does, the picture is scaled down along that side first, antialiased, so that the map that remains shrinks neither.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

from ssod.transforms import raster

Size = tuple[int, int]  # (width, height), Pillow's order
Color = tuple[int, int, int]
_CLOSE = 1e-6  # pixels; two places nearer than this are one
_WORTH = 4  # times as many pixels are scaled, to cut a part out, before reading the part alone is cheaper


@dataclass(frozen=True)
class _Canvas:
    """A rectangle that a picture was cut off to. ``back`` takes pixels of the picture now to its own."""

    back: np.ndarray
    size: Size

    def then(self, back: np.ndarray) -> _Canvas:
        return _Canvas(self.back @ back, self.size)

    def covers(self, size: Size) -> bool:
        """Whether all of a picture of ``size`` lies on it."""
        x, y = (self.back @ _corners(size))[:2]
        inside = (x >= -_CLOSE) & (x <= self.size[0] + _CLOSE) & (y >= -_CLOSE) & (y <= self.size[1] + _CLOSE)
        return bool(inside.all())


class Picture:
    """An RGB picture. It never changes; each move returns another one.

    Attributes:
        size: (width, height).
    """

    __slots__ = ("_canvases", "_fill", "_matrix", "_pixels", "_source", "size")

    def __init__(self, pixels: np.ndarray) -> None:
        """Take [H, W, 3] uint8; who made the array does not change it any more."""
        self.size: Size = (pixels.shape[1], pixels.shape[0])
        self._pixels: np.ndarray | None = pixels
        self._source, self._matrix = pixels, np.eye(3)
        self._canvases: tuple[_Canvas, ...] = (_Canvas(np.eye(3), self.size),)
        self._fill: Color | None = None

    @classmethod
    def of(cls, image: Image.Image | np.ndarray | Picture) -> Picture:
        """Return the picture that a Pillow picture or an array [H, W, 3] uint8 shows."""
        if isinstance(image, Picture):
            return image
        if isinstance(image, np.ndarray):
            return cls(image)
        return cls(np.asarray(image if image.mode == "RGB" else image.convert("RGB")))

    def moved(self, size: Size, matrix: np.ndarray, fill: Color | None = None) -> Picture:
        """Return the picture on another canvas.

        Args:
            size: (width, height) of the canvas.
            matrix: [3, 3] affine, pixels -> pixels of the canvas.
            fill: color of what is laid open; None where nothing is.
        """
        start = self
        if fill is not None and self._fill not in (None, fill):
            start = Picture(self.array())
        result = Picture.__new__(Picture)
        result.size, result._pixels = size, None
        result._source, result._matrix = start._source, matrix @ start._matrix
        back = np.linalg.inv(matrix)
        earlier = [canvas.then(back) for canvas in start._canvases]
        own = _Canvas(np.eye(3), size)
        result._canvases = (*(canvas for canvas in earlier if not canvas.covers(size)), own)
        result._fill = start._fill if fill is None else fill
        return result

    def array(self) -> np.ndarray:
        """Return the pixels [H, W, 3] uint8; not to be changed."""
        if self._pixels is None:
            canvases = self._canvases[:-1]
            pixels = None if canvases else _scaled(self._source, self._matrix, self.size)
            if pixels is None:
                pixels = _warped(self._source, self._matrix, self.size)
            if canvases:
                pixels = raster.ops.filled(pixels, _outside(canvases, self.size), self._fill or (0, 0, 0))
            self._pixels = self._source = pixels  # later moves start here
            self._matrix, self._canvases, self._fill = np.eye(3), (_Canvas(np.eye(3), self.size),), None
        return self._pixels

    def image(self) -> Image.Image:
        """Return it as a Pillow picture."""
        return Image.fromarray(self.array())

    def tobytes(self) -> bytes:
        """Return the pixels row by row."""
        return self.array().tobytes()

    def __array__(self, dtype: object = None, copy: bool | None = None) -> np.ndarray:
        pixels = self.array()
        return np.array(pixels, dtype) if copy or dtype not in (None, pixels.dtype) else pixels


def _corners(size: Size) -> np.ndarray:
    return np.array([[0.0, size[0], 0, size[0]], [0, 0, size[1], size[1]], [1, 1, 1, 1]])


def _whole(value: float) -> bool:
    return abs(value - round(value)) <= _CLOSE


def _scaled(pixels: np.ndarray, matrix: np.ndarray, size: Size) -> np.ndarray | None:
    """Return a part of the scaled and flipped picture; None where the map is another, or the part is a small one."""
    if abs(matrix[0, 1]) > 1e-12 or abs(matrix[1, 0]) > 1e-12:
        return None
    scales = matrix[0, 0], matrix[1, 1]
    sides = [abs(scale) * side for scale, side in zip(scales, pixels.shape[1::-1])]
    # A flipped picture begins where its far border comes to lie.
    starts = [(-move if scale > 0 else side - move) for scale, side, move in zip(scales, sides, matrix[:2, 2])]
    if not all(map(_whole, [*sides, *starts])) or math.prod(sides) > _WORTH * math.prod(size):
        return None
    to, (left, top) = (round(sides[0]), round(sides[1])), (round(starts[0]), round(starts[1]))
    last = math.prod(to) < pixels[..., 0].size  # the smaller of the two is flipped
    if last:
        pixels = raster.ops.resized(pixels, to)
    for scale, across in zip(scales, (True, False)):
        pixels = raster.ops.flipped(pixels, across) if scale < 0 else pixels
    if not last and to != pixels.shape[1::-1]:
        pixels = raster.ops.resized(pixels, to)
    part = pixels[top : top + size[1], left : left + size[0]]
    return part if part.shape == pixels.shape else np.ascontiguousarray(part)


def _warped(pixels: np.ndarray, matrix: np.ndarray, size: Size) -> np.ndarray:
    """Return the canvas; a side of the picture that shrinks is scaled down, antialiased, before the map is made."""
    sides = pixels.shape[1::-1]
    shares = np.minimum(1, np.linalg.norm(matrix[:2, :2], axis=0))
    to = tuple(max(1, math.ceil(side * share - _CLOSE)) for side, share in zip(sides, shares))
    if to != sides:
        pixels = raster.ops.resized(pixels, to)
        matrix = matrix @ np.diag([sides[0] / to[0], sides[1] / to[1], 1])
    return raster.ops.warped(pixels, np.linalg.inv(matrix), size)


def _outside(canvases: tuple[_Canvas, ...], size: Size) -> np.ndarray:
    """Return [H, W] bool, where the middle of a pixel did not lie on one of the canvases."""
    width, height = size
    low, high = np.zeros(height), np.full(height, float(width))  # columns that a row shows: from, and before
    y = np.arange(height) + 0.5
    for canvas in canvases:
        for (across, down, shift), end in zip(canvas.back[:2], canvas.size):
            start = down * y + shift  # where the row's left border lies; one column on is ``across`` further
            if abs(across) < 1e-12:
                low = np.where((start >= 0) & (start < end), low, width)
                continue
            zero, far = -start / across - 0.5, (end - start) / across - 0.5  # columns that lie at 0 and at ``end``
            near, beyond = (np.ceil(zero), np.ceil(far)) if across > 0 else (np.floor(far) + 1, np.floor(zero) + 1)
            low, high = np.maximum(low, near), np.minimum(high, beyond)
    kind = np.int16 if width < 1 << 15 else np.int32  # half the memory is half the time
    columns = np.arange(width, dtype=kind)
    first, last = (limit.clip(0, width).astype(kind)[:, None] for limit in (low, high))
    return (columns < first) | (columns >= last)

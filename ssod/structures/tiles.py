"""Large images in parts: where the tiles of an image lie, and how much of a box each of them shows."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from ssod.utils.schema import Section

Rect = tuple[int, int, int, int]  # left, top, right, bottom in pixels of the image, Pillow's order
SHOWN = 0.5  # share of a box's area that a tile has to show, or the box is no object of that tile


class Tiles(Section):
    """Images larger than a tile are looked at in parts (SAHI, arXiv:2202.06934).

    In training a view begins with one tile of its image. In evaluation, `ssod predict` and `ssod label` it begins with
    each tile of a grid that covers the image, and what is found in them is merged.
    """

    size: int = Field(ge=32)
    """Sides of a tile in pixels of the image as it is in its file. The sizes that views name are those of a tile: with
    `size: 160` and `resize: {short: 320}` objects are seen at twice their size."""
    overlap: float = Field(0.2, ge=0, le=0.75)
    "Share of a tile that the next one shows, too, at least. An object no larger than that is whole in one of them."
    near_box: float = Field(0.5, ge=0, le=1)
    "Probability that a labelled image is shown around one of its boxes in training; otherwise anywhere."

    @property
    def stride(self) -> int:
        """Largest distance in pixels between the beginnings of two neighbours."""
        return int(self.size * (1 - self.overlap) + 1e-9)

    def starts(self, length: int) -> np.ndarray:
        """Return [n] int64: where tiles begin along a side of an image, evenly spread, the fewest that overlap enough.

        The first begins at 0, and the last ends with the side; a side no longer than a tile has one.
        """
        gaps = max(0, -(-(length - self.size) // self.stride))
        return np.arange(gaps + 1) * max(0, length - self.size) // max(gaps, 1)

    def grid(self, size: tuple[int, int]) -> list[Rect]:
        """Return the tiles of an image of ``size`` (width, height), row by row."""
        return [self.nth(number, size) for number in range(int(self.count(np.array([size]))[0]))]

    def nth(self, number: int, size: tuple[int, int]) -> Rect:
        """Return one tile of the grid, counted from 0."""
        x, y = self.starts(size[0]), self.starts(size[1])
        return self.at(int(x[number % len(x)]), int(y[number // len(x)]), size)

    def at(self, left: int, top: int, size: tuple[int, int]) -> Rect:
        """Return the tile that begins at a place of an image of ``size`` (width, height), no larger than the image."""
        return left, top, left + min(self.size, size[0]), top + min(self.size, size[1])

    def count(self, sizes: np.ndarray) -> np.ndarray:
        """Return [N] int64: how many tiles images of ``sizes`` [N, 2] have."""
        spare = np.maximum(np.asarray(sizes, np.int64) - self.size, 0)
        return (-(-spare // self.stride) + 1).prod(1)

    def around(self, boxes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
        """Return [A, 2] int64: left and top of the tile of the grid that shows most of each box.

        Args:
            boxes: [A, 4].
            sizes: [A, 2], (width, height) of their images.
        """
        spare = np.maximum(np.asarray(sizes, np.int64) - self.size, 0)
        gaps = -(-spare // self.stride)
        ideal = ((boxes[:, :2] + boxes[:, 2:] - self.size) / 2 / np.maximum(spare, 1) * gaps).clip(0, gaps)
        found, best = np.zeros(ideal.shape, np.int64), np.full(ideal.shape, -np.inf)
        for index in (np.round(ideal), np.floor(ideal), np.ceil(ideal)):
            start = index.astype(np.int64) * spare // np.maximum(gaps, 1)
            shown = np.minimum(boxes[:, 2:], start + self.size) - np.maximum(boxes[:, :2], start)
            found, best = np.where(shown > best, start, found), np.maximum(shown, best)
        return found

    def fit(self, sizes: np.ndarray) -> np.ndarray:
        """Return the sides of the tiles of images with sides ``sizes``, in their order; any shape."""
        return np.minimum(sizes, self.size)


def shown_share(boxes: np.ndarray, rects: np.ndarray) -> np.ndarray:
    """Return [..., M] float64: the share of the area of each box [..., M, 4] that lies within rectangles [..., 4]."""
    boxes, rects = np.asarray(boxes, np.float64), np.asarray(rects, np.float64)[..., None, :]
    low, high = np.maximum(boxes[..., :2], rects[..., :2]), np.minimum(boxes[..., 2:], rects[..., 2:])
    return (high - low).clip(0).prod(-1) / np.maximum((boxes[..., 2:] - boxes[..., :2]).prod(-1), 1e-9)

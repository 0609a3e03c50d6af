"""Operations that paint over parts of a picture. Boxes are never touched, also where they are hidden whole."""

from __future__ import annotations

import math

import numpy as np
from pydantic import Field, field_validator

from ssod.transforms.geometry import FILL, IntSpan, Span
from ssod.transforms.transform import Size, Transform, nothing, pixels
from ssod.utils.schema import Section

Rect = tuple[int, int, int, int]  # left, top, right, bottom


def painted(size: Size, rects: list[Rect], fill: int) -> Transform:
    """Return the transform that fills rectangles with one grey level."""

    def change(image: np.ndarray) -> np.ndarray:
        image = image.copy()
        for left, top, right, bottom in rects:
            image[top:bottom, left:right] = fill
        return image

    return pixels(size, change) if rects else nothing(size)


def place(rng: np.random.Generator, size: Size, width: int, height: int) -> list[Rect]:
    """Return one rectangle of this size at a uniform place inside the picture; none where it is empty."""
    if width < 1 or height < 1:
        return []
    left, top = int(rng.integers(size[0] - width + 1)), int(rng.integers(size[1] - height + 1))
    return [(left, top, left + width, top + height)]


class Cutout(Section):
    """Fill random patches that have the picture's own aspect ratio (Soft Teacher)."""

    patches: IntSpan = (1, 4)
    "How many, an integer from [fewest, most]."
    share: Span = (0.0, 0.2)
    "Side of a patch as a share of the picture's, drawn anew for each patch; one draw for both sides."
    fill: int = Field(FILL, ge=0, le=255)
    "Grey level."

    @field_validator("share")
    @classmethod
    def _in_range(cls, share: tuple[float, float]) -> tuple[float, float]:
        if not 0 <= share[0] <= share[1] <= 1:
            raise ValueError(f"shares lie in [0, 1], got {list(share)}")
        return share

    def draw(self, rng: np.random.Generator, size: Size) -> Transform:
        """See ``transform.Augmentation.draw``."""
        rects: list[Rect] = []
        for _ in range(int(rng.integers(self.patches[0], self.patches[1] + 1))):
            share = rng.uniform(*self.share)
            rects += place(rng, size, int(share * size[0]), int(share * size[1]))
        return painted(size, rects, self.fill)


class CutoutSquares(Section):
    """Fill random squares whose side is one of a few values (STAC: each square is 20 % of the picture, or absent)."""

    squares: IntSpan = (1, 5)
    "How many, an integer from [fewest, most]."
    sides: tuple[float, ...] = Field((0.0, 0.2), min_length=1)
    "Sides to choose from, as shares of the shorter side of the picture; 0 = no square."
    fill: int = Field(128, ge=0, le=255)
    "Grey level."

    @field_validator("sides")
    @classmethod
    def _in_range(cls, sides: tuple[float, ...]) -> tuple[float, ...]:
        if not all(0 <= side <= 1 for side in sides):
            raise ValueError(f"sides lie in [0, 1], got {list(sides)}")
        return sides

    def draw(self, rng: np.random.Generator, size: Size) -> Transform:
        """See ``transform.Augmentation.draw``."""
        rects: list[Rect] = []
        for _ in range(int(rng.integers(self.squares[0], self.squares[1] + 1))):
            side = int(self.sides[int(rng.integers(len(self.sides)))] * min(size))
            rects += place(rng, size, side, side)
        return painted(size, rects, self.fill)


class Holes(Section):
    """Fill a fixed number of small squares (Instant-Teaching)."""

    count: int = Field(8, ge=1)
    "How many."
    side: int = Field(8, ge=1)
    "Their side in pixels."
    fill: int = Field(0, ge=0, le=255)
    "Grey level."

    def draw(self, rng: np.random.Generator, size: Size) -> Transform:
        """See ``transform.Augmentation.draw``."""
        side = min(self.side, *size)
        rects = [rect for _ in range(self.count) for rect in place(rng, size, side, side)]
        return painted(size, rects, self.fill)


class Erase(Section):
    """Replace one rectangle by noise.

    A rectangle that does not fit is drawn again, ten times at most (torchvision's ``RandomErasing``). The noise is
    uniform over 0..255: Unbiased Teacher's standard normal, times 255, wraps around in 8 bits and looks the same.
    """

    p: float = Field(0.5, ge=0, le=1)
    "Probability."
    area: Span = (0.02, 0.2)
    "Share of the picture's area."
    ratio: Span = (0.3, 3.3)
    "Height over width, drawn uniformly in its logarithm."

    @field_validator("ratio", "area")
    @classmethod
    def _positive(cls, value: tuple[float, float]) -> tuple[float, float]:
        if value[0] <= 0:
            raise ValueError(f"must be above 0, got {list(value)}")
        return value

    def draw(self, rng: np.random.Generator, size: Size) -> Transform:
        """See ``transform.Augmentation.draw``."""
        if rng.random() >= self.p:
            return nothing(size)
        for _ in range(10):
            area = rng.uniform(*self.area) * size[0] * size[1]
            ratio = math.exp(rng.uniform(math.log(self.ratio[0]), math.log(self.ratio[1])))
            height, width = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < height < size[1] and 0 < width < size[0]:
                (rect,) = place(rng, size, width, height)
                return noisy(size, rect, int(rng.integers(1 << 63)))
        return nothing(size)


def noisy(size: Size, rect: Rect, seed: int) -> Transform:
    """Return the transform that fills a rectangle with uniform noise made from ``seed``."""

    left, top, right, bottom = rect

    def change(image: np.ndarray) -> np.ndarray:
        noise = np.random.Generator(np.random.Philox(seed)).integers(0, 256, (bottom - top, right - left, 3), np.uint8)
        image = image.copy()
        image[top:bottom, left:right] = noise
        return image

    return pixels(size, change)

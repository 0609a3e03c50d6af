"""Colours and holes of YOLO's pictures, as Efficient Teacher has them. (arXiv:2302.07577, as released)"""

from __future__ import annotations

import numpy as np
from pydantic import Field

from ssod.transforms import raster
from ssod.transforms.colors import LEVELS
from ssod.transforms.transform import Size, Transform, nothing, pixels
from ssod.utils.schema import Section

# Sides of holes as shares of the picture's: one of up to a half, two of up to a quarter, ..., sixteen of a 32nd.
HOLES = [2.0 ** -(1 + k) for k in range(5) for _ in range(2**k)]


class HsvGain(Section):
    """Multiply hue, saturation and value by random factors (YOLO)."""

    hue: float = Field(0.015, ge=0, le=1)
    "The factor is drawn uniformly from 1 less this to 1 plus this; the hue goes on from 0 beyond its end."
    saturation: float = Field(0.7, ge=0, le=1)
    "... of the saturation."
    value: float = Field(0.4, ge=0, le=1)
    "... of the value."

    def draw(self, rng: np.random.Generator, size: Size) -> Transform:
        """See ``transform.Augmentation.draw``."""
        hue, *rest = (rng.uniform(1 - most, 1 + most) for most in (self.hue, self.saturation, self.value))
        clipped = [(LEVELS * factor).clip(0, 255) for factor in rest]
        tables = np.stack([(LEVELS * hue).astype(int) % 256, *clipped]).astype(np.uint8)
        return pixels(size, lambda image: raster.ops.in_hsv(image, tables))


class CutoutScales(Section):
    """Fill 31 rectangles of five sizes, each with a colour of its own (YOLO), wherever they fall.

    The released Efficient Teacher puts them where the true boxes of unlabelled images are; nothing is known of these
    here.
    """

    p: float = Field(0.5, ge=0, le=1)
    "Probability that anything happens."

    def draw(self, rng: np.random.Generator, size: Size) -> Transform:
        """See ``transform.Augmentation.draw``. The middle of a rectangle lies in the picture, its parts may not."""
        if rng.random() >= self.p:
            return nothing(size)
        width, height = size
        most = np.array(HOLES)
        wide, tall = (rng.integers(1, np.maximum(1, (side * most).astype(int)) + 1) for side in size)
        left, top = rng.integers(0, width, len(most)) - wide // 2, rng.integers(0, height, len(most)) - tall // 2
        colors = rng.integers(64, 192, (len(most), 3))
        rects = np.stack([left, top, left + wide, top + tall], 1)
        rects = np.clip(rects, 0, [width, height, width, height])

        def change(image: np.ndarray) -> np.ndarray:
            image = image.copy()
            for (left, top, right, bottom), color in zip(rects.tolist(), colors):
                image[top:bottom, left:right] = color
            return image

        return pixels(size, change)

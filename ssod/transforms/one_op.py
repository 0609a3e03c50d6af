"""Exactly one of some operations, at a strength that is any number, not one of nine levels. (MixPL, arXiv:2312.07006)

The ranges are the released code's. ``photometric.ColorOp`` and ``geometry`` have those of Soft Teacher's family:
strengths in levels, shears by another law, another grey.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import numpy as np
from pydantic import Field, field_validator

from ssod.transforms import colors
from ssod.transforms.geometry import Span, rotation_matrix, shift_matrix, warped
from ssod.transforms.photometric import COLOR_OPS, ColorName
from ssod.transforms.transform import Size, Transform, pixels
from ssod.utils.schema import Section

GeometryName = Literal["rotate", "shear_x", "shear_y", "translate_x", "translate_y"]
GEOMETRY: tuple[GeometryName, ...] = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")


# name -> (pixels [H, W, 3] uint8, strength) -> pixels; the other colour operations have no strength.
STRENGTH_OPS: dict[str, Callable[[np.ndarray, float], np.ndarray]] = {
    "solarize": colors.solarize,
    "posterize": colors.posterize,
    "color": colors.saturation,
    "contrast": colors.contrast,
    "brightness": colors.brightness,
    "sharpness": colors.sharpness,
}


class ColorOpUniform(Section):
    """Exactly one colour operation, each as likely as the others; its strength is rounded to one decimal."""

    ops: tuple[ColorName, ...] = Field(tuple(COLOR_OPS), min_length=1)
    "What to choose from."
    factor: Span = (0.1, 1.9)
    "Factor of colour, contrast, brightness and sharpness."
    threshold: Span = (0.0, 256.0)
    "Grey level from which on pixels are inverted."
    bits: Span = (0.0, 4.0)
    "Bits that each channel keeps, rounded up; 0 is a black picture."

    @field_validator("bits")
    @classmethod
    def _of_a_byte(cls, bits: tuple[float, float]) -> tuple[float, float]:
        if not 0 <= bits[0] <= bits[1] <= 8:
            raise ValueError(f"a channel has 0 to 8 bits, got {list(bits)}")
        return bits

    @field_validator("factor")
    @classmethod
    def _not_negative(cls, factor: tuple[float, float]) -> tuple[float, float]:
        if factor[0] < 0:
            raise ValueError(f"must not be below 0, got {list(factor)}")
        return factor

    def draw(self, rng: np.random.Generator, size: Size) -> Transform:
        """See ``transform.Augmentation.draw``."""
        name = self.ops[int(rng.integers(len(self.ops)))]
        if name not in STRENGTH_OPS:
            return pixels(size, lambda image: COLOR_OPS[name](image, 1))  # a level that it does not read
        span = {"solarize": self.threshold, "posterize": self.bits}.get(name, self.factor)
        strength = round(rng.uniform(*span), 1)
        return pixels(size, lambda image: STRENGTH_OPS[name](image, strength))


class GeometryOp(Section):
    """Exactly one way to move pixels, each as likely as the others; the canvas keeps its size."""

    ops: tuple[GeometryName, ...] = Field(GEOMETRY, min_length=1)
    "What to choose from."
    degrees: float = Field(30.0, ge=0, lt=90)
    "Largest angle, either way: of a turn about the center, and of a slant from the top left corner, by its tangent."
    share: float = Field(0.1, ge=0, le=1)
    "Largest move, either way, as a share of the side."
    fill: int = Field(128, ge=0, le=255)
    "Grey level of what is laid open."

    def draw(self, rng: np.random.Generator, size: Size) -> Transform:
        """See ``transform.Augmentation.draw``."""
        name, much = self.ops[int(rng.integers(len(self.ops)))], rng.uniform(-1, 1)
        slant, move = math.tan(math.radians(much * self.degrees)), much * self.share
        matrix = {
            "rotate": rotation_matrix(size, much * self.degrees),
            "shear_x": np.array([[1.0, slant, 0], [0, 1, 0], [0, 0, 1]]),
            "shear_y": np.array([[1.0, 0, 0], [slant, 1, 0], [0, 0, 1]]),
            "translate_x": shift_matrix(move * size[0], 0),
            "translate_y": shift_matrix(0, move * size[1]),
        }
        return warped(size, matrix[name], (self.fill, self.fill, self.fill))

"""Operations that move pixels.

Coordinates are those of boxes: pixel ``(i, j)`` covers ``[i, i + 1] x [j, j + 1]``, so a flip is ``x' = W - x``.
``picture`` samples in the same frame, hence pixels and boxes agree to the last fraction; it makes the moves of a view
at once. The matrices are those that Soft Teacher and Consistent-Teacher use: rotation about
``((W - 1)/2, (H - 1)/2)``, positive clockwise on screen; shear by ``tanh`` of the angle with the sign of x negated;
canvas size kept and exposed area filled with 125.
"""

from __future__ import annotations

import math
from typing import Annotated

import numpy as np
from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from ssod.transforms.transform import Size, Transform, moved, nothing
from ssod.utils.errors import Exit, SsodError
from ssod.utils.schema import Section

FILL = 125
LARGEST = 1 << 26  # pixels of a view


def _pair(value: object) -> object:
    return (value, value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _ordered(value: tuple[float, float]) -> tuple[float, float]:
    if value[0] > value[1]:
        raise ValueError(f"range [{value[0]}, {value[1]}] is empty; write the smaller number first")
    return value


# A closed range; one number stands for the range that holds only it.
Span = Annotated[
    tuple[float, float],
    BeforeValidator(_pair, json_schema_input_type=float | tuple[float, float]),
    AfterValidator(_ordered),
]
IntSpan = Annotated[
    tuple[int, int], BeforeValidator(_pair, json_schema_input_type=int | tuple[int, int]), AfterValidator(_ordered)
]


# ---- deterministic transforms ----------------------------------------------------------------------------------------


def resized(size: Size, to: Size) -> Transform:
    """Scale a picture of ``size`` to ``to``, bilinear with antialiasing.

    Raises:
        SsodError: code 3, it would have more than ``LARGEST`` pixels: no picture of a file is worth that memory.
    """
    if to[0] * to[1] > LARGEST:
        problem = f"a picture of {size[0]} x {size[1]} would become {to[0]} x {to[1]} pixels"
        raise SsodError("config", "views", problem, "name a smaller size, or a 'long' side", code=Exit.DATA)
    matrix = np.diag([to[0] / size[0], to[1] / size[1], 1.0])
    if to == size:
        return nothing(size)
    return moved(to, matrix)


def mirrored(size: Size) -> Transform:
    """Swap left and right."""
    return moved(size, np.array([[-1.0, 0, size[0]], [0, 1, 0], [0, 0, 1]]))


def upended(size: Size) -> Transform:
    """Swap top and bottom."""
    return moved(size, np.array([[1.0, 0, 0], [0, -1, size[1]], [0, 0, 1]]))


def cropped(left: int, top: int, to: Size) -> Transform:
    """Cut out ``to`` pixels from (left, top) on."""
    return moved(to, shift_matrix(-left, -top))


def warped(size: Size, matrix: np.ndarray, fill: tuple[int, int, int] = (FILL, FILL, FILL)) -> Transform:
    """Apply an affine matrix on a canvas that keeps its size, bilinear."""
    return moved(size, matrix, fill)


def shift_matrix(dx: float, dy: float) -> np.ndarray:
    """Return the matrix that moves everything by (dx, dy) pixels."""
    return np.array([[1.0, 0, dx], [0, 1, dy], [0, 0, 1]])


def rotation_matrix(size: Size, degrees: float) -> np.ndarray:
    """Return the rotation about ((W - 1)/2, (H - 1)/2), clockwise on screen where ``degrees`` is positive."""
    cx, cy = (size[0] - 1) / 2, (size[1] - 1) / 2
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return np.array([[c, -s, cx - c * cx + s * cy], [s, c, cy - s * cx - c * cy], [0, 0, 1]])


def shear_matrix(degrees_x: float, degrees_y: float) -> np.ndarray:
    """Return a shear along one axis: x' = x - tanh(a) y, or y' = y + tanh(a) x, with a in radians."""
    return np.array(
        [[1.0, -math.tanh(math.radians(degrees_x)), 0], [math.tanh(math.radians(degrees_y)), 1, 0], [0, 0, 1]]
    )


# ---- random policies ---------------------------------------------------------------------------------------------


class Resize(Section):
    """Scale with the aspect ratio kept: by the shorter side, no longer than ``long`` on the other, times ``ratio``."""

    short: IntSpan | None = None
    "Length of the shorter side in pixels: a number, or [lowest, highest] to draw from, both included."
    long: int | None = Field(None, gt=0)
    "Largest length of the longer side."
    step: int = Field(1, gt=0)
    "Spacing of the lengths to draw from: short [640, 800] with step 32 draws from 640, 672, ..., 800."
    ratio: Span = (1.0, 1.0)
    "A further factor, drawn uniformly. With `long` alone it is the large-scale jitter."

    @model_validator(mode="after")
    def _says_something(self) -> Resize:
        if not self.model_fields_set & {"short", "long", "ratio"}:
            raise ValueError("resize needs 'short', 'long' or 'ratio'")
        if (self.short is not None and self.short[0] < 1) or self.ratio[0] <= 0:
            raise ValueError("lengths and ratios must be positive")
        return self

    def draw(self, rng: np.random.Generator, size: Size) -> Transform:
        """See ``transform.Augmentation.draw``. The new sides are rounded half up and at least 1."""
        scales = [] if self.long is None else [self.long / max(size)]
        if self.short is not None:
            low, high = self.short
            scales.append((low + self.step * int(rng.integers((high - low) // self.step + 1))) / min(size))
        scale = min(scales, default=1.0) * rng.uniform(*self.ratio)
        return resized(size, (max(1, int(size[0] * scale + 0.5)), max(1, int(size[1] * scale + 0.5))))


class Stretch(Section):
    """Scale to a fixed size; the aspect ratio is not kept."""

    height: int = Field(gt=0)
    "Pixels."
    width: int = Field(gt=0)
    "Pixels."

    def draw(self, rng: np.random.Generator, size: Size) -> Transform:
        """See ``transform.Augmentation.draw``."""
        return resized(size, (self.width, self.height))


class Flip(Section):
    """Swap left and right."""

    p: float = Field(0.5, ge=0, le=1)
    "Probability."

    def draw(self, rng: np.random.Generator, size: Size) -> Transform:
        """See ``transform.Augmentation.draw``."""
        return mirrored(size) if rng.random() < self.p else nothing(size)


class FlipVertical(Section):
    """Swap top and bottom; for pictures without an up, such as steel or cells."""

    p: float = Field(0.5, ge=0, le=1)
    "Probability."

    def draw(self, rng: np.random.Generator, size: Size) -> Transform:
        """See ``transform.Augmentation.draw``."""
        return upended(size) if rng.random() < self.p else nothing(size)


class Crop(Section):
    """Keep a random part of the picture."""

    height: int | None = Field(None, gt=0)
    "Pixels to keep at most; None = all."
    width: int | None = Field(None, gt=0)
    "Pixels to keep at most; None = all."
    share: Span = (1.0, 1.0)
    "Share of each side to keep, drawn uniformly for each."

    @model_validator(mode="after")
    def _says_something(self) -> Crop:
        if not self.model_fields_set & {"height", "width", "share"}:
            raise ValueError("crop needs 'height', 'width' or 'share'")
        if not 0 < self.share[0] <= self.share[1] <= 1:
            raise ValueError("'share' must lie in (0, 1]")
        return self

    def draw(self, rng: np.random.Generator, size: Size) -> Transform:
        """See ``transform.Augmentation.draw``."""
        limit = (self.width or size[0], self.height or size[1])
        width, height = (min(n, most, max(1, int(n * rng.uniform(*self.share) + 0.5))) for n, most in zip(size, limit))
        left, top = int(rng.integers(size[0] - width + 1)), int(rng.integers(size[1] - height + 1))
        return cropped(left, top, (width, height))


class TranslateX(Section):
    """Move sideways."""

    share: float = Field(0.1, ge=0, le=1)
    "Largest move, as a share of the width; drawn uniformly from minus to plus this."

    def draw(self, rng: np.random.Generator, size: Size) -> Transform:
        """See ``transform.Augmentation.draw``."""
        return warped(size, shift_matrix(rng.uniform(-self.share, self.share) * size[0], 0))


class TranslateY(Section):
    """Move up or down."""

    share: float = Field(0.1, ge=0, le=1)
    "Largest move, as a share of the height; drawn uniformly from minus to plus this."

    def draw(self, rng: np.random.Generator, size: Size) -> Transform:
        """See ``transform.Augmentation.draw``."""
        return warped(size, shift_matrix(0, rng.uniform(-self.share, self.share) * size[1]))


class Rotate(Section):
    """Turn about the center; boxes grow to the hull of their turned corners."""

    degrees: float = Field(30.0, ge=0, le=180)
    "Largest angle; drawn uniformly from minus to plus this."

    def draw(self, rng: np.random.Generator, size: Size) -> Transform:
        """See ``transform.Augmentation.draw``."""
        return warped(size, rotation_matrix(size, rng.uniform(-self.degrees, self.degrees)))


class ShearX(Section):
    """Slant sideways, from the top left corner."""

    degrees: float = Field(30.0, ge=0, lt=90)
    "Largest angle; the factor is its tanh in radians."

    def draw(self, rng: np.random.Generator, size: Size) -> Transform:
        """See ``transform.Augmentation.draw``."""
        return warped(size, shear_matrix(rng.uniform(-self.degrees, self.degrees), 0))


class ShearY(Section):
    """Slant up or down, from the top left corner."""

    degrees: float = Field(30.0, ge=0, lt=90)
    "Largest angle; the factor is its tanh in radians."

    def draw(self, rng: np.random.Generator, size: Size) -> Transform:
        """See ``transform.Augmentation.draw``."""
        return warped(size, shear_matrix(0, rng.uniform(-self.degrees, self.degrees)))

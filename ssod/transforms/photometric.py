"""Operations that change colours and move nothing.

Each is a frozen config section with ``draw(rng, size) -> Transform`` (see ``ssod.transforms.transform``): all chance is
in ``draw``.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial
from typing import Literal

import numpy as np
from PIL import Image
from pydantic import Field, field_validator

from ssod.transforms import colors, raster
from ssod.transforms.colors import LEVELS, table
from ssod.transforms.geometry import IntSpan, Span
from ssod.transforms.transform import Size, Transform, nothing, pixels
from ssod.utils.schema import Section

Paint = Callable[[np.ndarray], np.ndarray]  # [H, W, 3] uint8


def enhance_factor(level: float) -> float:
    """Return the factor of colour, contrast, brightness and sharpness: 0.28 at level 1, 1.72 at level 9."""
    return 0.18 * level + 0.1


def solarize_threshold(level: int) -> int:
    """Return the grey level from which on pixels are inverted."""
    return min(int(25.6 * level), 255)


def posterize_bits(level: int) -> int:
    """Return the bits that each channel keeps: 4 at level 1, 1 at level 9."""
    return 4 - int(0.4 * level)


ColorName = Literal[
    "identity",
    "autocontrast",
    "equalize",
    "solarize",
    "color",
    "contrast",
    "brightness",
    "sharpness",
    "posterize",
]

# name -> (pixels [H, W, 3] uint8, level 1..9) -> pixels. The nine operations of Soft Teacher and STAC.
COLOR_OPS: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "identity": lambda image, level: image,
    "autocontrast": lambda image, level: colors.autocontrast(image),
    "equalize": lambda image, level: colors.equalize(image),
    "solarize": lambda image, level: colors.solarize(image, solarize_threshold(level)),
    "color": lambda image, level: colors.saturation(image, enhance_factor(level)),
    "contrast": lambda image, level: colors.contrast(image, enhance_factor(level)),
    "brightness": lambda image, level: colors.brightness(image, enhance_factor(level)),
    "sharpness": lambda image, level: colors.sharpness(image, enhance_factor(level)),
    "posterize": lambda image, level: colors.posterize(image, posterize_bits(level)),
}


class ColorOp(Section):
    """Exactly one colour operation, each as likely as the others, at a random strength."""

    ops: tuple[ColorName, ...] = Field(tuple(COLOR_OPS), min_length=1)
    "What to choose from."
    level: IntSpan = (1, 9)
    "Strength, an integer from [lowest, highest] within 1..9. At 5, the factors of the four enhancements are 1."

    @field_validator("level")
    @classmethod
    def _in_range(cls, level: tuple[int, int]) -> tuple[int, int]:
        if not 1 <= level[0] <= level[1] <= 9:
            raise ValueError(f"levels run from 1 to 9, got {list(level)}")
        return level

    def draw(self, rng: np.random.Generator, size: Size) -> Transform:
        """See ``transform.Augmentation.draw``."""
        op = COLOR_OPS[self.ops[int(rng.integers(len(self.ops)))]]
        level = int(rng.integers(self.level[0], self.level[1] + 1))
        return pixels(size, lambda image: op(image, level))


class ColorJitter(Section):
    """Brightness, contrast, saturation and hue by random amounts, in random order."""

    brightness: float = Field(0.4, ge=0)
    "Factor drawn from [1 - b, 1 + b], not below 0."
    contrast: float = Field(0.4, ge=0)
    "Factor drawn from [1 - c, 1 + c], not below 0."
    saturation: float = Field(0.4, ge=0)
    "Factor drawn from [1 - s, 1 + s], not below 0."
    hue: float = Field(0.1, ge=0, le=0.5)
    "Shift drawn from [-h, h], in turns of the colour circle."
    p: float = Field(0.8, ge=0, le=1)
    "Probability that anything happens."

    def draw(self, rng: np.random.Generator, size: Size) -> Transform:
        """See ``transform.Augmentation.draw``."""
        if rng.random() >= self.p:
            return nothing(size)

        def factor(spread: float) -> float:
            return rng.uniform(max(0.0, 1 - spread), 1 + spread)

        steps: list[Paint] = [
            partial(colors.brightness, factor=factor(self.brightness)),
            partial(colors.contrast, factor=factor(self.contrast)),
            partial(colors.saturation, factor=factor(self.saturation)),
            partial(colors.hue, turns=rng.uniform(-self.hue, self.hue)),
        ]
        steps = [steps[i] for i in rng.permutation(len(steps))]

        def change(image: np.ndarray) -> np.ndarray:
            for step in steps:
                image = step(image)
            return image

        return pixels(size, change)


class Grayscale(Section):
    """Take the colour away; three equal channels remain."""

    p: float = Field(0.2, ge=0, le=1)
    "Probability."

    def draw(self, rng: np.random.Generator, size: Size) -> Transform:
        """See ``transform.Augmentation.draw``."""
        return pixels(size, lambda image: raster.ops.as_gray(image)) if rng.random() < self.p else nothing(size)


class Blur(Section):
    """Blur with a Gaussian (Unbiased Teacher; Pillow, which it uses, has three box filters in the place of one)."""

    sigma: Span = (0.1, 2.0)
    "Standard deviation in pixels."
    p: float = Field(0.5, ge=0, le=1)
    "Probability."

    def draw(self, rng: np.random.Generator, size: Size) -> Transform:
        """See ``transform.Augmentation.draw``."""
        if rng.random() >= self.p:
            return nothing(size)
        sigma = rng.uniform(*self.sigma)
        return pixels(size, lambda image: raster.ops.blurred(image, sigma)) if sigma else nothing(size)


class Smooth(Section):
    """Replace each pixel by the mean or the median of its 3x3 neighbours."""

    kind: Literal["mean", "median"] = "mean"
    "Which of the two."

    def draw(self, rng: np.random.Generator, size: Size) -> Transform:
        """See ``transform.Augmentation.draw``."""
        return pixels(size, lambda image: (raster.ops.mean3 if self.kind == "mean" else raster.ops.median3)(image))


class BrightnessContrast(Section):
    """Multiply and shift grey levels: x (1 + contrast) + 255 brightness, clipped."""

    brightness: Span = (0.1, 0.3)
    "Shift, as a share of 255."
    contrast: Span = (0.1, 0.3)
    "Gain above 1."

    def draw(self, rng: np.random.Generator, size: Size) -> Transform:
        """See ``transform.Augmentation.draw``."""
        gain, shift = 1 + rng.uniform(*self.contrast), 255 * rng.uniform(*self.brightness)
        levels = table(LEVELS * gain + shift)
        return pixels(size, lambda image: raster.ops.looked_up(image, levels))


class RgbShift(Section):
    """Add a random amount to each channel."""

    limit: float = Field(10.0, ge=0)
    "Largest amount, in grey levels."

    def draw(self, rng: np.random.Generator, size: Size) -> Transform:
        """See ``transform.Augmentation.draw``."""
        tables = np.stack([table(LEVELS + rng.uniform(-self.limit, self.limit)) for _ in range(3)])
        return pixels(size, lambda image: raster.ops.looked_up(image, tables))


class HsvShift(Section):
    """Add a random amount to hue, saturation and value."""

    hue: float = Field(40.0, ge=0, le=180)
    "Largest turn, in degrees."
    saturation: float = Field(30.0, ge=0)
    "Largest amount, of 255."
    value: float = Field(20.0, ge=0)
    "Largest amount, of 255."

    def draw(self, rng: np.random.Generator, size: Size) -> Transform:
        """See ``transform.Augmentation.draw``."""
        turn = round(rng.uniform(-self.hue, self.hue) * 256 / 360)
        rest = [table(LEVELS + rng.uniform(-most, most)) for most in (self.saturation, self.value)]
        tables = np.stack([((LEVELS + turn) % 256).astype(np.uint8), *rest])
        return pixels(size, lambda image: raster.ops.in_hsv(image, tables))


class ChannelShuffle(Section):
    """Put the channels into a random order."""

    def draw(self, rng: np.random.Generator, size: Size) -> Transform:
        """See ``transform.Augmentation.draw``."""
        order = rng.permutation(3)
        return pixels(size, lambda image: raster.ops.reordered(image, order))


class Jpeg(Section):
    """Compress as JPEG and read back."""

    quality: IntSpan = (85, 95)
    "JPEG quality, an integer from [lowest, highest]."

    def draw(self, rng: np.random.Generator, size: Size) -> Transform:
        """See ``transform.Augmentation.draw``."""
        quality = int(rng.integers(self.quality[0], self.quality[1] + 1))

        def change(image: np.ndarray) -> np.ndarray:
            file = io.BytesIO()
            Image.fromarray(image).save(file, "JPEG", quality=quality)
            return np.asarray(Image.open(file, formats=("JPEG",)).convert("RGB"))

        return pixels(size, change)


class Noise(Section):
    """Add Gaussian noise to every pixel and channel."""

    std: Span = (0.0, 12.75)
    "Standard deviation in grey levels."

    def draw(self, rng: np.random.Generator, size: Size) -> Transform:
        """See ``transform.Augmentation.draw``."""
        std, seed = rng.uniform(*self.std), int(rng.integers(1 << 63))

        def change(image: np.ndarray) -> np.ndarray:
            noise = np.random.Generator(np.random.Philox(seed)).standard_normal(image.shape, np.float32)
            return table(image.astype(np.float32) + noise * std)

        return pixels(size, change)

"""Operations that change colours and move nothing. Pillow pictures in and out, RGB.

Each is a frozen config section with ``draw(rng, size) -> Transform`` (see ``ssod.transforms.transform``): all chance is
in ``draw``.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial
from typing import Literal

import numpy as np
from PIL import Image, ImageFilter
from pydantic import Field, field_validator
from torchvision.transforms.v2 import functional as F

from ssod.transforms.geometry import IntSpan, Span
from ssod.transforms.transform import Size, Transform, nothing, pixels
from ssod.utils.schema import Section

Paint = Callable[[Image.Image], Image.Image]


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

# name -> (picture, level 1..9) -> picture. The nine operations of Soft Teacher and STAC.
COLOR_OPS: dict[str, Callable[[Image.Image, int], Image.Image]] = {
    "identity": lambda image, level: image,
    "autocontrast": lambda image, level: F.autocontrast(image),
    "equalize": lambda image, level: F.equalize(image),
    "solarize": lambda image, level: F.solarize(image, solarize_threshold(level)),
    "color": lambda image, level: F.adjust_saturation(image, enhance_factor(level)),
    "contrast": lambda image, level: F.adjust_contrast(image, enhance_factor(level)),
    "brightness": lambda image, level: F.adjust_brightness(image, enhance_factor(level)),
    "sharpness": lambda image, level: F.adjust_sharpness(image, enhance_factor(level)),
    "posterize": lambda image, level: F.posterize(image, posterize_bits(level)),
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
            partial(F.adjust_brightness, brightness_factor=factor(self.brightness)),
            partial(F.adjust_contrast, contrast_factor=factor(self.contrast)),
            partial(F.adjust_saturation, saturation_factor=factor(self.saturation)),
            partial(F.adjust_hue, hue_factor=rng.uniform(-self.hue, self.hue)),
        ]
        steps = [steps[i] for i in rng.permutation(len(steps))]

        def apply(image: Image.Image) -> Image.Image:
            for step in steps:
                image = step(image)
            return image

        return pixels(size, apply)


class Grayscale(Section):
    """Take the colour away; three equal channels remain."""

    p: float = Field(0.2, ge=0, le=1)
    "Probability."

    def draw(self, rng: np.random.Generator, size: Size) -> Transform:
        """See ``transform.Augmentation.draw``."""
        return (
            pixels(size, partial(F.rgb_to_grayscale, num_output_channels=3)) if rng.random() < self.p else nothing(size)
        )


class Blur(Section):
    """Blur with a Gaussian (Pillow's, as Unbiased Teacher's)."""

    sigma: Span = (0.1, 2.0)
    "Standard deviation in pixels."
    p: float = Field(0.5, ge=0, le=1)
    "Probability."

    def draw(self, rng: np.random.Generator, size: Size) -> Transform:
        """See ``transform.Augmentation.draw``."""
        if rng.random() >= self.p:
            return nothing(size)
        filter = ImageFilter.GaussianBlur(rng.uniform(*self.sigma))
        return pixels(size, lambda image: image.filter(filter))


class Smooth(Section):
    """Replace each pixel by the mean or the median of its 3x3 neighbours."""

    kind: Literal["mean", "median"] = "mean"
    "Which of the two."

    def draw(self, rng: np.random.Generator, size: Size) -> Transform:
        """See ``transform.Augmentation.draw``."""
        filter = ImageFilter.BoxBlur(1) if self.kind == "mean" else ImageFilter.MedianFilter(3)
        return pixels(size, lambda image: image.filter(filter))


class BrightnessContrast(Section):
    """Multiply and shift grey levels: x (1 + contrast) + 255 brightness, clipped."""

    brightness: Span = (0.1, 0.3)
    "Shift, as a share of 255."
    contrast: Span = (0.1, 0.3)
    "Gain above 1."

    def draw(self, rng: np.random.Generator, size: Size) -> Transform:
        """See ``transform.Augmentation.draw``."""
        gain, shift = 1 + rng.uniform(*self.contrast), 255 * rng.uniform(*self.brightness)
        table = _table(np.arange(256) * gain + shift)
        return pixels(size, lambda image: image.point(table * 3))


class RgbShift(Section):
    """Add a random amount to each channel."""

    limit: float = Field(10.0, ge=0)
    "Largest amount, in grey levels."

    def draw(self, rng: np.random.Generator, size: Size) -> Transform:
        """See ``transform.Augmentation.draw``."""
        tables = [_table(np.arange(256) + rng.uniform(-self.limit, self.limit)) for _ in range(3)]
        return pixels(size, lambda image: image.point([level for table in tables for level in table]))


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
        hue = [(level + turn) % 256 for level in range(256)]
        rest = [_table(np.arange(256) + rng.uniform(-most, most)) for most in (self.saturation, self.value)]
        table = hue + rest[0] + rest[1]
        return pixels(size, lambda image: image.convert("HSV").point(table).convert("RGB"))


class ChannelShuffle(Section):
    """Put the channels into a random order."""

    def draw(self, rng: np.random.Generator, size: Size) -> Transform:
        """See ``transform.Augmentation.draw``."""
        order = rng.permutation(3)

        def apply(image: Image.Image) -> Image.Image:
            bands = image.split()
            return Image.merge("RGB", [bands[i] for i in order])

        return pixels(size, apply)


class Jpeg(Section):
    """Compress as JPEG and read back."""

    quality: IntSpan = (85, 95)
    "JPEG quality, an integer from [lowest, highest]."

    def draw(self, rng: np.random.Generator, size: Size) -> Transform:
        """See ``transform.Augmentation.draw``."""
        quality = int(rng.integers(self.quality[0], self.quality[1] + 1))

        def apply(image: Image.Image) -> Image.Image:
            file = io.BytesIO()
            image.save(file, "JPEG", quality=quality)
            return Image.open(file, formats=("JPEG",)).convert("RGB")

        return pixels(size, apply)


class Noise(Section):
    """Add Gaussian noise to every pixel and channel."""

    std: Span = (0.0, 12.75)
    "Standard deviation in grey levels."

    def draw(self, rng: np.random.Generator, size: Size) -> Transform:
        """See ``transform.Augmentation.draw``."""
        std, seed = rng.uniform(*self.std), int(rng.integers(1 << 63))

        def apply(image: Image.Image) -> Image.Image:
            grey = np.asarray(image, np.float32)
            grey = grey + np.random.Generator(np.random.Philox(seed)).standard_normal(grey.shape, np.float32) * std
            return Image.fromarray(grey.round().clip(0, 255).astype(np.uint8))

        return pixels(size, apply)


def _table(levels: np.ndarray) -> list[int]:
    return levels.round().clip(0, 255).astype(int).tolist()

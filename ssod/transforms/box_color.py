"""Colours of single objects, strongest in their middle: scale-aware AutoAugment. (arXiv:2103.17220)

An operation acts on the whole picture once, so that its statistics are those of all of it, and the result is blended in
around each object that takes part (``area_map``). The formulas are those of the released code on pixels in 0..1, but
that its channels are blue, green and red while its weights of grey are meant for red, green and blue: here they fit.
Where maps of two objects add up to more than 1 the blend goes beyond the result, and is cut off at black and white.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal, Self

import numpy as np
from pydantic import Field, field_validator, model_validator

from ssod.structures import Targets
from ssod.transforms.area_map import Three, area_map, area_ratio, areas, blend, to_bytes, to_float
from ssod.transforms.box_level import OnBoxes
from ssod.transforms.photometric import enhance_factor
from ssod.transforms.picture import Picture
from ssod.transforms.transform import Seen, Size, Transform

GREY = (0.2989, 0.587, 0.114)  # weights of red, green and blue
SOLARIZE_ADD = 11 / 256  # of a level
BIN = 1e-3  # of a grey level: 8-bit pixels in float32 lie that near to whole ones


def _grey(pixels: np.ndarray) -> np.ndarray:
    return (pixels @ np.asarray(GREY, pixels.dtype))[..., None]


def _from(plain: np.ndarray | float, pixels: np.ndarray, level: float) -> np.ndarray:
    """Go from ``plain`` to ``pixels``, or beyond; level 5 is ``pixels``."""
    return (plain + enhance_factor(level) * (pixels - plain)).clip(0, 1)


def color(pixels: np.ndarray, level: float) -> np.ndarray:
    """Less or more colour."""
    return _from(_grey(pixels), pixels, level)


def contrast(pixels: np.ndarray, level: float) -> np.ndarray:
    """Less or more distance to the mean grey of the picture."""
    return _from(float(_grey(pixels).mean()), pixels, level)


def brightness(pixels: np.ndarray, level: float) -> np.ndarray:
    """Darker or brighter."""
    return _from(0.0, pixels, level)


def sharpness(pixels: np.ndarray, level: float) -> np.ndarray:
    """Less or more distance to the mean of 3 x 3 pixels, the middle one of which counts five times."""
    height, width = pixels.shape[:2]
    wide = np.pad(pixels, ((1, 1), (1, 1), (0, 0)), mode="reflect")
    around = sum(wide[i : i + height, j : j + width] for i in range(3) for j in range(3))
    return _from((around + 4 * pixels) / 13, pixels, level)


def solarize(pixels: np.ndarray, level: float) -> np.ndarray:
    """Invert what is at least a tenth of the level."""
    return np.where(pixels >= level / 10, 1 - pixels, pixels)


def solarize_add(pixels: np.ndarray, level: float) -> np.ndarray:
    """Make the darker half brighter, by 11 grey levels for a level."""
    return np.where(pixels <= 0.5, (pixels + SOLARIZE_ADD * level).clip(0, 1), pixels)


def autocontrast(pixels: np.ndarray) -> np.ndarray:
    """Stretch each channel to 0..1."""
    low, high = pixels.min((0, 1)), pixels.max((0, 1))
    flat = high == low
    return np.where(flat, pixels, (pixels - low) / np.where(flat, 1, high - low))


def equalize(pixels: np.ndarray) -> np.ndarray:
    """Make each channel's grey levels equally frequent, in 256 bins."""
    return np.stack([_equalized(channel) for channel in np.moveaxis(pixels, -1, 0)], -1)


def _equalized(channel: np.ndarray) -> np.ndarray:
    level = (channel * 255 + BIN).astype(int).clip(0, 255)
    counts = np.bincount((channel * 256).astype(int).clip(0, 255).ravel(), minlength=256)
    step = (counts.sum() - counts[np.flatnonzero(counts)[-1]]) // 255
    if step == 0:
        return channel
    table = np.concatenate([[0], (counts.cumsum()[:-1] + step // 2) // step]).clip(0, 255)
    return table[level].astype(channel.dtype) / 255


ColorName = Literal[
    "autocontrast", "equalize", "solarize", "solarize_add", "color", "contrast", "brightness", "sharpness"
]
PLAIN: dict[str, Callable[[np.ndarray], np.ndarray]] = {"autocontrast": autocontrast, "equalize": equalize}
WITH_LEVEL: dict[str, Callable[[np.ndarray, float], np.ndarray]] = {
    "solarize": solarize,
    "solarize_add": solarize_add,
    "color": color,
    "contrast": contrast,
    "brightness": brightness,
    "sharpness": sharpness,
}


class BoxColor(OnBoxes):
    """Change the colours of some objects. Only for labelled images."""

    op: ColorName
    "What to do."
    level: float | None = Field(None, ge=0, le=10)
    "Strength, for all operations but `autocontrast` and `equalize`. At 5, the factors of the four enhancements are 1."
    area: Three = (1.0, 1.0, 1.0)
    "How far it reaches, for small, middle and large objects; 1 = 2048, 6144 and 51200 pixels."

    @field_validator("area")
    @classmethod
    def _positive(cls, area: Three) -> Three:
        if min(area) <= 0:
            raise ValueError(f"areas are above 0, got {list(area)}")
        return area

    @model_validator(mode="after")
    def _level_fits(self) -> Self:
        if (self.level is None) != (self.op in PLAIN):
            raise ValueError(
                f"'{self.op}' {'has no level; remove it' if self.op in PLAIN else 'needs a level, 0 to 10'}"
            )
        return self

    def draw(self, rng: np.random.Generator, size: Size) -> Transform:
        """See ``transform.Augmentation.draw``."""
        return self.drawn(rng, size, self._change)

    def _change(self, seen: Seen, targets: Targets, chosen: np.ndarray, rng: np.random.Generator) -> Seen:
        pixels = self.colored(to_float(seen.image.array()), targets.boxes.numpy()[chosen])
        return replace(seen, image=Picture(to_bytes(pixels)))

    def colored(self, pixels: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        """Return the [H, W, 3] pixels in 0..1 with other colours around some boxes [M, 4]; not cut off at 0 and 1."""
        size = (pixels.shape[1], pixels.shape[0])
        after = PLAIN[self.op](pixels) if self.level is None else WITH_LEVEL[self.op](pixels, self.level)
        ratio = area_ratio(areas(boxes) / self.unit(size) ** 2, self.area)
        return blend(pixels, after, area_map(boxes, ratio, size))

"""Changes of colors of [H, W, 3] uint8 arrays, never in place. What is a table of 256 levels is done as one.

The rules are Pillow's ``ImageOps`` and ``ImageEnhance``: levels between two are cut off to the lower one.
"""

from __future__ import annotations

import math

import numpy as np

from ssod.transforms import raster

LEVELS = np.arange(256)


def table(levels: np.ndarray) -> np.ndarray:
    """Return levels of any shape as uint8, rounded and cut off at 0 and 255."""
    return levels.round().clip(0, 255).astype(np.uint8)


def _mixed(base: float, factor: float) -> np.ndarray:
    """Return the table that mixes each level, ``factor`` of it, with one."""
    levels = np.float32(base) + np.float32(factor) * (LEVELS - np.float32(base))
    return levels.clip(0, 255).astype(np.uint8)


def brightness(pixels: np.ndarray, factor: float) -> np.ndarray:
    """Multiply levels."""
    return raster.ops.looked_up(pixels, _mixed(0, factor))


def contrast(pixels: np.ndarray, factor: float) -> np.ndarray:
    """Move levels away from the mean luma, or towards it."""
    mean = int(raster.ops.mean_luma(pixels) + 0.5)
    return raster.ops.looked_up(pixels, _mixed(mean, factor))


def saturation(pixels: np.ndarray, factor: float) -> np.ndarray:
    """Move levels away from the pixel's luma, or towards it."""
    return raster.ops.saturated(pixels, factor)


def sharpness(pixels: np.ndarray, factor: float) -> np.ndarray:
    """Move levels away from those of a smooth picture, or towards them."""
    return raster.ops.sharpened(pixels, factor)


def hue(pixels: np.ndarray, turns: float) -> np.ndarray:
    """Turn the color circle by a share of it."""
    return raster.ops.in_hsv(pixels, np.stack([(LEVELS + int(turns * 255)) % 256, LEVELS, LEVELS]).astype(np.uint8))


def solarize(pixels: np.ndarray, threshold: float) -> np.ndarray:
    """Invert levels from a threshold on."""
    return raster.ops.looked_up(pixels, np.where(threshold > LEVELS, LEVELS, 255 - LEVELS).astype(np.uint8))


def posterize(pixels: np.ndarray, bits: float) -> np.ndarray:
    """Keep the highest bits of each level, 0 to 8, rounded up."""
    mask = 256 - 2 ** (8 - math.ceil(bits))
    return raster.ops.looked_up(pixels, (LEVELS & mask).astype(np.uint8))


def autocontrast(pixels: np.ndarray) -> np.ndarray:
    """Stretch each channel to 0..255."""
    tables = []
    for count in raster.ops.counts(pixels):
        there = np.flatnonzero(count)
        low, high = int(there[0]), int(there[-1])
        if high > low:
            scale = 255.0 / (high - low)
            tables.append((LEVELS * scale - low * scale).astype(int).clip(0, 255))
        else:
            tables.append(LEVELS)
    return raster.ops.looked_up(pixels, np.stack(tables).astype(np.uint8))


def equalize(pixels: np.ndarray) -> np.ndarray:
    """Make the levels of each channel equally frequent."""
    tables = []
    for count in raster.ops.counts(pixels):
        there = count[count > 0]
        step = int(there.sum() - there[-1]) // 255
        before = np.concatenate([[0], count.cumsum()[:-1]])
        tables.append(((step // 2 + before) // step).clip(0, 255) if len(there) > 1 and step else LEVELS)
    return raster.ops.looked_up(pixels, np.stack(tables).astype(np.uint8))

"""Pixels by OpenCV, in this thread alone. All arrays are [H, W, 3] uint8, RGB, and are never changed."""

from __future__ import annotations

import cv2
import numpy as np

from ssod.transforms import raster_torch
from ssod.transforms.raster_torch import shrunk

NAME = f"opencv {cv2.__version__}"
LONGEST = 32_000  # pixels of a side; OpenCV numbers pixels with 16 bits where it warps
cv2.setNumThreads(0)  # a loader has workers already, and threads do not survive the fork that makes them


def resized(pixels: np.ndarray, to: tuple[int, int]) -> np.ndarray:
    """Scale to (width, height), bilinear; a side that shrinks is antialiased."""
    height, width = pixels.shape[:2]
    if to[0] < width or to[1] < height:
        return shrunk(pixels, to)
    return cv2.resize(pixels, to, interpolation=cv2.INTER_LINEAR)


def warped(pixels: np.ndarray, back: np.ndarray, to: tuple[int, int]) -> np.ndarray:
    """Return a canvas of (width, height), read bilinear; far beyond the border of the picture it is black.

    Args:
        pixels: the picture.
        back: [3, 3] affine, places on the canvas -> places in the picture; a pixel's middle is at a half.
        to: size of the canvas.
    """
    if max(*pixels.shape[:2], *to) > LONGEST:
        return raster_torch.warped(pixels, back, to)
    half = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
    around = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])  # one pixel of border, less the half
    middles = (around @ back @ half)[:2]
    # Faster than three channels, and than to ask for the border everywhere; half a pixel of it is what can be seen.
    four = cv2.cvtColor(cv2.copyMakeBorder(pixels, 1, 1, 1, 1, cv2.BORDER_REPLICATE), cv2.COLOR_RGB2RGBA)
    how = {"flags": cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, "borderMode": cv2.BORDER_CONSTANT}
    return cv2.cvtColor(cv2.warpAffine(four, middles, to, **how), cv2.COLOR_RGBA2RGB)


def flipped(pixels: np.ndarray, across: bool) -> np.ndarray:
    """Swap left and right where ``across``, else top and bottom."""
    return cv2.flip(pixels, 1 if across else 0)


def filled(pixels: np.ndarray, where: np.ndarray, color: tuple[int, int, int]) -> np.ndarray:
    """Return the picture with one color where the mask [H, W] is true; it may be changed itself."""
    canvas = np.full_like(pixels, color[0] if len(set(color)) == 1 else color)  # of one level it is faster
    return cv2.copyTo(canvas, where.view(np.uint8), pixels)


def looked_up(pixels: np.ndarray, tables: np.ndarray) -> np.ndarray:
    """Replace levels by those of a table [256] uint8, or each channel's by those of its own in [3, 256]."""
    if tables.ndim == 1:
        return cv2.LUT(pixels, tables)
    return cv2.merge([cv2.LUT(channel, table) for channel, table in zip(cv2.split(pixels), tables)])


def reordered(pixels: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Put the channels into the order [3]."""
    channels = cv2.split(pixels)
    return cv2.merge([channels[i] for i in order])


def gray(pixels: np.ndarray) -> np.ndarray:
    """Return the luma [H, W]."""
    return cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)


def mean_luma(pixels: np.ndarray) -> float:
    """Return the mean luma in levels."""
    return cv2.mean(gray(pixels))[0]


def as_gray(pixels: np.ndarray) -> np.ndarray:
    """Return the picture without its color; three equal channels remain."""
    return cv2.cvtColor(gray(pixels), cv2.COLOR_GRAY2RGB)


def counts(pixels: np.ndarray) -> np.ndarray:
    """Return [3, 256], how often each channel has each level."""
    every = [cv2.calcHist([pixels], [i], None, [256], [0, 256]).ravel() for i in range(3)]
    return np.stack(every).astype(np.int64)


def saturated(pixels: np.ndarray, factor: float) -> np.ndarray:
    """Mix the picture with its luma, ``factor`` of the first and the rest of the second; levels are cut off."""
    return cv2.addWeighted(pixels, factor, as_gray(pixels), 1 - factor, -0.499)


def sharpened(pixels: np.ndarray, factor: float) -> np.ndarray:
    """Mix the picture with a smooth one, in which a pixel counts five times and its neighbors once.

    The outermost pixels stay; levels are cut off.
    """
    if min(pixels.shape[:2]) < 3:
        return pixels
    mean = cv2.blur(pixels, (3, 3), borderType=cv2.BORDER_REPLICATE)
    rest = (1 - factor) / 13
    result = cv2.addWeighted(pixels, factor + 4 * rest, mean, 9 * rest, -0.499)
    result[[0, -1]], result[:, [0, -1]] = pixels[[0, -1]], pixels[:, [0, -1]]
    return result


def blurred(pixels: np.ndarray, sigma: float) -> np.ndarray:
    """Blur with a Gaussian of ``sigma`` pixels, cut off at three of them; beyond the border, the border."""
    return cv2.GaussianBlur(pixels, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)


def mean3(pixels: np.ndarray) -> np.ndarray:
    """Replace each pixel by the mean of its 3 x 3 neighbors."""
    return cv2.blur(pixels, (3, 3), borderType=cv2.BORDER_REPLICATE)


def median3(pixels: np.ndarray) -> np.ndarray:
    """Replace each level by the median of its 3 x 3 neighbors."""
    return cv2.medianBlur(pixels, 3)


def in_hsv(pixels: np.ndarray, tables: np.ndarray) -> np.ndarray:
    """Replace hue, saturation and value by those of tables [3, 256] uint8; 256 levels are a turn of the hue."""
    parts = cv2.split(cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV_FULL))
    same = np.arange(256)
    parts = [part if np.array_equal(table, same) else cv2.LUT(part, table) for part, table in zip(parts, tables)]
    return cv2.cvtColor(cv2.merge(parts), cv2.COLOR_HSV2RGB_FULL)


def split_into(planes: np.ndarray, pixels: np.ndarray) -> None:
    """Write the channels of [H, W, 3] into planes [3, H, W], rows of which may lie apart."""
    cv2.split(pixels, list(planes))

"""Pixels by Pillow and torch. All arrays are [H, W, 3] uint8, RGB, and are never changed."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageFilter, __version__

NAME = f"pillow {__version__}, torch {torch.__version__.partition('+')[0]}"


def shrunk(pixels: np.ndarray, to: tuple[int, int]) -> np.ndarray:
    """Scale to (width, height), bilinear; a side that shrinks is antialiased, as Pillow's ``resize`` does it."""
    with torch.no_grad():
        planes = torch.from_numpy(writable(pixels)).permute(2, 0, 1)[None]
        done = F.interpolate(planes, to[::-1], mode="bilinear", antialias=True)
    return np.ascontiguousarray(done[0].permute(1, 2, 0).numpy())


resized = shrunk


def warped(pixels: np.ndarray, back: np.ndarray, to: tuple[int, int]) -> np.ndarray:
    """See ``raster_opencv.warped``."""
    # One pixel of border lies around it: what rounding takes for outside is no hole. All else there is painted over.
    wide = np.pad(pixels, [(1, 1), (1, 1), (0, 0)], "edge")
    shifted = np.array([[1.0, 0, 1], [0, 1, 1], [0, 0, 1]]) @ back
    how = Image.Transform.AFFINE, shifted[:2].ravel().tolist(), Image.Resampling.BILINEAR
    return np.asarray(Image.fromarray(wide).transform(to, *how))


def flipped(pixels: np.ndarray, across: bool) -> np.ndarray:
    """See ``raster_opencv.flipped``."""
    return np.ascontiguousarray(pixels[:, ::-1] if across else pixels[::-1])


def filled(pixels: np.ndarray, where: np.ndarray, color: tuple[int, int, int]) -> np.ndarray:
    """See ``raster_opencv.filled``."""
    image = Image.fromarray(pixels)
    image.paste(color, mask=Image.fromarray(where.view(np.uint8) * 255))
    return np.asarray(image)


def looked_up(pixels: np.ndarray, tables: np.ndarray) -> np.ndarray:
    """See ``raster_opencv.looked_up``."""
    return np.asarray(Image.fromarray(pixels).point(np.broadcast_to(tables, (3, 256)).ravel().tolist()))


def reordered(pixels: np.ndarray, order: np.ndarray) -> np.ndarray:
    """See ``raster_opencv.reordered``."""
    return np.ascontiguousarray(pixels[..., order])


def gray(pixels: np.ndarray) -> np.ndarray:
    """See ``raster_opencv.gray``."""
    return np.asarray(Image.fromarray(pixels).convert("L"))


def mean_luma(pixels: np.ndarray) -> float:
    """See ``raster_opencv.mean_luma``."""
    return float(gray(pixels).mean())


def as_gray(pixels: np.ndarray) -> np.ndarray:
    """See ``raster_opencv.as_gray``."""
    return np.asarray(Image.fromarray(pixels).convert("L").convert("RGB"))


def counts(pixels: np.ndarray) -> np.ndarray:
    """See ``raster_opencv.counts``."""
    return np.array(Image.fromarray(pixels).histogram(), np.int64).reshape(3, 256)


def saturated(pixels: np.ndarray, factor: float) -> np.ndarray:
    """See ``raster_opencv.saturated``."""
    return _mixed(as_gray(pixels), pixels, factor)


def sharpened(pixels: np.ndarray, factor: float) -> np.ndarray:
    """See ``raster_opencv.sharpened``."""
    return _mixed(np.asarray(Image.fromarray(pixels).filter(ImageFilter.SMOOTH)), pixels, factor)


def blurred(pixels: np.ndarray, sigma: float) -> np.ndarray:
    """See ``raster_opencv.blurred``."""
    reach = (round(6 * sigma + 1) | 1) // 2
    weight = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * sigma**2))
    levels = pixels.astype(np.float32)
    for axis in (0, 1):
        levels = _weighted(levels, (weight / weight.sum()).astype(np.float32), axis)
    return levels.round().astype(np.uint8)


def mean3(pixels: np.ndarray) -> np.ndarray:
    """See ``raster_opencv.mean3``."""
    return np.asarray(Image.fromarray(pixels).filter(ImageFilter.BoxBlur(1)))


def median3(pixels: np.ndarray) -> np.ndarray:
    """See ``raster_opencv.median3``."""
    return np.asarray(Image.fromarray(pixels).filter(ImageFilter.MedianFilter(3)))


def in_hsv(pixels: np.ndarray, tables: np.ndarray) -> np.ndarray:
    """See ``raster_opencv.in_hsv``."""
    return np.asarray(Image.fromarray(pixels).convert("HSV").point(tables.ravel().tolist()).convert("RGB"))


def split_into(planes: np.ndarray, pixels: np.ndarray) -> None:
    """See ``raster_opencv.split_into``."""
    for i in range(3):
        planes[i] = pixels[..., i]


def writable(pixels: np.ndarray) -> np.ndarray:
    """Return the same pixels as an array that torch takes without a warning."""
    return pixels if pixels.flags.writeable else pixels.copy()


def _weighted(levels: np.ndarray, weight: np.ndarray, axis: int) -> np.ndarray:
    """Return the sum of 2 r + 1 neighbors along an axis, each with its weight, the same on both sides."""
    reach, length = len(weight) // 2, levels.shape[axis]
    wide = np.pad(levels, [(reach, reach) if d == axis else (0, 0) for d in range(3)], "edge")

    def neighbor(k: int) -> np.ndarray:
        return wide[k : k + length] if axis == 0 else wide[:, k : k + length]

    total = neighbor(reach) * weight[reach]
    for k in range(reach):
        total += (neighbor(k) + neighbor(2 * reach - k)) * weight[k]
    return total


def _mixed(first: np.ndarray, second: np.ndarray, factor: float) -> np.ndarray:
    return np.asarray(Image.blend(Image.fromarray(first), Image.fromarray(second), factor))

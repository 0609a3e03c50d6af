"""Where around an object an operation acts, and how strongly: Gaussians whose area follows the object's scale.

From scale-aware AutoAugment (arXiv:2103.17220), by the released code where the two differ: the printed deviations have
the area ratio outside the root, which squares it.

A map is ``exp(-(y - y0)^2 / (2 s_y^2) - (x - x0)^2 / (2 s_x^2))``, with the object's middle (its corner and the whole
part of half its sides), ``s_y = h / H * R``, ``s_x = w / W * R`` and ``R = sqrt(r H W / (2 pi))`` for an object of
h x w pixels in a picture of H x W: its mass is r h w. The ratio r is not that of the policy but such that small objects
have the mass of 2048 pixels times theirs, middle ones of 6144, large ones of 51200; beyond 51200 pixels r is the
policy's. So within a class of sizes the mass is a constant.
"""

from __future__ import annotations

import numpy as np

from ssod.transforms.transform import Size

SMALL, MIDDLE, LARGE = 2048.0, 10240.0, 51200.0  # areas in pixels; one that is reached belongs to the larger class
MASSES = (2048.0, 6144.0, 51200.0)  # of the three classes, at ratio 1
Three = tuple[float, float, float]  # of small, middle and large objects


def areas(boxes: np.ndarray) -> np.ndarray:
    """Return [M] areas of boxes [M, 4] in pixels; 0 where a side is not positive."""
    return (boxes[:, 2:] - boxes[:, :2]).clip(min=0).prod(1)


def size_class(area: np.ndarray) -> np.ndarray:
    """Return [M] in 0..2: small, middle, large."""
    return (area >= SMALL).astype(int) + (area >= MIDDLE)


def chance_of(area: np.ndarray, chance: Three) -> np.ndarray:
    """Return [M], the probability that a box takes part; one without area never does."""
    return np.where(area > 0, np.asarray(chance)[size_class(area)], 0.0)


def area_ratio(area: np.ndarray, ratio: Three) -> np.ndarray:
    """Return [M], the mass of each object's map over its own area.

    Args:
        area: [M], above 0.
        ratio: of the policy, for the three classes.
    """
    kind = size_class(area)
    own = np.asarray(ratio)[kind]
    return np.where(area < LARGE, own * np.asarray(MASSES)[kind] / area, own)


def profiles(start: np.ndarray, side: np.ndarray, ratio: np.ndarray, length: int, across: int) -> np.ndarray:
    """Return [M, length], the factors of maps along one axis of a picture.

    Args:
        start, side: [M] where each object begins on this axis, and how long it is.
        ratio: [M] mass over area.
        length: pixels of the picture on this axis.
        across: pixels of the picture on the other one.
    """
    deviation = side / length * np.sqrt(ratio * length * across / (2 * np.pi))
    middle = start + np.floor(side / 2)
    return np.exp(-(((np.arange(length) - middle[:, None]) / deviation[:, None]) ** 2) / 2)


def area_map(boxes: np.ndarray, ratio: np.ndarray, size: Size) -> np.ndarray:
    """Return [H, W], the sum of the maps of some objects, which is above 1 where they overlap.

    Args:
        boxes: [M, 4], with positive sides.
        ratio: [M] mass over area.
        size: (width, height) of the picture.
    """
    (x, y), (w, h) = boxes[:, :2].T, (boxes[:, 2:] - boxes[:, :2]).T
    return profiles(y, h, ratio, size[1], size[0]).T @ profiles(x, w, ratio, size[0], size[1])


def blend(before: np.ndarray, after: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Return ``before (1 - alpha) + after alpha`` of [H, W, C] pixels; alpha [H, W] above 1 goes beyond ``after``."""
    alpha = alpha.astype(before.dtype)[..., None]
    return before * (1 - alpha) + after * alpha


def to_float(pixels: np.ndarray) -> np.ndarray:
    """Return 8-bit pixels as float32 in 0..1."""
    return pixels.astype(np.float32) / 255


def to_bytes(pixels: np.ndarray) -> np.ndarray:
    """Return pixels as 8 bits, rounded and cut off at 0 and 255."""
    return (pixels * 255).round().clip(0, 255).astype(np.uint8)

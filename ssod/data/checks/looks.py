"""What is kept of a picture to tell whether two show the same: a hash of 64 bits, and 16 x 16 grey values."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

SIDE = 16  # of the grey values
_FINE = 32  # of the picture that is hashed
_WAVES = 8  # lowest frequencies on each axis: 64 bits
FLAT = 2.0  # standard deviation of grey values below which a picture shows nothing that could be compared


def _cosines() -> np.ndarray:
    """Return [8, 32], the first rows of the DCT of type 2; its factors do not matter, for signs alone are asked."""
    place = (2 * np.arange(_FINE) + 1) * math.pi / (2 * _FINE)
    return np.cos(np.arange(_WAVES)[:, None] * place).astype(np.float32)


_COSINES = _cosines()


@dataclass(frozen=True)
class Looks:
    """What is kept of N images.

    Attributes:
        hash: [N] uint64, see ``hash_of``.
        grey: [N, 256] uint8, rows of 16 values.
        seen: [N] bool, which images were looked at and are not of one grey.
    """

    hash: np.ndarray
    grey: np.ndarray
    seen: np.ndarray

    @classmethod
    def none_of(cls, images: int) -> Looks:
        """Return room for so many images, none of which was looked at."""
        return cls(np.zeros(images, np.uint64), np.zeros((images, SIDE * SIDE), np.uint8), np.zeros(images, bool))

    def take(self, row: int, picture: Image.Image) -> None:
        """Look at image ``row``; threads may call this for rows of their own."""
        grey = picture.resize((_FINE, _FINE), Image.Resampling.BOX, reducing_gap=2.0).convert("L")
        fine = np.asarray(grey, np.float32)
        small = fine.reshape(SIDE, 2, SIDE, 2).mean((1, 3))
        self.hash[row] = hash_of(fine)
        self.grey[row] = small.round().ravel()
        self.seen[row] = small.std() >= FLAT


def hash_of(fine: np.ndarray) -> np.uint64:
    """Return which of a picture's 64 lowest frequencies are above their median.

    The hash by DCT of C. Zauner, Implementation and Benchmarking of Perceptual Image Hash Functions, 2010, section
    3.2.1. The mean grey, which is no frequency, counts as 0. A difference hash was tried: 421 pairs of different
    images of steel (NEU-DET) have the same one, for their grey hardly changes from left to right.

    Args:
        fine: [32, 32] float32.
    """
    waves = (_COSINES @ fine @ _COSINES.T).ravel()
    waves[0] = 0
    return np.packbits(waves > np.median(waves[1:])).view(np.uint64)[0]

"""Which image comes at which position of an endless stream: pure functions, so there is no state to save.

Position ``p`` of a stream over ``n`` images lies in epoch ``p // n``; every epoch is a fresh permutation that depends
on (seed, stream, epoch) alone. Batches may cross epochs and may be larger than the set.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from ssod.utils import seeding


@lru_cache(maxsize=8)
def _permutation(n: int, seed: int, stream: str, epoch: int) -> np.ndarray:
    return seeding.generator(seed, stream, "epoch", epoch).permutation(n)


@dataclass(frozen=True)
class Shuffled:
    """An endless shuffled stream over ``0..n-1``.

    Args:
        n: number of images, at least 1.
        seed: the run's seed.
        stream: name of the stream; streams of different names are independent.
    """

    n: int
    seed: int
    stream: str

    def __call__(self, position: int) -> int:
        """Return the image at ``position``."""
        epoch, offset = divmod(position, self.n)
        return int(_permutation(self.n, self.seed, self.stream, epoch)[offset])

    def batch(self, number: int, size: int) -> list[int]:
        """Return the images of batch ``number`` when every batch has ``size`` of them."""
        return [self(p) for p in range(number * size, (number + 1) * size)]


@dataclass(frozen=True)
class Grouped:
    """A stream whose batches hold either wide images (width > height) or the others, never both.

    Batch ``b`` is wide when ``floor(b * wide / n)`` grows with it, so that wide batches come as often as wide images
    do; each group is a ``Shuffled`` stream of its own. An empty group is never drawn.

    Args:
        wide: [W] indices of the wide images.
        others: [T] indices of the rest; ``W + T`` is at least 1.
        seed: the run's seed.
        stream: name of the stream.
    """

    wide: np.ndarray = field(repr=False)
    others: np.ndarray = field(repr=False)
    seed: int
    stream: str

    @staticmethod
    def from_sizes(sizes: np.ndarray, seed: int, stream: str) -> Grouped:
        """Group images by ``sizes`` [N, 2], (height, width)."""
        is_wide = sizes[:, 1] > sizes[:, 0]
        return Grouped(np.flatnonzero(is_wide), np.flatnonzero(~is_wide), seed, stream)

    def batch(self, number: int, size: int) -> list[int]:
        """Return the images of batch ``number`` when every batch has ``size`` of them."""
        n = len(self.wide) + len(self.others)
        before = number * len(self.wide) // n
        if (number + 1) * len(self.wide) // n > before:
            members, name, mine = self.wide, "wide", before
        else:
            members, name, mine = self.others, "others", number - before
        inner = Shuffled(len(members), self.seed, f"{self.stream}/{name}")
        return [int(members[i]) for i in inner.batch(mine, size)]

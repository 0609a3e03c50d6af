"""Images of two sets that show the same: re-encoded, resized, brightened or slightly cropped copies, frames of a film.

Two images are near duplicates where their hashes differ in at most ``BITS`` of 64 bits and their grey values, 16 x 16,
correlate by ``ALIKE`` or more. The hash finds candidates, the correlation is what decides. Measured on the sets that
this project is developed with, all pairs within a set, 1.8 million: NEU-DET (1799 images) has 1 such pair, BCCD (364)
1, playing cards (363) 6, COCO (239) 0; looked at by eye, all 8 are of one scene. The hash alone has 3, 1, 12 and 0.
Of 265 images of these sets, found again: re-encoded at quality 50, half the size, darker, more contrast, 1 % cropped
all; brighter 262; 2 % cropped 264; 3 % cropped 239; 5 % cropped 78.

Hashes that differ in at most 10 bits agree in one of 11 bands of bits at least, so that only images of one band are
compared. An image that has found one like it is not compared any more, so that many frames of one scene cost little.
100 000 images against 100 000 took 13 s of CPU time for hashes at random, and 4 s for frames of one scene.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from ssod.data.checks.looks import Looks

BITS = 10  # of 64
ALIKE = 0.93
_BLOCK = 1 << 18  # hashes compared at once
_VERIFIED = 1 << 14  # pairs whose grey values are compared at once
_FIRST = 16  # images of the first set that a band's others meet first


def near_duplicates(first: Looks, second: Looks) -> np.ndarray:
    """Return [P, 2] int64: (row of ``first``, row of ``second``), each image of ``second`` that is like one, once."""
    like = np.full(len(second.seen), -1, np.int64)
    mine = np.flatnonzero(first.seen)
    for shift, width in _bands():
        left = np.flatnonzero(second.seen & (like < 0))
        for ours, theirs in _same_band(first.hash, mine, second.hash, left, shift, width):
            _search(first, ours, second, theirs, like)
    found = np.flatnonzero(like >= 0)
    return np.stack([like[found], found], 1)


def _bands() -> Iterator[tuple[int, int]]:
    """Yield where each of ``BITS + 1`` bands begins, and how many bits it has; together they are all 64."""
    ends = np.linspace(0, 64, BITS + 2).round().astype(int).tolist()
    for low, high in pairwise(ends):
        yield low, high - low


def _same_band(
    hash1: np.ndarray, rows1: np.ndarray, hash2: np.ndarray, rows2: np.ndarray, shift: int, width: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the rows of both sets that agree in a band of bits, for each value of it that both have."""
    mask = np.uint64((1 << width) - 1)
    edges = np.arange((1 << width) + 1, dtype=np.uint64)
    parts = []
    for hashes, rows in ((hash1, rows1), (hash2, rows2)):
        key = (hashes[rows] >> np.uint64(shift)) & mask
        order = np.argsort(key, kind="stable")
        parts.append((rows[order], np.searchsorted(key[order], edges)))
    (ours, at1), (theirs, at2) = parts
    for value in range(1 << width):
        one, other = ours[at1[value] : at1[value + 1]], theirs[at2[value] : at2[value + 1]]
        if len(one) and len(other):
            yield one, other


def _search(first: Looks, ours: np.ndarray, second: Looks, theirs: np.ndarray, like: np.ndarray) -> None:
    """Write into ``like`` the row of ``ours`` that each of ``theirs`` is like, if any."""
    begin, step = 0, _FIRST
    while begin < len(ours) and len(theirs):
        part = ours[begin : begin + step]
        apart = np.bitwise_count(first.hash[part][:, None] ^ second.hash[theirs][None])
        i, j = np.nonzero(apart <= BITS)
        for k in range(0, len(i), _VERIFIED):
            one, other = part[i[k : k + _VERIFIED]], theirs[j[k : k + _VERIFIED]]
            good = correlation(first.grey[one], second.grey[other]) >= ALIKE
            like[other[good]] = one[good]
        theirs = theirs[like[theirs] < 0]
        begin += step
        step = max(1, min(2 * step, _BLOCK // max(len(theirs), 1)))


def correlation(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return [P] float32: Pearson's correlation of grey values, row by row of two [P, 256]."""
    one, other = (values.astype(np.float32) for values in (one, other))
    one -= one.mean(1, keepdims=True)
    other -= other.mean(1, keepdims=True)
    norm = np.sqrt(np.einsum("pi,pi->p", one, one) * np.einsum("pi,pi->p", other, other))
    return np.einsum("pi,pi->p", one, other) / np.maximum(norm, 1e-6)

"""COCO's ``area``, by which AP tells small objects from large ones: the mask's, where a file has one that can be it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ssod.data.formats.columns import Rows
from ssod.data.formats.findings import Context

LEAST = 0.5  # of a box's longer side: what touches both ends of a box covers about as many pixels as that side has
MOST = 1.1  # of the box, a pixel more on each axis included: what tools that count pixels and boundaries come to
SAME = 0.1  # a share by which two areas may differ without a word


def areas(table: Rows, rows: np.ndarray, whole: np.ndarray, clipped: np.ndarray, ctx: Context) -> np.ndarray:
    """Return float64 [A]: the area that the file states, or that of the segmentation or else the box; counts repairs.

    A stated area that no mask in the box can have is none: 0, 1.0, a share of the image, one in another unit.

    Args:
        table: the annotations.
        rows: [A] their numbers.
        whole: [A, 4] corners in pixels.
        clipped: [A, 4] the same, cut off where the image ends.
        ctx: section and findings.
    """
    own = (clipped[:, 2:] - clipped[:, :2]).astype(np.float64).prod(1)
    numbers = (v if type(v) in (int, float) and 0 <= v < 1e15 else -1 for v in table.values("area"))
    found = np.fromiter(numbers, dtype=np.float64, count=len(table))[rows]
    sides = (whole[:, 2:] - whole[:, :2]).astype(np.float64)
    wrong = (found < LEAST * sides.max(1, initial=0)) | (found > MOST * (sides + 1).prod(1))
    stated, changed = found >= 0, []
    found = np.where(stated, found, own)
    for i in np.flatnonzero(wrong & stated & (own > 0)).tolist():
        better = _segmented(table.rows[int(rows[i])].get("segmentation")) or own[i]
        if abs(better - found[i]) > SAME * better:
            changed.append((i, found[i]))
            found[i] = better
    if changed:
        i, was = changed[0]
        first = table.place(int(rows[i]), "area")
        problem = f"{len(changed)} areas that cannot be, first {first} {was:g} of a box {sides[i, 0]:g}×{sides[i, 1]:g}"
        fix = "that of the segmentation, or of the box, is used"
        ctx.findings.repaired("D33", table.file, ctx.section, problem, fix, count=len(changed))
    return found


def _segmented(value: Any) -> float:
    """Return the area of COCO's polygons or run lengths; 0 of anything else."""
    try:
        if isinstance(value, list):
            return sum(_polygon(np.asarray(part, dtype=np.float64)) for part in value)
        if isinstance(value, Mapping):
            counts = value["counts"]
            return float(sum((unpacked(counts) if isinstance(counts, str) else counts)[1::2]))
    except (KeyError, IndexError, TypeError, ValueError):  # nobody trains on masks here: a broken one is none
        return 0.0
    return 0.0


def unpacked(text: str) -> list[int]:
    """Return the run lengths that COCO packs into a string.

    Six bits a letter, counted from "0": five of the number, the lowest first, and whether more follow; the last one's
    highest is the sign. From the fourth on, a number is the difference to the one before the last.
    """
    counts: list[int] = []
    value, shift = 0, 0
    for letter in map(ord, text):
        bits = letter - 48
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            value -= (1 << shift) if bits & 16 else 0
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value, shift = 0, 0
    return counts


def _polygon(flat: np.ndarray) -> float:
    x, y = flat[::2], flat[1::2]  # slices, not np.roll: a file may have a million of them
    return 0.5 * abs(float(x[:-1] @ y[1:] - y[:-1] @ x[1:] + x[-1] * y[0] - y[-1] * x[0]))

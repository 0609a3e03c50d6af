"""The box around a polygon or a mask, where an annotation has no box of its own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ssod.data.formats.areas import unpacked
from ssod.data.formats.columns import Rows
from ssod.data.formats.findings import Context

Corners = tuple[float, float, float, float]  # x1, y1, x2, y2


def fill_boxes(table: Rows, box_format: str | None, ctx: Context) -> None:
    """Give annotations without a ``bbox`` the one around their ``segmentation``, and record how many.

    One without both, or in a file whose boxes are shares of the image, stays as it is, which is an error later.
    """
    wanted = (box_format or "xywh").removesuffix("_norm")
    filled = 0
    for row in table.rows if not (box_format or "").endswith("_norm") else ():
        corners = None if row.get("bbox") else around(row.get("segmentation"))
        if corners is not None and row.get("bbox") in (None, []):
            row["bbox"] = _written(corners, wanted)
            filled += 1
    if filled:
        problem = f"{filled} annotations have no bbox: that around their segmentation is used"
        ctx.findings.repaired("D21", table.file, ctx.section, problem, count=filled)


def around(segmentation: Any) -> Corners | None:
    """Return the box around COCO's polygons or run lengths in pixels; None of anything else."""
    try:
        if isinstance(segmentation, list) and segmentation:
            parts = segmentation if isinstance(segmentation[0], list) else [segmentation]
            return around_points([number for part in parts for number in part])
        if isinstance(segmentation, Mapping):
            return _around_runs(*segmentation["size"], segmentation["counts"])
    except (KeyError, IndexError, TypeError, ValueError, OverflowError):
        return None
    return None


def around_points(flat: list[Any]) -> Corners | None:
    """Return the box around points ``x, y, x, y, ...``; None where they are no finite numbers, or odd in number."""
    if len(flat) < 4 or len(flat) % 2 or set(map(type, flat)) - {int, float}:
        return None
    points = np.array(flat, dtype=np.float64).reshape(-1, 2)
    if not np.isfinite(points).all():
        return None
    (x1, y1), (x2, y2) = points.min(0).tolist(), points.max(0).tolist()
    return x1, y1, x2, y2


def _around_runs(height: int, width: int, counts: list[int] | str) -> Corners | None:
    """Return the box of the pixels that run lengths mark: down each column, first those outside, then those inside."""
    runs = np.array([*(unpacked(counts) if isinstance(counts, str) else counts), 0], dtype=np.int64)
    runs = np.append(runs, 0) if len(runs) % 2 else runs
    ends = runs.cumsum()
    if type(height) is not int or type(width) is not int or (runs < 0).any() or not 0 < ends[-1] <= height * width:
        return None
    first, last = ends[0::2], ends[1::2] - 1
    marked = last >= first
    if not marked.any():
        return None
    first, last = first[marked], last[marked]
    left, right = first // height, last // height
    long = left != right  # from one column into another
    top = np.where(long, 0, first % height).min()
    bottom = np.where(long, height - 1, last % height).max()
    return float(left.min()), float(top), float(right.max() + 1), float(bottom + 1)


def turned(x: float, y: float, width: float, height: float, degrees: float) -> Corners:
    """Return the box around a rectangle that is turned clockwise about its corner ``x, y``."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    right, down = (width * cos, width * sin), (-height * sin, height * cos)
    xs = [x, x + right[0], x + down[0], x + right[0] + down[0]]
    ys = [y, y + right[1], y + down[1], y + right[1] + down[1]]
    return min(xs), min(ys), max(xs), max(ys)


def _written(corners: Corners, box_format: str) -> list[float]:
    x1, y1, x2, y2 = corners
    if box_format == "xyxy":
        return [x1, y1, x2, y2]
    if box_format == "cxcywh":
        return [(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1]
    return [x1, y1, x2 - x1, y2 - y1]

"""Which boxes a detector can be taught: those that one of its anchors overlaps enough, or one of its points lies in.

A box is looked at where it is in the network's input, so that both its size there and its place on the grid of cells
count. Cells are a stride apart; the anchors of a cell lie around its corner (offset 0) or its middle (offset 0.5), and
the cells of a level end with the image, padding aside: ``n = ceil(side / stride)`` of them on each axis.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ssod.data.formats.findings import short

Sides = tuple[tuple[float, float], ...]  # width and height of each anchor of a cell


@dataclass(frozen=True)
class Seen:
    """Boxes of labelled images in the network's input.

    Attributes:
        boxes: [A, 4] float64 ``x1, y1, x2, y2`` in pixels of the input.
        canvas: [A, 2] float64 (width, height) of the box's image there.
        labels: [A] int64.
    """

    boxes: np.ndarray
    canvas: np.ndarray
    labels: np.ndarray

    @property
    def sides(self) -> np.ndarray:
        """[A, 2] width and height."""
        return self.boxes[:, 2:] - self.boxes[:, :2]

    @property
    def centers(self) -> np.ndarray:
        """[A, 2] x and y."""
        return (self.boxes[:, 2:] + self.boxes[:, :2]) / 2


class Reach(Protocol):
    """What the rows of a detector can take."""

    def within(self, seen: Seen) -> np.ndarray:
        """Return [A] bool: which boxes some row can take."""
        ...


@dataclass(frozen=True)
class Anchored:
    """Anchors that must overlap a box.

    A box of width and height ``(W, H)`` is within reach where, for some level and some anchor ``(w, h)`` of it,

        IoU = iw * ih / (W * H + w * h - iw * ih) >= least,    iw = max(0, min(W, w, (W + w) / 2 - dx)),  ih likewise,

    with ``dx, dy`` from the box's center to the nearest center of that level's cells. The nearest is the best of a
    level, for IoU only falls with ``dx`` and with ``dy``; at ``dx = dy = 0`` the shape alone decides.

    Attributes:
        strides: pixels per cell of each level.
        sides: anchors of a cell of each level, in pixels.
        least: the overlap that is asked for.
        offset: see the head of this file.
    """

    strides: tuple[float, ...]
    sides: tuple[Sides, ...]
    least: float = 0.5
    offset: float = 0.0

    def within(self, seen: Seen) -> np.ndarray:
        """See ``Reach.within``."""
        return self.overlap(seen) >= self.least

    def overlap(self, seen: Seen) -> np.ndarray:
        """Return [A] float64: the IoU of each box with its best anchor."""
        size, area, best = seen.sides, seen.sides.prod(1), np.zeros(len(seen.boxes))
        for stride, level in zip(self.strides, self.sides, strict=True):
            away = nearest(seen, stride, self.offset)
            for side in np.array(level, dtype=np.float64):
                inner = np.minimum(np.minimum(size, side), (size + side) / 2 - away).clip(0).prod(1)
                np.maximum(best, inner / np.maximum(area + side.prod() - inner, 1e-9), out=best)
        return best


@dataclass(frozen=True)
class Points:
    """Points that must lie in a box.

    A box is within reach where, on some level, the point nearest to its center lies strictly inside it, less than
    ``radius`` strides from the center on each axis, and the farthest side of the box is ``low`` to ``high`` strides of
    that level away from it: ``low < max(W / 2 + dx, H / 2 + dy) / stride < high``. Without a lower bound is the first
    level, without an upper one the last.

    Attributes:
        strides: pixels per cell of each level.
        radius: in strides; infinite = anywhere in the box.
        low, high: range of a level in strides, FCOS's; 0 and infinite = any level takes any box.
        offset: see the head of this file.
    """

    strides: tuple[float, ...]
    radius: float = 1.5
    low: float = 4.0
    high: float = 8.0
    offset: float = 0.0

    def within(self, seen: Seen) -> np.ndarray:
        """See ``Reach.within``."""
        half, found = seen.sides / 2, np.zeros(len(seen.boxes), dtype=bool)
        for i, stride in enumerate(self.strides):
            away = nearest(seen, stride, self.offset)
            far = (half + away).max(1)
            low = 0.0 if i == 0 else self.low * stride
            high = math.inf if i == len(self.strides) - 1 else self.high * stride
            inside = ((away < half) & (away < self.radius * stride)).all(1)
            found |= inside & (far > low) & (far < high)
        return found


@dataclass(frozen=True)
class Shapes:
    """Anchors that must have about a box's shape, wherever they lie: no side ``most`` times the other's (YOLO's rule).

    Attributes:
        sides: the anchors of all levels, in pixels.
        most: the factor from which on two sides differ too much.
    """

    sides: Sides
    most: float = 4.0

    def within(self, seen: Seen) -> np.ndarray:
        """See ``Reach.within``."""
        size, found = seen.sides, np.zeros(len(seen.boxes), dtype=bool)
        for side in np.array(self.sides, dtype=np.float64):
            found |= ((size < self.most * side) & (side < self.most * size)).all(1)
        return found


@dataclass(frozen=True)
class Whole:
    """The same, of boxes that the canvas shows whole, to a pixel: those that are cut are found in parts at best.

    Attributes:
        reach: what rows can take.
    """

    reach: Reach

    def within(self, seen: Seen) -> np.ndarray:
        """See ``Reach.within``."""
        inside = (seen.boxes[:, :2] >= -1).all(1) & (seen.boxes[:, 2:] <= seen.canvas + 1).all(1)
        return self.reach.within(seen) & inside


def nearest(seen: Seen, stride: float, offset: float) -> np.ndarray:
    """Return [A, 2]: pixels on each axis from a box's center to the nearest center of a cell."""
    last = np.ceil(seen.canvas / stride) - 1
    cell = np.clip(np.round(seen.centers / stride - offset), 0, last)
    return np.abs(seen.centers - (cell + offset) * stride)


@dataclass(frozen=True)
class Coverage:
    """How many labelled boxes are within reach.

    Attributes:
        boxes: how many there are, crowds aside.
        out: how many of them are out of reach.
        side: median of the sides (roots of areas) of these, in pixels of the network's input; 0 = none is.
        worst: the class that most of these are of; empty = none is.
        worst_out: how many of these are of that class.
        worst_boxes: how many boxes that class has.
        cut: how many of those out of reach the detector could take if a tile showed them whole.
    """

    boxes: int
    out: int
    side: float = 0.0
    worst: str = ""
    worst_out: int = 0
    worst_boxes: int = 0
    cut: int = 0

    @property
    def share(self) -> float:
        """Share within reach, 0..1; 1 where there is no box."""
        return 1 - self.out / self.boxes if self.boxes else 1.0

    def within(self) -> str:
        """Return ``97.9 % of 1024 boxes``, rounded down: 100 % is all."""
        return f"{math.floor(self.share * 1000 + 1e-9) / 10:g} % of {self.boxes} boxes"

    def beyond(self) -> str:
        """Return what is out of reach in words; empty where nothing is."""
        if not self.out:
            return ""
        side = f"median side {self.side:.0f} pixels of the network's input"
        side += f", {self.cut} of them in no tile as a whole" if self.cut else ""
        return f"{self.out}, {side}; {short(self.worst)} loses most: {self.worst_out} of {self.worst_boxes}"


def cover(seen: Seen, reach: Reach, names: tuple[str, ...]) -> Coverage:
    """Count the boxes within reach.

    Args:
        seen: boxes that are no crowds.
        reach: what the detector can take.
        names: the classes.
    """
    lost = ~reach.within(seen)
    count = int(lost.sum())
    if not count:
        return Coverage(len(seen.boxes), 0)
    of_class = np.bincount(seen.labels[lost], minlength=len(names))
    worst = int(of_class.argmax())
    side = float(np.median(np.sqrt(seen.sides[lost].prod(1))))
    own = int((seen.labels == worst).sum())
    cut = int((lost & reach.reach.within(seen)).sum()) if isinstance(reach, Whole) else 0
    return Coverage(len(seen.boxes), count, side, names[worst], int(of_class[worst]), own, cut)

"""Boxes that a person should look at: very small or large ones, very long ones, and two classes at one place.

Each rule is a question, not a verdict: a scratch is long, and a defect may fill its image.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ssod.data.formats.records import Labeled

TINY = 0.01  # root of a box's area over that of its image's: 5.5 pixels in 640 x 480
HUGE = 0.95  # a box's area over its image's
LONG = 10.0  # a box's longer side over its shorter one
SAME = 0.9  # IoU of two boxes of different classes


@dataclass(frozen=True)
class Odd:
    """Boxes that one rule asks about.

    Attributes:
        name: of the rule: ``tiny``, ``huge``, ``long`` or ``two classes``.
        what: the rule in words.
        rows: [B] int64, boxes, the most conspicuous first.
        values: [B] float64, what the rule measured: share of the side, share of the area, ratio, IoU.
        others: [B] int64, the other box of a pair; -1 where the rule asks about one box.
    """

    name: str
    what: str
    rows: np.ndarray
    values: np.ndarray
    others: np.ndarray


def odd_boxes(data: Labeled) -> list[Odd]:
    """Return what each rule finds; crowds are not asked about. The images have sizes."""
    objects = np.flatnonzero(~data.crowd)
    owner = np.repeat(np.arange(len(data)), np.diff(data.starts))[objects]
    sides = (data.boxes[objects, 2:] - data.boxes[objects, :2]).astype(np.float64)
    share = sides.prod(1) / np.maximum(data.images.sizes[owner].astype(np.float64).prod(1), 1.0)
    ratio = sides.max(1, initial=0) / np.maximum(sides.min(1, initial=np.inf), 1e-6)
    root = np.sqrt(share)
    rows, others, overlap = two_classes(data)
    order = np.argsort(-overlap, kind="stable")
    return [
        _ranked("tiny", f"side below {TINY:.0%} of the image's", objects, root, root < TINY, 1),
        _ranked("huge", f"{HUGE:.0%} of the image or more", objects, share, share >= HUGE, -1),
        _ranked("long", f"one side {LONG:g} times the other or more", objects, ratio, ratio >= LONG, -1),
        Odd("two classes", f"IoU {SAME:g} or more", rows[order], overlap[order], others[order]),
    ]


def _ranked(name: str, what: str, objects: np.ndarray, values: np.ndarray, odd: np.ndarray, sign: int) -> Odd:
    found = np.flatnonzero(odd)
    found = found[np.argsort(sign * values[found], kind="stable")]
    return Odd(name, what, objects[found], values[found], np.full(len(found), -1, np.int64))


def two_classes(data: Labeled) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return [B] and [B] rows of boxes of one image and different classes, and [B] their IoU, of at least ``SAME``.

    Two boxes whose IoU is so high have centers near each other: those of an image are sorted by their left sides, and
    each is compared with the next ones, until no box of any image has one so near to its right.
    """
    objects = np.flatnonzero(~data.crowd)
    owner = np.repeat(np.arange(len(data)), np.diff(data.starts))[objects]
    order = np.lexsort((data.boxes[objects, 0], owner))
    rows, owner = objects[order], owner[order]
    boxes = data.boxes[rows].astype(np.float64)
    width = boxes[:, 2] - boxes[:, 0]
    pairs: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    left = np.arange(len(rows))
    for step in range(1, len(rows)):
        left = left[left + step < len(rows)]
        left = left[owner[left] == owner[left + step]]
        # intersection / union >= SAME bounds how far the left sides are apart by (1 - SAME) of the wider box / SAME
        left = left[boxes[left + step, 0] - boxes[left, 0] <= (1 - SAME) / SAME * width[left] + 1e-6]
        if not len(left):
            break
        overlap = _iou(boxes[left], boxes[left + step])
        good = (overlap >= SAME) & (data.labels[rows[left]] != data.labels[rows[left + step]])
        pairs.append((rows[left[good]], rows[left[good] + step], overlap[good]))
    if not pairs:
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0)
    one, other, overlap = (np.concatenate(part) for part in zip(*pairs))
    return one, other, overlap


def _iou(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return [P] IoU of two [P, 4], row by row."""
    inner = (np.minimum(one[:, 2:], other[:, 2:]) - np.maximum(one[:, :2], other[:, :2])).clip(0).prod(1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(1) for boxes in (one, other)]
    return inner / np.maximum(areas[0] + areas[1] - inner, 1e-9)

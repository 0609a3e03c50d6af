"""Which images a person should label next: those whose labels are worth most, and that are unlike each other.

The value of an image is the mean over its boxes of how unsure each is, times how rare its class is::

    value    = sum(rarity[class] * nearness(score)) / (boxes + 1)
    rarity   = sqrt((1 + fewest) / (1 + labelled boxes of the class)), 1 for the rarest class

``nearness`` is that of ``review_queue``: 1 on the threshold of the class, 0 at half of it and at 1; boxes below half of
it are not among the boxes. The 1 stands for a box without doubt, so that one box alone makes no image the best. Images
are chosen one after the other, each time the one of the highest gain::

    gain     = value * (1 - largest likeness to an image that was chosen before)
    likeness = cosine of two 8 x 8 thumbnails, each less its mean colour; 0 where it is negative

so that of several frames of a scene one is chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ssod.inference import review_queue
from ssod.utils import atomic
from ssod.utils.plain_text import comma_separated

_SIDE = 8  # of a thumbnail
NUMBERS = 3 * _SIDE**2  # of a look


@dataclass(frozen=True)
class Chosen:
    """An image to label.

    Attributes:
        place: its number.
        value: as the module says.
        gain: that, when it was chosen.
    """

    place: int
    value: float
    gain: float


def rarity(counts: Sequence[int]) -> np.ndarray:
    """Return how much a box of each class counts, [K] in 0..1, from the labelled boxes of each."""
    known = 1.0 + np.asarray(counts, float)
    return np.sqrt(known.min() / known)


def value(labels: np.ndarray, scores: np.ndarray, near: np.ndarray, rare: np.ndarray) -> float:
    """Return the value of an image.

    Args:
        labels, scores: [M], of its boxes.
        near: [K], the thresholds.
        rare: [K], from ``rarity``.
    """
    seen = scores > review_queue.SHARE * near[labels]
    labels, scores = labels[seen], scores[seen]
    return float((rare[labels] * review_queue.nearness(scores, near[labels])).sum() / (len(scores) + 1))


def look(picture: Image.Image) -> np.ndarray:
    """Return what likeness is told by, [192] float32 of length 1; 0 for a picture of one colour."""
    pixels = np.asarray(picture.convert("RGB").resize((_SIDE, _SIDE), Image.Resampling.BOX), np.float32)
    flat = (pixels - pixels.mean((0, 1))).ravel()
    return flat / max(float(np.linalg.norm(flat)), 1e-6) if np.abs(flat).max() > 1 else np.zeros_like(flat)


def choose(
    values: Sequence[float], looks: Sequence[np.ndarray] | np.ndarray, most: int, among: Sequence[int] | None = None
) -> list[Chosen]:
    """Return up to ``most`` images, the best first; of equal ones the first.

    Args:
        values: N, of images.
        looks: N, likewise, from ``look``.
        most: how many.
        among: numbers of the images that are candidates; None = all are.
    """
    values, looks = np.asarray(values, float), np.asarray(looks, np.float32)
    likeness, left = np.zeros(len(values)), np.full(len(values), among is None)
    left[[] if among is None else among] = True
    chosen = []
    for _ in range(min(most, int(left.sum()))):
        gains = np.where(left, values * (1 - likeness), -1.0)
        at = int(gains.argmax())
        chosen.append(Chosen(at, float(values[at]), float(gains[at])))
        left[at] = False
        likeness = np.clip(np.maximum(likeness, looks @ looks[at]), 0, 1)
    return chosen


def write(path: Path, chosen: Sequence[Chosen], names: Sequence[str]) -> None:
    """Write the chosen images as CSV; ``names`` are those of all images.

    Raises:
        SsodError: with code 6 when the disk refuses.
    """
    rows: list[list[object]] = [["rank", "image", "value", "gain"]]
    for rank, one in enumerate(chosen, 1):
        rows.append([rank, names[one.place], f"{one.value:.3f}", f"{one.gain:.3f}"])
    atomic.write_text(path, comma_separated(rows))

"""Few labels, counted in boxes of each class: which images keep theirs such that every class has ``k`` boxes."""

from __future__ import annotations

import numpy as np

from ssod.data.formats.records import Labeled


def select_shots(data: Labeled, shots: int, fold: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows that keep their labels and those that lose them, both in the order of the file.

    An image keeps all its boxes or none, for one that is labelled in part would teach that the rest is background. So a
    class can have some more than ``shots``; it has fewer only where the set does. The images are in an order drawn by
    the fold. In rounds of one box a class, from the rarest to the commonest, a class that lacks a box takes the first
    image in that order that has one. Hence the draw of fewer shots is part of that of more, for one fold.

    Args:
        data: the labelled images; crowds do not count.
        shots: boxes of each class.
        fold: seed of NumPy's legacy generator.
    """
    image = np.repeat(np.arange(len(data)), np.diff(data.starts))
    order = np.random.RandomState(fold).permutation(len(data))
    place = np.empty(len(data), dtype=np.int64)
    place[order] = np.arange(len(data))
    boxes = [np.flatnonzero(~data.crowd & (data.labels == label)) for label in range(len(data.classes))]
    own = [np.unique(image[rows], return_counts=True) for rows in boxes]
    queues = [iter(images[np.argsort(place[images])].tolist()) for images, _ in own]
    has = [dict(zip(images.tolist(), counts.tolist())) for images, counts in own]
    total, keeps = [0] * len(boxes), np.zeros(len(data), dtype=bool)
    rarest_first = sorted(range(len(boxes)), key=lambda label: len(boxes[label]))
    for target in range(1, shots + 1):
        for label in rarest_first:
            while total[label] < target:
                row = next((row for row in queues[label] if not keeps[row]), None)
                if row is None:
                    break
                keeps[row] = True
                total = [count + by_image.get(row, 0) for count, by_image in zip(total, has)]
    return np.flatnonzero(keeps), np.flatnonzero(~keeps)

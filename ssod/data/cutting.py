"""A part of the labelled images to measure on: drawn with a fixed seed, class by class, groups of images together."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Literal

import numpy as np

from ssod.data.formats.records import Labeled

Group = Literal["folder", "prefix"]


def cut(data: Labeled, share: float, group: Group | None = None, seed: int = 0) -> np.ndarray:
    """Draw the rows of the images to measure on.

    Classes are gone through from the rarest to the commonest. Of the groups of images that have one, in an order drawn
    by the seed, one is taken where at least half of it still fits: into the class's share of boxes, and into the share
    of the images. What is missing of the images after that is filled with further groups. A group that holds the last
    images with some class is left to learn from, and so is one with an image whose labels are incomplete.

    Args:
        data: the labelled images.
        share: how many of them to take, 0..1.
        group: images that stay together: those of one folder, or of one prefix (``prefix_of``); None = each alone.
        seed: of the draw.

    Returns:
        Rows in the order of the set; none where nothing can be taken.
    """
    owner, counts = _groups(data, group)
    images = np.bincount(owner, minlength=len(counts))
    order = np.random.RandomState(seed).permutation(len(counts))
    taken, left = np.zeros(len(counts), dtype=bool), (counts > 0).sum(0)
    wanted, most = share * counts.sum(0), share * len(data)
    boxes, sum_of_images = np.zeros(counts.shape[1]), 0
    if data.incomplete is not None:
        order = order[~np.isin(order, owner[data.incomplete.any(1)])]

    def spare(number: int) -> bool:
        return not taken[number] and sum_of_images + images[number] / 2 <= most and (left[counts[number] > 0] > 1).all()

    everything = [(number, None) for number in order.tolist()]
    rarest_first = np.argsort(counts.sum(0), kind="stable").tolist()
    by_class = [(number, label) for label in rarest_first for number in order[counts[order, label] > 0].tolist()]
    for number, label in [*by_class, *everything]:
        fits = label is None or boxes[label] + counts[number, label] / 2 <= wanted[label]
        if fits and spare(number):
            taken[number] = True
            left -= counts[number] > 0
            boxes += counts[number]
            sum_of_images += images[number]
    return np.flatnonzero(taken[owner])


def prefix_of(path: str) -> str:
    """Return what the names of a series have in common: ``a/cam1_0042.jpg`` -> ``a/cam1``."""
    stem = os.path.splitext(path)[0]
    return re.sub(r"[\W_]*\d+$", "", stem) or stem


def _groups(data: Labeled, group: Group | None) -> tuple[np.ndarray, np.ndarray]:
    """Return the group of each image, [N], and how many boxes of each class each group has, [G, K]; no crowds."""
    paths: Sequence[str] = data.images.paths
    if group is None:
        owner = np.arange(len(paths))
    else:
        names = [os.path.dirname(path) if group == "folder" else prefix_of(path) for path in paths]
        owner = np.unique(names, return_inverse=True)[1].reshape(-1)
    image = np.repeat(np.arange(len(paths)), np.diff(data.starts))
    counts = np.zeros((int(owner.max(initial=-1)) + 1, len(data.classes)), dtype=np.int64)
    np.add.at(counts, (owner[image[~data.crowd]], data.labels[~data.crowd]), 1)
    return owner, counts

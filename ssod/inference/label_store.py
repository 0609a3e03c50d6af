"""Labels of images as they are found: boxes grow on the disk, and an image is a few numbers in memory."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ssod.data.formats.records import Classes, Images, Labeled
from ssod.inference.label_parts import Written
from ssod.inference.review_queue import Doubt, Doubts
from ssod.utils.spool import Spool


class LabelStore:
    """Takes in images one after the other.

    Args:
        folder: on whose disk the boxes are kept.
    """

    def __init__(self, folder: Path) -> None:
        self._boxes = Spool(folder, boxes=(np.float32, 4), labels=(np.int64, None), scores=(np.float32, None))
        self._kept, self._counts, self._sizes = array("q"), array("q"), array("i")
        self._doubts = Doubts()

    def add(self, i: int, size: tuple[int, int], doubt: Doubt, **columns: np.ndarray) -> None:
        """Add an image.

        Args:
            i: its number among all; greater than that of the one before.
            size: its (width, height).
            doubt: how unsure its labels are.
            columns: ``boxes`` [M, 4], ``labels`` [M] and ``scores`` [M].
        """
        self._kept.append(i)
        self._counts.append(len(columns["labels"]))
        self._sizes.extend(size[::-1])
        self._doubts.add(doubt)
        self._boxes.add(**columns)

    def read(self, found: Images, classes: Classes) -> Written:
        """Return what was taken in of the images that were ``found``; of their file, the ids count from 1."""
        columns = self._boxes.read()
        sizes = np.array(self._sizes, np.int32).reshape(-1, 2)
        images = Images(found.root, [found.paths[i] for i in self._kept], [i + 1 for i in self._kept], sizes)
        nothing = np.zeros(len(columns["labels"]), bool)
        data = Labeled(
            images=images,
            classes=classes,
            boxes=columns["boxes"],
            labels=columns["labels"],
            crowd=nothing,
            difficult=nothing.copy(),
            starts=np.cumsum([0, *self._counts]).astype(np.int64),
        )
        return Written(data, columns["scores"], self._doubts)

    def rows(self, numbers: Sequence[int]) -> list[int]:
        """Return where the images with such numbers are among those taken in; those that are not, are left out."""
        kept, wanted = np.array(self._kept, np.int64), np.asarray(numbers, np.int64)
        return np.searchsorted(kept, wanted[np.isin(wanted, kept)]).tolist()

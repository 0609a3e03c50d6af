"""What a data set is once it is read: columns, not a list of objects, so that a million images fit in memory.

torch is imported when the first box is asked for: reading, splitting and checking do without it, and are ten times
smaller and quicker to start.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ssod.structures import Targets


@dataclass(frozen=True)
class Classes:
    """Class names in the order of the contiguous labels ``0..K-1``, and the ids that the file uses for them."""

    names: tuple[str, ...]
    ids: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True)
class Images:
    """N images without any label: there is no box field here, so that none can leak.

    Attributes:
        root: folder that every path stays inside.
        paths: N paths relative to ``root``.
        ids: N ids, the file's own (COCO: int) or the path's stem.
        sizes: [N, 2] int32 (height, width) as the file states them, after EXIF rotation; None = read with the image.
    """

    root: str
    paths: Sequence[str]
    ids: Sequence[int | str]
    sizes: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.paths)

    def subset(self, indices: Sequence[int] | np.ndarray) -> Images:
        """Return the images at ``indices``, in that order."""
        indices = np.asarray(indices, dtype=np.int64)
        return replace(
            self,
            paths=[self.paths[i] for i in indices],
            ids=[self.ids[i] for i in indices],
            sizes=None if self.sizes is None else self.sizes[indices],
        )


@dataclass(frozen=True)
class Labeled:
    """N images with their boxes; image ``i`` owns rows ``starts[i]:starts[i + 1]``.

    Attributes:
        images: the images.
        classes: the class list.
        boxes: [A, 4] float32 ``x1, y1, x2, y2`` in pixels of the upright image.
        labels: [A] int64 in ``0..K-1``.
        crowd: [A] bool, COCO's ``iscrowd`` (a region to ignore, not an object).
        difficult: [A] bool, VOC's ``difficult``.
        starts: [N + 1] int64.
        area: [A] float64, COCO's ``area`` (of the mask), by which AP tells small from large; None = that of the box.
        incomplete: [N, K] bool, classes of which an image may have objects that nobody labelled; None = none has.
    """

    images: Images
    classes: Classes
    boxes: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray
    difficult: np.ndarray
    starts: np.ndarray
    area: np.ndarray | None = None
    incomplete: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.images)

    def targets(self, i: int) -> Targets:
        """Return the boxes of image ``i``; crowds come as ignore regions (weight 0)."""
        import torch

        from ssod.structures import Targets

        rows = slice(self.starts[i], self.starts[i + 1])
        crowd, open = self.crowd[rows], None if self.incomplete is None else self.incomplete[i]
        return Targets(
            boxes=torch.from_numpy(self.boxes[rows].copy()),
            labels=torch.from_numpy(self.labels[rows].copy()),
            weight=torch.from_numpy((~crowd).astype(np.float32)) if crowd.any() else None,
            open=torch.from_numpy(open.copy()) if open is not None and open.any() else None,
        )

    def complete(self) -> np.ndarray:
        """Return the rows of the images whose labels are complete."""
        return np.arange(len(self)) if self.incomplete is None else np.flatnonzero(~self.incomplete.any(1))

    def in_order(self, classes: Classes, label: np.ndarray) -> Labeled:
        """Return the same with other classes: what had label ``k`` has ``label[k]``, of [K] int64."""
        incomplete = None
        if self.incomplete is not None:
            incomplete = np.zeros((len(self), len(classes)), dtype=bool)
            incomplete[:, label] = self.incomplete
        return replace(self, classes=classes, labels=label[self.labels], incomplete=incomplete)

    def subset(self, indices: Sequence[int] | np.ndarray) -> Labeled:
        """Return the images at ``indices``, in that order, with their boxes."""
        indices = np.asarray(indices, dtype=np.int64)
        counts = np.diff(self.starts)[indices]
        starts = np.concatenate([[0], counts.cumsum()]).astype(np.int64)
        rows = np.arange(starts[-1]) + np.repeat(self.starts[:-1][indices] - starts[:-1], counts)
        return replace(
            self,
            images=self.images.subset(indices),
            boxes=self.boxes[rows],
            labels=self.labels[rows],
            crowd=self.crowd[rows],
            difficult=self.difficult[rows],
            starts=starts,
            area=None if self.area is None else self.area[rows],
            incomplete=None if self.incomplete is None else self.incomplete[indices],
        )

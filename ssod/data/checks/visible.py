"""Objects that a run cannot learn or find: below a pixel in its views, or more in an image than are looked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ssod.data.formats.findings import Context
from ssod.data.formats.leftout import report_left_out
from ssod.data.formats.records import Labeled
from ssod.structures import Tiles
from ssod.transforms.transform import MIN_SIDE, chain
from ssod.transforms.views import Pipeline, ViewsConfig, order
from ssod.utils import seeding

DRAWS = 16  # of a view that draws its size: a box that is too small in all of them is as good as never seen


@dataclass(frozen=True)
class Visible:
    """What a run's config lets be seen.

    Attributes:
        views: its views; boxes with a side of at most ``MIN_SIDE`` pixels in one of them are dropped there.
        most: objects of an image that are looked for at most.
    """

    views: ViewsConfig
    most: int

    def check(self, part: str, data: Labeled, file: str, ctx: Context) -> None:
        """Record boxes that no view shows, and images with too many.

        Args:
            part: ``labeled`` or ``val``: whose views.
            data: images with sizes, and boxes.
            file: for messages.
            ctx: section and findings.
        """
        views = self.views.labeled if part == "labeled" else {"val": self.views.val}
        lost = np.flatnonzero(too_small(data, views, self.views.tiles))
        owner = np.searchsorted(data.starts, lost, side="right") - 1
        report_left_out("L10", [data.images.paths[i] for i in owner[:1]], file, ctx, count=len(lost))
        image = np.repeat(np.arange(len(data)), np.diff(data.starts))
        counts = np.bincount(image[~data.crowd], minlength=len(data))  # a crowd is no object
        many = np.flatnonzero(counts > self.most)
        detail = f"{counts.max(initial=0)} in one; {self.most} are looked for"
        report_left_out("L11", [data.images.paths[i] for i in many], file, ctx, detail)


def too_small(data: Labeled, views: Mapping[str, Pipeline], tiles: Tiles | None = None) -> np.ndarray:
    """Return [A] bool: which boxes have a side of at most ``MIN_SIDE`` pixels in every one of some draws of the views.

    Images of one size are resized alike, so the views are drawn for each size and not for each image. With ``tiles``
    it is they that are resized.
    """
    sizes, group = np.unique(data.images.sizes, axis=0, return_inverse=True)
    owner = np.repeat(group.reshape(-1), np.diff(data.starts))
    sides = (data.boxes[:, 2:] - data.boxes[:, :2]).astype(np.float64)
    lost = np.zeros(len(sides), dtype=bool)
    ends = np.bincount(owner, minlength=len(sizes)).cumsum()[:-1]
    for (height, width), rows in zip(sizes.tolist(), np.split(np.argsort(owner, kind="stable"), ends)):
        for draw in range(DRAWS):
            if not len(rows):
                break
            size = (width, height) if tiles is None else (min(width, tiles.size), min(height, tiles.size))
            for matrix in _matrices(views, size, draw):
                rows = rows[(sides[rows] @ np.abs(matrix[:2, :2]).T <= MIN_SIDE).any(1)]
        lost[rows] = True
    return lost


def _matrices(views: Mapping[str, Pipeline], size: tuple[int, int], draw: int) -> list[np.ndarray]:
    """Return what each view that is not hidden does to the pixels of a picture (width, height), in one draw."""
    ends: dict[str, tuple[tuple[int, int], np.ndarray]] = {}
    for name in order(views):
        start, matrix = (size, np.eye(3)) if (view := views[name]).start is None else ends[view.start]
        act = chain(view.ops, seeding.generator(draw, "visible", name), start)
        ends[name] = act.size, act.matrix @ matrix
    return [ends[name][1] for name, view in views.items() if not view.hidden]

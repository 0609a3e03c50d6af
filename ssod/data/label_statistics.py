"""What the labelled set holds, for a method that asks."""

from __future__ import annotations

import numpy as np
import torch

from ssod.data.formats.records import Labeled
from ssod.structures import LabelStatistics, Tiles
from ssod.structures.tiles import SHOWN, shown_share

_AT_ONCE = 4_000_000  # pairs of a tile and a box


def label_statistics(labeled: Labeled, tiles: Tiles | None = None) -> LabelStatistics:
    """Count images and boxes of each class; crowds do not count.

    Where labels of a class are incomplete in some images, its numbers are those of the others, times what these are of
    all images; where they are in all, those that are there.

    Args:
        labeled: the labelled set.
        tiles: where views begin with a tile, each tile of the grids counts as an image: methods compare with what the
            teacher finds in one. A box counts in those that show half of it or more.
    """
    counted, k = ~labeled.crowd, len(labeled.classes)
    labels, owner = labeled.labels[counted], np.repeat(np.arange(len(labeled)), np.diff(labeled.starts))[counted]
    images, incomplete = len(labeled), labeled.incomplete
    if tiles is not None:
        images, rows, owner = _in_tiles(labeled, tiles, np.flatnonzero(counted), owner)
        labels = labeled.labels[rows]
        incomplete = None if incomplete is None else np.repeat(incomplete, tiles.count(labeled.images.sizes), 0)
    pairs = np.unique(owner * k + labels)  # of an image and a class
    boxes, images_with = np.bincount(labels, minlength=k), np.bincount(pairs % k, minlength=k)
    known_everywhere = None
    if incomplete is not None:
        complete = (~incomplete).sum(0)
        known_everywhere = torch.tensor([*complete.tolist(), int((~incomplete.any(1)).sum())])
        known, known_pairs = ~incomplete[owner, labels], ~incomplete[pairs // k, pairs % k]
        factor = images / np.maximum(complete, 1)
        of_known = np.bincount(labels[known], minlength=k), np.bincount(pairs[known_pairs] % k, minlength=k)
        boxes, images_with = (
            np.where(complete > 0, np.rint(some * factor).astype(np.int64), every)
            for some, every in zip(of_known, (boxes, images_with))
        )
    return LabelStatistics(
        images=images,
        boxes=torch.from_numpy(boxes),
        images_with=torch.from_numpy(images_with),
        complete=known_everywhere,
    )


def _in_tiles(
    labeled: Labeled, tiles: Tiles, rows: np.ndarray, owner: np.ndarray
) -> tuple[int, np.ndarray, np.ndarray]:
    """Return how many tiles there are, and the rows of boxes that tiles show, with the number of the tile of each.

    Args:
        labeled: the labelled set, with sizes.
        tiles: their size.
        rows: [B] int64, of the boxes that count.
        owner: [B] int64, their images.
    """
    sizes, group = np.unique(labeled.images.sizes, axis=0, return_inverse=True)
    grids = [np.array(tiles.grid((int(width), int(height)))) for height, width in sizes]
    first = np.concatenate([[0], np.cumsum([len(grids[g]) for g in group.reshape(-1)])]).astype(np.int64)
    shown, of = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for g, grid in enumerate(grids):
        mine = np.flatnonzero(group.reshape(-1)[owner] == g)
        for part in np.array_split(mine, -(-len(mine) * len(grid) // _AT_ONCE) or 1):
            tile, box = np.nonzero(shown_share(labeled.boxes[rows[part]], grid) >= SHOWN)
            shown.append(rows[part][box])
            of.append(first[owner[part][box]] + tile)
    return int(first[-1]), np.concatenate(shown), np.concatenate(of)

"""The tile of an image that its views begin with in training: all views of one image show the same.

A labelled image is shown around one of its boxes with probability ``Tiles.near_box``: any tile that shows the whole box
is as likely as the others. Otherwise, and in images without labels, the tile lies around a point that is drawn
uniformly in the image, and is moved inside it.

A box of which a tile shows less than half (``SHOWN``) is an ignore region there, neither object nor background; of
other boxes what is shown of them is the object.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from PIL import Image

from ssod.structures import Targets
from ssod.structures.tiles import SHOWN, Rect, Tiles, shown_share
from ssod.transforms.geometry import cropped
from ssod.transforms.picture import Picture
from ssod.transforms.transform import Seen
from ssod.utils import seeding


def begin_with_tile(seen: Seen, tiles: Tiles, *draw: int | str) -> Seen:
    """Return the tile of an image that its views begin with; one no larger than a tile stays as it is.

    Args:
        seen: the image as it is in its file. Others that operations ask for become tiles, too.
        tiles: their size.
        draw: what the place depends on: seed, stream, image index, position.
    """
    others = seen.setting.read

    def read(i: int) -> tuple[Image.Image, Targets | None]:
        image, targets = others(i)
        part = cut(Seen(Picture.of(image), np.eye(3), targets), tiles, seeding.generator(*draw, "tile of", i))
        return part.image.image(), part.targets

    part = cut(seen, tiles, seeding.generator(*draw, "tile of", "itself"))
    return replace(part, setting=replace(seen.setting, read=read))


def cut(seen: Seen, tiles: Tiles, rng: np.random.Generator) -> Seen:
    """Return a tile of an image that nothing has been done to, its boxes in the pixels of the tile."""
    size = seen.image.size
    if max(size) <= tiles.size:
        return seen
    rect = place(size, seen.targets, tiles, rng)
    part = cropped(rect[0], rect[1], (rect[2] - rect[0], rect[3] - rect[1])).follow(seen)
    if seen.targets is None:
        return part
    trust = seen.targets.trust() * torch.from_numpy(shown_share(seen.targets.boxes.numpy(), np.array(rect)) >= SHOWN)
    return replace(part, targets=replace(seen.targets, weight=trust)).settled()


def place(size: tuple[int, int], targets: Targets | None, tiles: Tiles, rng: np.random.Generator) -> Rect:
    """Draw a tile of an image of ``size`` (width, height); ``targets`` are its boxes, None where nobody knows them."""
    near, at = rng.random() < tiles.near_box, rng.random(2)
    objects = np.zeros((0, 4)) if targets is None else targets.boxes[targets.trust() > 0].double().numpy()
    last = np.maximum(np.array(size) - tiles.size, 0)
    if near and len(objects):
        box = objects[int(rng.integers(len(objects)))]
        ends = np.sort([np.ceil(box[2:]) - tiles.size, np.floor(box[:2])], 0)  # a larger box fills the whole tile
        low, high = ends.clip(0, last)
        start = low + np.floor(at * (high - low + 1))
    else:
        start = np.floor(at * np.array(size) - tiles.size / 2).clip(0, last)
    return tiles.at(int(start[0]), int(start[1]), size)

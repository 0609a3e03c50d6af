"""Pseudo-mixup and pseudo-mosaic: unlabelled views blended with earlier ones, after labels exist. (arXiv:2312.07006)

Groups. In the released code a process has four unlabelled images; a group of four is here what a process is there, so
that one process with many images does what many processes with four do. Image i of a batch belongs to group i // 4. A
batch, or a part of one, whose images do not make up groups of four has a smaller one at its end for mixup, and one
mosaic at least, of the newest four views.

Mixup. Each view lies on a canvas of the larger height and width of the pair, at a uniform place, and counts one half;
where one is alone, it is blended with the mean colour. Boxes are united and whole: no label is weighed by its share.
Mosaic. Four earlier views, scaled into one target, touch the middle of the picture; around them is the mean colour.

Pixels in 0..1 are blended, and what is empty has the mean colour, which normalises to 0: normalising is affine, so both
are what blending normalised pixels gives (``ssod.transforms.mix``). All chance is in numbers that the caller gives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ssod.structures import View
from ssod.structures.padded import PaddedBoxes
from ssod.transforms.erase_patches import PatchesConfig, erased, hidden_share, patches
from ssod.transforms.mix import DIVISOR, inside
from ssod.transforms.resample import fit, laid, moved
from ssod.transforms.view_cache import Kept

GROUP = 4  # images that mix with one another, and views of a mosaic
TILE = 16  # pixels that the side of a mosaic's tile is a multiple of


@dataclass
class Picture:
    """N views, each on its canvas, erased.

    Attributes:
        images: [N, 3, H, W] float in 0..1.
        boxes: what is left of theirs.
    """

    images: Tensor
    boxes: PaddedBoxes


def put(
    views: Kept,
    scaled: Tensor,
    corner: Tensor,
    canvas: tuple[int, int],
    u: Tensor,
    erase: PatchesConfig,
    *,
    mirrored: bool,
    smooth: bool,
) -> Picture:
    """Scale views, lay them on canvases and erase patches of them.

    Args:
        views: N of them.
        scaled: [N, 2] int64 (height, width), what they become.
        corner: [N, 2] int64 (x, y) of their top left corners.
        canvas: (H, W).
        u: [N, ``erase.draws``] in [0, 1).
        erase: how they are erased.
        mirrored: swap left and right.
        smooth: see ``resample.along``.
    """
    images = laid(views.images, views.sizes, scaled, corner, canvas, mirrored=mirrored, smooth=smooth)
    boxes = moved(views.boxes.boxes, views.sizes, scaled, corner, mirrored=mirrored)
    rects = patches(u, scaled, erase) + corner.repeat(1, 2)[:, None]
    keep = views.boxes.real & (hidden_share(boxes, rects) < erase.hidden)
    return Picture(erased(images, rects), views.boxes.at(boxes, keep))


def partners(u: Tensor) -> Tensor:
    """Return [N] int64: a random order of N images inside each group of four, by ``u`` [N] in [0, 1)."""
    group = torch.arange(len(u), device=u.device) // GROUP
    return (group + u.double()).argsort(stable=True)


def room_of_groups(sizes: Tensor, canvas: tuple[int, int]) -> Tensor:
    """Return [N, 2] int64: the canvas that holds the images of each one's group, in multiples of 32.

    Args:
        sizes: [N, 2] (height, width).
        canvas: what is there; no room is larger.
    """
    n = len(sizes)
    groups = torch.cat([sizes, sizes.new_zeros(-n % GROUP, 2)]).view(-1, GROUP, 2).amax(1)
    padded = (groups + DIVISOR - 1) // DIVISOR * DIVISOR
    height, width = (padded[:, i].clamp(max=side) for i, side in enumerate(canvas))
    return torch.stack([height, width], 1).repeat_interleave(GROUP, 0)[:n]


def mixup(
    view: View, own: PaddedBoxes, other: Kept, full: Tensor, u: Tensor, erase: PatchesConfig, *, smooth: bool
) -> tuple[View, PaddedBoxes]:
    """Blend N images with one earlier view each.

    Args:
        view: the images.
        own: their boxes, in the view's pixels.
        other: N earlier views; scaled to fit the canvas of the group, and mirrored.
        full: [] bool; where it is false, nothing is blended, and the images are erased alone.
        u: [N, 4 + 2 ``erase.draws``] in [0, 1).
        erase: how each of a pair is erased.
        smooth: how earlier views are scaled.

    Returns:
        The view, float in 0..1, on the same canvas; and all boxes of its pictures.
    """
    canvas = (view.images.shape[-2], view.images.shape[-1])
    place, first, second = u.split([4, erase.draws, erase.draws], 1)
    scaled = fit(other.sizes, room_of_groups(view.sizes, canvas))
    size = torch.where(full, torch.maximum(view.sizes, scaled), view.sizes)

    def corner(own: Tensor, u: Tensor) -> Tensor:
        free = (size - own).clamp(min=0).flip(1)
        return torch.minimum((u * (free + 1)).long(), free)

    mine = Kept(view.images, view.sizes, own)
    one = put(mine, view.sizes, corner(view.sizes, place[:, :2]), canvas, first, erase, mirrored=False, smooth=False)
    two = put(other, scaled, corner(scaled, place[:, 2:]), canvas, second, erase, mirrored=True, smooth=smooth)
    images = torch.where(full, (one.images + two.images) / 2, one.images)
    images = torch.where(inside(size, list(canvas)), images, 0.0)
    theirs = two.boxes.at(two.boxes.boxes, full.expand_as(two.boxes.real))
    return replace(view, images=images, sizes=size), PaddedBoxes.both(one.boxes, theirs)


def tile_of(scaled: Tensor) -> Tensor:
    """Return [G, 1, 2] int64: the tile (height, width) that holds each of four views [G, 4, 2], in multiples of 16."""
    return (scaled.amax(1, keepdim=True) + TILE - 1) // TILE * TILE


def corners(scaled: Tensor) -> Tensor:
    """Return [G, 4, 2] int64 (x, y): where four views [G, 4, 2] (height, width) lie that meet in the middle.

    In the order top left, top right, bottom left, bottom right.
    """
    (height, width), (tall, wide) = scaled.unbind(2), tile_of(scaled).unbind(2)
    number = torch.arange(GROUP, device=scaled.device)
    return torch.stack([wide - width * (number % 2 == 0), tall - height * (number < 2)], 2)


def mosaic(
    views: Kept,
    full: Tensor,
    target: Sequence[tuple[int, int]],
    u: Tensor,
    erase: PatchesConfig,
    *,
    smooth: bool,
    keys: Tensor,
    ids: list[Any],
) -> tuple[View, PaddedBoxes]:
    """Put four earlier views together, for each of G pictures.

    Args:
        views: 4 G of them, four for each picture, in their order; each is scaled to fit, and mirrored.
        full: [] bool; where it is false, a picture has no boxes.
        target: G (height, width) that views are to fit; known here, so that the canvas need not be waited for.
        u: [G, 4 ``erase.draws``] in [0, 1).
        erase: how each view is erased.
        smooth: how views are scaled.
        keys: [G], of the pictures.
        ids: G, of the pictures.

    Returns:
        A view of pictures of two tiles by two, and their boxes.
    """
    count, device = len(target), keys.device
    rows = [torch.cat([torch.full((1,), side, device=device) for side in sides]) for sides in target]
    scaled = fit(views.sizes, torch.stack(rows).repeat_interleave(GROUP, 0))
    of_each = scaled.view(count, GROUP, 2)
    tile = tile_of(of_each)[:, 0]
    height, width = (2 * (-(-max(sides) // TILE) * TILE) for sides in zip(*target))
    u = u.reshape(count * GROUP, erase.draws)
    corner = corners(of_each).flatten(0, 1)
    made = put(views, scaled, corner, (height, width), u, erase, mirrored=True, smooth=smooth)
    y, x = (torch.arange(side, device=device) for side in (height, width))
    above, left = (y < tile[:, :1])[:, None, :, None], (x < tile[:, 1:])[:, None, None, :]
    a, b, c, d = made.images.unflatten(0, (count, GROUP)).unbind(1)
    images = torch.where(above, torch.where(left, a, b), torch.where(left, c, d))
    sizes = 2 * tile
    images = torch.where(inside(sizes, [height, width]), images, 0.0)
    boxes = PaddedBoxes(made.boxes.facts.reshape(count, -1, made.boxes.facts.shape[-1]))
    boxes = boxes.at(boxes.boxes, boxes.real & full)
    return View(images, sizes, torch.eye(3, device=device).repeat(count, 1, 1), keys, ids), boxes

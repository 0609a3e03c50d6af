"""Images scaled on the device, each to a size of its own, on one canvas."""

from __future__ import annotations

import torch
from torch import Tensor

from ssod.transforms.mix import grey


def fit(sizes: Tensor, room: Tensor) -> Tensor:
    """Return [N, 2] int64: the largest sizes of the same shape, up or down, that fit, sides rounded down, at least 1.

    Args:
        sizes: [N, 2] int64 (height, width).
        room: [N, 2] int64, where they are to fit.
    """
    (height, width), (tall, wide) = sizes.unbind(1), room.unbind(1)
    by_height = torch.stack([tall, width * tall // height], 1)
    by_width = torch.stack([height * wide // width, wide], 1)
    return torch.where((tall * width <= wide * height)[:, None], by_height, by_width).clamp(min=1)


def along(images: Tensor, at: Tensor, old: Tensor, new: Tensor, dim: int, smooth: bool = False) -> Tensor:
    """Return what N images [N, 3, H, W] have at some places of a side that was scaled; beyond its ends, the ends.

    Args:
        images: of any type; float where ``smooth``.
        at: [N, L] int64, pixels of the scaled side.
        old: [N] int64, its length before.
        new: [N] int64, its length after.
        dim: 2 for the height, 3 for the width.
        smooth: read linearly between the two nearest centers; else read one pixel, as torch's ``nearest`` does.
    """
    shape = [-1 if d == dim else n for d, n in enumerate(images.shape)]
    last = old[:, None] - 1

    def read(index: Tensor) -> Tensor:
        index = index[:, None, :, None] if dim == 2 else index[:, None, None, :]
        return images.gather(dim, index.expand(shape))

    if not smooth:
        return read(torch.minimum((at * old[:, None] // new[:, None]).clamp(min=0), last))
    place = torch.minimum(((at + 0.5) * (old / new)[:, None] - 0.5).clamp(min=0), last)
    low = place.long()
    share = place - low
    share = share[:, None, :, None] if dim == 2 else share[:, None, None, :]
    return torch.lerp(read(low), read(torch.minimum(low + 1, last)), share.to(images))


def laid(
    images: Tensor,
    sizes: Tensor,
    scaled: Tensor,
    corner: Tensor,
    canvas: tuple[int, int],
    *,
    mirrored: bool = False,
    smooth: bool = False,
) -> Tensor:
    """Return N images, each scaled and laid somewhere on its canvas, in 0..1, with the mean colour around it.

    Args:
        images: [N, 3, h, w] uint8 or float in 0..1, each at the top left.
        sizes: [N, 2] int64 (height, width) of the images.
        scaled: [N, 2] int64, what they become.
        corner: [N, 2] int64 (x, y) of the top left corner of each on its canvas.
        canvas: H, W of the result [N, 3, H, W].
        mirrored: swap left and right of each.
        smooth: see ``along``.
    """
    x, y = (torch.arange(n, device=sizes.device) - corner[:, i, None] for i, n in enumerate(reversed(canvas)))
    height, width = scaled[:, :1], scaled[:, 1:]
    there = ((y >= 0) & (y < height))[:, :, None] & ((x >= 0) & (x < width))[:, None, :]
    x = width - 1 - x if mirrored else x
    levels = 1 if images.is_floating_point() else 255
    images = images.float() / levels if smooth else images
    images = along(images, y, sizes[:, 0], scaled[:, 0], 2, smooth)
    images = along(images, x, sizes[:, 1], scaled[:, 1], 3, smooth)
    images = images if smooth else images.float() / levels
    return torch.where(there[:, None], images, grey(images))


def moved(boxes: Tensor, sizes: Tensor, scaled: Tensor, corner: Tensor, *, mirrored: bool = False) -> Tensor:
    """Return boxes [N, M, 4] of N images where ``laid`` lays their pixels."""
    x1, y1, x2, y2 = (boxes * (scaled / sizes).flip(1).repeat(1, 2)[:, None].to(boxes)).unbind(-1)
    if mirrored:
        width = scaled[:, 1:].to(boxes)
        x1, x2 = width - x2, width - x1
    return torch.stack([x1, y1, x2, y2], -1) + corner.repeat(1, 2)[:, None].to(boxes)

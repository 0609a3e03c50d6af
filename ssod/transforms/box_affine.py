"""Move the pixels of a single box in place: STAC's box-level operation, after labels exist. (arXiv:2005.04757)

One box of an image is drawn, and one of: a shift sideways or up and down by up to 5 % of the box, a turn by up to 10
degrees, a slant by up to 10 degrees, each about the middle of the box. The box stays as it is; what comes from outside
it is grey. The released code does it in the place of moving the whole image, so here it is done to images whose view
has not moved them: their matrix scales, and does nothing else.

It needs boxes, which are known once the views are made. So it comes after the colours and holes of the view, where the
code has it before the holes; and it is bilinear, where the code draws bilinear or nearest.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ssod.structures import Targets, View
from ssod.structures.boxes import compose
from ssod.transforms.geometry import FILL
from ssod.utils import seeding

SHIFT, DEGREES = 0.05, 10.0
DRAWS = 3  # numbers of an image: which box, what to do with it, how much
ABOVE = 8  # rows of a key that mixing draws from lie above minus this (``ssod.transforms.mix``)


@torch.no_grad()
def move_in_a_box(view: View, boxes: list[Targets]) -> View:
    """Return the view with the pixels of one box moved, in every image that has a box and was not moved as a whole.

    Args:
        view: N images.
        boxes: N Targets in its pixels.

    Returns:
        A view with images of the same type; all draws are by its keys.
    """
    counts = [len(t) for t in boxes]
    if not sum(counts):
        return view
    device = view.images.device
    rows = torch.arange(-ABOVE - DRAWS, -ABOVE, device=device)
    which, what, much = seeding.uniform(view.keys[:, None], rows).unbind(1)
    count = torch.tensor(counts).to(device, non_blocking=True)
    place = count.cumsum(0) - count + torch.minimum((which * count).long(), (count - 1).clamp(min=0))
    box = torch.cat([t.boxes for t in boxes])[place.clamp(max=sum(counts) - 1)].float()  # [N, 4]
    moved, inside = moved_pixels(view.images, box, inverse_draw(box, (what * 4).long(), 2 * much - 1))
    chosen = inside & (unmoved(view.matrix) & (count > 0))[:, None, None, None]
    return replace(view, images=torch.where(chosen, moved, view.images))


def unmoved(matrix: Tensor) -> Tensor:
    """Return [N], whether a matrix [N, 3, 3] scales and does nothing else."""
    rest = torch.stack([matrix[:, 0, 1], matrix[:, 0, 2], matrix[:, 1, 0], matrix[:, 1, 2]], 1)
    return (rest == 0).all(1) & (matrix[:, 0, 0] > 0) & (matrix[:, 1, 1] > 0)


def inverse_draw(box: Tensor, what: Tensor, much: Tensor) -> Tensor:
    """Return the matrices [N, 3, 3] from the pixels of a moved box to where they come from.

    Args:
        box: [N, 4].
        what: [N], 0 = shift sideways, 1 = shift up and down, 2 = turn, 3 = slant.
        much: [N] in -1..1, as a share of the largest.
    """
    angle = much * math.radians(DEGREES)
    one, zero = torch.ones_like(much), torch.zeros_like(much)
    turns, slants = what == 2, what == 3
    cos, sin = torch.where(turns, angle.cos(), one), torch.where(turns, angle.sin(), zero)
    dx, dy = (torch.where(what == i, much * SHIFT * (box[:, 2 + i] - box[:, i]), zero) for i in (0, 1))
    across = torch.where(slants, angle.tan(), sin)  # the inverse of x' = x - tan(a) y, or of the turn
    middle = (box[:, :2] + box[:, 2:]) / 2
    x, y = middle.unbind(1)
    back = _matrices([[cos, across, zero], [-sin, cos, zero], [zero, zero, one]])
    to_middle = _matrices([[one, zero, x], [zero, one, y], [zero, zero, one]])
    from_middle = _matrices([[one, zero, -x - dx], [zero, one, -y - dy], [zero, zero, one]])
    return compose(to_middle, compose(back, from_middle))


def moved_pixels(images: Tensor, box: Tensor, back: Tensor) -> tuple[Tensor, Tensor]:
    """Return the pixels that each place takes from inside the box, grey where it would take others.

    Args:
        images: [N, 3, H, W] uint8 or float in 0..1.
        box: [N, 4].
        back: [N, 3, 3], places in the new image -> places in the old one.

    Returns:
        Images of the same type, and [N, 1, H, W], whether a pixel lies in the box.
    """
    height, width = images.shape[-2:]
    y, x = (torch.arange(side, device=images.device) + 0.5 for side in (height, width))
    x, y = x[None, None, :], y[None, :, None]
    u, v = (
        row[:, 0, None, None] * x + row[:, 1, None, None] * y + row[:, 2, None, None] for row in back[:, :2].unbind(1)
    )
    grid = torch.stack([2 * u / width - 1, 2 * v / height - 1], -1)
    pixels = images if images.is_floating_point() else images.float()
    found = F.grid_sample(pixels, grid.to(pixels), padding_mode="border", align_corners=False)
    whole = not images.is_floating_point()
    found = torch.where(_in(box, u, v), found, float(FILL) if whole else FILL / 255)
    return (found.round().to(images.dtype) if whole else found), _in(box, x, y)


def _in(box: Tensor, x: Tensor, y: Tensor) -> Tensor:
    x1, y1, x2, y2 = box[:, :, None, None].unbind(1)
    return ((x >= x1) & (x < x2) & (y >= y1) & (y < y2))[:, None]


def _matrices(rows: list[list[Tensor]]) -> Tensor:
    return torch.stack([torch.stack(row, 1) for row in rows], 1)

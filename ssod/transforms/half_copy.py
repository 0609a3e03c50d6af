"""Images at half their size on canvases that keep theirs: the third image of DSL. (arXiv:2207.05536)

A ``View.half_size`` is another thing: every second pixel, and a pyramid that makes its maps as large as those of all
pixels. Here the detector sees smaller objects, as it would see them in any image.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F

from ssod.structures import Pseudo, View
from ssod.structures.boxes import compose
from ssod.transforms.mix import grey, inside


@torch.no_grad()
def half_copy(view: View) -> View:
    """Return N images, the mean of each two by two pixels, at the top left of their canvas, in 0..1.

    An odd side is rounded up; what its last pixel lacks has the mean colour, which normalises to 0.
    """
    height, width = canvas = list(view.images.shape[-2:])
    images = view.images if view.images.is_floating_point() else view.images.float() / 255
    small = F.avg_pool2d(torch.where(inside(view.sizes, canvas), images, grey(images)), 2)
    sizes = (view.sizes + 1) // 2
    small = torch.where(inside(sizes, list(small.shape[-2:])), small, 0.0)
    images = F.pad(small, (0, width - small.shape[-1], 0, height - small.shape[-2]))
    half = torch.eye(3, dtype=view.matrix.dtype, device=view.matrix.device).repeat(len(view), 1, 1)
    half[:, :2] /= 2
    pieces = view.pieces and view.pieces.then(half)
    return replace(view, images=images, sizes=sizes, matrix=compose(half, view.matrix), pieces=pieces)


def half_boxes(labels: Pseudo) -> Pseudo:
    """Return the labels of a view in the pixels of its ``half_copy``; none is too small to stay."""
    return labels.each(lambda targets: [replace(t, boxes=t.boxes / 2) for t in targets])

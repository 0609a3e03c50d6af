"""How far what a head says of an image is from what it says of the image at half its size. (DSL, arXiv:2207.05536)"""

from __future__ import annotations

import torch
from torch import Tensor

from ssod.losses.elements import upcast
from ssod.structures import Predictions


def scale_distance(whole: Predictions, half: Predictions) -> Tensor:
    """Return the squared difference of class logits, its mean over a pair of levels, summed over the pairs.

    An object of an image at half its size lies a level lower, in the cells of the same numbers. So each level but the
    lowest of ``whole`` is compared with the one below of ``half``, of which the top left part is as large. Padding has
    its part in the means; both sides learn.

    Args:
        whole: dense rows of N images, of two levels or more.
        half: those of their ``transforms.half_copy``, whose canvases are as large.
    """
    pairs = zip(maps(whole)[1:], maps(half))
    return torch.stack([(z - small[:, : z.shape[1], : z.shape[2]]).square().mean() for z, small in pairs]).sum()


def maps(p: Predictions) -> list[Tensor]:
    """Return the class logits of each level, [N, h, w, anchors, K], in float32 or better."""
    parts = upcast(p.logits).unflatten(0, (p.num_images, -1)).split(p.levels, 1)
    return [part.unflatten(1, (*grid, -1)) for part, grid in zip(parts, p.grids)]

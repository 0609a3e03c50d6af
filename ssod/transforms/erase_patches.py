"""Patches of the mean colour on the device, and the boxes that they hide. (MixPL, arXiv:2312.07006, as released)

``ssod.transforms.erasing`` paints before boxes are known, and drops none. All chance is in numbers that the caller
gives.
"""

from __future__ import annotations

import torch
from pydantic import Field, field_validator
from torch import Tensor

from ssod.transforms.geometry import IntSpan, Span
from ssod.transforms.mix import grey
from ssod.utils.schema import Section


class PatchesConfig(Section):
    """How images are erased, and which boxes go with what is erased."""

    patches: IntSpan = (1, 19)
    "How many, an integer from [fewest, most]; 0 erases nothing."
    share: Span = (0.0, 0.1)
    "Side of a patch as a share of the image's, drawn anew for each patch; one draw for both sides."
    hidden: float = Field(0.7, gt=0)
    "A box is dropped when its overlaps with all patches sum to this share of it; where two overlap, it counts twice."

    @field_validator("patches")
    @classmethod
    def _not_negative(cls, patches: tuple[int, int]) -> tuple[int, int]:
        if patches[0] < 0:
            raise ValueError(f"must not be below 0, got {list(patches)}")
        return patches

    @field_validator("share")
    @classmethod
    def _in_range(cls, share: tuple[float, float]) -> tuple[float, float]:
        if not 0 <= share[0] <= share[1] <= 1:
            raise ValueError(f"shares lie in [0, 1], got {list(share)}")
        return share

    @property
    def draws(self) -> int:
        """Numbers that the patches of an image take."""
        return 1 + 3 * self.patches[1]


def patches(u: Tensor, sizes: Tensor, cfg: PatchesConfig) -> Tensor:
    """Return [N, P, 4] float, whole pixels: the patches of N images; those that an image has not are empty.

    Args:
        u: [N, ``cfg.draws``] in [0, 1): how many, then share, x and y of each.
        sizes: [N, 2] (height, width) of the images.
        cfg: how many and how large.
    """
    (fewest, most), (low, high) = cfg.patches, cfg.share
    count = fewest + (u[:, :1] * (most - fewest + 1)).floor().clamp(max=most - fewest)
    share, place = u[:, 1 : 1 + most], u[:, 1 + most :].unflatten(1, (most, 2))
    room = sizes.flip(1)[:, None].to(u)  # (width, height)
    extent = ((low + (high - low) * share)[..., None] * room).floor()
    free = room - extent
    corner = torch.minimum((place * (free + 1)).floor(), free)
    there = torch.arange(most, device=u.device) < count
    return torch.cat([corner, corner + extent * there[..., None]], -1)


def hidden_share(boxes: Tensor, rects: Tensor) -> Tensor:
    """Return [N, M]: the areas that each box shares with the patches of its image, summed, over its own area.

    Args:
        boxes: [N, M, 4].
        rects: [N, P, 4].
    """
    b, r = boxes[:, :, None], rects[:, None]
    common = torch.minimum(b[..., 2:], r[..., 2:]) - torch.maximum(b[..., :2], r[..., :2])
    area = (boxes[..., 2:] - boxes[..., :2]).prod(-1)
    return common.clamp(min=0).prod(-1).sum(-1) / (area + 1e-7)


def erased(images: Tensor, rects: Tensor) -> Tensor:
    """Return images [N, 3, H, W] in 0..1 with patches [N, P, 4] in the mean colour, which normalises to 0."""
    y, x = (torch.arange(side, device=images.device) for side in images.shape[-2:])
    x1, y1, x2, y2 = rects[..., None].unbind(2)
    rows, columns = ((y >= y1) & (y < y2)).to(images), ((x >= x1) & (x < x2)).to(images)  # [N, P, H], [N, P, W]
    return torch.where((rows.transpose(1, 2) @ columns > 0)[:, None], grey(images), images)

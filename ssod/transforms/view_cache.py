"""The last unlabelled views of a process, with their boxes, to be blended with later ones. (MixPL, arXiv:2312.07006)

Each process keeps its own, in the order of its images; the parts of a step (``train.accumulate``) put in all of theirs,
so that it does not depend on how a process divides its batch. Pixels are bytes, as the loader makes them, so nothing is
lost; they are part of the state, and a run that goes on mixes what it would have mixed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor, nn

from ssod.structures import View
from ssod.structures.padded import FACTS, PaddedBoxes
from ssod.transforms.mix import inside
from ssod.transforms.resample import along, fit
from ssod.utils import collective
from ssod.utils.schema import Section


class CacheConfig(Section):
    """How much of a view is kept."""

    side: int = Field(1333, ge=1)
    """Side in pixels of the square that a view is kept in; a larger one is kept scaled down. The cache has
    6 x side^2 bytes for each unlabelled image of a process's batch."""
    boxes: int = Field(100, ge=1)
    "Boxes that are kept with a view, the best ones."


@dataclass
class Kept:
    """N views that were kept.

    Attributes:
        images: [N, 3, S, S] uint8, each at the top left.
        sizes: [N, 2] int64 (height, width).
        boxes: theirs, in their pixels.
    """

    images: Tensor
    sizes: Tensor
    boxes: PaddedBoxes


class ViewCache(nn.Module):
    """A ring of views: what comes in takes the place of the oldest.

    Args:
        capacity: C, how many it holds.
        side: S, see ``CacheConfig``.
        boxes: B, boxes of a view.

    Attributes:
        pixels: [C, 3, S, S] uint8.
        facts: [C, 2 + 7 B] float32: height and width, then ``PaddedBoxes.facts``.
        pushed: [] int64, views that it was ever given.
    """

    pixels: Tensor
    facts: Tensor
    pushed: Tensor

    def __init__(self, capacity: int, *, side: int, boxes: int) -> None:
        super().__init__()
        self.side, self.boxes = side, boxes
        self.register_buffer("pushed", torch.zeros((), dtype=torch.long))
        self.register_buffer("pixels", torch.zeros(capacity, 3, side, side, dtype=torch.uint8))
        self.register_buffer("facts", torch.zeros(capacity, 2 + FACTS * boxes))

    def resize(self, capacity: int) -> None:
        """Make room for so many views; called before the first one, and before a state is loaded."""
        self.pixels = self.pixels.new_zeros(capacity, *self.pixels.shape[1:])
        self.facts = self.facts.new_zeros(capacity, self.facts.shape[1])

    @torch.no_grad()
    def push(self, view: View, boxes: PaddedBoxes) -> None:
        """Put in the views of this part of a step, and so those of the others.

        Args:
            view: N images.
            boxes: theirs, in the view's pixels, the best first.
        """
        room = torch.full_like(view.sizes, self.side)
        larger = (view.sizes > room).any(1, keepdim=True)
        sizes = torch.where(larger, fit(view.sizes, room), view.sizes)
        at = torch.arange(self.side, device=sizes.device).expand(len(view), -1)
        levels = view.images if not view.images.is_floating_point() else (view.images * 255).round().to(torch.uint8)
        rows = along(levels, at, view.sizes[:, 0], sizes[:, 0], 2)
        pixels = along(rows, at, view.sizes[:, 1], sizes[:, 1], 3) * inside(sizes, [self.side, self.side])
        scale = (sizes / view.sizes).flip(1).repeat(1, 2)[:, None]
        kept = boxes.cut(self.boxes).facts * torch.cat([scale, torch.ones_like(scale[..., :3])], -1)
        facts = torch.cat([sizes.to(kept), kept.flatten(1)], 1)
        self.write(collective.gather_parts(pixels), collective.gather_parts(facts))

    def write(self, pixels: Tensor, facts: Tensor) -> None:
        """Put rows into the ring, in their order."""
        row = (self.pushed + torch.arange(len(facts), device=facts.device)) % len(self.facts)
        self.pixels.index_copy_(0, row, pixels)
        self.facts.index_copy_(0, row, facts)
        self.pushed += len(facts)

    def has(self, count: int) -> Tensor:
        """Return [] bool: whether the last ``count`` views are there."""
        return self.pushed >= count

    def take(self, ago: Tensor) -> Kept:
        """Return the views that came in as the ``ago``-th [N] before now: 1 = the last; where none did, a blank one."""
        row = (self.pushed - ago) % len(self.facts)
        facts = self.facts[row]
        boxes = PaddedBoxes(facts[:, 2:].unflatten(1, (self.boxes, FACTS)))
        return Kept(self.pixels[row], facts[:, :2].long().clamp(min=1), boxes)

"""Boxes of which another view shows too little."""

from __future__ import annotations

import torch

from ssod.structures import Pseudo, Targets, View
from ssod.structures.boxes import clip, compose, warp
from ssod.structures.ragged import image_index, select


@torch.no_grad()
def still_seen(labels: Pseudo, here: View, there: View, share: float) -> Pseudo:
    """Return the labels without the boxes of which less than ``share`` of the area lies in another view.

    Args:
        labels: in the pixels of ``here``, and so is the result.
        here: a view of N images.
        there: another view of them.
        share: of the area of the box where it comes to lie.
    """
    transfer = compose(there.matrix, torch.linalg.inv_ex(here.matrix).inverse)

    def keep(targets: list[Targets]) -> list[Targets]:
        image = image_index([len(t) for t in targets], transfer.device)
        moved = warp(torch.cat([t.boxes for t in targets]), transfer[image])
        seen, whole = ((b[:, 2:] - b[:, :2]).prod(1) for b in (clip(moved, there.sizes[image]), moved))
        return select(targets, seen >= share * whole)

    return labels.each(keep)

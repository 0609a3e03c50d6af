"""Pseudo-labels, and boxes carried from one view into another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from ssod.structures.boxes import clip, compose, warp, warp_sides
from ssod.structures.images import View
from ssod.structures.mapped import Mapped
from ssod.structures.pieces import move_in_pieces
from ssod.structures.ragged import image_index, select
from ssod.structures.targets import Targets, join


@dataclass
class Pseudo(Mapped):
    """What a teacher says about N images; its lists always move and mix together.

    Attributes:
        cls: N Targets, the boxes that teach classes.
        box: N Targets, the boxes that teach places; None = those of ``cls``.
        unsure: N Targets that are neither object nor background, unless a method reads them; None = there are none.
    """

    cls: list[Targets]
    box: list[Targets] | None = None
    unsure: list[Targets] | None = None

    def each(self, change: Callable[[list[Targets]], list[Targets]]) -> Pseudo:
        """Apply ``change`` to every list that there is: the only way to change boxes and keep them together."""
        lists = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{name: change(images) for name, images in lists.items() if images is not None})

    def move(self, src: View, dst: View, min_size: float = 1.0) -> Pseudo:
        """Carry every box from the pixels of ``src`` into those of ``dst``.

        Corners are mapped, their axis-aligned hull is clipped to the image, and a box with a side of ``min_size``
        pixels or less is dropped: it has left the view, and what stays of it would teach a wrong place. In a ``dst``
        that was cut (``View.pieces``) a box goes with its pixels, and becomes several where it crosses a cut.

        Raises:
            TypeError: ``src`` was cut: which of its boxes are parts of one object is not known.
        """
        if src.pieces is not None:
            raise TypeError("boxes are not carried out of a view that was cut; the config should have refused it")
        # inv_ex: unlike inv it does not wait for the device to report singular matrices.
        back, pieces = torch.linalg.inv_ex(src.matrix).inverse, dst.pieces
        if pieces is not None:
            before = compose(pieces.before, back)
            return self.each(lambda targets: move_in_pieces(targets, before, pieces, dst.sizes, min_size))
        transfer = compose(dst.matrix, back)
        return self.each(lambda targets: move_targets(targets, transfer, dst.sizes, min_size))

    def with_ignored(self) -> list[Targets]:
        """Return ``cls`` with the boxes of ``unsure`` behind them as ignore regions."""
        if self.unsure is None:
            return self.cls
        ignored = [replace(t, weight=torch.zeros_like(t.boxes[:, 0])) for t in self.unsure]
        return [join(pair) for pair in zip(self.cls, ignored)]


def move_targets(targets: Sequence[Targets], transfer: Tensor, sizes: Tensor, min_size: float = 1.0) -> list[Targets]:
    """Warp each image's boxes by its matrix [N, 3, 3], clip to ``sizes`` [N, 2] and drop what became too small."""
    counts = [len(t) for t in targets]
    image = image_index(counts, transfer.device)
    boxes = torch.cat([t.boxes for t in targets])
    boxes = clip(warp(boxes, transfer[image]), sizes[image])
    moved = [replace(t, boxes=b) for t, b in zip(targets, boxes.split(counts))]
    if any(t.box_std is not None for t in targets):
        box_std = warp_sides(torch.cat([t.deviation() for t in targets]), transfer[image])
        moved = [replace(t, box_std=s) for t, s in zip(moved, box_std.split(counts))]
    return select(moved, (boxes[:, 2:] - boxes[:, :2]).amin(1) > min_size)

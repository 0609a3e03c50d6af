"""Pictures that were cut into parts which lie elsewhere now, and boxes that go along with the parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ssod.structures.boxes import clip, compose, warp
from ssod.structures.mapped import Mapped
from ssod.structures.ragged import image_index, select
from ssod.structures.targets import Targets


@dataclass
class Pieces(Mapped):
    """How each of N pictures was cut on its way into a view, and where its P parts went.

    Attributes:
        before: [N, 3, 3], pixels of the original image -> pixels of the picture that was cut.
        regions: [N, P, 4], the parts in these pixels; without area where a picture has fewer parts.
        after: [N, P, 3, 3], these pixels -> pixels of the view, of each part.
    """

    before: Tensor
    regions: Tensor
    after: Tensor

    def then(self, matrix: Tensor) -> Pieces:
        """Return the same for views that were moved once more, by matrices [N, 3, 3]."""
        return replace(self, after=compose(matrix[:, None], self.after))

    @staticmethod
    def batch(cut: Sequence[Pieces | None], matrix: Tensor) -> Pieces | None:
        """Put together views of one picture each.

        Args:
            cut: N, of two parts; None = the picture is whole.
            matrix: [N, 3, 3] float, pixels of the original image -> pixels of a view that is whole.

        Returns:
            None where all are whole.
        """
        if all(of is None for of in cut):
            return None
        everywhere = torch.tensor([[-torch.inf, -torch.inf, torch.inf, torch.inf], [0, 0, 0, 0]])
        none = torch.eye(3).repeat(2, 1, 1)
        whole = [Pieces(m[None], everywhere[None], none[None]) for m in matrix]
        each = [own if of is None else of for own, of in zip(whole, cut)]
        names = ("before", "regions", "after")
        return Pieces(*(torch.cat([getattr(of, name).to(matrix) for of in each]) for name in names))


def move_in_pieces(
    targets: Sequence[Targets], transfer: Tensor, pieces: Pieces, sizes: Tensor, min_size: float = 1.0
) -> list[Targets]:
    """Carry the boxes of N images into a view that was cut; a box that crosses a cut becomes several.

    Args:
        targets: N Targets.
        transfer: [N, 3, 3], their pixels -> pixels of the picture that was cut.
        pieces: how it was cut.
        sizes: [N, 2] (height, width) of the view.
        min_size: a box with a side of so many pixels or less is dropped.

    Raises:
        TypeError: boxes know how certain their sides are; a side at the cut is none that was measured.
    """
    if any(t.box_std is not None for t in targets):
        raise TypeError("sides with a deviation are not carried into a view that was cut into parts")
    counts, parts = [len(t) for t in targets], pieces.regions.shape[1]
    image = image_index(counts, transfer.device)
    boxes = torch.cat([t.boxes for t in targets])
    boxes, regions = warp(boxes, transfer[image])[:, None], pieces.regions[image].to(boxes)
    low = torch.maximum(boxes[..., :2], regions[..., :2])
    high = torch.minimum(boxes[..., 2:], regions[..., 2:])
    here = (high > low).all(2).flatten()
    after = pieces.after[image].flatten(0, 1)
    boxes = clip(warp(torch.cat([low, high], 2).flatten(0, 1), after), sizes[image].repeat_interleave(parts, 0))
    moved = []
    for t, own in zip(targets, boxes.split([parts * n for n in counts])):
        each = torch.arange(len(t), device=own.device).repeat_interleave(parts)
        moved.append(replace(t[each], boxes=own))
    return select(moved, here & ((boxes[:, 2:] - boxes[:, :2]).amin(1) > min_size))

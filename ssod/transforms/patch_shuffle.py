"""Cut a picture in two and let the parts change places. (DSL, arXiv:2207.05536, from its released code)

A box goes with its pixels, and one that the cut goes through becomes two of its class. The released code moves some
boxes twice and tears others apart that touch a far border; here boxes are where their pixels are. A side of an object
at the cut is then no side of the object, as there.

No matrix says where a pixel goes. So a view that was cut knows its parts (``structures.Pieces``), by which
pseudo-labels follow. Boxes are not carried out of such a view: it is refused for the teacher, in evaluation, and where
a teacher is asked about places in the student's view.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from pydantic import Field

from ssod.structures import Pieces
from ssod.structures.pieces import move_in_pieces
from ssod.transforms.picture import Picture
from ssod.transforms.transform import MIN_SIDE, Seen, Size, Transform, nothing
from ssod.utils.schema import Section


class PatchShuffle(Section):
    """Cut at a random place, from top to bottom or from side to side, each as likely, and exchange the two parts."""

    p: float = Field(0.5, ge=0, le=1)
    "Probability."

    def draw(self, rng: np.random.Generator, size: Size) -> Transform:
        """See ``transform.Augmentation.draw``. The cut is rounded to a whole pixel; at a border it does nothing."""
        chance, side, share = rng.random(3)
        across = side < 0.5
        length = size[0] if across else size[1]
        cut = round(length * share)
        return exchanged(size, cut, across=across) if chance < self.p and 0 < cut < length else nothing(size)


def exchanged(size: Size, cut: int, *, across: bool) -> Transform:
    """Exchange what lies before ``cut`` pixels, from the left or from the top, and what lies behind."""
    pieces = parts_of(size, cut, across=across)

    def act(picture: Picture) -> Picture:
        return Picture(np.roll(picture.array(), -cut, axis=1 if across else 0))

    def follow(seen: Seen) -> Seen:
        image = act(seen.image)
        if seen.targets is None:
            if seen.pieces is not None:
                raise TypeError("a view is cut once, as boxes are carried over one cut; the config should refuse more")
            return replace(seen, image=image, pieces=replace(pieces, before=torch.from_numpy(seen.matrix)[None]))
        targets = move_in_pieces([seen.boxes()], pieces.before, pieces, torch.tensor([size[::-1]]), MIN_SIDE)[0]
        return replace(seen, image=image, targets=targets, since=np.eye(3))

    return Transform(size, np.eye(3), act, follow, always=True)


def parts_of(size: Size, cut: int, *, across: bool) -> Pieces:
    """Return the two parts of one picture of ``size`` (width, height), in its own pixels, float64."""
    width, height = size
    first, second = (
        ([0, 0, cut, height], [cut, 0, width, height]) if across else ([0, 0, width, cut], [0, cut, width, height])
    )
    after = torch.eye(3, dtype=torch.float64).repeat(2, 1, 1)
    length, axis = (width, 0) if across else (height, 1)
    after[0, axis, 2], after[1, axis, 2] = length - cut, -cut
    regions = torch.tensor([first, second], dtype=torch.float64)
    return Pieces(torch.eye(3, dtype=torch.float64)[None], regions[None], after[None])

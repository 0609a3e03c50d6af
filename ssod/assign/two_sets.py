"""Two sets of boxes for the same images: one that teaches classes, one that teaches places."""

from dataclasses import replace

import torch
from torch import Tensor

from ssod.assign.matches import BACKGROUND, IGNORED
from ssod.structures import Assignment


def with_boxes_of(cls: Assignment, box: Assignment) -> Assignment:
    """Ask the rows for the classes of one assignment and for the boxes of another; a row may have both, or one.

    A row that has a class of the first and no box of the second keeps the box of its class, with weight 0, because
    weightings ask how well a row fits its object.
    """
    own = torch.where(box.fg[:, None], box.box, cls.box)
    normalizer = cls.normalizer | {name: box.normalizer[name] for name in ("box", "quality") if name in box.normalizer}
    return replace(
        cls,
        box=own,
        box_weight=box.box_weight,
        quality=box.quality,
        normalizer=normalizer,
        box_std=box.box_std,
    )


def with_doubts(sure: Assignment, unsure: Assignment, counts: list[tuple[int, int]]) -> Assignment:
    """Let rows without a box of one set, which the other set would not leave to background, learn no class. (DSL)

    A box in doubt takes no row from a sure one, also where it is the smaller or the better fit.

    Args:
        sure: what rows are asked for.
        unsure: what they would be asked for by the boxes in doubt.
        counts: how many sure boxes and how many boxes in doubt each image has. ``matched`` counts both, image by image,
            those in doubt behind the others (``Pseudo.with_ignored``).
    """
    matched = sure.matches()
    doubt = (unsure.matches() != BACKGROUND) & (matched < 0)
    numbers, start = [matched.new_zeros(1)], 0  # one more, so that there is something to look up
    for own, others in counts:
        numbers.insert(-1, torch.arange(start, start + own, device=matched.device))
        start += own + others
    matched = torch.where(matched >= 0, torch.cat(numbers)[matched.clamp(min=0)], matched)
    return replace(sure, cls_weight=sure.cls_weight * ~doubt, matched=torch.where(doubt, IGNORED, matched))


def classes_beside_boxes(cls: Assignment, box: Assignment, images: int, boxes: int, num_classes: int) -> Assignment:
    """Put the rows that regress behind those that classify, image by image.

    Args:
        cls: of N times S rows, image by image; they regress nothing any more.
        box: of as many rows; they classify nothing any more.
        images: N.
        boxes: the number of boxes that ``cls`` was matched to; ``matched`` counts those of ``box`` from here on.
        num_classes: K.
    """

    def beside(one: Tensor, two: Tensor) -> Tensor:
        return torch.cat([rows.unflatten(0, (images, -1)) for rows in (one, two)], 1).flatten(0, 1)

    hard = cls.cls.ndim == box.cls.ndim == 1
    kinds = (cls.cls, box.cls) if hard else (cls.soft(num_classes), box.soft(num_classes))
    regressed = box.matches()
    return Assignment(
        beside(*kinds),
        beside(cls.cls_weight, torch.zeros_like(box.cls_weight)),
        beside(cls.box, box.box),
        beside(torch.zeros_like(cls.box_weight), box.box_weight),
        box_std=None if box.box_std is None else beside(torch.zeros_like(box.box_std), box.box_std),
        matched=beside(cls.matches(), torch.where(regressed >= 0, regressed + boxes, regressed)),
        open=cls.open,
    )

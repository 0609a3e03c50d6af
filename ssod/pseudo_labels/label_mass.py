"""What the mass of a soft label, below 1 in a mixed image, asks of a row: less of its class, or less of its loss."""

from dataclasses import replace

import torch

from ssod.structures import Assignment


def harden_labels(a: Assignment, num_classes: int, *, by_mass: bool = False) -> Assignment:
    """Give each row that is matched to a box its likeliest class as a hard label, and all other rows the background.

    Args:
        a: what the rows are asked for; hard labels stay what they are.
        num_classes: K.
        by_mass: multiply the class weight of a matched row by the mass of its soft target.
    """
    if a.cls.ndim == 1:
        return a
    matched = a.matches() >= 0  # a box whose box loss weighs nothing is a box
    weight = torch.where(matched, a.cls_weight * a.cls.sum(1), a.cls_weight) if by_mass else a.cls_weight
    return replace(a, cls=torch.where(matched, a.cls.argmax(1), num_classes), cls_weight=weight)

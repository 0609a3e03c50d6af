"""From matched indices to an ``Assignment``: the last step of every assigner that matches rows to boxes."""

import torch
from torch import Tensor

from ssod.structures import Assignment, Targets, open_classes

BACKGROUND, IGNORED = -1, -2


def from_matches(matches: list[Tensor], targets: list[Targets], num_classes: int) -> Assignment:
    """Ask each row for the box that it was matched to.

    Args:
        matches: N tensors [P_i] int64, the index of the row's target inside its image, -1 background, -2 ignored.
        targets: the boxes of the N images. Rows matched to a target of weight 0 become ignored; other weights scale
            the row's ``cls_weight`` and ``box_weight``; a target's own ``box_weight`` scales the latter alone.
        num_classes: K.

    Returns:
        An assignment of sum(P_i) rows; ``cls`` holds integers unless some target has ``probs``.
    """
    like = matches[0]
    starts = [0]
    for t in targets:
        starts.append(starts[-1] + len(t))
    total = starts[-1]
    matched = torch.cat([torch.where(m >= 0, m + start, m) for m, start in zip(matches, starts)])

    # One more target at the end, "background", so that every row has something to look up.
    boxes = torch.cat([t.boxes.float() for t in targets] + [torch.zeros(1, 4, device=like.device)])
    labels = torch.cat([t.labels for t in targets] + [like.new_full((1,), num_classes)])
    trust = torch.cat([t.trust().float() for t in targets] + [torch.ones(1, device=like.device)])
    matched = torch.where(trust[_lookup(matched, total)] > 0, matched, IGNORED)
    index = _lookup(matched, total)

    if any(t.probs is not None for t in targets):
        cls = torch.cat([t.soft(num_classes).float() for t in targets] + [boxes.new_zeros(1, num_classes)])[index]
    else:
        cls = labels[index]
    box_std = None
    if any(t.box_std is not None for t in targets):
        box_std = torch.cat([t.deviation().float() for t in targets] + [boxes.new_zeros(1, 4)])[index]
    weight = trust[index] * (matched != IGNORED)
    box_weight = weight * (matched >= 0)
    if any(t.box_weight is not None for t in targets):
        box_weight = box_weight * torch.cat([t.box_trust().float() for t in targets] + [boxes.new_ones(1)])[index]
    open = open_classes(targets, num_classes)
    return Assignment(cls, weight, boxes[index], box_weight, matched=matched, box_std=box_std, open=open)


def _lookup(matched: Tensor, total: int) -> Tensor:
    return torch.where(matched >= 0, matched, total)

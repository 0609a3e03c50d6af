"""What the quality branch of a dense head is asked for: how near a row is to a box's center, or how well it fits."""

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import torch

from ssod.structures import Assignment, Predictions
from ssod.structures.boxes import paired_iou

Quality = Literal["centerness", "iou"]


@torch.no_grad()
def with_centerness(p: Predictions, a: Assignment) -> Assignment:
    """Ask the quality branch for ``sqrt(min(l, r) / max(l, r) * min(t, b) / max(t, b))`` (FCOS, eq. 3)."""
    center = (p.priors[:, :2] + p.priors[:, 2:]) / 2
    before, after = center - a.box[:, :2], a.box[:, 2:] - center
    ratio = torch.minimum(before, after).clamp(min=0) / torch.maximum(before, after).clamp(min=1e-7)
    return replace(a, quality=ratio.prod(1).sqrt())


@torch.no_grad()
def with_iou(p: Predictions, a: Assignment) -> Assignment:
    """Ask the quality branch of foreground rows for the IoU of the box that they predict with the one they should."""
    rows = a.fg_rows
    near = paired_iou(p.coder.decode(p.deltas[rows, 0].float(), p.priors[rows]), a.box[rows])
    return replace(a, quality=a.box.new_zeros(len(p)).index_put((rows,), near.to(a.box)))


QUALITIES: dict[Quality, Callable[[Predictions, Assignment], Assignment]] = {
    "centerness": with_centerness,
    "iou": with_iou,
}

"""Which row answers for a box that a dense head was not asked about."""

import torch
from torch import Tensor

from ssod.structures.boxes import iou

PART, CPU_PART = 2**23, 2**20  # pairs of boxes that are compared at once; a CPU is fast while its cache holds them


def nearest_row(decoded: Tensor, boxes: Tensor) -> Tensor:
    """Return the row [M] int64 whose box [P, 4] overlaps each box [M, 4] most, or is nearest to it.

    Many boxes go through it in parts, as [P, M] is 0.5 GB for 600 of them.
    """
    size = max(1, (CPU_PART if decoded.device.type == "cpu" else PART) // len(decoded))
    most, row = map(torch.cat, zip(*(iou(decoded, part).max(0) for part in boxes.split(size))))
    lost = (~(most > 0)).nonzero().squeeze(1)
    parts = (decoded[:, None, :2] + decoded[:, None, 2:] - b[:, :2] - b[:, 2:] for b in boxes[lost].split(size))
    return row.index_copy(0, lost, torch.cat([apart.square().sum(-1).argmin(0) for apart in parts]))

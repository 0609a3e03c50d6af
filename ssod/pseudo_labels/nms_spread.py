"""How sure is a teacher of a box's place? The boxes that suppression took say it. (S4OD, arXiv:2204.04492)

Rows near an object predict it again and again; where they agree, its place is known. The paper measures the regression
uncertainty of a box from what its suppression leaves out; the formula is ours, as nothing but the idea was to be read.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ssod.structures import Clusters


@torch.no_grad()
def cluster_spread(found: Clusters) -> tuple[Tensor, Tensor]:
    """Return the spread of each side of each detection [M, 4], and the boxes in its cluster [M], of all images.

    The spread is the population standard deviation over the detection and what was suppressed for its sake: of x over
    the width of their mean box, of y over its height, one pixel at least. That of a box alone, a cluster of 1, is 0.

    Args:
        found: the detections of N images and their clusters.
    """
    counts = [len(t) for t in found.detections]
    n, most = len(counts), max(counts, default=0)
    boxes = found.boxes if found.boxes.device.type == "mps" else found.boxes.double()
    boxes = boxes.flatten(0, 1)
    image = torch.arange(n, device=boxes.device)[:, None]
    none = n * most  # a place too many takes what belongs to no detection
    inside = (found.owner >= 0) & (found.owner < most)
    place = torch.where(inside, image * most + found.owner, none).flatten()

    def summed(values: Tensor) -> Tensor:
        return values.new_zeros(none + 1, values.shape[1]).index_add(0, place, values)

    members = summed(torch.ones_like(boxes[:, :1]))
    mean = summed(boxes) / members.clamp(min=1)
    deviation = (summed((boxes - mean[place]).square()) / members.clamp(min=1)).sqrt()
    size = (mean[:, 2:] - mean[:, :2]).clamp(min=1).repeat(1, 2)
    rows = torch.cat([deviation / size, members], 1)[:-1].view(n, most, 5)
    rows = torch.cat([row[:count] for row, count in zip(rows, counts)])
    return rows[:, :4].to(found.boxes), rows[:, 4].long()

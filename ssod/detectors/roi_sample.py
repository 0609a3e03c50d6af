"""Which boxes a second stage learns from: proposals and the boxes that are to be found, and rows drawn among them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ssod.assign.iou import IoUAssigner
from ssod.assign.matches import IGNORED
from ssod.assign.sample import by_priority
from ssod.detectors.decode import Detections
from ssod.detectors.two_stage import TwoStageOutput
from ssod.structures import Targets
from ssod.utils import seeding


def pool(found: Detections, targets: list[Targets]) -> tuple[Tensor, Tensor]:
    """Return proposals followed by the boxes of N images [N, C, 4], and which of them are no padding [N, C]."""
    most = max(len(t) for t in targets)
    boxes, real = [], []
    for proposals, score, t in zip(found.boxes, found.scores, targets):
        padding = most - len(t)
        boxes.append(torch.cat([proposals, t.boxes.to(proposals), proposals.new_zeros(padding, 4)]))
        real.append(F.pad(torch.cat([score > 0, torch.ones_like(t.labels, dtype=torch.bool)]), (0, padding)))
    return torch.stack(boxes), torch.stack(real)


@torch.no_grad()
def sure_first(
    out: TwoStageOutput, sure: list[Targets], both: list[Targets], assigner: IoUAssigner, rows: int, fraction: float
) -> tuple[list[Tensor], list[Tensor]]:
    """Sample rows for two sets of boxes, each matched by itself; see ``assign.sample.by_priority``.

    A box that is to be found is a row of its own set, of which it is its own match, and of no other.

    Args:
        out: what the detector saw in N images.
        sure: N Targets, the first set.
        both: N Targets, those of ``sure`` followed by the second set.
        assigner: matches boxes to each set.
        rows: S, sampled in each image.
        fraction: largest share of rows with a box.

    Returns:
        N tensors of boxes [S, 4], and N of what each is matched to in ``both`` [S], -1 background, -2 ignored.
    """
    boxes, real = pool(out.found, both)
    first, second = [], []
    for b, there, s, t in zip(boxes, real, sure, both):
        start, middle, end = len(b) - max(map(len, both)), len(s), len(t)
        own = torch.arange(end, device=b.device)
        one = torch.where(there, assigner.match(b, t.boxes[:middle]), IGNORED)
        two = torch.where(there, assigner.match(b, t.boxes[middle:]), IGNORED)
        two = torch.where(two >= 0, two + middle, two)
        one[start : start + end] = torch.where(own < middle, own, IGNORED)
        two[start : start + end] = torch.where(own < middle, IGNORED, own)
        first.append(one)
        second.append(two)
    one, two = torch.stack(first), torch.stack(second)
    index, matches = by_priority(one, two, draw_of(out.keys, one), rows, fraction)
    return list(boxes.gather(1, index[..., None].expand(-1, -1, 4))), list(matches)


def draw_of(keys: Tensor, rows: Tensor) -> Tensor:
    """Return [N, P] random numbers that depend on the image's key and on the row's number in it."""
    return seeding.uniform(keys[:, None], torch.arange(rows.shape[1], device=keys.device))

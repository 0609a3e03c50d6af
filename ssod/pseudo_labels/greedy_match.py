"""Which detections are right? Each box is found once, by the best detection that wants it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ssod.structures import Targets
from ssod.structures.boxes import area


@torch.no_grad()
def greedy_match(detections: list[Targets], truth: list[Targets], least: float) -> tuple[Tensor, Tensor]:
    """Return [M] bool, which detections of all images are right, and [M] bool, which of them count.

    In descending score (ties: by position), a detection takes the box of its image and class that it overlaps most, if
    by ``least`` or more and if no other has taken it. What took none is wrong; it does not count where a share of
    ``least`` or more of it lies in an ignore region of its class.

    Detections choose all at once, in as many rounds as an image has boxes at most, each among the boxes that no better
    one holds. After round k the k best of those that end with a box hold it for good: what they like better is held by
    better ones. So this is what one after the other would find, and nothing waits for the device.

    Args:
        detections: N Targets with scores.
        truth: N Targets; those of weight 0 are ignore regions.
        least: overlap, above 0.
    """
    counts, most = [len(t) for t in detections], max(len(t) for t in truth)
    boxes, labels = padded(detections, -1)
    scores = pad_sequence([t.confidence() for t in detections], batch_first=True, padding_value=-torch.inf)
    if not most or not scores.shape[1]:
        right = torch.zeros_like(scores, dtype=torch.bool)
        return unpadded(right, counts), unpadded(~right, counts)
    wanted, classes = padded(truth, -2)
    real = pad_sequence([t.trust() for t in truth], batch_first=True)[:, None] > 0
    shared, own = overlap(boxes, wanted), area(boxes)[:, :, None]
    same = labels[:, :, None] == classes[:, None]
    iou = shared / (own + area(wanted)[:, None] - shared).clamp(min=1e-7)
    possible = same & real & (iou >= least)
    ignored = (same & ~real & (shared > 0) & (shared >= least * own)).any(2)
    place = scores.argsort(dim=1, descending=True, stable=True).argsort(1)[:, :, None]  # 0 = the best
    asks, holder = possible, torch.full_like(place[:, :1], scores.shape[1])
    for _ in range(min(most, scores.shape[1])):
        free = possible & (place <= holder)
        choice = torch.where(free, iou, -1.0).argmax(2, keepdim=True)
        asks = free & (torch.arange(most, device=choice.device) == choice)
        holder = torch.where(asks, place, scores.shape[1]).amin(1, keepdim=True)
    right = (asks & (place == holder)).any(2)
    return unpadded(right, counts), unpadded(right | ~ignored, counts)


def overlap(a: Tensor, b: Tensor) -> Tensor:
    """Return [N, A, B] areas that boxes [N, A, 4] and [N, B, 4] share."""
    a, b = a[:, :, None], b[:, None]
    return area(torch.cat([torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:])], -1))


def padded(targets: list[Targets], none: int) -> tuple[Tensor, Tensor]:
    """Return boxes [N, most, 4] and labels [N, most] of N Targets; padding is an empty box of class ``none``."""
    boxes = pad_sequence([t.boxes for t in targets], batch_first=True)
    return boxes, pad_sequence([t.labels for t in targets], batch_first=True, padding_value=none)


def unpadded(rows: Tensor, counts: list[int]) -> Tensor:
    """Return the first ``counts`` of each of N rows [N, most], one after the other."""
    return torch.cat([row[:count] for row, count in zip(rows, counts)])

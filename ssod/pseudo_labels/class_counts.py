"""How many of an image's detections are objects? About as many as their scores add up to. (Consistent-Teacher)"""

import torch
from torch.nn.utils.rnn import pad_sequence

from ssod.structures import Targets
from ssod.structures.ragged import select

_SLACK = 1e-5  # scores this close to the last one kept are kept, too


@torch.no_grad()
def count_filter(detections: list[Targets], ratio: float = 1.0, min_size: float = 0.0) -> list[Targets]:
    """Keep the best detections of each image, as many as its scores let expect, and one more.

    Were scores probabilities, their sum would be the expected number of objects. The released code of
    Consistent-Teacher (the paper, arXiv:2209.01589, does not mention it) rounds ``ratio * sum`` to n, at most the
    number of detections less one, and keeps scores above ``s_n - 1e-5`` with scores sorted from s_0 downwards: n + 1
    boxes, more where scores tie. Without it score banks fill with the countless scores just above the detector's own
    threshold.

    Args:
        detections: N Targets with scores, in any order.
        ratio: factor of the sum.
        min_size: both sides of a box must exceed this, in pixels.

    Returns:
        N Targets, in the order given.
    """
    if not any(len(t) for t in detections):
        return detections
    scores = pad_sequence([t.confidence() for t in detections], batch_first=True, padding_value=-1.0)
    boxes = pad_sequence([t.boxes for t in detections], batch_first=True)
    there = scores >= 0
    ranked = scores.sort(1, descending=True).values
    expected = (ratio * (scores * there).sum(1) + 0.5).long()
    last = torch.minimum(expected, there.sum(1) - 1).clamp(min=0)
    cut = ranked.gather(1, last[:, None]) - _SLACK
    keep = there & (scores > cut) & (boxes[..., 2:] - boxes[..., :2] > min_size).all(-1)
    return select(detections, torch.cat([k[: len(t)] for t, k in zip(detections, keep)]))

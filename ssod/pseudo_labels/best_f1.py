"""Which score of each class keeps most objects and fewest errors? (S4OD, arXiv:2204.04492; formulas ours)

The paper picks a threshold of each class by the best trade-off of quality and quantity of its labels, and was published
without code. Here it is the best F1 on labelled images.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ssod.pseudo_labels.greedy_match import greedy_match
from ssod.structures import Targets, open_classes
from ssod.structures.ragged import image_index
from ssod.utils import collective

STEPS = 20  # thresholds are 0.05, 0.10, ..., 0.95


def grid(like: Tensor) -> Tensor:
    """Return the thresholds [19] to choose from, rising, of the type and on the device of ``like``."""
    return torch.arange(1, STEPS, dtype=like.dtype, device=like.device) / STEPS


def best_thresholds(found: Tensor, right: Tensor, wanted: Tensor, fallback: float) -> Tensor:
    """Return [K] float32: the lowest threshold of highest F1 = 2 right / (found + wanted) of each class.

    Args:
        found: [K, 19] int64, detections that score each threshold or more.
        right: [K, 19] int64, the right ones among them.
        wanted: [K] int64, labelled boxes.
        fallback: threshold of a class without a labelled box, or whose F1 is 0 everywhere.
    """
    total = found + wanted[:, None]
    # In whole numbers, so that two equal shares are equal: a / b < c / d where a d < c b.
    beaten = (right[:, :, None] * total[:, None] < right[:, None] * total[:, :, None]).any(2)
    lowest = grid(torch.empty((), device=found.device))[(~beaten).int().argmax(1)]
    return torch.where(right.any(1), lowest, fallback)


def of_open(targets: list[Targets], open: Tensor) -> Tensor:
    """Return [all boxes] bool: whether each box's class is open, [N, K] bool, in its image."""
    image = image_index([len(t) for t in targets], open.device)
    return open[image, torch.cat([t.labels for t in targets])]


class BestF1(nn.Module):
    """Counts the teacher's detections in labelled images, and has the thresholds that followed the last time.

    All ranks and all parts of a step (``train.accumulate``) count what all of them see, and agree.

    Args:
        num_classes: K.
        start: threshold of each class before the first choice, and of one that no choice can be made for.
        overlap: a detection is right that overlaps a labelled box of its class at least this much (``greedy_match``).

    Attributes:
        values: [K] float32, the thresholds; a detection passes that scores as much or more.
        found, right: [K, 19] int64, see ``best_thresholds``; since the last choice.
        wanted: [K] int64, labelled boxes.
        images: [] int64, labelled images.
    """

    values: Tensor
    found: Tensor
    right: Tensor
    wanted: Tensor
    images: Tensor
    alike = ("values", "found", "right", "wanted", "images")  # on all processes

    def __init__(self, num_classes: int, *, start: float, overlap: float) -> None:
        super().__init__()
        self.start, self.overlap = start, overlap
        counts = torch.zeros(num_classes, STEPS - 1, dtype=torch.long)
        self.register_buffer("values", torch.full((num_classes,), start))
        self.register_buffer("found", counts)
        self.register_buffer("right", counts.clone())
        self.register_buffer("wanted", counts[:, 0].clone())
        self.register_buffer("images", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def count(self, detections: list[Targets], truth: list[Targets]) -> None:
        """Count the detections of N labelled images; on several ranks, all call it together.

        Args:
            detections: N Targets with scores.
            truth: N Targets; those of weight 0 are ignore regions. A class that is open in an image is not counted
                there: what is found of it may be right.
        """
        right, counts = greedy_match(detections, truth, self.overlap)
        open = open_classes(truth, len(self.found))
        if open is not None:
            counts = counts & ~of_open(detections, open)
        labels, scores = torch.cat([t.labels for t in detections]), torch.cat([t.confidence() for t in detections])
        passes = (scores[:, None] >= grid(scores)) & counts[:, None]
        classes, real = torch.cat([t.labels for t in truth]), torch.cat([t.trust() for t in truth]) > 0
        if open is not None:
            real = real & ~of_open(truth, open)
        found, hits, wanted = (torch.zeros_like(self.found, dtype=torch.float32) for _ in range(3))
        found.index_add_(0, labels, passes.float())
        hits.index_add_(0, labels, (passes & right[:, None]).float())
        wanted.index_add_(0, classes, real.float()[:, None].expand(-1, STEPS - 1))
        every = collective.sum_over_ranks(torch.stack([found, hits, wanted])).round().long()
        self.found += every[0]
        self.right += every[1]
        self.wanted += every[2, :, 0]
        self.images += len(truth) * collective.shares()

    @torch.no_grad()
    def choose(self) -> None:
        """Let thresholds follow what was counted, if it was anything, and begin to count anew."""
        chosen = best_thresholds(self.found, self.right, self.wanted, self.start)
        self.values.copy_(torch.where(self.images > 0, chosen, self.values))
        for counted in (self.found, self.right, self.wanted, self.images):
            counted.zero_()

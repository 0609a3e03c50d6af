"""How high must a class score to have as many boxes as its labels let expect? (LabelMatch, arXiv:2206.06608)"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ssod.structures import LabelStatistics, Targets
from ssod.structures.ragged import image_index
from ssod.utils import collective

SLOTS = 20  # scores that an image keeps of a class
FLOOR = 0.05  # no threshold of reliable boxes is below


class LabelQueue(nn.Module):
    """The best scores of the last images, and two thresholds of each class that follow ("ACT", as released).

    A class is expected to have as many boxes in an unlabelled image as it has in a labelled one. The threshold of its
    unsure boxes is the score of that rank among its scores in the queue, that of its reliable boxes the score of a
    share of that rank. Ranks count from 0 and are cut to whole numbers, so that one box more passes.

    All ranks and all parts of a step (``train.accumulate``) put in the scores of all, in their order, and agree.

    Args:
        num_classes: K.
        images: Q, how many are remembered.
        share: of the boxes that are expected, those that are reliable.
        start: both thresholds of every class until the queue was full once.
        least: no threshold of unsure boxes is below; that of reliable ones is 0.05 or more.

    Attributes:
        scores: [Q, K, 20] float32, the best scores of each class in each image; 0 = no box.
        seen: [] int64, images that were put in so far.
        ranks: [2, K] int64, of reliable and of unsure boxes; one box of each class in an image before ``expect``.
    """

    scores: Tensor
    seen: Tensor
    ranks: Tensor

    def __init__(self, num_classes: int, *, images: int, share: float, start: float, least: float) -> None:
        super().__init__()
        self.share, self.start, self.least = share, start, least
        self.register_buffer("scores", torch.zeros(images, num_classes, SLOTS))
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))
        self.register_buffer("ranks", ranks_of(torch.full((num_classes,), float(images)), share, images * SLOTS))

    @torch.no_grad()
    def expect(self, statistics: LabelStatistics) -> None:
        """Take note of the labelled set; a class without a box in it counts as one box."""
        images, _, slots = self.scores.shape
        expected = images * statistics.boxes.clamp(min=1).double() / max(statistics.images, 1)
        self.ranks.copy_(ranks_of(expected, self.share, images * slots))

    @torch.no_grad()
    def thresholds(self) -> Tensor:
        """Return [2, K], of reliable and of unsure boxes; a box passes whose score is not below."""
        found = scores_at(self.scores.transpose(0, 1).flatten(1), self.ranks, self.least)
        return torch.where(self.seen >= len(self.scores), found, self.start)

    @torch.no_grad()
    def push(self, detections: list[Targets]) -> None:
        """Put in the scores of a batch in the place of the oldest ones; on several ranks, all call it together."""
        images, classes, slots = self.scores.shape
        rows = best_scores(detections, classes, slots).flatten(1)
        # Thresholds are read before, so that nothing in this step depends on what comes in.
        rows = collective.all_gather_rows(rows, decides=False).unflatten(1, (classes, slots))
        last = torch.arange(len(rows), device=rows.device)[-images:]
        self.scores.index_copy_(0, (self.seen + last) % images, rows[-images:])
        self.seen += len(rows)

    def fill(self) -> Tensor:
        """Return the share of the queue that was filled so far, a scalar."""
        return (self.seen / len(self.scores)).clamp(max=1)


def ranks_of(expected: Tensor, share: float, scores: int) -> Tensor:
    """Return [2, K] int64 ranks of expected boxes [K] among so many scores, 0 = the best; first of their ``share``."""
    return torch.stack([expected * share, expected]).long().clamp(max=scores - 1)


def scores_at(scores: Tensor, ranks: Tensor, least: float) -> Tensor:
    """Return the scores [2, K] of ranks [2, K] among scores [K, S] in any order, held above their floors."""
    found = scores.sort(1, descending=True).values.gather(1, ranks.t()).t()
    return torch.stack([found[0].clamp(min=FLOOR), found[1].clamp(min=least)])


def best_scores(detections: list[Targets], num_classes: int, count: int) -> Tensor:
    """Return the ``count`` best scores of each class in each of N images [N, K, count], 0 where there are fewer."""
    scores = torch.cat([t.confidence() for t in detections]).float()
    group = image_index([len(t) for t in detections], scores.device) * num_classes
    group = group + torch.cat([t.labels for t in detections])
    order = scores.argsort(descending=True, stable=True)
    order = order[group[order].argsort(stable=True)]
    group, scores = group[order], scores[order]
    place = torch.arange(len(group), device=group.device) - torch.searchsorted(group, group)
    # A column too many takes the scores for which there is no place.
    table = scores.new_zeros(len(detections) * num_classes, count + 1)
    table = table.index_put((group, place.clamp(max=count)), scores)
    return table[:, :count].unflatten(0, (-1, num_classes))

"""How high must a class score to have as many boxes as its labels let expect? (LabelMatch, arXiv:2206.06608)"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ssod.structures import LabelStatistics, Targets
from ssod.structures.ragged import by_group, image_index
from ssod.utils import collective

BOXES, OF_A_CLASS = 100, 20  # scores that an image keeps in all, and of a class
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
        start: both thresholds of every class until the queue was full once; None = ranks that grow with it.
        least: no threshold of unsure boxes is below; that of reliable ones is 0.05 or more.
        unsure: a box is unsure up to so many times the boxes that are expected.

    Attributes:
        scores: [Q, 100] float32, the best scores in each image, 20 of a class at most; 0 = no box.
        labels: [Q, 100] int32, their classes.
        seen: [] int64, images that were put in so far.
        ranks: [2, K] int64, of reliable and of unsure boxes; one box of each class in an image before ``expect``.
    """

    scores: Tensor
    labels: Tensor
    seen: Tensor
    ranks: Tensor
    alike = ("scores", "labels", "seen", "ranks")  # on all processes

    def __init__(
        self, num_classes: int, *, images: int, share: float, start: float | None, least: float, unsure: float = 1.0
    ) -> None:
        super().__init__()
        self.images, self.share, self.start, self.least, self.unsure = images, share, start, least, unsure
        self.register_buffer("scores", torch.zeros(images, BOXES))
        self.register_buffer("labels", torch.zeros(images, BOXES, dtype=torch.int32))
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))
        expected = torch.full((num_classes,), float(images))
        # Config and labelled set say them: a state of another `share` must not bring its own.
        self.register_buffer("ranks", self._ranks(expected), persistent=False)

    @torch.no_grad()
    def expect(self, statistics: LabelStatistics) -> None:
        """Take note of the labelled set; a class without a box in it counts as one box."""
        expected = self.images * statistics.boxes.clamp(min=1).double() / max(statistics.images, 1)
        self.ranks.copy_(self._ranks(expected))

    def _ranks(self, expected: Tensor) -> Tensor:
        return ranks_of(expected, self.share, self.images * OF_A_CLASS, self.unsure)

    @torch.no_grad()
    def thresholds(self) -> Tensor:
        """Return [2, K], of reliable and of unsure boxes; a box passes whose score is not below."""
        held = self.seen.clamp(max=self.images)
        ranks = self.ranks if self.start is not None else self.ranks * held // self.images
        found = scores_at(self.scores.flatten(), self.labels.flatten(), ranks, self.least)
        return found if self.start is None else torch.where(held >= self.images, found, self.start)

    @torch.no_grad()
    def too_few(self) -> Tensor:
        """Return [2, K] bool, where a class has fewer scores than a rank asks for, of reliable and of unsure boxes."""
        there = (self.scores > 0).flatten().long()
        return self.ranks >= torch.zeros_like(self.ranks[0]).index_add_(0, self.labels.flatten(), there)

    @torch.no_grad()
    def push(self, detections: list[Targets], *, decides: bool = False) -> None:
        """Put in the scores of a batch in the place of the oldest ones; on several ranks, all call it together.

        Args:
            detections: N Targets with scores.
            decides: whether thresholds are read after it in the same step; see ``collective.all_gather_rows``.
        """
        # One exchange: float32 holds a label exactly.
        rows = collective.all_gather_rows(best_scores(detections), decides=decides)
        count = len(rows)
        last = torch.arange(count, device=rows.device)[-self.images :]
        place, rows = (self.seen + last) % self.images, rows[-self.images :]
        self.scores.index_copy_(0, place, rows[..., 0])
        self.labels.index_copy_(0, place, rows[..., 1].int())
        self.seen += count

    def fill(self) -> Tensor:
        """Return the share of the queue that was filled so far, a scalar."""
        return (self.seen / self.images).clamp(max=1)


def ranks_of(expected: Tensor, share: float, scores: int, unsure: float = 1.0) -> Tensor:
    """Return the ranks [2, K] int64, 0 = the best, of reliable and of unsure boxes among so many scores.

    Args:
        expected: [K] boxes.
        share: of them, the reliable ones.
        scores: how many there are.
        unsure: so many times them, the unsure ones.
    """
    return torch.stack([expected * share, expected * unsure]).long().clamp(max=scores - 1)


def scores_at(scores: Tensor, labels: Tensor, ranks: Tensor, least: float) -> Tensor:
    """Return the scores [2, K] of ranks [2, K] in each class of scores [M], held above their floors.

    Args:
        scores: [M], in any order.
        labels: [M], their classes.
        ranks: of reliable and of unsure boxes; a class with fewer scores has 0 there.
        least: floor of unsure boxes.
    """
    order, _ = by_group(labels, scores)
    scores, labels = scores[order], labels[order]
    every = torch.arange(ranks.shape[1], device=labels.device, dtype=labels.dtype)
    index = torch.searchsorted(labels, every) + ranks
    there = index < torch.searchsorted(labels, every, right=True)
    found = torch.where(there, scores[index.clamp(max=len(scores) - 1)], 0.0)
    return torch.stack([found[0].clamp(min=FLOOR), found[1].clamp(min=least)])


def best_scores(detections: list[Targets]) -> Tensor:
    """Return the best scores of each of N images and their classes [N, 100, 2], score 0 where there are fewer.

    Of a class an image keeps 20 at most.
    """
    labels, scores = torch.cat([t.labels for t in detections]), torch.cat([t.confidence() for t in detections]).float()
    image = image_index([len(t) for t in detections], scores.device)
    order, place = by_group(image * 2**32 + labels, scores)  # no label is as large
    scores = scores.index_put((order,), torch.where(place < OF_A_CLASS, scores[order], 0.0))
    order, place = by_group(image, scores)
    # A column too many takes what there is no place for.
    rows = torch.stack([scores, labels.float()], 1)[order]
    table = scores.new_zeros(len(detections), BOXES + 1, 2).index_put((image[order], place.clamp(max=BOXES)), rows)
    return table[:, :BOXES]

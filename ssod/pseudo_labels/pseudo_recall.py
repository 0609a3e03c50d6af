"""Which classes does the teacher miss? Those are pasted more often. (ACRST, arXiv:2107.05031; formulas ours)

The paper says that classes which the pseudo-labels under-represent are to be drawn more often, and was published
without code. Here a class is measured by its pseudo-recall: boxes per image among the reliable pseudo-labels, over
boxes per image among the true labels, 1 at most. What is missing to 1 is how often the class is drawn.
"""

import torch
from torch import Tensor, nn

from ssod.structures import LabelStatistics
from ssod.utils import collective


def expected_density(boxes: Tensor, images: int) -> Tensor:
    """Return [K] boxes per labelled image of each class.

    Args:
        boxes: [K], labelled boxes of each class; a class without any counts as if it had one.
        images: labelled images.
    """
    return boxes.clamp(min=1) / images


def pseudo_recall(expected: Tensor, found: Tensor, images: Tensor) -> Tensor:
    """Return [K] in 0..1, the share of a class's expected boxes that the teacher finds; 0 where it saw no image.

    Args:
        expected: [K] boxes per labelled image, above 0.
        found: [K] reliable pseudo-boxes of each class.
        images: [], unlabelled images in which they were found.
    """
    observed = found / torch.where(images > 0, images, torch.inf)
    return (observed / expected).clamp(max=1)


def sampling_probability(recall: Tensor) -> Tensor:
    """Return [K] that sum to 1: proportional to what each class lacks to a recall of 1; uniform if none lacks any."""
    missing = 1 - recall
    total = missing.sum()
    return torch.where(total > 0, missing / total, 1 / len(recall))


class PseudoRecall(nn.Module):
    """Counts reliable pseudo-boxes over the last steps, the newest counting most; all ranks have the same counts.

    Args:
        num_classes: K.
        decay: factor of old counts at each step; 0.999 remembers some 1000 steps.

    Attributes:
        found: [K] decayed number of reliable pseudo-boxes of each class.
        images: [] decayed number of unlabelled images.
        expected: [K] boxes per labelled image; 1 until ``see`` is told.
    """

    found: Tensor
    images: Tensor
    expected: Tensor
    alike = ("found", "images")  # on all ranks

    def __init__(self, num_classes: int, decay: float) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("found", torch.zeros(num_classes))
        self.register_buffer("images", torch.zeros(()))
        self.register_buffer("expected", torch.ones(num_classes), persistent=False)

    def see(self, statistics: LabelStatistics) -> None:
        """Take note of what the labelled set holds."""
        self.expected.copy_(expected_density(statistics.boxes, statistics.images))

    @torch.no_grad()
    def count(self, labels: Tensor, images: int) -> None:
        """Take note of one step.

        Args:
            labels: [n] int64, the classes of this part's reliable pseudo-boxes; pasted boxes are none.
            images: in which they were found.
        """
        classes = torch.arange(len(self.found), device=labels.device)
        mine = torch.cat([(labels[:, None] == classes).sum(0), torch.full_like(classes[:1], images)])
        every = collective.mean_over_ranks(mine.float(), decides=True) * collective.shares()
        self.found.copy_(self.found * self.decay + every[:-1])
        self.images.copy_(self.images * self.decay + every[-1])

    def recall(self) -> Tensor:
        """Return [K] the pseudo-recall of each class."""
        return pseudo_recall(self.expected, self.found, self.images)

    def probability(self) -> Tensor:
        """Return [K] how often each class is to be drawn."""
        return sampling_probability(self.recall())

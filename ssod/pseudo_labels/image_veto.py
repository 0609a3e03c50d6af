"""A second opinion on detections: does a classifier of whole images believe in the class? (ACRST, arXiv:2107.05031)

The paper filters pseudo-labels in two stages, by detection score and by an image-level multi-label classifier, and was
published without code: the classifier and both limits are ours.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssod.structures import Targets
from ssod.structures.ragged import image_index


def confirmed(
    scores: Tensor, labels: Tensor, image: Tensor, probs: Tensor, score: float, image_score: float
) -> tuple[Tensor, Tensor]:
    """Return which of M detections pass the first stage, and which of them pass both, [M] bool each.

    Args:
        scores: [M] of the detections.
        labels: [M] int64, their classes.
        image: [M] int64, their images.
        probs: [N, K], how likely each image holds each class.
        score: a detection passes the first stage when its score is at least this.
        image_score: it passes the second when its image holds its class at least this likely.
    """
    first = scores >= score
    return first, first & (probs[image, labels] >= image_score)


class ImageClassifier(nn.Module):
    """Says which classes an image holds: the mean over the top map of the pyramid, and one linear layer.

    Args:
        channels: of the map.
        num_classes: K.
    """

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, num_classes)

    def forward(self, top: Tensor, canvas: tuple[int, int], sizes: Tensor) -> Tensor:
        """Return [N, K] logits.

        Args:
            top: [N, C, h, w], the coarsest map.
            canvas: (height, width) of the images with their padding.
            sizes: [N, 2] (height, width) without; cells that begin beyond it are padding and are left out.
        """
        height, width = (
            torch.arange(cells, device=top.device) * (side / cells) < sizes[:, i, None]
            for i, (cells, side) in enumerate(zip(top.shape[-2:], canvas))
        )
        real = (height[:, :, None] & width[:, None, :])[:, None]
        pooled = torch.where(real, top.float(), 0).sum((2, 3)) / real.sum((2, 3))
        return self.linear(pooled.to(self.linear.weight))


def label_sets(targets: Sequence[Targets], num_classes: int) -> Tensor:
    """Return [N, K] float: 1 for the classes that an image has a box of."""
    like = targets[0].boxes
    labels = torch.cat([t.labels for t in targets])
    image = image_index([len(t) for t in targets], like.device)
    sets = torch.zeros(len(targets), num_classes, device=like.device)
    return sets.index_put((image, labels), torch.ones_like(sets[0, 0]))


def presence_loss(logits: Tensor, present: Tensor, open: Tensor | None = None) -> Tensor:
    """Return the mean binary cross-entropy over images and classes, [].

    Args:
        logits: [N, K].
        present: [N, K], 1 = an image has a box of the class.
        open: [N, K] bool; a class without a box may be there where this is true, and costs nothing. None = nowhere.
    """
    if open is None:
        return F.binary_cross_entropy_with_logits(logits.float(), present)
    loss = F.binary_cross_entropy_with_logits(logits.float(), present, reduction="none")
    return loss.masked_fill(open & (present == 0), 0).mean()

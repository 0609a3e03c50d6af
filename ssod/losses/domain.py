"""Labelled or unlabelled? A classifier of feature maps that the maps learn to deceive. (arXiv:2302.07577, Sec. 3.3)

The gradient of the classifier's loss is reversed where it enters the features (Ganin and Lempitsky 2015,
arXiv:1409.7495): the classifier learns to tell both kinds of images apart, and the detector to make them alike.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ssod.losses.elements import upcast
from ssod.utils.collective import mean_count

LABELED, UNLABELED = 0, 1


class Reversed(torch.autograd.Function):
    """The identity, with a gradient of the other sign."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Return ``x``."""
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> Tensor:
        """Return minus the slope."""
        return -slopes[0]


class DomainClassifier(nn.Module):
    """Says of each cell of each level whether it is of a labelled or of an unlabelled image.

    Args:
        levels: of the pyramid, each with layers of its own: a 1x1 convolution, ReLU, and one to two logits.
        channels: of the pyramid's maps, and between the two layers (the paper does not say how many).
    """

    def __init__(self, levels: int, channels: int) -> None:
        super().__init__()
        self.levels = nn.ModuleList(
            nn.Sequential(nn.Conv2d(channels, channels, 1), nn.ReLU(), nn.Conv2d(channels, 2, 1)) for _ in range(levels)
        )

    def forward(self, pyramid: list[Tensor], domain: int) -> Tensor:
        """Return half of the focal loss (gamma 2), a mean over the cells of all levels and images, [].

        Cells of padding count as others do.

        Args:
            pyramid: [N, channels, h, w] of each level.
            domain: ``LABELED`` or ``UNLABELED``, what the images are.
        """
        like = next(self.parameters())
        maps = [level(Reversed.apply(x).to(like)).flatten(2) for level, x in zip(self.levels, pyramid, strict=True)]
        log = upcast(torch.cat(maps, 2)).log_softmax(1)[:, domain]
        loss = -((1 - log.exp()) ** 2) * log
        # Canvases of ranks, and of the parts of a step, may differ.
        return 0.5 * loss.sum() / mean_count(torch.full((), float(loss.numel()), device=loss.device))

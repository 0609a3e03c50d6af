"""Distances as the mean of a distribution: each side is a softmax over whole numbers of strides."""

import torch
from torch import Tensor, nn


class Integral(nn.Module):
    """Read ``bins`` logits a side as a distance, ``sum_n n softmax(logits)_n`` (Li et al. 2020, "Generalized Focal").

    Unbiased Teacher v2's FCOS has 17 bins, 0 to 16 strides, and no loss on the distribution itself.

    Args:
        bins: logits of a side.
    """

    def __init__(self, bins: int) -> None:
        super().__init__()
        self.bins = bins
        self.register_buffer("places", torch.arange(bins, dtype=torch.float32), persistent=False)

    def forward(self, logits: Tensor) -> Tensor:
        """[..., 4 * bins], side by side -> [..., 4] in strides, in float32 or better."""
        logits = logits.unflatten(-1, (4, self.bins))
        probs = (logits if logits.dtype == torch.float64 else logits.float()).softmax(-1)
        return (probs * self.places).sum(-1)

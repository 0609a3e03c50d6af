"""Weaker losses while most unlabelled images have no pseudo-label."""

from collections.abc import Mapping

import torch
from torch import Tensor

from ssod.collective import mean_over_ranks
from ssod.structures import Targets


def damped(losses: Mapping[str, Tensor], targets: list[Targets], factor: float) -> dict[str, Tensor]:
    """Multiply losses by ``factor`` while fewer than half of the images, over all ranks, have a box.

    Such a batch would teach little but background. The released code (Consistent-Teacher and its Mean-Teacher baseline)
    asks each rank about its own images.

    Args:
        losses: scalars by name.
        targets: the pseudo-labels of N images.
        factor: what they are multiplied by.
    """
    share = sum(len(t) > 0 for t in targets) / len(targets)
    share = mean_over_ranks(torch.tensor(share, device=targets[0].boxes.device))
    scale = torch.where(share < 0.5, factor, 1.0)
    return {name: loss * scale for name, loss in losses.items()}

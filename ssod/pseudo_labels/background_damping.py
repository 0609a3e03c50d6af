"""Weaker losses while unlabelled images have few pseudo-labels, or none while they have far too few."""

import torch
from torch import Tensor

from ssod.structures import Targets
from ssod.utils.collective import mean_over_ranks


def damping(targets: list[Targets], factor: float) -> Tensor:
    """Return ``factor`` while fewer than half of the images, over all ranks, have a box, else 1; a scalar.

    Such a batch would teach little but background. The released code (Consistent-Teacher and its Mean-Teacher baseline)
    asks each rank about its own images.

    Args:
        targets: the pseudo-labels of N images.
        factor: of the losses on such a batch.
    """
    share = sum(len(t) > 0 for t in targets) / len(targets)
    share = mean_over_ranks(torch.full((), share, device=targets[0].boxes.device))
    return torch.where(share < 0.5, factor, 1.0)


def enough_boxes(targets: list[Targets], least: float) -> Tensor:
    """Return 1 while the images, over all ranks, have ``least`` boxes each on average, else 0; a scalar.

    Args:
        targets: the pseudo-labels of N images.
        least: boxes an image.
    """
    count = torch.full((), sum(map(len, targets)) / len(targets), device=targets[0].boxes.device)
    return (mean_over_ranks(count) >= least).to(count)

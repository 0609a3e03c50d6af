"""What a criterion counts while it trains, in buffers, so that a run goes on with the same numbers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ssod.structures import Targets
from ssod.utils.collective import shares, sum_over_ranks


class Frequency(nn.Module):
    """Which share of the labelled images seen so far has each class; the same on every rank.

    Args:
        num_classes: K.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.register_buffer("images", torch.zeros(()))
        self.register_buffer("having", torch.zeros(num_classes))

    @torch.no_grad()
    def count(self, targets: list[Targets]) -> None:
        """Take in a batch; an image that may have a class, and has no box of it, counts for the share so far."""
        present = self.having.new_zeros(len(targets), len(self.having))
        for row, t in zip(present, targets):
            row.index_fill_(0, t.labels, 1)
            if t.open is not None:
                row.copy_(torch.where(t.open & (row == 0), self.share(), row))
        self.having.add_(sum_over_ranks(present.sum(0)))
        self.images.add_(sum_over_ranks(self.images.new_full((), len(targets))))

    def share(self) -> Tensor:
        """Return [K]; a copy, as the count goes on while a backward pass is due."""
        return self.having / self.images.clamp(min=1)


class RunningObjects(nn.Module):
    """A running mean of the objects' rows of a batch, on all ranks: the normalizer of a loss summed over all rows.

    Divided by its own few objects, or by 1, a batch without any would cost many times what others cost: the sum over
    background rows hardly depends on how many objects there are. detectron2's RetinaNet divides its losses by such a
    mean for the same reason (``loss_normalizer``, momentum 0.9, from a constant on). This one starts at the first count
    that is not 0, ranks divide it among them, and the normalizer is at least the number of images.

    Args:
        momentum: share of the old value that stays.
    """

    def __init__(self, momentum: float = 0.9) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("value", torch.zeros(()))

    @torch.no_grad()
    def forward(self, objects: Tensor, images: int) -> Tensor:
        """Take in a batch's objects [R] bool, under ``train()`` only; return the normalizer, []."""
        if self.training:
            now = sum_over_ranks(objects.sum().float())
            self.value.copy_(torch.where(self.value > 0, self.value.lerp(now, 1 - self.momentum), now))
        return (self.value / shares()).clamp(min=images)

"""Images with different numbers of boxes, as rows of one tensor: the device is not waited for image by image."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Protocol, Self, TypeVar

import torch
from torch import Tensor


class Rows(Protocol):
    """What has rows that can be chosen by their indices: ``structures.Targets``, tensors."""

    def __len__(self) -> int: ...

    def __getitem__(self, keep: Tensor, /) -> Self: ...


T = TypeVar("T", bound=Rows)


def image_index(counts: Sequence[int], device: torch.device | str) -> Tensor:
    """Return [sum(counts)] int64: ``counts[i]`` times ``i``."""
    return torch.cat([torch.full((n,), i, dtype=torch.long, device=device) for i, n in enumerate(counts)])


def select(images: Sequence[T], keep: Tensor) -> list[T]:
    """Keep the rows of N images where ``keep`` [all rows] is true; waits for the device twice, whatever N is."""
    counts = [len(rows) for rows in images]
    index = keep.nonzero().squeeze(1)
    left = torch.stack([part.sum() for part in keep.split(counts)]).tolist()
    parts = zip(images, index.split(left), accumulate([0, *counts]))
    return [rows[some - start] for rows, some, start in parts]


def rank_within(group: Tensor, value: Tensor) -> Tensor:
    """Return the rank [R] int64 of each value among those of its group: 0 is the highest; ties by position.

    Args:
        group: [R] int64, 0 or more.
        value: [R].
    """
    order, place = by_group(group, value)
    return torch.empty_like(order).scatter_(0, order, place)


def by_group(group: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Return the order [R] of rows by group, the highest values of each first, and each one's place in its group [R].

    Places are in that order; ties stand by position.
    """
    order = value.argsort(descending=True, stable=True)
    order = order[group[order].argsort(stable=True)]
    group = group[order]
    return order, torch.arange(len(group), device=group.device) - torch.searchsorted(group, group)

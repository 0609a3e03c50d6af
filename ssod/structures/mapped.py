"""One function for every tensor inside a type, however deep: copies to a device, page-locked memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import torch
from torch import Tensor


def _apply(item: Any, fn: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(item, Tensor):
        return fn(item)
    if isinstance(item, list):
        return [_apply(x, fn) for x in item]
    if isinstance(item, dict):
        return {k: _apply(v, fn) for k, v in item.items()}
    return item.map(fn) if isinstance(item, Mapped) else item


@dataclass
class Mapped:
    """Apply one function to every tensor inside, however deep."""

    def map(self, fn: Callable[[Tensor], Tensor]) -> Self:
        """Return the same with ``fn`` of every tensor."""
        return replace(self, **{f.name: _apply(getattr(self, f.name), fn) for f in fields(self)})

    def to(self, device: torch.device | str) -> Self:
        """Copy to ``device``; overlaps with computation when the memory is pinned. To the CPU it waits."""
        return self.map(lambda t: t.to(device, non_blocking=torch.device(device).type != "cpu"))

    def pin_memory(self) -> Self:
        """Move to page-locked memory; torch's DataLoader calls it."""
        return self.map(lambda t: t.pin_memory())

"""The few collective operations that losses, thresholds and the loop need; all are the identity on one process.

A step of several micro-batches (``train.accumulate``) runs them one after the other, each as a rank of its own would:
what ``mean_over_ranks`` and ``all_gather_rows`` return is over all of them on all ranks. ``Parts`` says how.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Protocol, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")
Merge = Callable[[list[Tensor]], Tensor]  # the values of this process's parts, in order -> what all ranks' make


class Parts(Protocol):
    """The parts of the step that is being made, of which one runs at a time; see ``ssod.engine.micro_batches``.

    Attributes:
        count: how many there are on this process; on all others as many.
        part: the number of the one that runs.
    """

    count: int
    part: int

    def meet(self, value: Tensor, merge: Merge, decides: bool) -> Tensor:
        """Return what ``merge`` makes of the values of all parts."""
        ...

    def once(self, make: Callable[[], T], keep: Callable[[T], T]) -> T:
        """See ``once``."""
        ...


_parts: Parts | None = None  # of the step that is being made, if it has several


@contextmanager
def among(parts: Parts) -> Generator[None, None, None]:
    """Let the operations inside be between ``parts``."""
    global _parts
    _parts = parts
    try:
        yield
    finally:
        _parts = None


def active() -> bool:
    """Return whether more than one process takes part."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def rank() -> int:
    """Return this process's rank, 0 when alone."""
    return dist.get_rank() if active() else 0


def world_size() -> int:
    """Return the number of processes, 1 when alone."""
    return dist.get_world_size() if active() else 1


def shares() -> int:
    """Return into how many parts the step is divided, over all processes; each has as many images."""
    return world_size() * (1 if _parts is None else _parts.count)


def part() -> int:
    """Return the number of the part that runs, 0 where a step has one."""
    return 0 if _parts is None else _parts.part


def barrier() -> None:
    """Wait for every process."""
    if active():
        dist.barrier()


def mean_over_ranks(value: Tensor, *, decides: bool = False) -> Tensor:
    """Average a tensor over ranks and parts, without gradient.

    Loss normalisers use it: gradients are averaged over ranks and parts, so a sum divided by the *mean* count is the
    global sum divided by the global count, whatever share of the foreground each of them holds.

    Args:
        value: of one shape everywhere.
        decides: whether what is exchanged after it depends on the result. Parts then wait for it; it is right not to
            wait where the result only scales losses or enters a buffer.
    """
    value = value.detach()
    return _mean([value]) if _parts is None else _parts.meet(value, _mean, decides)


def mean_count(count: Tensor, least: float = 1.0) -> Tensor:
    """Return the share of each rank and part in what all of them count; the whole is at least ``least``."""
    return mean_over_ranks(count).clamp(min=least / shares())


def sum_over_ranks(value: Tensor) -> Tensor:
    """Return the sum over all ranks and parts, without gradient."""
    return mean_over_ranks(value) * shares()


def all_gather_rows(rows: Tensor, *, decides: bool = True) -> Tensor:
    """Concatenate ``rows`` [n, ...] of every rank and part in their order, where ``n`` may differ and may be 0.

    Args:
        rows: of this part.
        decides: see ``mean_over_ranks``. Where parts do not wait they may be given their own rows alone at first, and
            what they make of these is thrown away.
    """
    return _gather([rows]) if _parts is None else _parts.meet(rows.detach(), _gather, decides)


def gather_parts(rows: Tensor) -> Tensor:
    """Concatenate ``rows`` [n, ...] of every part of this process in their order; ranks tell one another nothing.

    Parts do not wait for it, and may be given their own rows alone at first; see ``all_gather_rows``.
    """
    return rows if _parts is None else _parts.meet(rows.detach(), torch.cat, False)


def once(make: Callable[[], T], keep: Callable[[T], T]) -> T:
    """Return what ``make`` returns; a part that runs a second time is given what the first run made.

    Args:
        make: costs much, and depends on nothing that the parts of a step tell one another.
        keep: what to remember of it, and to work with from the first time on; not asked in a step of one part.
    """
    return make() if _parts is None else _parts.once(make, keep)


@torch.no_grad()
def _mean(values: list[Tensor]) -> Tensor:
    value = values[0] if len(values) == 1 else torch.stack(values).sum(0) / len(values)
    if not active():
        return value
    value = value.clone().float()
    dist.all_reduce(value)
    return value / dist.get_world_size()


@torch.no_grad()
def _gather(parts: list[Tensor]) -> Tensor:
    rows = parts[0] if len(parts) == 1 else torch.cat(parts)
    if not active():
        return rows
    counts = torch.zeros(dist.get_world_size(), dtype=torch.long, device=rows.device)
    counts[dist.get_rank()] = len(rows)
    dist.all_reduce(counts)
    sizes = counts.tolist()
    padded = rows.new_zeros((max(sizes), *rows.shape[1:]))
    padded[: len(rows)] = rows
    gathered = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(gathered, padded)
    return torch.cat([part[:n] for part, n in zip(gathered, sizes)])

"""The few collective operations that losses, thresholds and the loop need; all are the identity on one process."""

import torch
import torch.distributed as dist
from torch import Tensor


def active() -> bool:
    """Return whether more than one process takes part."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def rank() -> int:
    """Return this process's rank, 0 when alone."""
    return dist.get_rank() if active() else 0


def world_size() -> int:
    """Return the number of processes, 1 when alone."""
    return dist.get_world_size() if active() else 1


def barrier() -> None:
    """Wait for every process."""
    if active():
        dist.barrier()


@torch.no_grad()
def mean_over_ranks(value: Tensor) -> Tensor:
    """Average a tensor over ranks, without gradient.

    Loss normalisers use it: DDP averages gradients over ranks, so a sum divided by the *mean* count is the global sum
    divided by the global count, whatever share of the foreground each rank holds.
    """
    if not active():
        return value.detach()
    value = value.detach().clone().float()
    dist.all_reduce(value)
    return value / dist.get_world_size()


@torch.no_grad()
def all_gather_rows(rows: Tensor) -> Tensor:
    """Concatenate ``rows`` [n, ...] of every rank in rank order, where ``n`` may differ and may be 0."""
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

"""Random choice of rows, as a function of random numbers given per row; no loop, no global generator."""

import torch
from torch import Tensor


def balanced(positive: Tensor, negative: Tensor, draw: Tensor, size: int, fraction: float) -> tuple[Tensor, Tensor]:
    """Choose up to ``size`` rows per image: positives up to ``fraction`` of them, the rest negatives (Ren et al. 2015).

    Args:
        positive: [N, P] bool, rows that may be chosen as foreground.
        negative: [N, P] bool, rows that may be chosen as background.
        draw: [N, P] in [0, 1), rows with the largest numbers are chosen.
        size: rows per image.
        fraction: largest share of positives.

    Returns:
        index [N, S] of the chosen rows, S = min(size, 2 P), and valid [N, S]: False where an image had too few. Valid
        entries come first.
    """
    most = int(size * fraction)
    pos, pos_valid = _random(positive, draw, most)
    neg, neg_valid = _random(negative, draw, size)
    room = size - pos_valid.sum(1, keepdim=True)
    neg_valid &= torch.arange(neg.shape[1], device=neg.device) < room
    index, valid = torch.cat([pos, neg], 1), torch.cat([pos_valid, neg_valid], 1)
    order = valid.byte().argsort(dim=1, descending=True, stable=True)[:, :size]
    return index.gather(1, order), valid.gather(1, order)


def _random(allowed: Tensor, draw: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the ``count`` allowed rows with the largest draws, and which of these are allowed at all."""
    value, index = torch.where(allowed, draw, -1.0).topk(min(count, allowed.shape[1]), 1)
    return index, value >= 0


def mask(index: Tensor, valid: Tensor, rows: int) -> Tensor:
    """Return [N, rows] bool, True at the valid entries of ``index`` [N, S]."""
    chosen = torch.zeros(len(index), rows, dtype=torch.int32, device=index.device)
    return chosen.scatter_add(1, index, valid.int()) > 0

"""Random choice of rows, as a function of random numbers given per row; no loop, no global generator."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ssod.assign.matches import BACKGROUND, IGNORED


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


def by_priority(first: Tensor, second: Tensor, draw: Tensor, size: int, fraction: float) -> tuple[Tensor, Tensor]:
    """Choose up to ``size`` rows per image for two sets of boxes (LabelMatch, arXiv:2206.06608, as released).

    Rows of the first set come first, up to ``fraction`` of the sample; rows of the second set fill what is left of that
    share; rows that are background for both fill the rest. A row of both sets may be chosen twice, once for each.

    Args:
        first: [N, P] int64, the box of the first set that a row is matched to, -1 background, -2 ignored.
        second: the same for the second set, whose boxes have other numbers.
        draw: [N, P] in [0, 1), rows with the largest numbers are chosen.
        size: S, rows per image.
        fraction: largest share of rows with a box.

    Returns:
        index [N, S] of the chosen rows, and what they are matched to [N, S], -2 where an image had too few. These
        stand at the end, behind the rows of the first set, of the second, and of the background.
    """
    most = int(size * fraction)
    background = (first == BACKGROUND) & (second == BACKGROUND)
    chosen, used = [], torch.zeros_like(first[:, :1])
    for allowed, matched, until in ((first >= 0, first, most), (second >= 0, second, most), (background, first, size)):
        index, valid = _random(allowed, draw, until)
        valid &= torch.arange(index.shape[1], device=index.device) < until - used
        used = used + valid.sum(1, keepdim=True)
        chosen.append((index, torch.where(valid, matched.gather(1, index), IGNORED)))
    index, matched = (torch.cat(parts, 1) for parts in zip(*chosen))
    order = (matched != IGNORED).byte().argsort(dim=1, descending=True, stable=True)[:, :size]
    missing = size - order.shape[1]
    return F.pad(index.gather(1, order), (0, missing)), F.pad(matched.gather(1, order), (0, missing), value=IGNORED)


def _random(allowed: Tensor, draw: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the ``count`` allowed rows with the largest draws, and which of these are allowed at all."""
    value, index = torch.where(allowed, draw, -1.0).topk(min(count, allowed.shape[1]), 1)
    return index, value >= 0


def mask(index: Tensor, valid: Tensor, rows: int) -> Tensor:
    """Return [N, rows] bool, True at the valid entries of ``index`` [N, S]."""
    chosen = torch.zeros(len(index), rows, dtype=torch.int32, device=index.device)
    return chosen.scatter_add(1, index, valid.int()) > 0

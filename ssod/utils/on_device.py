"""Changes that are made or not by what a tensor says, without the host knowing it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor


def copy_where(where: Tensor, targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    """Copy each source into its target where ``where``, [] bool, is true; else targets stay, bit for bit.

    Three operations for each number format, however many tensors there are. What is not chosen may be NaN.
    """
    groups: dict[torch.dtype, list[tuple[Tensor, Tensor]]] = defaultdict(list)
    for target, source in zip(targets, sources, strict=True):
        groups[target.dtype].append((target, source))
    for pairs in groups.values():
        old, new = (torch.cat([each.reshape(-1) for each in part]) for part in zip(*pairs))
        chosen = torch.where(where, new, old).split([target.numel() for target, _ in pairs])
        torch._foreach_copy_([target for target, _ in pairs], [c.view(t.shape) for c, (t, _) in zip(chosen, pairs)])


def lerp_by(weight: Tensor, targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    """Move each target by the share ``weight``, [] in 0..1, to its source; 0 leaves it, 1 copies, bit for bit.

    Both must be finite.
    """
    weights = {dtype: weight.to(dtype) for dtype in {target.dtype for target in targets}}
    torch._foreach_lerp_(list(targets), list(sources), [weights[target.dtype] for target in targets])

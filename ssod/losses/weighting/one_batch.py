"""Several looks of one step, divided by what all of them count, as if they were one batch. (DSL, arXiv:2207.05536)"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ssod.assign.quality import with_centerness
from ssod.losses.weighting.context import positives
from ssod.structures import Assignment, Predictions
from ssod.utils import collective


def divided_together(looks: Sequence[tuple[Predictions, Assignment]], central: bool) -> list[Assignment]:
    """Return the assignments of dense rows, with normalizers that they share.

    Classes are divided by the rows that learn one, quality and boxes by the rows that learn a box, or boxes by the sum
    of centerness. Weights of rows have no part in these. What the assigner says itself (``adaptive``) is added up.

    Args:
        looks: rows of each, and what they are asked for; at least one.
        central: whether the detector weighs boxes by centerness (``Detector.central``).
    """
    named = set.intersection(*(set(a.normalizer) for _, a in looks))
    shared = {name: torch.stack([a.normalizer[name] for _, a in looks]).sum(0) for name in named}
    if not named >= {"cls", "box", "quality"}:
        shared = counted(looks, central) | shared
    return [replace(a, normalizer=dict(shared)) for _, a in looks]


@torch.no_grad()
def counted(looks: Sequence[tuple[Predictions, Assignment]], central: bool) -> dict[str, Tensor]:
    """Return what the looks count together, each number this part's share of all ranks' and parts'."""
    numbers = [
        torch.stack(
            [positives(p, a).sum().float(), a.fg.sum().float(), near(p, a) if central else p.priors.new_zeros(())]
        )
        for p, a in looks
    ]
    shares = collective.shares()
    classes, boxes, centerness = collective.mean_over_ranks(torch.stack(numbers).sum(0))
    classes, boxes = classes.clamp(min=1 / shares), boxes.clamp(min=1 / shares)
    of_box = {"centerness": centerness.clamp(min=1e-6 / shares)} if central else {"box": boxes}
    return {"cls": classes, "quality": boxes} | of_box


def near(p: Predictions, a: Assignment) -> Tensor:
    """Return the sum of centerness over rows with a box, []."""
    centerness = with_centerness(p, a).quality
    return torch.where(a.fg, a.box.new_zeros(()) if centerness is None else centerness, 0.0).sum()

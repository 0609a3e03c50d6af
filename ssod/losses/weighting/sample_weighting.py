"""A small network that learns how much each row should count (Cai et al. 2020, "Unified Sample Weighting Network")."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from ssod.losses.elements import NonNegative
from ssod.losses.weighting.background import background
from ssod.losses.weighting.context import Context, objects, overlap, own_probability
from ssod.structures import Assignment, Predictions
from ssod.utils.collective import mean_count

LIMIT = 2.0  # of |m|: weights between exp(-2) and exp(2)


class SampleWeighting(nn.Module):
    """A network on (class loss, box loss, IoU, probability) of each row predicts its weights (Cai et al. 2020).

    It predicts ``m_cls`` and ``m_box``, and the row's losses become ``exp(-m) L + lam m``: the weight that is best for
    a loss L is ``lam / L``, so a row counts less the larger its losses are, as far as its inputs foretell them. What
    the network reads has no gradient. Background rows have box loss 0, IoU 0 and, for a probability, that of
    background. The term ``lam m`` is the loss ``weighting``, a mean over the rows.

    Our choices: one hidden width of 16, ``|m|`` at most 2, and weights 1 to begin with. On a dense detector, where
    background outnumbers objects a thousandfold, only foreground rows are weighted.

    Args:
        lam: weight of ``m``.
    """

    def __init__(self, lam: NonNegative = 0.5) -> None:
        super().__init__()
        self.lam = lam
        first, second, last = nn.Linear(4, 16), nn.Linear(16, 16), nn.Linear(16, 2)
        self.net = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), last)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, stage: str, p: Predictions, a: Assignment, ctx: Context) -> Assignment:
        """See ``context.Reweight``; adds the loss ``weighting``."""
        known = objects(p, a)
        weighed = known if stage == "dense" else (a.cls_weight > 0) | known
        rows = weighed.nonzero().squeeze(1)
        with torch.autocast(p.logits.device.type, enabled=False):
            m = LIMIT * torch.tanh(self.net(self.read(stage, p, a, ctx)[rows]))  # [M, 2]
        m = m * torch.stack([torch.ones_like(rows), a.fg[rows]], 1)
        normalizer = mean_count(weighed.sum().float())
        ctx.losses["weighting"] = ctx.losses.get("weighting", 0) + self.lam * m.sum() / normalizer
        factor = a.cls_weight.new_ones(len(p), 2).index_put((rows,), (-m).exp().to(a.cls_weight))
        return replace(a, cls_weight=a.cls_weight * factor[:, 0], box_weight=a.box_weight * a.each_side(factor[:, 1]))

    @torch.no_grad()
    def read(self, stage: str, p: Predictions, a: Assignment, ctx: Context) -> Tensor:
        """Return what the network sees, [R, 4] float32; losses as ``log(1 + L)``."""
        rows = objects(p, a).nonzero().squeeze(1)
        cls = ctx.loss(stage, "cls")(p, a).float()
        nothing = background(p)

        def placed(rows: Tensor, values: Tensor, elsewhere: Tensor) -> Tensor:
            return elsewhere.index_put((rows,), values.to(elsewhere))

        none = torch.zeros_like(cls)
        of_box = ctx.loss(stage, "box")(p, a).float().clamp(min=0)
        box = placed(a.fg_rows, of_box if of_box.ndim == 1 else of_box.sum(1), none)
        seen = [cls.log1p(), box.log1p(), placed(rows, overlap(p, a, rows), none)]
        return torch.stack([*seen, placed(rows, own_probability(p, a, rows), nothing)], 1)

"""Class losses weighted by difficulty, which the auxiliary branch's uncertainty says (Li et al., ICIP 2020)."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from ssod.losses.elements import NonNegative, Positive
from ssod.losses.weighting.bayes import LAM, Guess, bald, difficulty, predicted, wanted
from ssod.losses.weighting.context import Context, of_stage
from ssod.structures import Assignment, Predictions
from ssod.utils.collective import mean_count, mean_over_ranks

Count = Annotated[int, Field(ge=1)]


class WithBranch(nn.Module):
    """A weighting that wants an auxiliary branch beside the class output of each stage.

    Attributes:
        aux: factor of a branch's own loss.
        build: how to make it, arguments of ``bayes.Branch`` by name.
    """

    aux: float
    build: dict[str, Any]


class PlainBranch(WithBranch):
    """An extra convolution with a loss of its own, and no weights: the first ablation (Li et al., ICIP 2020).

    Args:
        layers: convolutions of the branch.
        aux: factor of the branch's own loss.
    """

    def __init__(self, layers: Count = 1, aux: NonNegative = 0.25) -> None:
        super().__init__()
        self.aux, self.build = aux, {"lam": 0.0, "samples": 1, "layers": layers}

    def forward(self, stage: str, p: Predictions, a: Assignment, ctx: Context) -> Assignment:
        """See ``context.Reweight``; changes nothing."""
        return a


class Uncertainty(WithBranch):
    """Rows count by their difficulty, from the BALD score of a Bayesian branch (Li et al., ICIP 2020, eq. 2 and 3).

    ``w = D / mean(D)`` over the rows that count, so that a loss keeps its size, or ``w = D``; no gradient. A row is
    correct when the class that the detector gives more than 1/2, or background when none has it, is the one it is
    asked for. D is below 1/2 for correct rows and above it for wrong ones. Logs running means of U and D of both kinds,
    and how far U spreads.

    Args:
        lam: variance of the branch's kernel over its squared mean.
        samples: draws that the branch's own loss averages.
        layers: ConvBayes layers of the branch.
        aux: factor of the branch's own loss.
        normalise: divide by the mean.
    """

    def __init__(
        self,
        lam: Positive = LAM,
        samples: Count = 8,
        layers: Count = 1,
        aux: NonNegative = 0.25,
        normalise: bool = True,
    ) -> None:
        super().__init__()
        self.aux, self.normalise = aux, normalise
        self.build = {"lam": lam, "samples": samples, "layers": layers}
        # Stage with classes, rpn x wrong, correct x count, sums of U - 1/2, of its square and of D; fading.
        self.register_buffer("means", torch.zeros(2, 2, 4))

    def forward(self, stage: str, p: Predictions, a: Assignment, ctx: Context) -> Assignment:
        """See ``context.Reweight``."""
        return replace(a, cls_weight=a.cls_weight * self.factor(stage, p, a, ctx))

    @torch.no_grad()
    def factor(self, stage: str, p: Predictions, a: Assignment, ctx: Context) -> Tensor:
        """Return w, [R]."""
        uncertain, hard, correct = judge(ctx.guesses[stage], p, a)
        counted = a.cls_weight > 0
        self.report(stage, uncertain, hard, correct, counted, ctx)
        if not self.normalise:
            return hard
        total, rows = (hard * counted).sum(), counted.sum().float()
        mean = mean_over_ranks(total) / mean_count(rows)
        return torch.where(mean > 0, hard / mean, 1.0)

    def report(
        self, stage: str, uncertain: Tensor, hard: Tensor, correct: Tensor, counted: Tensor, ctx: Context
    ) -> None:
        """Add running means over ranks, which fade over some hundred steps, to the statistics; 0 = no such row yet.

        ``U_std`` is the standard deviation of U. U is counted from 1/2 on, as it may lie within 1e-4 of it.
        """
        above = uncertain - 0.5
        each = torch.stack([torch.ones_like(above), above, above**2, hard], 1)  # [R, 4]
        kinds = torch.stack([~correct & counted, correct & counted]).to(each)  # [2, R]
        seen = mean_over_ranks((kinds[:, :, None] * each).mean(1))
        means = self.means[int(stage == "rpn")].mul_(0.99).add_(seen.to(self.means))
        count = means[:, 0]
        above, square, hard = (means[:, 1:] / count[:, None].clamp(min=1e-12)).unbind(1)
        numbers = {
            "U": torch.where(count > 0, above + 0.5, 0.0),
            "U_std": (square - above**2).clamp(min=0).sqrt(),
            "D": hard,
        }
        for name, value in numbers.items():
            for kind, label in enumerate(("wrong", "correct")):
                ctx.stats[of_stage(stage, f"{name}_{label}")] = value[kind].clone()
        ctx.stats[of_stage(stage, "wrong")] = count[0] / count.sum().clamp(min=1e-12)


class ConvBayesBranch(PlainBranch):
    """A Bayesian branch with a loss of its own, and no weights: the second ablation (Li et al., ICIP 2020).

    Args:
        lam: variance of the branch's kernel over its squared mean.
        samples: draws that the branch's own loss averages.
        layers: ConvBayes layers of the branch.
        aux: factor of the branch's own loss.
    """

    def __init__(self, lam: Positive = LAM, samples: Count = 8, layers: Count = 1, aux: NonNegative = 0.25) -> None:
        super().__init__(layers, aux)
        self.build = {"lam": lam, "samples": samples, "layers": layers}


@torch.no_grad()
def judge(guess: Guess, p: Predictions, a: Assignment) -> tuple[Tensor, Tensor, Tensor]:
    """Return U, D and whether the detector is correct, each [R]."""
    uncertain = bald(guess.mu, guess.sigma).sigmoid()
    correct = predicted(p) == wanted(a, p.num_classes)
    return uncertain, difficulty(uncertain, correct), correct

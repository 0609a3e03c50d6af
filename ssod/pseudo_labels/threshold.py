"""Which detections are good enough? A fixed score, or one that each class finds for itself.

Every threshold is a module with one call, detections in and those that pass out, so that any method can use any of
them. What it learns is in its buffers, and so in checkpoints.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import BeforeValidator, Field
from torch import Tensor, nn

from ssod.pseudo_labels.gmm import Backend, Policy, thresholds
from ssod.pseudo_labels.score_bank import ScoreBank
from ssod.structures import Targets
from ssod.structures.ragged import select
from ssod.utils.schema import Section, named


class FixedConfig(Section):
    """One score for all classes and all time."""

    name: Literal["fixed"] = "fixed"
    "The kind of threshold."
    score: float = Field(0.5, ge=0, le=1)
    "A detection passes when its score is above this."


class GmmConfig(Section):
    """A score for each class, from two Gaussians that are fitted to its last scores (Consistent-Teacher)."""

    name: Literal["gmm"] = "gmm"
    "The kind of threshold."
    size: int = Field(100, ge=4)
    "Scores kept per class."
    policy: Policy = "high"
    """Which score of the positive Gaussian is the threshold: where the mixture is densest (`high`, as released), the
    lowest (`middle`), or where the positive Gaussian alone is densest (`component`)."""
    banks: Literal["shared", "rank"] = "shared"
    """Whose scores a class is fitted to: `shared`, those of the whole batch, over all processes; `rank`, each process
    its own, and each of its micro-batches, as if it were a process (as released: one bank on each of eight GPUs).
    What an evaluation shows of labels is then by the bank of the first."""
    fallback: float = Field(0.0, ge=0, le=1)
    "Threshold of a class with fewer than four scores, or without a positive one; 0 keeps every detection."
    backend: Backend = "batched"
    "`batched`: all classes at once, on the device; `sklearn`: class by class with scikit-learn, on the CPU."


# ``gmm`` is short for ``{name: gmm}``.
ThresholdConfig = Annotated[
    Annotated[FixedConfig | GmmConfig, Field(discriminator="name")],
    BeforeValidator(named, json_schema_input_type=str | FixedConfig | GmmConfig),
]


class FixedThreshold(nn.Module):
    """Pass what scores above one number.

    Args:
        score: the number.
    """

    def __init__(self, score: float) -> None:
        super().__init__()
        self.score = score
        self.stats: dict[str, Tensor] = {}

    def forward(self, detections: list[Targets]) -> list[Targets]:
        """N Targets with scores -> those above the threshold."""
        return select(detections, torch.cat([t.confidence() for t in detections]) > self.score)


class GmmThreshold(nn.Module):
    """Pass what scores above its class's own threshold (arXiv:2209.01589, Sec. 3.4, as released).

    The detections of a batch enter the score bank of their class; the classes that occur in the batch are fitted anew
    (``ssod.pseudo_labels.gmm``), and the batch is filtered by the result. The score that a threshold was taken from
    does not pass. A class that does not occur keeps its threshold; nothing is filtered by it until the class occurs,
    and then it is fitted first, so keeping or not keeping it makes no difference but in the log.

    Args:
        num_classes: K.
        size, policy, banks, fallback, backend: see ``GmmConfig``.

    Attributes:
        bank: the scores, B banks of them, see ``ScoreBank``.
        values: [B K] the thresholds now; ``fallback`` before the first fit.
        stats: of the last call, for the log: ``threshold`` [K], ``threshold_mean`` (over detections, 0 where there are
            none) and ``bank_fill``.
    """

    values: Tensor

    def __init__(
        self,
        num_classes: int,
        *,
        size: int = 100,
        policy: Policy = "high",
        banks: Literal["shared", "rank"] = "shared",
        fallback: float = 0.0,
        backend: Backend = "batched",
    ) -> None:
        super().__init__()
        self.policy, self.fallback, self.backend = policy, fallback, backend
        self.bank = ScoreBank(num_classes, size, per_rank=banks == "rank")
        self.register_buffer("values", torch.full((num_classes,), fallback))
        self.stats: dict[str, Tensor] = {}

    def divide(self, parts: int) -> None:
        """See ``ScoreBank.divide``."""
        self.bank.divide(parts)
        self.values = self.values.new_full((len(self.bank.scores),), self.fallback)

    @torch.no_grad()
    def forward(self, detections: list[Targets]) -> list[Targets]:
        """N Targets with scores -> those above their class's threshold; on several ranks, all call it together."""
        labels = torch.cat([t.labels for t in detections])
        scores = torch.cat([t.confidence() for t in detections])
        seen = self.bank.push(labels, scores)
        fitted = thresholds(
            self.bank.scores, seen, policy=self.policy, fallback=self.fallback, backend=self.backend
        ).float()
        self.values.copy_(torch.where(seen, fitted, self.values))
        mine = self.bank.mine(self.values)
        self.stats = {
            "threshold": mine.clone(),
            "threshold_mean": mine[labels].sum() / max(len(labels), 1),
            "bank_fill": self.bank.fill(),
        }
        return select(detections, scores > mine[labels])


def build_threshold(cfg: FixedConfig | GmmConfig, num_classes: int) -> FixedThreshold | GmmThreshold:
    """Return the threshold that ``cfg`` names."""
    if cfg.name == "fixed":
        return FixedThreshold(cfg.score)
    return GmmThreshold(num_classes, **cfg.model_dump(exclude={"name"}))


def divide(method: nn.Module, parts: int) -> None:
    """Tell the thresholds of a method of how many parts a step of this process is.

    Args:
        method: with whatever thresholds, also none.
        parts: ``train.accumulate``.
    """
    for module in method.modules():
        if isinstance(module, GmmThreshold):
            module.divide(parts)

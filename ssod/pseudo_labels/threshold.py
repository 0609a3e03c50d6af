"""Which detections are good enough? A fixed score, or one that each class finds for itself.

Every threshold is a module that makes pseudo-labels of detections, so that any method can use any of them. What it
learns is in its buffers, and so in checkpoints.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import BeforeValidator, Field
from torch import Tensor, nn

from ssod.pseudo_labels import two_limits
from ssod.pseudo_labels.gmm import Backend, Policy, thresholds
from ssod.pseudo_labels.label_queue import LabelQueue
from ssod.pseudo_labels.score_bank import ScoreBank
from ssod.structures import Pseudo, Targets
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


class LabelCountConfig(Section):
    """A score for each class, such that it has as many boxes in an image as labelled images have."""

    name: Literal["label_count"] = "label_count"
    "The kind of threshold."
    images: int = Field(512, ge=1)
    "Unlabelled images whose scores are remembered. Each takes 800 bytes, also in a checkpoint."
    reliable: float = Field(0.6, gt=0, le=1)
    "A class has so many labels, as a share of the boxes that a labelled image has of it."
    unsure: float = Field(3.0, ge=1)
    "Up to so many times these boxes, a detection is neither a label nor background."
    least: float = Field(0.05, ge=0, le=1)
    "No detection whose score is below is a label, or spared from being background."


# ``gmm`` is short for ``{name: gmm}``.
ThresholdConfig = Annotated[
    Annotated[FixedConfig | GmmConfig | LabelCountConfig, Field(discriminator="name")],
    BeforeValidator(named, json_schema_input_type=str | FixedConfig | GmmConfig | LabelCountConfig),
]


class Threshold(nn.Module):
    """Pass what is good enough.

    Attributes:
        stats: of the last call, for the log.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stats: dict[str, Tensor] = {}

    def label(self, detections: list[Targets]) -> Pseudo:
        """Return the pseudo-labels that N Targets with scores make."""
        return Pseudo(self(detections))


class FixedThreshold(Threshold):
    """Pass what scores above one number.

    Args:
        score: the number.
    """

    def __init__(self, score: float) -> None:
        super().__init__()
        self.score = score

    def forward(self, detections: list[Targets]) -> list[Targets]:
        """N Targets with scores -> those above the threshold."""
        return select(detections, torch.cat([t.confidence() for t in detections]) > self.score)


class GmmThreshold(Threshold):
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


class LabelCountThreshold(Threshold):
    """Pass as many boxes of a class as labelled images let expect, and set aside those that may be objects.

    A fixed score fits one detector on one set at one time: where a teacher is weak it keeps next to nothing, and all
    that it misses teaches background. Here a class has always as many labels, the best there are, and what scores a
    little less teaches nothing. That labelled and unlabelled images hold the same is LabelMatch's idea
    (arXiv:2206.06608), see ``ssod.pseudo_labels.label_queue``; what is ours is that the boxes in between are ignored,
    how many there are, and that ranks grow with the queue, so that it serves from the first step.

    Args:
        num_classes: K.
        images, reliable, unsure, least: see ``LabelCountConfig``.

    Attributes:
        queue: the last scores.
        stats: ``threshold`` and ``threshold_unsure`` [K], ``queue_fill``, ``unsure_per_image``.
    """

    def __init__(self, num_classes: int, *, images: int, reliable: float, unsure: float, least: float) -> None:
        super().__init__()
        self.queue = LabelQueue(num_classes, images=images, share=reliable, start=None, least=least, unsure=unsure)

    @torch.no_grad()
    def label(self, detections: list[Targets]) -> Pseudo:
        """See ``Threshold.label``; the scores of these detections have a say. All ranks call it together."""
        self.queue.push(detections, decides=True)
        limits = self.queue.thresholds().clamp(min=self.queue.least)
        labels = Pseudo(*two_limits.divide(detections, limits))
        self.stats = {
            "threshold": limits[0],
            "threshold_unsure": limits[1],
            "queue_fill": self.queue.fill(),
            "unsure_per_image": torch.tensor(sum(map(len, labels.unsure or [])) / max(len(detections), 1)),
        }
        return labels


def build_threshold(cfg: FixedConfig | GmmConfig | LabelCountConfig, num_classes: int) -> Threshold:
    """Return the threshold that ``cfg`` names."""
    if cfg.name == "fixed":
        return FixedThreshold(cfg.score)
    kind = GmmThreshold if cfg.name == "gmm" else LabelCountThreshold
    return kind(num_classes, **cfg.model_dump(exclude={"name"}))


def divide(method: nn.Module, parts: int) -> None:
    """Tell the thresholds of a method of how many parts a step of this process is.

    Args:
        method: with whatever thresholds, also none.
        parts: ``train.accumulate``.
    """
    for module in method.modules():
        if isinstance(module, GmmThreshold):
            module.divide(parts)

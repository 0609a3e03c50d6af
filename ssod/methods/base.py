"""The training step that every method shares, and the slots that make methods differ.

A method is one file in this folder: a ``Config`` (its knobs), a ``Method`` that fills some slots, and
``METHOD = TheClass``. The file's name is its name in a config; nothing is registered anywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from pydantic import Field, ValidationInfo, field_validator, model_validator
from torch import Tensor, nn

from ssod.engine.ema import EMA, Rule, decay_by_rule, warm_decay
from ssod.errors import SsodError
from ssod.losses.criterion import Criterion, LossConfig
from ssod.schema import Duration, Section
from ssod.structures import Assignment, Batch, Detector, Output, Predictions, Pseudo, Reweight, Targets, View

Losses = dict[str, Tensor]
LossName = Literal["cls", "box", "quality", "rpn_cls", "rpn_box", "aux", "weighting"]


class EmaConfig(Section):
    """How the teacher follows the student.

    ``rule`` holds from the end of burn-in on (Humble Teacher's table 5 compares the three); until then the teacher
    follows as its method says.
    """

    rule: Rule = "ema"
    "`ema`: an average, moved at every step; `copy`: a copy, renewed every so many; `never`: as burn-in left it."
    every: int | None = Field(None, ge=1)
    "Steps between two copies, for `rule: copy`."
    decay: float = Field(0.999, ge=0, lt=1)
    "Share of the teacher kept at each step."
    warm_up: bool = True
    "Cap the decay at 1 - 1/(t + 1), so that a short run's teacher is not stuck at its start."
    start: Duration = 0
    "Until this step the teacher is a plain copy of the student."

    @model_validator(mode="after")
    def _every_is_for_copies(self) -> EmaConfig:
        if (self.rule == "copy") != (self.every is not None):
            have = f"'every: {self.every}' is for 'rule: copy'" if self.every else "'rule: copy' needs 'every'"
            raise ValueError(f"{have}; write e.g. {{rule: copy, every: 10000}}, or leave 'every' out")
        return self


class Common(Section):
    """What every method has, also one without unlabelled images."""

    name: str
    "File name in ssod/methods, or a dotted module of your own."
    ema: EmaConfig = EmaConfig()
    "How the teacher follows the student. What a config leaves out is the method's own default."
    loss: LossConfig | None = None
    "Losses and weightings of labelled (`sup`) and pseudo-labelled (`unsup`) images; default: the detector's own."

    @field_validator("ema", mode="before")
    @classmethod
    def _over_the_methods_own(cls, value: object) -> object:
        """Merge a part of the section over the method's default, not over ``EmaConfig``'s."""
        return cls.model_fields["ema"].default.model_dump() | dict(value) if isinstance(value, Mapping) else value

    @field_validator("ema")
    @classmethod
    def _rules_need_a_burn_in(cls, ema: EmaConfig) -> EmaConfig:
        if ema.rule != "ema" and "burn_in" not in cls.model_fields:
            raise ValueError(f"'rule: {ema.rule}' holds after burn-in, which this method has not; remove it")
        return ema


class Config(Common):
    """What every semi-supervised method has; a method's own ``Config`` adds to it."""

    burn_in: Duration = 0
    "Steps of supervised learning before the first pseudo-label; unlabelled images are not even loaded."
    weight: float = Field(1.0, ge=0)
    "Factor of every loss on unlabelled images."
    ramp: Duration = 0
    "Steps after burn-in over which `weight` rises linearly from 0; 0 = at once."
    loss_weights: dict[LossName, Annotated[float, Field(ge=0)]] = {}
    "Further factors of single losses on unlabelled images; 0 leaves a loss out of the sum, but logs it."

    @field_validator("burn_in")
    @classmethod
    def _long_enough_for_the_rule(cls, burn_in: int, info: ValidationInfo) -> int:
        """A teacher that stops following must have followed before, and for as long as ``ema.start`` says."""
        ema = info.data.get("ema")
        if ema is not None and ema.rule == "never" and burn_in == 0:
            raise ValueError("with 'ema.rule: never' the teacher would stay untrained; give a burn-in")
        if ema is not None and ema.rule != "ema" and ema.start > burn_in:
            raise ValueError(f"'ema.start: {ema.start}' lies after it, where 'ema.rule: {ema.rule}' holds; lower it")
        return burn_in

    @property
    def learns_from(self) -> int:
        """First step whose losses on unlabelled images count; from `burn_in` to here labels are only made."""
        return self.burn_in

    @property
    def aligned(self) -> bool:
        """Whether weak and strong views must have their pixels in the same places; False = boxes are carried over."""
        return False


class Method(nn.Module):
    """A student, its teacher, and the step that trains the one with the help of the other.

    ``state_dict`` holds everything that must survive a restart; thresholds and banks of subclasses are buffers.

    Args:
        student: the detector to train.
        cfg: this method's own section.

    Attributes:
        stats: detached tensors of the last step, for the log; reading them is the logger's business.
        uses_unlabeled: whether unlabelled images are wanted at all.
        unsup_by_rows: whether ``unsup`` learns through ``learn``, so that a config may choose its losses; a subclass
            says False (or a property) where it has losses of its own.
    """

    Config: type[Common] = Config
    uses_unlabeled: bool = True
    unsup_by_rows: bool = True

    def __init__(self, student: Detector, cfg: Common) -> None:
        super().__init__()
        self.cfg = cfg
        self.student = student
        self.teacher = EMA(student)
        self.criterion = self.build_criterion()
        self.stats: dict[str, Tensor] = {}
        self.seen_aligned = False

    def forward(self, batch: Batch, step: int) -> Losses:
        """Learn from the labels, then from what the teacher believes.

        Args:
            batch: the images of this step.
            step: the number of optimiser steps made so far.

        Returns:
            Scalar losses, ``sup/<name>`` and ``unsup/<name>``, ready to be summed.
        """
        student = self.student
        self.stats = {"labeled/boxes_per_image": count_per_image(batch.labeled.targets)}
        losses = tag("sup", self.learn("sup", student.predict(batch.labeled), batch.labeled.targets))
        if step < self.cfg.burn_in:
            return losses
        with torch.no_grad():
            teacher = self.teacher.predict(batch.weak)
            pseudo = self.label(teacher, batch)
        view = batch.strong
        if pseudo is not None:
            pseudo = pseudo.move(batch.weak, view)
            self.stats["pseudo/boxes_per_image"] = count_per_image(pseudo.cls)  # mix may add labelled boxes
            view, pseudo = self.mix(view, pseudo, batch.labeled)
        unsup = self.unsup(student.predict(view), pseudo, teacher, batch)
        return losses | tag("unsup", self.scale(unsup, self.weight(step)))

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Move the teacher; the loop calls it once, after the optimiser's step number ``step``."""
        decay = self.decay(step)
        updates = step + 1 - getattr(self.cfg, "burn_in", 0)
        if updates > 0:
            decay = decay_by_rule(self.cfg.ema.rule, self.cfg.ema.every, updates, decay)
        self.teacher.update(self.student, decay)

    # ---- slots -----------------------------------------------------------------------------------------------------

    def label(self, teacher: Output, batch: Batch) -> Pseudo | None:
        """Choose the pseudo-labels, in the pixels of ``batch.weak``; by default every detection is one.

        None where no box is chosen because ``unsup`` learns from the teacher's output as it is.
        """
        return Pseudo(teacher.detections())

    def mix(self, view: View, pseudo: Pseudo, labeled: View) -> tuple[View, Pseudo]:
        """Blend the student's view with others, after labels exist (mixup, mosaic)."""
        return view, pseudo

    def reweight(
        self, stage: str, p: Predictions, a: Assignment, pseudo: Pseudo | None, teacher: Output, batch: Batch
    ) -> Assignment:
        """Change who counts how much on unlabelled images."""
        return a

    def unsup(self, out: Output, pseudo: Pseudo | None, teacher: Output, batch: Batch) -> Losses:
        """Losses on unlabelled images, before any weight; by default those of labelled ones."""

        def reweight(stage: str, p: Predictions, a: Assignment) -> Assignment:
            return self.reweight(stage, p, a, pseudo, teacher, batch)

        return self.learn("unsup", out, pseudo.cls, reweight, teacher, batch)

    def weight(self, step: int) -> float:
        """Return the factor of the unlabelled losses at ``step``."""
        if not self.cfg.ramp:
            return self.cfg.weight
        return self.cfg.weight * min(1.0, (step - self.cfg.burn_in + 1) / self.cfg.ramp)

    def decay(self, step: int) -> float:
        """Return the EMA decay of the update that follows step number ``step``."""
        ema = self.cfg.ema
        if step + 1 <= ema.start:
            return 0.0
        return warm_decay(ema.decay, step + 1) if ema.warm_up else ema.decay

    # ---- shared by all ---------------------------------------------------------------------------------------------

    def learn(
        self,
        side: Literal["sup", "unsup"],
        out: Output,
        targets: list[Targets],
        reweight: Reweight | None = None,
        teacher: Output | None = None,
        batch: Batch | None = None,
    ) -> Losses:
        """Losses of the student's rows on boxes: the detector's own, or those that the config names for this side."""
        if self.criterion is None:
            return self.student.losses(out, targets, reweight)
        losses, stats = self.criterion(side, self.student, out, targets, reweight, teacher, batch)
        self.stats |= {f"weighting/{side}/{name}": value for name, value in stats.items()}
        return losses

    def build_criterion(self) -> Criterion | None:
        """Return what ``method.loss`` asks for, None where it asks for nothing."""
        if self.cfg.loss is None:
            return None
        mixes = type(self).mix is not Method.mix
        return Criterion(self.student, self.cfg.loss, pseudo=self.uses_unlabeled and self.unsup_by_rows, mixes=mixes)

    def scale(self, losses: Losses, weight: float) -> Losses:
        """Weight the unlabelled losses; one whose weight is 0 is logged but never enters the sum (0 * NaN is NaN)."""
        scaled = {}
        for name, loss in losses.items():
            factor = weight * self.cfg.loss_weights.get(name, 1.0)
            if factor == 0:
                self.stats[f"off/{name}"] = loss.detach()
            else:
                scaled[name] = loss * factor
        return scaled

    def require_aligned(self, batch: Batch) -> None:
        """Test that both unlabelled views have their pixels in the same places.

        On the first batch of a process only, because the test waits for the device; before the run, the config was
        tested by drawing views.

        Raises:
            SsodError: they have not.
        """
        if self.seen_aligned:
            return
        weak, strong = batch.weak, batch.strong
        same = weak.images.shape == strong.images.shape and torch.equal(weak.sizes, strong.sizes)
        if not same or not torch.equal(weak.matrix, strong.matrix):
            problem = f"its matrices are not those of weak, which '{self.cfg.name}' compares row by row"
            fix = "write {start: weak, ops: [...]} with operations that move no pixel"
            raise SsodError("config", "views.unlabeled.strong", problem, fix)
        self.seen_aligned = True


def tag(prefix: str, losses: Mapping[str, Tensor]) -> Losses:
    """Put ``prefix/`` before every name."""
    return {f"{prefix}/{name}": loss for name, loss in losses.items()}


def above(detections: list[Targets], score: float) -> list[Targets]:
    """Keep detections whose score is strictly above ``score``, as hard labels with their scores."""
    return [t[t.scores > score] for t in detections]


def quantiles(detections: list[Targets]) -> Tensor:
    """Return the 0, 25, 50, 75 and 100 % quantiles of all scores [5], zeros where there are none.

    The log explains with them why no box was kept.
    """
    scores = torch.cat([t.scores for t in detections]).float()
    if not len(scores):
        return scores.new_zeros(5)
    return torch.quantile(scores, torch.linspace(0, 1, 5, device=scores.device))


def count_per_image(targets: list[Targets]) -> Tensor:
    """Return the mean number of boxes as a CPU scalar; shapes are known, so nothing is read from the device."""
    return torch.tensor(sum(len(t) for t in targets) / max(len(targets), 1))

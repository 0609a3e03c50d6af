"""The training step that every method shares, and the slots that make methods differ.

A method is one file in this folder: a ``Config`` (its knobs), a ``Method`` that fills some slots, and
``METHOD = TheClass``. The file's name is its name in a config; nothing is registered anywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from ssod.engine.ema import EMA, decay_by_rule, warm_decay
from ssod.errors import SsodError
from ssod.losses.criterion import Criterion
from ssod.methods.config import Common, Config, EmaConfig, LossName
from ssod.pseudo.mass import hardened
from ssod.pseudo.mix import Mixer
from ssod.ragged import select
from ssod.structures import Assignment, Batch, Detector, Output, Predictions, Pseudo, Reweight, Targets, View

__all__ = ["Common", "Config", "EmaConfig", "LossName", "Losses", "Method"]  # and the functions at the end

Losses = dict[str, Tensor]


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
        mix = getattr(cfg, "mix", None)
        self.mixer = None if mix is None else Mixer(student.num_classes, **mix.model_dump())
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
        view, trust = batch.strong, None
        if pseudo is not None:
            pseudo = pseudo.move(batch.weak, view)
            self.stats["pseudo/boxes_per_image"] = count_per_image(pseudo.cls)  # mix may add labelled boxes
            trust = self.trust(pseudo)
            view, pseudo = self.mix(view, pseudo, batch.labeled)
        unsup = self.unsup(student.predict(view), pseudo, teacher, batch)
        if trust is not None:
            unsup = {name: loss * trust for name, loss in unsup.items()}
        return losses | tag("unsup", self.scale(unsup, self.weight(step)))

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Move the teacher; the loop calls it once, after the optimiser's step number ``step``."""
        decay = self.decay(step)
        updates = step + 1 - getattr(self.cfg, "burn_in", 0)
        if updates > 0:
            decay = decay_by_rule(self.cfg.ema.rule, self.cfg.ema.every, updates, decay)
        self.teacher.update(self.student, decay)

    @torch.no_grad()
    def after_skip(self, step: int) -> None:
        """Make the copy that falls on a skipped step, of the student as the step before left it.

        The loop calls it in the place of ``after_step``. An average waits for the next step; a copy would have to wait
        for as many steps as lie between two.
        """
        ema, updates = self.cfg.ema, step + 1 - getattr(self.cfg, "burn_in", 0)
        if ema.rule == "copy" and updates > 0:
            self.teacher.update(self.student, decay_by_rule(ema.rule, ema.every, updates, 1.0))

    # ---- slots -----------------------------------------------------------------------------------------------------

    def label(self, teacher: Output, batch: Batch) -> Pseudo | None:
        """Choose the pseudo-labels, in the pixels of ``batch.weak``; by default every detection is one.

        None where no box is chosen because ``unsup`` learns from the teacher's output as it is.
        """
        return Pseudo(teacher.detections())

    def trust(self, pseudo: Pseudo) -> Tensor | None:
        """Return a factor, a scalar, of all losses on unlabelled images for these labels; None = 1.

        The labels are those in the student's view before it is mixed: labelled boxes say nothing about the teacher.
        """
        return None

    def mix(self, view: View, pseudo: Pseudo, labeled: View) -> tuple[View, Pseudo]:
        """Blend the student's view with labelled images, as the config's ``mix`` says (mixup, mosaic)."""
        return (view, pseudo) if self.mixer is None else self.mixer(view, pseudo, labeled)

    def reweight(
        self, stage: str, p: Predictions, a: Assignment, pseudo: Pseudo | None, teacher: Output, batch: Batch
    ) -> Assignment:
        """Change who counts how much on unlabelled images.

        By default nobody; but of mixed images the proposal network learns whole objects, not the shares that their
        pictures have: those are for the classes, where what is missing to 1 is background.
        """
        return hardened(a, p.num_classes) if self.mixer is not None and stage == "rpn" else a

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
        start = getattr(self.cfg, "burn_in", 0) if ema.start is None else ema.start
        if step < start:
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
        mixes = self.mixer is not None or type(self).mix is not Method.mix
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
    return select(detections, torch.cat([t.scores for t in detections]) > score)


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

"""Supervised: labelled images only; the baseline that every method is measured against.

Its teacher is the same moving average that the semi-supervised methods have, so that a gain over it is the gain of the
unlabelled images and not of weight averaging. It is also the labelled half of their step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from ssod.losses.weighting.context import Context, Reweight, Side, count_missing
from ssod.losses.weighting.criterion import Criterion
from ssod.methods.background import require_background
from ssod.methods.config import Common
from ssod.methods.teachers import build_teacher
from ssod.structures import Assigned, Batch, Detector, LabelStatistics, Output, Pseudo, Targets, View

Losses = dict[str, Tensor]
LOOK_EVERY = 10  # steps between two counts of the rows that miss their objects


class Supervised(nn.Module):
    """A student, the teacher that follows it, and the only way from what the student saw to a loss.

    ``state_dict`` holds everything that must survive a restart; thresholds and banks of subclasses are buffers.

    Args:
        student: the detector to train.
        cfg: this method's own section.
        burn_in: the first step with pseudo-labels; 0 where there are none.

    Attributes:
        stats: detached tensors of the last step, for the log; reading them is the logger's business.
        restart_at: the step before which the loop calls ``restart``, drops what the optimiser keeps and begins the
            schedule anew; None = never.
        uses_unlabeled: whether unlabelled images are wanted at all.
        burn_in_reads: the keys of its section that decide a step without pseudo-labels, besides ``ema``, ``loss`` and
            ``burn_in``; None where such a step is not that of ``Supervised``. A class says it in its first line,
            ``class MyTeacher(Method, burn_in_reads=())``, for itself alone.
    """

    Config: type[Common] = Common
    cfg: Common
    uses_unlabeled: bool = False
    burn_in_reads: tuple[str, ...] | None = ()

    def __init_subclass__(cls, *, burn_in_reads: tuple[str, ...] | None = None, **more: Any) -> None:
        """Take note of what a class says about its burn-in, ``class MyTeacher(Method, burn_in_reads=())``.

        It is not inherited: a class that says nothing shares its burn-in with no other run, whatever it overrides.
        """
        super().__init_subclass__(**more)
        cls.burn_in_reads = burn_in_reads

    def __init__(self, student: Detector, cfg: Common, burn_in: int = 0) -> None:
        super().__init__()
        self.cfg = cfg
        self.student = student
        self.restart_at = cfg.restart_at
        self.teacher = build_teacher(student, cfg.ema, burn_in)
        self.criterion = self.build_criterion()
        self.stats: dict[str, Tensor] = {}

    def build_criterion(self) -> Criterion:
        """Return the losses that the config names."""
        return Criterion(self.student, self.cfg.loss)

    def forward(self, batch: Batch, step: int) -> Losses:
        """Learn from the labels.

        Args:
            batch: the images of this step.
            step: the number of optimiser steps made so far.

        Returns:
            Scalar losses, ``sup/<name>`` and ``unsup/<name>``, ready to be summed.
        """
        self.stats = {"labeled/boxes_per_image": count_per_image(batch.labeled.truth())}
        return self.scale("sup", self.learn(self.look_at_labeled(batch, step)), self.sup_weight(step))

    @torch.no_grad()
    def after_step(self, step: int, skipped: Tensor | None = None) -> None:
        """Move the teacher; the loop calls it once, after the optimiser's step number ``step``.

        Args:
            step: the number of optimiser steps made before.
            skipped: [] float32 on the device, not read yet: 1 where the step changed nothing after all, and what
                ``after_skip`` does is to be done, else 0. None = the step was made. Only a run on a GPU gives it.
        """
        self.teacher.after_step(self.student, step, skipped)

    @torch.no_grad()
    def after_skip(self, step: int) -> None:
        """Tell the teacher that step number ``step`` changed nothing; called in the place of ``after_step``."""
        self.teacher.after_skip(self.student, step)

    def restart(self) -> None:
        """Let the student start afresh; the loop calls it before step number ``restart_at``, if there is one."""
        raise NotImplementedError

    # ---- slots -----------------------------------------------------------------------------------------------------

    def assign(self, ctx: Context) -> Assigned:
        """Say what each row of the student is asked for; by default the detector's assigner does, by the labels.

        A weighting may have an assigner of its own (``cleanliness``).
        """
        own = self.criterion.assigners[ctx.side]
        return self.student.assign(ctx.student, ctx.labels.with_ignored(), ctx.labels.box, own)

    def reweightings(self, side: Side) -> Sequence[Reweight]:
        """Return what changes the weight of each row, in its order; by default the weightings that the config names."""
        return self.criterion.weightings[side]

    def see_labels(self, statistics: LabelStatistics) -> None:
        """Take note of what the labelled set holds; called once, before the first step and before a state is loaded.

        Raises:
            SsodError: labels teach no background, see ``background.require_background``.
        """
        require_background(self.student, statistics)

    def see_batch(self, unlabeled: int) -> None:
        """Take note of how many unlabelled images a step of this process has; called once, as ``see_labels`` is."""

    def sup_weight(self, step: int) -> float:
        """Return the factor of the losses on labelled images at ``step``."""
        return 1.0

    # ---- shared by all ---------------------------------------------------------------------------------------------

    def learn(self, ctx: Context, assigned: Assigned | None = None) -> Losses:
        """Assign, reweight, reduce: the only way to a loss of rows.

        Args:
            ctx: the look to learn from.
            assigned: its rows and what they are asked for; None = what ``assign`` says.
        """
        assigned = self.assign(ctx) if assigned is None else assigned
        for stage, (p, a) in assigned.items():
            for reweight in self.reweightings(ctx.side):
                a = reweight(stage, p, a, ctx)
            assigned[stage] = p, a
        if ctx.side == "sup" and ctx.step % LOOK_EVERY == 0:
            self.stats |= count_rows(assigned)
        losses = self.student.reduce(assigned, ctx.rows, ctx.factors) | ctx.losses
        self.stats |= {f"weighting/{ctx.side}/{name}": value for name, value in ctx.stats.items()}
        return self.criterion.tie_unused(ctx.side, losses)

    def look_at_labeled(self, batch: Batch, step: int) -> Context:
        """Let the student look at the labelled images."""
        return self.look("sup", batch, step, batch.labeled, Pseudo(batch.labeled.truth()))

    def look(
        self,
        side: Side,
        batch: Batch,
        step: int,
        view: View,
        labels: Pseudo | None,
        teacher: Output | None = None,
        labeled: Context | None = None,
    ) -> Context:
        """Let the student look at a view, and put together what is known about it; see ``Context``."""
        rows, factors = self.criterion.rows(side, labels), self.criterion.factors[side]
        own, normalizer = self.student.rows, self.student.cls_normalizer
        out = self.student.predict(view)
        known = Context(side, step, out, view, labels, batch, teacher, own | rows, factors, normalizer)
        known.labeled_or_none = labeled
        return known

    def scale(
        self, side: Side, losses: Losses, weight: float | Tensor, factors: Mapping[Any, float] = MappingProxyType({})
    ) -> Losses:
        """Name the losses of a side ``<side>/<name>`` and weigh them, by ``weight`` and by their own factors.

        One whose factor is 0 is logged but never enters the sum (0 * NaN is NaN).
        """
        scaled = {}
        for name, loss in losses.items():
            factor = factors.get(name, 1.0)
            if factor == 0 or (isinstance(weight, float) and weight == 0):
                self.stats[f"off/{name}"] = loss.detach()
            else:
                scaled[f"{side}/{name}"] = loss * (weight * factor)
        return scaled


def count_per_image(targets: list[Targets]) -> Tensor:
    """Return the mean number of boxes as a CPU scalar; shapes are known, so nothing is read from the device."""
    return torch.tensor(sum(len(t) for t in targets) / max(len(targets), 1))


def count_rows(assigned: Assigned) -> dict[str, Tensor]:
    """Return by stage, as ``rows/<stage>/...``, how many rows learn an object and how many of their boxes miss it."""
    found = {}
    for stage, (p, a) in assigned.items():
        found[f"rows/{stage}/learning"], found[f"rows/{stage}/missing"] = count_missing(p, a)
    return found


METHOD = Supervised

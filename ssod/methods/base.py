"""The training step that every semi-supervised method shares, and the slots that make methods differ.

A method is one file in this folder: a ``Config`` (its knobs), a ``Method`` that fills some slots, and
``METHOD = TheClass``. The file's name is its name in a config; nothing is registered anywhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from ssod.losses.weighting.context import Context, Reweight, Side
from ssod.losses.weighting.criterion import Criterion
from ssod.methods.config import Common, Config, EmaConfig, LossName
from ssod.methods.kept_answers import worth_keeping
from ssod.methods.supervised import Losses, Supervised, count_per_image
from ssod.methods.teachers import Ema, FromFile, Frozen, ignore_unknown
from ssod.pseudo_labels.background_damping import damping, enough_boxes
from ssod.pseudo_labels.fill_open import fill_open
from ssod.pseudo_labels.label_mass import harden_labels
from ssod.pseudo_labels.label_queue import LabelQueue
from ssod.structures import Assignment, Batch, Detector, LabelStatistics, Output, Predictions, Pseudo, Targets, View
from ssod.structures.ragged import select
from ssod.transforms.mix import Mixer
from ssod.utils import collective
from ssod.utils.errors import SsodError

__all__ = ["Common", "Config", "Context", "EmaConfig", "Labels", "LossName", "Losses", "Method", "count_per_image"]


Task = tuple[View, Pseudo | None, float | Tensor]  # a view, the labels in its pixels, how much its losses weigh


@dataclass
class Labels:
    """What unlabelled images teach in one step.

    Attributes:
        teacher: what who labels saw in the weak view.
        pseudo: the boxes to learn from, in the pixels of the weak view; None where maps teach and no box is chosen.
        peer: those of the second student, of a method that trains two.
    """

    teacher: Output
    pseudo: Pseudo | None
    peer: Labels | None = None


class Method(Supervised):
    """A student, its teacher, and the step that trains the one with the help of the other.

    Attributes:
        given: who labels in the place of ``teacher``, or None; see ``use_labeler``.
        labels_alone: whether the weights of who labels are enough to label; False where something else has its say,
            so that a model file, which has the first alone, cannot show what is learnt.
    """

    Config = Config
    cfg: Config
    uses_unlabeled = True
    labels_alone = True

    def __init__(self, student: Detector, cfg: Config) -> None:
        if student.objectness and cfg.taught_by != "boxes":
            problem = "this detector's class outputs speak of objects alone, and the method compares those of all rows"
            raise SsodError("config", "method.name", problem, "use a detector without objectness, e.g. retinanet")
        super().__init__(student, cfg, cfg.burn_in)
        self.given: Frozen | FromFile | None = None
        self.mixer = None if cfg.mix is None else Mixer(student.num_classes, **cfg.mix.model_dump())
        self.seen_aligned = False
        self.boxes_per_image = 1.0  # of labelled images; `see_labels` knows it

    def build_criterion(self) -> Criterion:
        """See ``Supervised``."""
        return Criterion(self.student, self.cfg.loss, mixes=self.cfg.mixes, maps=self.cfg.taught_by == "maps")

    def forward(self, batch: Batch, step: int) -> Losses:
        """Learn from the labels, then from what the teacher says; see ``Supervised.forward``."""
        losses: Losses = {}
        for ctx, weight in self.each_look(batch, step):
            by_distance = ctx.side == "unsup" and self.cfg.taught_by == "distances"
            found = self.distill(ctx) if by_distance else self.learn(ctx)
            losses = add(losses, self.weighed(ctx, found, weight))
            del ctx  # what the student saw is not kept in memory while it looks again
        return losses

    def each_look(self, batch: Batch, step: int) -> Iterator[tuple[Context, float | Tensor]]:
        """Yield what the student sees in a step, and how much its losses weigh: labelled images, then each task.

        It looks again when the next one is asked for. A method that learns from all of them together overrides
        ``forward``, not this.
        """
        cfg, teacher, pseudo, tasks = self.cfg, None, None, []
        self.stats = {"labeled/boxes_per_image": count_per_image(batch.labeled.truth())}
        # The student comes last: where parts of a step wait for each other's labels, it need not look twice.
        if step >= cfg.burn_in:
            if cfg.asks_teacher:
                with torch.no_grad():
                    labels = self.labels(batch, step)
                teacher, pseudo = labels.teacher, labels.pseudo
                self.count(pseudo)
            if step >= cfg.unsup_start:  # before, labels are only made: what they teach the thresholds is kept
                tasks = self.tasks(batch, step, pseudo)
        batch = self.filled(batch, step)
        labeled = self.look_at_labeled(batch, step)
        yield labeled, self.sup_weight(step)
        beside = labeled if cfg.compares_labeled else None
        del labeled
        for view, mine, weight in tasks:
            view, mine = self.mix(view, mine, batch.labeled)
            yield self.look("unsup", batch, step, view, mine, teacher, beside), weight

    def weighed(self, ctx: Context, losses: Losses, weight: float | Tensor) -> Losses:
        """Name and weigh the losses of a look, unlabelled ones by the config's ``loss_weights``, too; see ``scale``."""
        return self.scale(ctx.side, losses, weight, self.cfg.loss_weights if ctx.side == "unsup" else {})

    # ---- slots -----------------------------------------------------------------------------------------------------

    def label(self, teacher: Output, batch: Batch) -> Pseudo:
        """Choose the pseudo-labels, in the pixels of ``batch.weak``; by default every detection is one.

        Not asked where the teacher's maps teach and not its boxes.
        """
        return Pseudo(teacher.detections())

    def labels(self, batch: Batch, step: int) -> Labels:
        """Return the labels that a step learns from; whoever wants to know them asks here.

        That is the step itself, the look that an evaluation takes, its alarms and the galleries. By default they are
        what ``label`` makes of what who labels sees. A method that makes them in another way overrides this, and not
        ``forward`` alone. Where no step asks (``asks_teacher``), whoever looks at a run is shown what is measured.
        """
        teacher = self.ask(batch.weak, step)
        if self.cfg.taught_by == "boxes":
            return Labels(teacher, self.label(teacher, batch))
        self.require_aligned(batch)
        return Labels(teacher, None)

    def mix(self, view: View, pseudo: Pseudo | None, labeled: View) -> tuple[View, Pseudo | None]:
        """Blend the student's view with labelled images, as the config's ``mix`` says (mixup, mosaic)."""
        return (view, pseudo) if self.mixer is None or pseudo is None else self.mixer(view, pseudo, labeled)

    def reweight(self, stage: str, p: Predictions, a: Assignment, ctx: Context) -> Assignment:
        """Change the weight of rows on unlabelled images.

        By default of none; but of mixed images the proposal network learns whole objects, not the shares that their
        pictures have: those are for the classes, where what is missing to 1 is background.
        """
        return harden_labels(a, p.num_classes) if self.cfg.mixes and stage == "rpn" else a

    def distill(self, ctx: Context) -> Losses:
        """Compare the student's maps with others; needed, and asked, where ``taught_by`` is ``distances``."""
        raise NotImplementedError

    def unsup_weight(self, step: int, pseudo: Pseudo | None) -> float | Tensor:
        """Return the factor of the losses on unlabelled images at ``step``.

        Args:
            step: the number of optimiser steps made so far.
            pseudo: the labels in the student's view before it is mixed: labelled boxes say nothing about the teacher.
        """
        cfg = self.cfg
        weight = cfg.weight
        if cfg.ramp:
            t = max(0.0, min(1.0, (step - cfg.unsup_start + 1) / cfg.ramp))
            weight = weight * (t if cfg.ramp_shape == "linear" else math.exp(-5 * (1 - t) ** 2))
        if pseudo is None:
            return weight
        if cfg.damping < 1:
            weight = weight * damping(pseudo.cls, cfg.damping)
        if cfg.hold_back:
            enough = enough_boxes(pseudo.cls, cfg.hold_back * self.boxes_per_image)
            self.stats["pseudo/held_back"] = 1 - enough
            weight = weight * enough
        return weight

    def see_labels(self, statistics: LabelStatistics) -> None:
        """See ``Supervised.see_labels``; thresholds that count labels expect as many boxes as labelled images have."""
        if self.cfg.unsup_start > 1 or self.cfg.taught_by == "distances":  # else unlabelled images teach background
            super().see_labels(statistics)
        each = float(statistics.boxes.sum()) / max(statistics.images, 1)
        for module in self.modules():
            if isinstance(module, Method):  # this one, and a peer
                module.boxes_per_image = each
            elif isinstance(module, LabelQueue):
                module.expect(statistics)

    # ---- shared by all ---------------------------------------------------------------------------------------------

    def use_labeler(self, labeler: Frozen | FromFile) -> None:
        """Let another teacher label; called once, before the first step. ``teacher`` stays what is measured."""
        self.given = labeler

    def labeler(self, step: int) -> Ema | Frozen | FromFile:
        """Return who labels at ``step``."""
        given = self.given
        return self.teacher if given is None or (given.until is not None and step >= given.until) else given

    def reweightings(self, side: Side) -> Sequence[Reweight]:
        """Apply the method's own reweighting of unlabelled images before what the config names."""
        own = super().reweightings(side)
        return own if side == "sup" else (ignore_unknown, self.reweight, *own)

    def ask(self, view: View, step: int) -> Output:
        """Let who labels at ``step`` look at a view; once in a step, also where its parts run twice."""
        look = partial(self.labeler(step).predict, view)
        return collective.once(look, partial(self.kept, again=look))

    def kept(self, out: Output, again: Callable[[], Output]) -> Output:
        """Return what of a teacher's answer is kept while the other parts of a step are looked at."""
        return worth_keeping(out, again, self.cfg.asks_maps)

    def tasks(self, batch: Batch, step: int, pseudo: Pseudo | None) -> list[Task]:
        """Return what the student learns from, one after the other; by default each of ``Config.student_views``.

        A method that makes views of its own, once labels are known, overrides this.
        """
        return [self.task(name, batch, step, pseudo) for name in self.cfg.student_views]

    def task(self, name: str, batch: Batch, step: int, pseudo: Pseudo | None) -> Task:
        """Return one of the student's views, the labels in its pixels, and how much its losses weigh."""
        view, mine = batch.views[name], pseudo and pseudo.move(batch.weak, batch.views[name])
        self.count(mine)  # before it is mixed, which may add labelled boxes
        return view, mine, self.unsup_weight(step, mine)

    def filled(self, batch: Batch, step: int) -> Batch:
        """Return the images of a step, incomplete labels filled with what the average finds, where ``fill`` asks it."""
        view, score = batch.labeled, self.cfg.fill
        if score is None or step < self.cfg.burn_in or all(t.open is None for t in view.truth()):
            return batch
        look = partial(self.teacher.predict, view)
        with torch.no_grad():
            found = collective.once(look, lambda out: worth_keeping(out, look, maps=False)).detections()
        targets = fill_open(view.truth(), found, score, self.student.num_classes)
        self.stats["labeled/filled_per_image"] = count_per_image(targets) - count_per_image(view.truth())
        return replace(batch, labeled=replace(view, targets=targets))

    def count(self, pseudo: Pseudo | None) -> None:
        """Note for the log how many boxes an image has."""
        if pseudo is not None:
            self.stats["pseudo/boxes_per_image"] = count_per_image(pseudo.cls)

    def require_aligned(self, batch: Batch) -> None:
        """Test that the unlabelled views have their pixels in the same places.

        On the first batch of a process only, because the test waits for the device; before the run, the config was
        tested by drawing views.

        Raises:
            SsodError: they have not.
        """
        if self.seen_aligned:
            return
        weak = batch.weak
        for name in self.cfg.aligned_views:
            view = batch.views[name]
            same = weak.images.shape == view.images.shape and torch.equal(weak.sizes, view.sizes)
            if not same or not torch.equal(weak.matrix, view.matrix):
                problem = f"its matrices are not those of weak, which '{self.cfg.name}' compares row by row"
                fix = "write {start: weak, ops: [...]} with operations that move no pixel"
                raise SsodError("config", f"views.unlabeled.{name}", problem, fix)
        self.seen_aligned = True


def add(losses: Losses, more: Losses) -> Losses:
    """Add losses name by name."""
    return losses | {name: losses[name] + loss if name in losses else loss for name, loss in more.items()}


def tag(prefix: str, losses: Losses) -> Losses:
    """Put ``prefix/`` before every name."""
    return {f"{prefix}/{name}": loss for name, loss in losses.items()}


def above(detections: list[Targets], score: float) -> list[Targets]:
    """Keep detections whose score is strictly above ``score``, as hard labels with their scores."""
    return select(detections, torch.cat([t.confidence() for t in detections]) > score)


def quantiles(detections: list[Targets]) -> Tensor:
    """Return the 0, 25, 50, 75 and 100 % quantiles of all scores [5], zeros where there are none.

    The log explains with them why no box was kept.
    """
    scores = torch.cat([t.confidence() for t in detections]).float()
    if not len(scores):
        return scores.new_zeros(5)
    return torch.quantile(scores, torch.linspace(0, 1, 5, device=scores.device))

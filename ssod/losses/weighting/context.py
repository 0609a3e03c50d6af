"""One forward pass of the student, as its assignment and the weights of its rows see it; questions that these ask."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from ssod.losses.weighting.bayes import Guess
from ssod.structures import Assignment, Batch, Output, Predictions, Pseudo, RowLoss, Targets, View
from ssod.structures.boxes import paired_iou
from ssod.utils.given import given

Side = Literal["sup", "unsup"]


@dataclass
class Context:
    """One look of the student at N images and all that is known about them.

    Attributes:
        side: ``sup`` for labelled images, ``unsup`` for unlabelled ones.
        step: the number of optimiser steps made so far.
        student: what the student saw.
        view: where it looked, mixed images and all.
        labels_or_none: the boxes in the view's pixels, true or pseudo; None where a method chooses none.
        batch: the step's images.
        teacher_or_none: the teacher's output on ``batch.weak``; None on labelled images.
        rows: the row losses in use, by name.
        factors: of losses, by name, on top of the detector's own.
        normalizer: ``structures.Detector.cls_normalizer`` of the student.
        guesses: what the auxiliary branch says, by stage.
        losses: weightings that learn add theirs here.
        stats: detached scalars for the log.
        labeled_or_none: the look at the step's labelled images, for a method that compares these, too; else None.
    """

    side: Side
    step: int
    student: Output
    view: View
    labels_or_none: Pseudo | None
    batch: Batch
    teacher_or_none: Output | None
    rows: Mapping[str, RowLoss]
    factors: Mapping[str, float]
    normalizer: Callable[[str, Predictions, Assignment], Tensor]
    guesses: dict[str, Guess] = field(default_factory=dict)
    losses: dict[str, Tensor] = field(default_factory=dict)
    stats: dict[str, Tensor] = field(default_factory=dict)
    labeled_or_none: Context | None = None

    @property
    def labels(self) -> Pseudo:
        """The boxes in the view's pixels, true or pseudo.

        Raises:
            TypeError: the method chooses none.
        """
        return given(self.labels_or_none, "this method learns from the teacher's maps, and chooses no boxes")

    @property
    def teacher(self) -> Output:
        """The teacher's output on ``batch.weak``.

        Raises:
            TypeError: the images are labelled.
        """
        return given(self.teacher_or_none, "these images are labelled, and the teacher has not looked at them")

    @property
    def labeled(self) -> Context:
        """The look at the step's labelled images.

        Raises:
            TypeError: this is that look, or the method does not compare labelled images.
        """
        return given(self.labeled_or_none, "labelled images are compared where compares_labeled of the method says so")

    def loss(self, stage: str, name: str) -> RowLoss:
        """Return the row loss ``cls`` or ``box`` of a stage."""
        return self.rows[of_stage(stage, name)]

    def matchable(self) -> list[Targets]:
        """Return the boxes that ``Assignment.matched`` counts, in its order; none where a method chooses none."""
        if self.labels_or_none is None:
            return []
        return self.labels.with_ignored() + (self.labels.box or [])


def of_stage(stage: str, name: str) -> str:
    """Return the name of a loss or a number: ``cls`` is of the rows that have classes, ``rpn_cls`` of proposals."""
    return f"rpn_{name}" if stage == "rpn" else name


# (stage, predictions, assignment, context) -> assignment
Reweight = Callable[[str, Predictions, Assignment, Context], Assignment]


def objects(p: Predictions, a: Assignment) -> Tensor:
    """Return [R] bool: rows with a box and its class, whether or not they are asked to regress it.

    An adaptive assigner asks a row whose box misses its object for the class, and weighs its box by their overlap, 0.
    A row that has its box from ``Pseudo.box`` alone is asked for a place and, as to its class, is background.
    """
    some = a.cls < p.num_classes if a.cls.ndim == 1 else a.cls.sum(-1) > 0
    return some & (a.fg if a.matched is None else a.fg | (a.matched >= 0))


def positives(p: Predictions, a: Assignment) -> Tensor:
    """Return [R] bool: rows with a box whose class counts."""
    return objects(p, a) & (a.cls_weight > 0)


def overlap(p: Predictions, a: Assignment, rows: Tensor) -> Tensor:
    """Return the IoU [M] of each row's decoded box (of its own class) with the box that it should predict.

    Args:
        p: predictions.
        a: their assignment.
        rows: [M] int64, rows with a box.
    """
    deltas = p.deltas[rows, torch.zeros_like(rows) if p.deltas.shape[1] == 1 else a.labels()[rows]]
    return paired_iou(p.coder.decode(deltas.float(), p.priors[rows]), a.box[rows])


@torch.no_grad()
def count_missing(p: Predictions, a: Assignment) -> tuple[Tensor, Tensor]:
    """Return how many rows learn an object, and how many of these decode to a box that does not meet it, both [].

    All rows are decoded and none is searched for, so that nothing waits for the device.
    """
    learning = positives(p, a)
    met = paired_iou(p.boxes(a.labels().clamp(max=p.num_classes - 1)), a.box) > 0
    return learning.sum(), (learning & ~met).sum()


def own_probability(p: Predictions, a: Assignment, rows: Tensor) -> Tensor:
    """Return the probability [M] that each of ``rows``, which have a box, gives its own class, with gradient.

    It is any number where a row has no class; see ``objects``.
    """
    logits = p.logits[rows].float()
    probs = logits.softmax(-1) if p.softmax else logits.sigmoid()
    return probs.gather(1, a.labels()[rows, None].clamp(max=probs.shape[1] - 1))[:, 0]

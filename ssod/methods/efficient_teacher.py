"""Efficient Teacher: boxes in doubt teach how likely there is an object, and nothing else. (arXiv:2302.07577)

Order of a step after burn-in:

1. Labelled images.
2. The teacher on the weak view. Of each row the best class alone is a detection, as released, also on FCOS: two classes
   of one row would give a reliable box and one in doubt in the same place. A detection whose score reaches `score` is
   reliable; one that reaches `unsure_score` alone is in doubt, and the teacher is asked for its objectness.
3. The Pseudo Label Assigner (Sec. 3.2). Reliable boxes teach as true ones do. On the rows of a box in doubt the
   objectness learns what the teacher says of that box, also where a reliable box has the row; classes learn nothing
   there, and places only where the teacher's objectness is `box_quality` or more. All other rows are background.
4. The losses weigh `weight`. If no image of the batch has a box, they weigh nothing; an image without one among others
   is background.

`domain` adds the paper's domain adaptation: a classifier of feature maps says whether they are of labelled or of
unlabelled images, and its reversed gradient makes them alike (``ssod.losses.domain``). As released it is off; here it
learns from the end of burn-in on, there in burn-in, too, for which unlabelled images are read.

As released, thresholds are fixed: `thresholds` takes them from the distribution of labels instead, as the paper does
(Sec. 3.3). Of a class as many boxes are expected in an unlabelled image as in a labelled one; a detection that is among
so many best ones is in doubt, and among `reliable` of these reliable. The paper reads the scores of the last epoch, and
this the last `queue` images (``ssod.pseudo_labels.label_queue``); until these are there, the fixed thresholds hold, and
none is lower than `unsure_score`. A class with fewer scores in the queue than boxes should be reliable has `score`.

What is not as released: a row that several boxes of one kind take has one of them; and rows of reliable boxes, and of
boxes in doubt whose places are learnt, are counted over all processes.

Published on YOLOv5 and on the Dense Detector (``ssod.detectors.dense_detector``). On FCOS the same rules are ours: its
centerness stands in for objectness, is learnt by rows of boxes alone, and its classes say what is background.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, cast

import torch
from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor

from ssod.assign.soft_quality import with_soft_quality
from ssod.losses.domain import LABELED, UNLABELED, DomainClassifier
from ssod.losses.objectness import with_objectness
from ssod.losses.weighting.context import Side
from ssod.methods import base
from ssod.methods.base import Context, EmaConfig, Losses, Task, count_per_image, quantiles
from ssod.pseudo_labels.label_queue import LabelQueue
from ssod.pseudo_labels.still_seen import still_seen
from ssod.pseudo_labels.two_limits import divide
from ssod.structures import (
    Assigned,
    Assignment,
    Batch,
    Detector,
    Output,
    Predictions,
    Pseudo,
    Targets,
)
from ssod.utils import collective
from ssod.utils.errors import SsodError
from ssod.utils.given import given
from ssod.utils.schema import Section


class Thresholds(Section):
    """Two thresholds of each class from the distribution of labels (the paper's distribution adaptation)."""

    queue: int = Field(12_800, ge=1)
    "Unlabelled images whose scores say what the thresholds are. Each takes 800 bytes, also in a checkpoint."
    reliable: float = Field(0.6, gt=0, le=1)
    "Share of the boxes that are expected of a class that are reliable; the others are in doubt."


class Config(base.Config):
    """The released constants for COCO."""

    weight: float = Field(3.0, ge=0)
    "Factor of every loss on unlabelled images."
    score: float = Field(0.6, ge=0, le=1)
    "A detection is reliable when its score is not below this ..."
    unsure_score: float = Field(0.1, ge=0, le=1)
    "... and in doubt when it is not below this; others are nothing."
    box_quality: float = Field(0.99, ge=0)
    "A box in doubt teaches its place, too, where the teacher's objectness is at least this; above 1 none does."
    thresholds: Thresholds | None = None
    "Thresholds of each class, from how many of its boxes a labelled image has; `{}` = as in the paper."
    visible: float = Field(0.1, ge=0, le=1)
    "A box of which a smaller share of the area lies in the student's view is dropped."
    domain: float = Field(0.0, ge=0)
    "Factor of the domain classifier's loss, which `weight` does not multiply; 0 = there is none, 0.1 in the paper."
    ema: EmaConfig = EmaConfig(decay=0.9999, growth=2000, buffers="average")
    "How the teacher follows the student."

    @field_validator("unsure_score")
    @classmethod
    def _below_the_other(cls, unsure: float, info: ValidationInfo) -> float:
        if unsure > info.data.get("score", 1):
            fix = "no box would be in doubt; lower it"
            raise ValueError(f"{unsure:g} is above 'score: {info.data['score']:g}', and {fix}")
        return unsure

    @property
    def needs_maps(self) -> bool:
        """See ``base.Config``: the teacher is asked for its objectness."""
        return True

    @property
    def burns_in_alone(self) -> bool:
        """See ``base.Config``: a domain classifier decays in burn-in."""
        return self.domain > 0


class EfficientTeacher(base.Method, burn_in_reads=()):
    """Two kinds of boxes, and the teacher's word on whether those of one kind are objects."""

    Config = Config
    cfg: Config

    def __init__(self, student: Detector, cfg: Config) -> None:
        if "quality" not in student.kinds:
            problem = "'efficient_teacher' teaches how likely a box is an object, and this detector has no such branch"
            raise SsodError("config", "method.name", problem, "use it with dense_detector or fcos")
        super().__init__(student, cfg)
        limits = torch.tensor([[cfg.score], [cfg.unsure_score]]).expand(2, student.num_classes)
        self.register_buffer("fixed", limits.clone(), persistent=False)
        self.queue: LabelQueue | None = None
        if cfg.thresholds is not None:
            least, many = cfg.unsure_score, cfg.thresholds
            self.queue = LabelQueue(student.num_classes, images=many.queue, share=many.reliable, start=1, least=least)
        self.labels_alone = self.queue is None
        self.domain: DomainClassifier | None = None
        if cfg.domain:
            dense = cast(Any, student)  # with a quality branch it is
            self.domain = DomainClassifier(len(dense.strides), dense.backbone.out_channels)

    # ---- pseudo-labels ---------------------------------------------------------------------------------------------

    def label(self, teacher: Output, batch: Batch) -> Pseudo:
        """Divide the teacher's detections, and ask for the objectness of those in doubt."""
        # The detector's own limit is for what is measured, and strict.
        found = teacher.detections(score=0.99 * self.cfg.unsure_score, rank=best_class)
        limits = self.limits()
        if self.queue is not None:
            self.queue.push(found)
        labels = Pseudo(*divide(found, limits))
        unsure = given(labels.unsure, "there are two kinds")
        self.stats |= {
            "pseudo/score_quantiles": quantiles(found),
            "pseudo/threshold": limits[0],
            "pseudo/threshold_unsure": limits[1],
            "pseudo/unsure_per_image": count_per_image(unsure),
        }
        return replace(labels, unsure=with_known_quality(teacher, unsure))

    def limits(self) -> Tensor:
        """Return [2, K], the thresholds of reliable boxes and of those in doubt."""
        fixed = self.get_buffer("fixed")
        if self.queue is None:
            return fixed
        self.stats["pseudo/queue_fill"] = fill = self.queue.fill()
        reliable, unsure = self.queue.thresholds().clamp(min=self.cfg.unsure_score)
        # The floor that a class with too few scores has would make all its boxes reliable.
        reliable = torch.where(self.queue.too_few()[0], fixed[0], reliable)
        return torch.where(fill >= 1, torch.stack([reliable, unsure]), fixed)

    def unsup_weight(self, step: int, pseudo: Pseudo | None) -> float | Tensor:
        """Return the factor, 0 where no image of the batch has a box of either kind."""
        labels = given(pseudo, "this method learns from boxes")
        found = sum(map(len, labels.cls)) + sum(map(len, labels.unsure or []))
        some = collective.mean_over_ranks(torch.full((), float(found), device=labels.cls[0].boxes.device)) > 0
        return super().unsup_weight(step, pseudo) * some

    def task(self, name: str, batch: Batch, step: int, pseudo: Pseudo | None) -> Task:
        """Leave out boxes of which the student's view shows too little; see ``base.Method``."""
        labels = given(pseudo, "this method learns from boxes")
        seen = still_seen(labels, batch.weak, batch.views[name], self.cfg.visible)
        return super().task(name, batch, step, seen)

    # ---- rows ------------------------------------------------------------------------------------------------------

    def assign(self, ctx: Context) -> Assigned:
        """Ask rows for boxes of either kind; those of boxes in doubt for the teacher's objectness."""
        labels = ctx.labels
        if labels.unsure is None:  # labelled images
            return super().assign(ctx)
        assigner = self.criterion.assigners[ctx.side]
        (p, sure), (_, unsure) = (
            self.student.assign(ctx.student, boxes, None, assigner)["dense"] for boxes in (labels.cls, labels.unsure)
        )
        a = with_soft_quality(self.with_quality(p, sure), unsure, labels, self.cfg.box_quality, p.num_classes)
        return {"dense": (p, replace(a, normalizer=self.normalizers(p, a, sure.matches() < 0)))}

    def with_quality(self, p: Predictions, a: Assignment) -> Assignment:
        """Ask the quality branch for what reliable boxes alone ask of it, each row with a weight."""
        if p.objectness:
            return with_objectness(p, a)
        asks = given(self.student.with_quality, "a dense head with a quality branch says what it is")
        return replace(asks(p, a), quality_weight=a.box_weight)

    def normalizers(self, p: Predictions, a: Assignment, unsure: Tensor) -> dict[str, Tensor]:
        """Return what each loss is divided by.

        The places of reliable boxes have a mean of their own, and so have those of boxes in doubt, whose rows are
        ``unsure`` [R].
        """

        def rows(some: Tensor) -> Tensor:
            return self.student.cls_normalizer("dense", p, replace(a, cls_weight=some.float(), normalizer={}))

        box = torch.where(unsure, rows(a.fg & unsure), a.normalizer.get("box", rows(a.fg & ~unsure)))
        asked = given(a.quality_weight, "each row's quality has a weight") > 0
        quality = {} if p.objectness else {"quality": rows(asked)}  # objectness: a mean over all rows
        return a.normalizer | {"box": box} | quality

    # ---- maps ------------------------------------------------------------------------------------------------------

    def learn(self, ctx: Context, assigned: Assigned | None = None) -> Losses:
        """Learn from rows, and from the maps that they come from, if the domain counts."""
        losses = super().learn(ctx, assigned)
        if self.domain is None:
            return losses
        if ctx.step < self.cfg.unsup_start:  # one kind of images alone; DDP wants every parameter in every step
            return losses | {"domain": 0 * torch.stack([p.sum() for p in self.domain.parameters()]).sum()}
        loss = self.domain(list(ctx.student.pyramid), LABELED if ctx.side == "sup" else UNLABELED)
        return losses | {"domain": self.cfg.domain * loss}

    def scale(
        self, side: Side, losses: Losses, weight: float | Tensor, factors: Mapping[Any, float] = MappingProxyType({})
    ) -> Losses:
        """See ``Supervised.scale``; the domain counts as much for either kind of images."""
        rows = {name: loss for name, loss in losses.items() if name != "domain"}
        domain = {name: loss for name, loss in losses.items() if name == "domain"}
        return super().scale(side, rows, weight, factors) | super().scale(side, domain, 1.0)


def best_class(p: Predictions) -> Tensor:
    """Return [R, K] float32, the score of each row's best class, and 0 for the others, which are no detections."""
    best, label = p.scores().max(1, keepdim=True)
    return best.new_zeros(len(p), p.num_classes).scatter(1, label, best)


def with_known_quality(teacher: Output, unsure: list[Targets]) -> list[Targets]:
    """Return boxes with the quality that the teacher gives each of them, by its row that is nearest to it."""
    known = given(teacher.score([t.boxes for t in unsure]).quality, "the teacher has the student's head")
    each = known.float().sigmoid().split([len(t) for t in unsure])
    return [replace(t, quality=q) for t, q in zip(unsure, each)]


METHOD = EfficientTeacher

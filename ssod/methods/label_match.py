"""LabelMatch: as many labels of a class as the labelled set has, and rows for those in doubt. (arXiv:2206.06608)

Order of a step: labelled images; the teacher on the weak view. Each class has two thresholds, from how many of its
boxes a labelled image has (``ssod.pseudo_labels.label_queue``). A detection that reaches the first is reliable; one
that reaches the second alone is unsure (the paper: uncertain). The proposal network learns both kinds alike. The second
stage samples rows of reliable boxes, then of unsure ones in what is left of their share, then background
(``ssod.assign.sample.by_priority``). A row of an unsure box is carried into the weak view, where the teacher is asked
about it: its class distribution, sharpened by `temperature`, is the row's class target, and there is no box to regress
("proposal self-assignment"). If the teacher's boxes and scores on the rows of an unsure box agree with it, these rows
learn the box as those of a reliable one do (``ssod.pseudo_labels.mining``). Of the second stage's losses the class loss
is divided by the rows with a hard label, the box loss by all rows, the class loss of unsure rows by all rows that can
be sampled.

As released are two ways to thresholds. By default a pass over 10 000 unlabelled images comes before the first step and
after each 1000; here it is the other, a queue of the last `queue` images, each with its 100 best scores, 20 of a class
at most. It is read at every step before this step's scores enter, so that a step's own scores do not decide about
themselves. It fills from the end of `burn_in` to `start`, from the weak views that the teacher labels; until it was
full, `score` is both thresholds.

What is not as released: student and teacher start from a supervised model there, here burn-in trains it; whether the
queue was full is in the checkpoint (there it is forgotten, and thresholds stay at 0.9 after a restart until the queue
was filled anew); scores below the detector's own `decode.score` do not enter (at 0.05 this changes no threshold, as
none is lower); processes share one queue; weak and strong view draw their flips apart; a box that leaves the student's
view is dropped with a side of a pixel or less; the teacher's box for a row is that of the unsure box's class where the
second stage has boxes for each class (as released it has one for all, which the recipe asks for).

Published on Faster R-CNN. On RetinaNet and FCOS the same rules are ours. Nothing is sampled there: reliable and unsure
boxes are assigned together, the teacher's answer to a row is its own row at the same place, and what divides boxes and
unsure rows is the detector's normalizer, counted over the rows of both kinds. Where rows have an objectness, that of an
unsure box's rows is the teacher's.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor

from ssod.losses.objectness import fit
from ssod.losses.weighting.background import dense_rows, roi_rows, transfer
from ssod.losses.weighting.registry import RULES
from ssod.methods import base
from ssod.methods.base import Context, EmaConfig, count_per_image, quantiles
from ssod.methods.config import before_the_end, refusal, rows_keep_their_place
from ssod.pseudo_labels.label_queue import LabelQueue
from ssod.pseudo_labels.mining import mined
from ssod.pseudo_labels.two_limits import divide
from ssod.structures import (
    Assigned,
    Assignment,
    Batch,
    Detector,
    Output,
    Predictions,
    Pseudo,
)
from ssod.structures.boxes import clip, paired_iou, warp
from ssod.utils.given import given
from ssod.utils.schema import Duration


class Config(base.Config):
    """The released constants for 1 to 10 % of COCO."""

    start: Duration = 0
    """Step at which the losses on unlabelled images begin. From the end of `burn_in` to here the teacher labels and the
    queue fills, which takes `queue` images."""
    weight: float = Field(2.0, ge=0)
    "Factor of every loss on unlabelled images."
    queue: int = Field(12_800, ge=1)
    "Unlabelled images whose scores say what the thresholds are. Each takes 800 bytes, also in a checkpoint."
    reliable: float = Field(0.2, gt=0, le=1)
    "Share of the boxes that are expected of a class that are reliable; the others are unsure."
    score: float = Field(0.9, ge=0, le=1)
    "Both thresholds of every class until the queue was full once. A detection passes when its score is not below."
    least: float = Field(0.05, ge=0, le=1)
    "No threshold of unsure boxes is below; that of reliable boxes is 0.05 or more."
    temperature: float = Field(0.5, gt=0)
    "What the teacher's logits of an unsure row are divided by; below 1 sharpens its distribution."
    mine_iou: float = Field(0.8, ge=0, le=1)
    "An unsure box is trusted when the teacher's boxes of its rows overlap it at least this much on average."
    mine_score: float = Field(0.8, ge=0)
    "... and the teacher gives its class at least this score there on average; above 1 none is."
    ema: EmaConfig = EmaConfig(decay=0.996, warm_up=False, start=None)
    "How the teacher follows the student after burn-in."

    _places = field_validator("mix")(rows_keep_their_place)

    _start = field_validator("start")(before_the_end)

    @model_validator(mode="after")
    def _one_says_what_classes_learn(self) -> Config:
        named = [] if self.loss is None else [spec.name for spec in self.loss.unsup.weighting]
        soft = [name for name in named if name in RULES and RULES[name].softens]
        if soft:
            problem = f"'{soft[0]}' sets the class target, and rows of unsure boxes have the teacher's"
            raise refusal(self, ("loss", "unsup", "weighting"), f"{problem}; remove it")
        return self

    @property
    def unsup_start(self) -> int:
        """See ``base.Config``."""
        return max(self.start, self.burn_in)

    @property
    def needs_maps(self) -> bool:
        """See ``base.Config``: the teacher is asked about the rows of unsure boxes."""
        return True


class LabelMatch(base.Method, burn_in_reads=()):
    """Two kinds of boxes by the distribution of labels, and the teacher's own word on the rows of one kind."""

    Config = Config
    cfg: Config
    labels_alone = False  # the queue has its say

    def __init__(self, student: Detector, cfg: Config) -> None:
        super().__init__(student, cfg)
        self.queue = LabelQueue(
            student.num_classes, images=cfg.queue, share=cfg.reliable, start=cfg.score, least=cfg.least
        )

    def label(self, teacher: Output, batch: Batch) -> Pseudo:
        """Divide the teacher's detections by the two thresholds of their class."""
        detections = teacher.detections()
        limits = self.queue.thresholds()
        self.queue.push(detections)
        labels = Pseudo(*divide(detections, limits))
        self.stats |= {
            "pseudo/score_quantiles": quantiles(detections),
            "pseudo/threshold": limits[0],
            "pseudo/threshold_unsure": limits[1],
            "pseudo/queue_fill": self.queue.fill(),
            "pseudo/unsure_per_image": count_per_image(labels.unsure or []),
        }
        return labels

    def assign(self, ctx: Context) -> Assigned:
        """Ask rows for boxes of both kinds; where there is a sample, for reliable ones first."""
        labels = ctx.labels
        if labels.unsure is None:  # labelled images
            return super().assign(ctx)
        return self.student.assign_both(ctx.student, labels.cls, labels.unsure, self.criterion.assigners[ctx.side])

    def reweight(self, stage: str, p: Predictions, a: Assignment, ctx: Context) -> Assignment:
        """Let rows of unsure boxes learn the teacher's distribution, or the box where the teacher agrees with it."""
        if stage == "rpn":
            return a
        box, count = unsure_box(a, ctx.labels)
        soft = box < count
        b = a
        if count:
            seen = what_teacher_sees(stage, p, ctx)
            good = self.trusted(seen, a, box, count, ctx)
            self.stats["pseudo/mined_per_image"] = good.sum() / p.num_images
            soft = soft & ~good[box]
            b = replace(a, cls=torch.where(soft[:, None], sharpened(seen, self.cfg.temperature), a.soft(p.num_classes)))
            if p.objectness:
                known = given(seen.quality, "the teacher has the student's head").float().sigmoid()
                b = replace(b, quality=torch.where(soft, known, fit(p, b)))
        return replace(b, box_weight=b.box_weight * ~soft, normalizer=self.normalizers(stage, p, a, soft))

    @torch.no_grad()
    def trusted(self, seen: Predictions, a: Assignment, box: Tensor, count: int, ctx: Context) -> Tensor:
        """Return [count + 1] bool, which unsure boxes the teacher agrees with; the last is no box.

        Args:
            seen: what the teacher says of each row, in the weak view.
            a: what rows are asked for, in the student's view.
            box: [R] int64, the unsure box of each row, ``count`` = none.
            count: unsure boxes.
            ctx: the step.
        """
        weak = ctx.batch.weak
        labels = a.labels().clamp(max=seen.num_classes - 1)
        sizes = weak.sizes[seen.image]
        there = clip(warp(a.box, transfer(ctx.view, weak)[seen.image]), sizes)
        iou = paired_iou(clip(seen.boxes(labels), sizes), there)
        score = seen.probs().gather(1, labels[:, None])[:, 0]
        return mined(iou, score, box, count, least_iou=self.cfg.mine_iou, least_score=self.cfg.mine_score)

    def normalizers(self, stage: str, p: Predictions, a: Assignment, soft: Tensor) -> dict[str, Tensor]:
        """Return what each loss is divided by; rows where ``soft`` [R] have no part in what divides hard labels."""
        hard = replace(a, cls_weight=a.cls_weight * ~soft, box_weight=a.box_weight * ~soft)
        own, all_ = (self.student.cls_normalizer(stage, p, one) for one in (hard, a))
        sample = torch.full((), float(len(p)), device=soft.device) if stage == "roi" else all_
        quality = {} if p.objectness else {"quality": all_}  # objectness is a mean over all rows
        return {"cls": torch.where(soft, sample, own), "box": all_} | quality


def unsure_box(a: Assignment, labels: Pseudo) -> tuple[Tensor, int]:
    """Return the unsure box [R] int64 that each row is matched to, and how many there are, which stands for none.

    ``Assignment.matched`` counts the boxes of both kinds, image by image, those of ``unsure`` behind the others.
    """
    count = sum(map(len, labels.unsure or []))
    number, parts = 0, []
    for sure, unsure in zip(labels.cls, labels.unsure or []):
        own = torch.arange(number, number + len(unsure), device=unsure.labels.device)
        parts += [torch.full_like(sure.labels, count), own]
        number += len(unsure)
    matched = a.matches()
    none = matched.new_full((1,), count)  # for rows without a box
    lookup = torch.cat([*parts, none])
    return lookup[torch.where(matched >= 0, matched, len(lookup) - 1)], count


@torch.no_grad()
def what_teacher_sees(stage: str, p: Predictions, ctx: Context) -> Predictions:
    """Return what the teacher says of each row's place in the weak view."""
    if stage == "roi":
        return roi_rows(p, ctx.teacher, ctx.view, ctx.batch.weak)
    return dense_rows(p, ctx.teacher.stages[stage], ctx.view, ctx.batch.weak)


@torch.no_grad()
def sharpened(p: Predictions, temperature: float) -> Tensor:
    """Return [R, K] class probabilities of logits over ``temperature``; background is what a softmax lacks to 1."""
    logits = p.logits.float() / temperature
    return logits.softmax(-1)[:, :-1] if p.softmax else logits.sigmoid()


METHOD = LabelMatch

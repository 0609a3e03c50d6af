"""Unbiased Teacher v2: sides of boxes learn, too, where the teacher is surer than the student. (arXiv:2206.09500)

The detector predicts a deviation for each side of a box, and learns it from labels alone (`detector.loss.spread`). In
the order of a step after burn-in: labelled images in both views; the teacher on the weak view. Its detections above
`score` teach classes. Where `box_score` is set, the same maps are ranked once more, by the geometric mean of class
probability and mean certainty of the sides, and suppressed again; what is above `box_score` teaches places. Certainty
is one minus the deviation. A side of a box learns, by L1, where the teacher is more certain of it than `certainty`, and
by more than `margin` more certain than the student. The box loss is averaged over the sides that learn (FCOS), or
divided by all sampled rows (Faster R-CNN). The quality branch of FCOS learns the boxes that teach classes.

As released, box losses on unlabelled images count `box_weight` times, others `weight` times; with `normalize`, from the
end of burn-in on, those of both kinds of images are divided by one plus that, so that labelled images count less than
before (FCOS). Both forms are in configs/methods/unbiased_teacher_v2.yaml, with what they ask of the detector.

What is not as released: counts are averaged over all processes, and are 1 at least over all of them (there each
process divides by its own number of sides, and by 1 at least); deviations are held above 0.01 in their loss (there
nowhere); the teacher of Faster R-CNN proposes as in evaluation; and labelled
images without a box teach FCOS background (there nothing).

Published on FCOS and Faster R-CNN. On RetinaNet the rule of FCOS is ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from ssod.assign.surer_sides import by_place, surer_sides
from ssod.losses.build import LossSpec
from ssod.losses.weighting.criterion import LossConfig, SideLoss
from ssod.methods import base
from ssod.methods.base import Context, EmaConfig, Losses, LossName, above, quantiles
from ssod.methods.config import refusal
from ssod.structures import Assigned, Assignment, Batch, Detector, Output, Predictions, Pseudo
from ssod.utils.collective import mean_count
from ssod.utils.errors import SsodError
from ssod.utils.schema import Duration

BY_SIDE = ("l1", "smooth_l1", "nll")  # box losses with a number for each side


class Config(base.Config):
    """The released constants of Faster R-CNN for 1 % of COCO."""

    burn_in: Duration = 2000
    "Steps of supervised learning; the teacher is a copy of the student until they end."
    weight: float = Field(4.0, gt=0)
    "Factor of the losses on unlabelled images, but for those of boxes."
    box_weight: float = Field(1.0, ge=0)
    "Factor of the box loss on unlabelled images, in the place of `weight`."
    normalize: bool = False
    "After burn-in, divide the losses of labelled and unlabelled images by one plus `weight` (boxes: `box_weight`)."
    score: float = Field(0.7, ge=0, le=1)
    "A detection teaches classes when its score is above this."
    box_score: float | None = Field(None, ge=0, le=1)
    """Rank the teacher's maps once more, by class probability and certainty of the sides: what is above this teaches
    places. By default the boxes that teach classes do."""
    certainty: float = Field(0.5, ge=0, le=1)
    "A side learns when the teacher is more certain of it than this."
    margin: float = Field(0.1, ge=0, le=1)
    "... and by more than this more certain than the student."
    loss: LossConfig | None = LossConfig(unsup=SideLoss(box=LossSpec(name="l1")))
    """Losses of labelled (`sup`) and unlabelled (`unsup`) images; default: L1 for the sides on unlabelled ones, and
    else the detector's own."""
    loss_weights: dict[LossName, Annotated[float, Field(ge=0)]] = {"rpn_box": 0.0, "spread": 0.0}
    """Further factors of single losses on unlabelled images; 0 leaves a loss out of the sum, but logs it. A loss that a
    config leaves out has the factor here."""
    ema: EmaConfig = EmaConfig(decay=0.9996, warm_up=False, start=None)
    "How the teacher follows the student after burn-in."

    @field_validator("loss", mode="before")
    @classmethod
    def _own_box_loss(cls, loss: Any) -> Any:
        """Keep L1 where a config names other losses alone."""
        if not isinstance(loss, Mapping) or not isinstance(loss.get("unsup", {}), Mapping):
            return loss
        unsup = {name: value for name, value in loss.get("unsup", {}).items() if name != "box" or value is not None}
        return {**loss, "unsup": {"box": "l1"} | unsup}

    @model_validator(mode="after")
    def _a_loss_of_sides(self) -> Config:
        box = None if self.loss is None else self.loss.unsup.box
        if box is None or box.name not in BY_SIDE:
            problem = "names no box loss of single sides, and sides learn one by one"
            raise refusal(self, ("loss", "unsup", "box"), f"{problem}; use one of: {', '.join(BY_SIDE)}")
        return self

    @property
    def needs_maps(self) -> bool:
        """See ``base.Config``: the teacher says how certain it is of each side."""
        return True

    def factor(self, name: str) -> float:
        """Return the factor of a loss on unlabelled images, ``loss_weights`` aside."""
        return self.box_weight if name in ("box", "spread") else self.weight


class UnbiasedTeacherV2(base.Method, burn_in_reads=()):
    """Two rankings choose the boxes; of each box, the sides that the teacher knows better learn."""

    Config = Config
    cfg: Config

    def __init__(self, student: Detector, cfg: Config) -> None:
        if "spread" not in student.rows:
            problem = "'unbiased_teacher_v2' asks how certain a side is, and this detector does not learn it"
            fix = "write detector.spread: true and detector.loss.spread: {name: nll, weight: 0.05}, not with d2_*"
            raise SsodError("config", "method.name", problem, fix)
        if not student.sides:
            problem = "'unbiased_teacher_v2' compares sides, and this detector's box outputs are shifts and log sizes"
            raise SsodError("config", "detector.code", problem, "write detector.code: sides")
        super().__init__(student, cfg)

    def label(self, teacher: Output, batch: Batch) -> Pseudo:
        """Choose boxes for classes by their score, for places by score and certainty, if there is a limit for these."""
        cfg = self.cfg
        detections = teacher.detections(rank=Predictions.probs)
        self.stats["pseudo/score_quantiles"] = quantiles(detections)
        cls = above(detections, cfg.score)
        if cfg.box_score is None:
            return Pseudo(cls)
        places = above(teacher.detections(rank=by_place), cfg.box_score)
        self.stats["pseudo/places_per_image"] = base.count_per_image(places)
        return Pseudo(cls, box=places)

    def assign(self, ctx: Context) -> Assigned:
        """Ask rows for classes by one set of boxes and for places by the other.

        The quality branch learns the first set, whichever sides learn.
        """
        assigned = super().assign(ctx)
        if ctx.side == "sup" or "quality" not in self.student.rows:
            return assigned
        ((stage, (p, a)),) = assigned.items()
        cls = a
        if ctx.labels.box is not None:
            assigner = self.criterion.assigners[ctx.side]
            cls = self.student.assign(ctx.student, ctx.labels.with_ignored(), None, assigner)[stage][1]
        # Of two sets, an assigner that says what divides a loss has said it of the places.
        own = {name: n for name, n in cls.normalizer.items() if name == "quality"}
        return {stage: (p, replace(a, quality_of=cls, normalizer=a.normalizer | own))}

    def reweight(self, stage: str, p: Predictions, a: Assignment, ctx: Context) -> Assignment:
        """Let a side learn where the teacher is surer of it than the student."""
        a = super().reweight(stage, p, a, ctx)
        if stage == "rpn":
            return a
        a = surer_sides(p, a, self.cfg.certainty, self.cfg.margin)
        sides = (a.box_weight > 0).sum().float()
        self.stats["pseudo/foreground_sides_per_image"] = sides / len(ctx.view)
        return a if stage == "roi" else replace(a, normalizer=a.normalizer | {"box": mean_count(sides)})

    def learn(self, ctx: Context, assigned: Assigned | None = None) -> Losses:
        """Learn, and weigh the losses of boxes by ``box_weight``.

        With ``normalize`` those of labelled and unlabelled images are divided by one plus their factor.
        """
        cfg, losses = self.cfg, super().learn(ctx, assigned)
        shared = cfg.normalize and ctx.step >= cfg.burn_in
        if ctx.side == "unsup":
            losses = {name: loss * (cfg.factor(name) / cfg.weight) for name, loss in losses.items()}
        return {name: loss / (1 + cfg.factor(name)) for name, loss in losses.items()} if shared else losses


METHOD = UnbiasedTeacherV2

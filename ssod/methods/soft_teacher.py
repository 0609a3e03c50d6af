"""Soft Teacher: classes by score, places by how steady a box is, background by the teacher. (arXiv:2106.09018)

Order of a step (Sec. 3): labelled images; the teacher on the weak view, its detections above `candidate_score`. Those
above `score` teach classes, in both stages, and the proposal network its boxes. Those whose spread is below `spread`,
whatever they score, teach the second stage its boxes, on a sample of their own: each is jittered `jitter_times` times,
the teacher's second stage refines what comes of that, and the spread is the deviation of the refined boxes over their
size (``ssod.pseudo_labels.jitter``). In the second stage a background row counts by the teacher's probability of
background at its box, and the class loss is divided by the sum of these weights and of 1 for each object's row
(``background_reliability``).

Constants and formulas are the released code's. The paper divides a side's deviation by half of width + height; the
code, and this file, by the width for x and by the height for y, of the mean refined box.

What is not as released: a process divides by the mean of what all of them count (there each by its own); the teacher
proposes as in evaluation, from 1000 boxes a level before suppression (there 2000); a box is dropped when the student's
view leaves it a side of one pixel or less (there none); and the proposal network's anchors are assigned by another
rule, which configs/detectors/faster_rcnn_r50_fpn.yaml names.

Published on Faster R-CNN. On RetinaNet and FCOS the same rules are ours: a jittered box is refined by the row whose box
overlaps it most (if that is one row for all of them, the spread is 0: what is measured is how rows nearby differ), and
background is one minus the likeliest class of the teacher's row at the same place.
"""

from __future__ import annotations

from pydantic import Field, field_validator, model_validator

from ssod.losses.weighting.background import background_reliability
from ssod.methods import base
from ssod.methods.base import Context, EmaConfig, above, quantiles
from ssod.methods.config import refusal, rows_keep_their_place
from ssod.pseudo_labels.jitter import box_spread
from ssod.structures import Assignment, Batch, Output, Predictions, Pseudo
from ssod.structures.ragged import select


class Config(base.Config):
    """The released constants for 1 to 10 % of COCO."""

    weight: float = Field(4.0, ge=0)
    "Factor of every loss on unlabelled images."
    score: float = Field(0.9, ge=0, le=1)
    "A detection teaches classes when its score is above this."
    candidate_score: float = Field(0.5, ge=0, le=1)
    "A detection may teach its place when its score is above this."
    spread: float = Field(0.02, ge=0)
    "... and the mean spread of its sides is below this."
    jitter_times: int = Field(10, ge=2)
    "Boxes drawn around a detection to measure its spread."
    jitter_scale: float = Field(0.06, ge=0)
    "Standard deviation of a drawn side, over the box's width or height."
    ema: EmaConfig = EmaConfig(decay=0.999)
    "How the teacher follows the student."

    _places = field_validator("mix")(rows_keep_their_place)

    @model_validator(mode="after")
    def _a_score_that_chooses(self) -> Config:
        if self.score < self.candidate_score:
            problem = f"'score: {self.score:g}' lies below 'candidate_score: {self.candidate_score:g}'"
            raise refusal(self, ("score",), f"{problem}, which cuts first; lower candidate_score, too")
        return self

    @property
    def needs_maps(self) -> bool:
        """See ``base.Config``: boxes are jittered and scored again, and background is weighed."""
        return True


class SoftTeacher(base.Method, burn_in_reads=()):
    """Two sets of boxes, and background that the teacher vouches for."""

    Config = Config
    cfg: Config

    def label(self, teacher: Output, batch: Batch) -> Pseudo:
        """Choose the boxes that teach classes by their score, those that teach places by their spread."""
        cfg = self.cfg
        detections = teacher.detections()
        candidates = above(detections, cfg.candidate_score)
        spread = box_spread(teacher, candidates, batch.weak, times=cfg.jitter_times, scale=cfg.jitter_scale)
        steady = select(candidates, spread < cfg.spread)
        self.stats["pseudo/score_quantiles"] = quantiles(detections)
        self.stats["pseudo/steady_per_image"] = base.count_per_image(steady)
        return Pseudo(above(candidates, cfg.score), box=steady)

    def reweight(self, stage: str, p: Predictions, a: Assignment, ctx: Context) -> Assignment:
        """Let background rows count by the teacher's probability of background."""
        return a if stage == "rpn" else background_reliability(stage, p, a, ctx)


METHOD = SoftTeacher

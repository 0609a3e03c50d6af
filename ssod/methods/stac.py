"""STAC: a trained detector labels every image once, and a student that starts afresh learns from it. (arXiv:2005.04757)

Order of a run (Sec. 3): until `burn_in` ends the student learns from labels alone. The model that is measured at
that moment becomes the teacher and is frozen; student, average, optimiser and schedule start afresh from what the first
stage started from. `method.teacher` names a trained teacher in the place of this stage, with `burn_in: 0`.

Order of a step: labelled images; what the teacher says of the weak view; boxes that score at least `score`, on the
strong view, with all losses. The teacher looks at each image once in each process; after a resume it is asked again and
says the same. The weak view must be free of chance; in the recipes of papers it is the image as it is in its file,
without resizing, as in the released code.

Where paper and code differ, `as_released` chooses. The code halves the losses on both kinds of images, keeps the best
box of an image where none reaches the threshold, and stores boxes and scores as float16 before it compares; the
paper does none of this. An image without any detection is left out of the code's list; here its rows learn
nothing.

What is not as released: the pixels of a single box are moved after the colours and holes of the view
(``ssod.transforms.box_affine``); an image all of whose boxes leave the strong view teaches background there, where the
code means to take the picture as it was; normalizers are those of the whole batch; and the teacher is asked in the
steps, not before them.

Published on Faster R-CNN. On RetinaNet and FCOS the same rules are ours.
"""

from __future__ import annotations

from copy import deepcopy

import torch
from pydantic import Field, model_validator
from torch import Tensor

from ssod.losses.weighting.registry import RULES
from ssod.methods import base
from ssod.methods.base import EmaConfig, quantiles
from ssod.methods.config import FileTeacher, refusal
from ssod.methods.labels_once import LabelsOnce
from ssod.methods.teachers import Ema, FromFile, Frozen
from ssod.pseudo_labels.best_kept import at_least, rounded
from ssod.structures import Batch, Detector, Output, Pseudo, Targets, View
from ssod.transforms.box_affine import move_in_a_box
from ssod.utils.schema import Duration


class Config(base.Config):
    """The released constants for 1 to 10 % of COCO."""

    burn_in: Duration = 180_000
    "Steps of the first stage, which trains the teacher; after it the student starts afresh."
    weight: float = Field(2.0, ge=0)
    "Factor of every loss on unlabelled images (the paper's lambda_u)."
    score: float = Field(0.9, ge=0, le=1)
    "A detection becomes a pseudo-label when it scores at least this."
    box_affine: bool = True
    "Whether the pixels of one box are moved in place, in images that the strong view has not moved as a whole."
    as_released: bool = True
    """As the code: losses on both kinds of images are halved, an image without a box above `score` keeps its best one,
    and boxes and scores are compared and kept in float16. False = as in the paper."""
    ema: EmaConfig = EmaConfig(decay=0.0, warm_up=False)
    "What is measured: decay 0 is the student itself. `start` counts the steps of either stage."

    @model_validator(mode="after")
    def _is_asked_once(self) -> Config:
        if self.ema.rule != "ema":
            raise refusal(self, ("ema", "rule"), "says who labels, and here a frozen teacher does; leave it out")
        if self.weightings_of_maps:
            problem = f"'{min(self.weightings_of_maps)}' asks the teacher in each step, and here an image is seen once"
            raise refusal(self, ("loss", "unsup", "weighting"), f"{problem}; remove it")
        return self

    @model_validator(mode="after")
    def _has_one_trained_teacher(self) -> Config:
        if self.teacher is None and not self.burn_in:
            problem = "0 leaves the teacher untrained; give a first stage, or method.teacher"
            raise refusal(self, ("burn_in",), problem)
        if self.teacher is not None and self.burn_in:
            problem = "with method.teacher there is no first stage, and the student would not start afresh"
            raise refusal(self, ("burn_in",), f"{problem}; set method.burn_in=0, and train.steps to those of one stage")
        if self.ema.start is None:
            problem = "null is the end of burn-in, and here 'start' counts the steps of either stage"
            raise refusal(self, ("ema", "start"), f"{problem}; give a number, e.g. 0")
        return self

    @model_validator(mode="after")
    def _starts_afresh_whole(self) -> Config:
        sides = [] if self.loss is None or self.restart_at is None else [self.loss.sup, self.loss.unsup]
        named = sorted({spec.name for side in sides for spec in side.weighting} & RULES.keys())
        learning = [name for name in named if RULES[name].learns]
        if learning:
            problem = f"the weighting '{learning[0]}' learns, and would not start afresh with the student"
            raise refusal(self, ("loss",), f"{problem}; remove it, or train the teacher apart (method.teacher)")
        return self

    @property
    def labels_once(self) -> bool:
        """See ``base.Config``; a file of boxes has labelled already."""
        return not isinstance(self.teacher, FileTeacher)

    @property
    def restart_at(self) -> int | None:
        """See ``base.Config``: where the first stage ends, if it trains the teacher."""
        return self.burn_in if self.teacher is None else None


class Stac(base.Method):
    """Two stages in one run, and labels that never change.

    The frozen teacher's model holds the student's first weights until the first stage ends, and the teacher's from then
    on: so both are in every checkpoint.
    """

    Config = Config
    cfg: Config

    def __init__(self, student: Detector, cfg: Config) -> None:
        super().__init__(student, cfg)
        self.labels_alone = cfg.teacher is not None
        self.restarted = False  # in this process
        if cfg.teacher is None:
            self.given = LabelsOnce(deepcopy(student), self.stored)

    def use_labeler(self, labeler: Frozen | FromFile) -> None:
        """Ask a detector about an image once."""
        self.given = LabelsOnce(labeler.model, self.stored) if isinstance(labeler, Frozen) else labeler

    def labeler(self, step: int) -> Ema | Frozen | FromFile:
        """Return who labels: until the student starts afresh it is the average, which no step asks."""
        at = self.restart_at
        first = at is not None and (step < at or (step == at and not self.restarted))
        return self.teacher if first else super().labeler(step)

    @torch.no_grad()
    def restart(self) -> None:
        """Freeze the average as the teacher; student and average become what the student was at first."""
        once = self.given
        if self.restarted or not isinstance(once, LabelsOnce):
            return
        first = deepcopy(once.model.state_dict())
        once.model.load_state_dict(self.teacher.model.state_dict())
        once.known.clear()
        for model in (self.student, self.teacher.model):
            model.load_state_dict(first)
        self.restarted = True

    def after_step(self, step: int, skipped: Tensor | None = None) -> None:
        """Let the average follow, which counts the steps of a stage."""
        super().after_step(self.of_stage(step), skipped)

    def after_skip(self, step: int) -> None:
        """See ``after_step``."""
        super().after_skip(self.of_stage(step))

    def of_stage(self, step: int) -> int:
        """Return the number of a step in its stage."""
        return step if self.restart_at is None or step < self.restart_at else step - self.restart_at

    def stored(self, detections: list[Targets]) -> list[Targets]:
        """Return what is remembered of detections, in pixels of the original."""
        return rounded(detections) if self.cfg.as_released else detections

    def choose(self, detections: list[Targets]) -> list[Targets]:
        """Return the boxes that teach."""
        cfg = self.cfg
        return at_least(detections, cfg.score, best=cfg.as_released, half=cfg.as_released)

    def label(self, teacher: Output, batch: Batch) -> Pseudo:
        """Choose among all that the teacher saw in an image, in every step anew."""
        detections = teacher.detections()
        self.stats["pseudo/score_quantiles"] = quantiles(detections)
        return Pseudo(self.choose(detections))

    def mix(self, view: View, pseudo: Pseudo | None, labeled: View) -> tuple[View, Pseudo | None]:
        """Move the pixels of one box; then blend as the config says."""
        if self.cfg.box_affine and pseudo is not None:
            view = move_in_a_box(view, pseudo.cls)
        return super().mix(view, pseudo, labeled)

    @property
    def share(self) -> float:
        """One half where the released code averages over its two forward passes."""
        return 0.5 if self.cfg.as_released else 1.0

    def sup_weight(self, step: int) -> float:
        """Average the two kinds of images, or add them; the first stage has one kind."""
        return self.share if step >= self.cfg.unsup_start else 1.0

    def unsup_weight(self, step: int, pseudo: Pseudo | None) -> float | Tensor:
        """Average the two kinds of images, or add them."""
        return self.share * super().unsup_weight(step, pseudo)


METHOD = Stac

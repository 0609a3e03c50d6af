"""Mean Teacher: an EMA teacher's confident boxes are the student's truth. (arXiv:1703.01780, arXiv:2209.01589)

The first paper has the idea; the second has the detection baseline, there on RetinaNet, here on every detector: a fixed
score threshold, and all losses of the detector on pseudo-boxes, boxes and classes alike. Constants are those of the
released baseline (threshold 0.5, weight 2, EMA 0.9995, no burn-in); small data sets want a burn-in (see
configs/mean_teacher).

``form: consistency`` is the idea of the first paper, put on detectors by us: no threshold, no box is chosen; the
student's output for every row on the strong view is pulled towards the teacher's on a weak view with the same pixels in
the same places, classes and boxes alike. Rows are those of the dense head; of Faster R-CNN those of the proposal
network, and the answers of both second stages to the teacher's best proposals. The weight rises as the paper's does
(``ramp_shape: sigmoid``). The paper also compares labelled images; here they have truth to learn from.
"""

import math
from typing import Literal

from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor

from ssod.losses.consistency import DISTANCES, Belief, Norm, imitate
from ssod.methods import base
from ssod.methods.base import EmaConfig, Losses, quantiles, tag
from ssod.pseudo.damping import damping
from ssod.pseudo.threshold import FixedConfig, ThresholdConfig, build_threshold
from ssod.structures import Batch, Detector, Output, Pseudo


class Config(base.Config):
    """The released baseline's constants, and those of the consistency form."""

    form: Literal["pseudo_label", "consistency"] = "pseudo_label"
    "Learn from the teacher's boxes above a threshold, or from its output for every row."
    weight: float = Field(2.0, ge=0)
    "Factor of every loss on unlabelled images."
    ramp_shape: Literal["linear", "sigmoid"] = "linear"
    "How `weight` rises over `ramp`: in proportion, or as exp(-5 (1 - t)^2) (arXiv:1703.01780)."
    ema: EmaConfig = EmaConfig(decay=0.9995)
    "How the teacher follows the student."
    score: float = Field(0.5, ge=0, le=1)
    "Pseudo-label form: a detection becomes a pseudo-label when its score is above this."
    threshold: ThresholdConfig | None = None
    "Pseudo-label form: another rule in the place of `score`; `{name: gmm}` finds a threshold for each class."
    damping: float = Field(0.01, ge=0, le=1)
    "Pseudo-label form: factor of the losses while fewer than half of the unlabelled images have a pseudo-label."
    distance: Literal["mse", "kl", "js"] = "mse"
    "Consistency form: between the class probabilities, see ssod/losses/consistency.py."
    squared: bool = True
    "Consistency form: square the L2 distance between the encoded boxes, as `mse` does for classes."
    norm: Norm = "foreground"
    "Consistency form: `foreground` weighs boxes by the teacher's class probability and divides by its sum; or `rows`."
    proposals: int = Field(640, ge=1)
    "Consistency form, two stages: best proposals of the teacher that both second stages are asked about."

    @field_validator("ramp_shape")
    @classmethod
    def _shape_of_a_ramp(cls, shape: str, info: ValidationInfo) -> str:
        if shape != "linear" and info.data.get("ramp") == 0:
            raise ValueError("has no meaning with 'ramp: 0'; give the ramp's steps")
        return shape

    @field_validator("score", "threshold", "damping", "distance", "squared", "norm", "proposals")
    @classmethod
    def _belongs_to_the_form(cls, value: object, info: ValidationInfo) -> object:
        form = info.data.get("form")
        own = "pseudo_label" if info.field_name in ("score", "threshold", "damping") else "consistency"
        if form not in (None, own) and value != cls.model_fields[info.field_name].default:
            raise ValueError(f"is read by 'form: {own}' only, and form is {form}; remove it")
        return value

    @property
    def aligned(self) -> bool:
        """See ``base.Config``."""
        return self.form == "consistency"


class MeanTeacher(base.Method):
    """A threshold in, the detector's own losses out; or the teacher's output in, distances to it out."""

    Config = Config

    @property
    def unsup_by_rows(self) -> bool:
        """See ``base.Method``: distances are no row losses."""
        return self.cfg.form == "pseudo_label"

    def __init__(self, student: Detector, cfg: Config) -> None:
        super().__init__(student, cfg)
        self.threshold = build_threshold(cfg.threshold or FixedConfig(score=cfg.score), student.num_classes)

    def label(self, teacher: Output, batch: Batch) -> Pseudo | None:
        """Keep the teacher's detections above the threshold; none in the consistency form."""
        if self.cfg.form == "consistency":
            self.require_aligned(batch)
            return None
        detections = teacher.detections()
        self.stats["pseudo/score_quantiles"] = quantiles(detections)
        kept = self.threshold(detections)
        self.stats |= tag("pseudo", self.threshold.stats)
        return Pseudo(kept)

    def unsup(self, out: Output, pseudo: Pseudo | None, teacher: Output, batch: Batch) -> Losses:
        """Learn the boxes, or compare rows where none were chosen."""
        if pseudo is None:
            return self.distances(out, teacher, len(batch.weak))
        return super().unsup(out, pseudo, teacher, batch)

    def trust(self, pseudo: Pseudo) -> Tensor:
        """Damp the losses while most images have no label: they would teach little but background."""
        return damping(pseudo.cls, self.cfg.damping)

    def distances(self, out: Output, teacher: Output, images: int) -> Losses:
        """Compare the student's rows with the teacher's for so many images, stage by stage."""
        cfg = self.cfg
        how = {"distance": DISTANCES[cfg.distance], "squared": cfg.squared, "norm": cfg.norm}
        losses = {}
        for stage, rows in out.stages.items():
            belief = Belief.of(teacher.stages[stage])
            self.stats["pseudo/foreground_per_image"] = belief.foreground().sum() / images
            losses |= imitate(stage, rows, belief, **how)
        if teacher.proposals is not None:
            boxes = [b[: cfg.proposals] for b in teacher.proposals]
            losses |= imitate("roi", out.score(boxes), Belief.of(teacher.score(boxes)), **how)
        return losses

    def weight(self, step: int) -> float:
        """Let the weight rise along the shape that the config names."""
        cfg = self.cfg
        if cfg.ramp_shape == "linear":
            return super().weight(step)
        t = min(1.0, (step - cfg.burn_in + 1) / cfg.ramp)
        return cfg.weight * math.exp(-5 * (1 - t) ** 2)


METHOD = MeanTeacher

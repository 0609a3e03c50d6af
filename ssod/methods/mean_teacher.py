"""Mean Teacher: an EMA teacher's confident boxes are the student's truth. (arXiv:1703.01780, arXiv:2209.01589)

The first paper has the idea; the second has the detection baseline, there on RetinaNet, here on every detector: a fixed
score threshold, and all losses of the detector on pseudo-boxes, boxes and classes alike. Constants are those of the
released baseline (threshold 0.5, weight 2, EMA 0.9995, no burn-in); small data sets want a burn-in, which
configs/methods/mean_teacher.yaml has.

What is not as released (of the detector configs/detectors/retinanet_r50_fpn.yaml says it, of data and batches
configs/methods/mean_teacher.yaml):

- A box is dropped when a side of it is a pixel or less after it was moved (there, when a side is 0 before or after).
- Losses are damped while fewer than half of the unlabelled images of all processes have a box; there each process asks
  about its own.
- The average moves after a step of the optimiser, there before the next one. It labels with the same weights; the one
  that is measured is a step newer.

``form: consistency`` is the idea of the first paper, put on detectors by us: no threshold, no box is chosen; the
student's output for every row on the strong view is pulled towards the teacher's on a weak view with the same pixels in
the same places, classes and boxes alike. Rows are those of the dense head; of Faster R-CNN those of the proposal
network, and the answers of both second stages to the teacher's best proposals. The weight rises as the paper's does
(``ramp_shape: sigmoid``). The paper also compares labelled images; here they have truth to learn from.
"""

from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

from ssod.losses.consistency import DISTANCES, Normalizer, SoftTargets, distill
from ssod.methods import base
from ssod.methods.base import Context, EmaConfig, Losses, quantiles, tag
from ssod.methods.config import Teaching
from ssod.pseudo_labels.threshold import FixedConfig, ThresholdConfig, build_threshold
from ssod.structures import Batch, Detector, Output, Pseudo
from ssod.utils.schema import own_default


class Config(base.Config):
    """The released baseline's constants, and those of the consistency form."""

    form: Literal["pseudo_label", "consistency"] = "pseudo_label"
    "Learn from the teacher's boxes above a threshold, or from its output for every row."
    weight: float = Field(2.0, ge=0)
    "Factor of every loss on unlabelled images."
    ema: EmaConfig = EmaConfig(decay=0.9995)
    "How the teacher follows the student."
    score: float = Field(0.5, ge=0, le=1)
    "Pseudo-label form: a detection becomes a pseudo-label when its score is above this."
    threshold: ThresholdConfig | None = None
    """Pseudo-label form: another rule in the place of `score`; `{name: gmm}` and `{name: label_count}` find one for
    each class."""
    damping: float = Field(0.01, ge=0, le=1)
    "Pseudo-label form: factor of the losses while fewer than half of the unlabelled images have a pseudo-label."
    distance: Literal["mse", "kl", "js"] = "mse"
    "Consistency form: between the class probabilities, see ssod/losses/consistency.py."
    squared: bool = True
    "Consistency form: square the L2 distance between the encoded boxes, as `mse` does for classes."
    norm: Normalizer = "foreground"
    "Consistency form: `foreground` weighs boxes by the teacher's class probability and divides by its sum; or `rows`."
    proposals: int = Field(640, ge=1)
    "Consistency form, two stages: best proposals of the teacher that both second stages are asked about."

    @field_validator("score", "threshold", "damping", "distance", "squared", "norm", "proposals")
    @classmethod
    def _belongs_to_the_form(cls, value: object, info: ValidationInfo) -> object:
        form = info.data.get("form")
        own = "pseudo_label" if info.field_name in ("score", "threshold", "damping") else "consistency"
        if form not in (None, own) and value != own_default(cls, info):
            raise ValueError(f"is read by 'form: {own}' only, and form is {form}; remove it")
        return value

    @property
    def taught_by(self) -> Teaching:
        """See ``base.Config``."""
        return "boxes" if self.form == "pseudo_label" else "distances"


class MeanTeacher(base.Method, burn_in_reads=()):
    """A threshold in, the detector's own losses out; or the teacher's output in, distances to it out."""

    Config = Config
    cfg: Config

    def __init__(self, student: Detector, cfg: Config) -> None:
        super().__init__(student, cfg)
        self.threshold = build_threshold(cfg.threshold or FixedConfig(score=cfg.score), student.num_classes)

    def label(self, teacher: Output, batch: Batch) -> Pseudo:
        """Keep the teacher's detections above the threshold."""
        detections = teacher.detections()
        self.stats["pseudo/score_quantiles"] = quantiles(detections)
        labels = self.threshold.label(detections)
        self.stats |= tag("pseudo", self.threshold.stats)
        return labels

    def distill(self, ctx: Context) -> Losses:
        """Compare the student's rows with the teacher's, stage by stage."""
        cfg, teacher = self.cfg, ctx.teacher
        how = {"distance": DISTANCES[cfg.distance], "squared": cfg.squared, "normalizer": cfg.norm}
        losses = {}
        for stage, rows in ctx.student.stages.items():
            soft = SoftTargets.of(teacher.stages[stage])
            self.stats["pseudo/foreground_per_image"] = soft.foreground().sum() / len(ctx.view)
            losses |= distill(stage, rows, soft, **how)
        if teacher.proposals is not None:
            boxes = [b[: cfg.proposals] for b in teacher.proposals]
            losses |= distill("roi", ctx.student.score(boxes), SoftTargets.of(teacher.score(boxes)), **how)
        return losses


METHOD = MeanTeacher

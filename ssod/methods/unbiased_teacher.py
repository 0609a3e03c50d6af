"""Unbiased Teacher: burn in, then pseudo-labels that teach classes but never boxes. (arXiv:2102.09480)

Released order of a step: labelled images in both views, teacher on the weak view, its boxes above 0.7 on the strong
view of the same geometry. Box losses on pseudo-labels have weight 0: a score says nothing about a box's place. The
class loss is the focal softmax loss (gamma 1.5, no alpha) on Faster R-CNN, chosen by the detector's section of the
configs, on labelled and unlabelled images alike. Published on Faster R-CNN; on RetinaNet and FCOS the same rule is
ours. There the quality branch keeps its loss, as in Unbiased Teacher v2.
"""

from typing import Annotated

from pydantic import Field

from ssod.methods import base
from ssod.methods.base import EmaConfig, LossName, quantiles, tag
from ssod.pseudo_labels.threshold import FixedConfig, ThresholdConfig, build_threshold
from ssod.structures import Batch, Detector, Output, Pseudo
from ssod.utils.schema import Duration


class Config(base.Config):
    """The released constants for 1 to 10 % of COCO."""

    burn_in: Duration = 2000
    "Steps of supervised learning; the teacher is a copy of the student until they end."
    weight: float = Field(4.0, ge=0)
    "Factor of every loss on unlabelled images."
    score: float = Field(0.7, ge=0, le=1)
    "A detection becomes a pseudo-label when its score is above this."
    threshold: ThresholdConfig | None = None
    "Another rule in the place of `score`; `{name: gmm}` and `{name: label_count}` find one for each class."
    loss_weights: dict[LossName, Annotated[float, Field(ge=0)]] = {"box": 0.0, "rpn_box": 0.0}
    """Further factors of single losses on unlabelled images; 0 leaves a loss out of the sum, but logs it. A loss that a
    config leaves out has the factor here: `{box: 1, rpn_box: 1}` learns boxes, too."""
    ema: EmaConfig = EmaConfig(decay=0.9996, warm_up=False, start=None)
    "How the teacher follows the student after burn-in."


class UnbiasedTeacher(base.Method, burn_in_reads=()):
    """A threshold in, classification losses out."""

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


METHOD = UnbiasedTeacher

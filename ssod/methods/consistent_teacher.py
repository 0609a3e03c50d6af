"""Consistent-Teacher: labels that stop drifting, by assignment, alignment and thresholds that adapt. (arXiv:2209.01589)

Three parts against targets that change from step to step. Two belong to the detector and are chosen in its section, for
labelled and unlabelled images alike: ``assigner: {name: adaptive}`` and, on RetinaNet, ``align: 3d``. The third is a
score threshold per class, from a mixture of two Gaussians (``ssod.pseudo_labels.gmm``). RetinaNet with all three is
published; FCOS with the assigner and the thresholds, and Faster R-CNN with the thresholds, are ours.

Order of a step: labelled images; the teacher on the weak view; the count filter; score banks and thresholds; boxes
carried to the strong view; all losses of the detector on them, damped while fewer than half of the images have a box.
Until ``start`` the teacher labels and the banks fill, but the student does not learn from it.

Paper and released code differ; the published figures are the code's. ``as_released: false`` sets the defaults of
``count_ratio`` and of the mixture's ``policy`` to the paper's; one that the config states stays what it says:

- the code filters each image's detections by their expected number (``ssod.pseudo_labels.class_counts``); the paper has
  no such step;
- the code takes the positive score where the whole mixture is densest; the paper the one "most likely to be positive",
  argmax P(pos | s, mu_p, sigma_p). Read as a posterior that is the highest score, and nothing would pass; read here as
  the density of the positive Gaussian alone.

What is not as released, whatever the switch:

- a box that leaves the student's view is dropped (there it stays, without area, and still takes a row);
- ranks share the count of images without a label, and their score banks, too; ``threshold: {name: gmm, banks: rank}``
  gives each rank, and each micro-batch of its step, banks of its own, as released;
- a detection is cut at the border of its own view. The released code cuts none: neither labels, which are cut at the
  border of the student's view alone, nor what it measures. ``detector.decode.clip: last``, which
  configs/methods/consistent_teacher.yaml has for RetinaNet and the paper's protocol, suppresses boxes as they are and
  cuts what is left. One ``decode`` holds for labels, for measured detections and for exported ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field, field_validator, model_validator

from ssod.methods import base
from ssod.methods.base import EmaConfig, count_per_image, quantiles, tag
from ssod.methods.config import before_the_end
from ssod.pseudo_labels.class_counts import count_filter
from ssod.pseudo_labels.threshold import GmmConfig, ThresholdConfig, build_threshold
from ssod.structures import Batch, Detector, Output, Pseudo
from ssod.utils.schema import Duration, named


class Config(base.Config):
    """The released constants for 1 to 10 % of COCO."""

    as_released: bool = True
    "Defaults of `count_ratio` and of `policy` in `threshold`: those of the released code, or those of the paper."
    start: Duration = 10_000
    """Step at which the losses on unlabelled images begin, at full `weight` if there is no `ramp`. From the end of
    `burn_in` to here the teacher labels and the score banks fill; a few hundred steps are enough for that."""
    weight: float = Field(2.0, ge=0)
    "Factor of every loss on unlabelled images."
    ramp: Duration = 0
    "Steps after `start` over which `weight` rises linearly from 0; 0 = at once."
    count_ratio: float = Field(1.0, ge=0)
    "Detections kept per image before the threshold: this times the sum of their scores, and one; 0 = all."
    threshold: ThresholdConfig = GmmConfig()
    """What becomes a pseudo-label: `{name: gmm}` or `{name: label_count}`, a threshold per class; or
    `{name: fixed, score: 0.4}`."""
    damping: float = Field(0.01, ge=0, le=1)
    "Factor of the unlabelled losses while fewer than half of the unlabelled images have a pseudo-label."
    ema: EmaConfig = EmaConfig(decay=0.9995)
    "How the teacher follows the student."

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_the_paper(cls, section: Any) -> Any:
        if not isinstance(section, Mapping) or section.get("as_released") is not False:
            return section
        section = {"count_ratio": 0.0, "threshold": "gmm"} | dict(section)
        threshold = named(section["threshold"])
        if isinstance(threshold, Mapping) and threshold.get("name") == "gmm":
            section["threshold"] = {"policy": "component"} | dict(threshold)
        return section

    _start = field_validator("start")(before_the_end)

    @property
    def unsup_start(self) -> int:
        """See ``base.Config``."""
        return max(self.start, self.burn_in)


class ConsistentTeacher(base.Method, burn_in_reads=()):
    """Thresholds that each class finds for itself, after a start in which they settle."""

    Config = Config
    cfg: Config

    def __init__(self, student: Detector, cfg: Config) -> None:
        super().__init__(student, cfg)
        self.threshold = build_threshold(cfg.threshold, student.num_classes)

    def label(self, teacher: Output, batch: Batch) -> Pseudo:
        """Keep about as many detections of an image as it has objects, then those above their class's threshold."""
        detections = teacher.detections()
        ratio = self.cfg.count_ratio
        counted = count_filter(detections, ratio) if ratio else detections
        labels = self.threshold.label(counted)
        self.stats |= tag("pseudo", self.threshold.stats) | {
            "pseudo/score_quantiles": quantiles(detections),
            "pseudo/detected_per_image": count_per_image(detections),
            "pseudo/counted_per_image": count_per_image(counted),
            "pseudo/passed_per_image": count_per_image(labels.cls),
        }
        return labels


METHOD = ConsistentTeacher

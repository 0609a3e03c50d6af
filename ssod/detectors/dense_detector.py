"""Efficient Teacher's Dense Detector: RetinaNet with what makes YOLO dense. (arXiv:2302.07577, Sec. 3.1)

A pyramid of three levels, a head of its own on each, objectness beside the boxes, YOLO's box code (``heads.own_level``)
and its assignment by shape and cell (``assign.ratio``). Losses are YOLO's: objectness is learnt by all rows, its target
the CIoU of the row's box with the object's, classes and boxes by rows of objects alone. Each is a mean over the rows of
a level, of the whole batch; levels are summed, and those of objectness weigh 4, 1 and 0.4. Then objectness counts 0.7,
boxes (CIoU) 0.05, and classes (BCE, mean over K) 0.3 K / 80. A score is class probability times objectness; with one
class there is no class loss, and objectness alone is the score.

What is not as released: YOLO's code multiplies the sum by the images of the batch, which the `weight` of each loss can
do here; a mean there is over the images of one process; a row that several boxes take is listed for each of them there,
and here has one box (``assign.ratio``). The paper does not say what the towers of the heads are: they are RetinaNet's
four convolutions, and objectness is read from those of the boxes (ours).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Literal, Self

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn

from ssod.assign.ratio import RatioAssigner, RatioConfig
from ssod.detectors.anchors import SidesAnchors
from ssod.detectors.backbones import BackboneConfig, Normalise, build_backbone, group_norm
from ssod.detectors.decode import DecodeConfig, rule_of
from ssod.detectors.dense import Dense, normalizer_of_batch, positives
from ssod.detectors.heads.own_level import LevelHead, LevelHeads
from ssod.detectors.retinanet import strides_of
from ssod.losses.build import Loss, LossSpec, pick
from ssod.losses.objectness import known_weight, with_objectness
from ssod.losses.objectness import named as has_class
from ssod.structures import Assigned, Assignment, Predictions, RowLoss
from ssod.structures.boxes import DeltaCoder
from ssod.utils.collective import mean_count
from ssod.utils.schema import Section, named, over_default

Side = Annotated[float, Field(gt=0)]
Sides = tuple[Side, Side]

# YOLO's factors; its class loss is a mean over K classes times K / 80, and ours a sum over them.
GAINS = {"cls": 0.3 / 80, "box": 0.05, "quality": 0.7}


class DenseDetectorLoss(Section):
    """Losses of the Dense Detector, each a name or `{name:, weight:, <parameters>}`; YOLO's factors come on top."""

    cls: Loss = LossSpec(name="bce")
    "Class loss of a sigmoid head, of rows of objects; times 0.3 / 80, summed over the classes."
    box: Loss = LossSpec(name="ciou")
    "Box loss; times 0.05."
    quality: Loss = LossSpec(name="bce")
    "Loss of the objectness; times 0.7, and `level_weights`."


class DenseDetectorConfig(BackboneConfig):
    """One stage, anchors, objectness, a head on each level, YOLO's losses (Efficient Teacher)."""

    name: Literal["dense_detector"] = "dense_detector"
    "The detector."
    levels: tuple[int, int] = (3, 5)
    "First and last pyramid level; level l has stride 2**l."
    head_norm: Literal["none", "group"] = "none"
    "Group normalisation in the heads' towers."
    anchors: tuple[Annotated[tuple[Sides, ...], Field(min_length=1)], ...] = (
        ((10, 13), (16, 30), (33, 23)),
        ((30, 61), (62, 45), (59, 119)),
        ((116, 90), (156, 198), (373, 326)),
    )
    """Anchors of each level, `[width, height]` in pixels of the canvas, as many on each; by default YOLOv5's for COCO
    at 640 pixels."""
    level_weights: tuple[Annotated[float, Field(ge=0)], ...] = (4.0, 1.0, 0.4)
    "Factor of the objectness loss of each level."
    assigner: RatioConfig = RatioConfig()
    "Which rows learn which box: `ratio`, or `{name: ratio, most: 4}`; the box code does not reach those of others."
    loss: DenseDetectorLoss = DenseDetectorLoss()
    "Losses."
    decode: DecodeConfig = DecodeConfig(score=0.001, nms=0.65, detections=300)
    "From rows to detections."

    _own = field_validator("decode", mode="before")(over_default)

    @field_validator("assigner", mode="before")
    @classmethod
    def _no_other(cls, value: object) -> object:
        value = named(value)
        if isinstance(value, dict) and value.get("name", "ratio") != "ratio":
            raise ValueError(f"the box code does not reach the rows that '{value['name']}' chooses; use ratio")
        return value

    @model_validator(mode="after")
    def _one_entry_a_level(self) -> Self:
        count = self.levels[1] - self.levels[0] + 1
        for name, given in (("anchors", self.anchors), ("level_weights", self.level_weights)):
            if len(given) != count:
                first, last = self.levels
                raise ValueError(f"{name}: of {len(given)} levels, and levels {first}..{last} are {count}")
        if len({len(level) for level in self.anchors}) > 1:
            raise ValueError("anchors: every level needs as many")
        return self


class DenseDetector(Dense):
    """See the head of this file.

    Args:
        cfg: the config section.
        num_classes: K.
    """

    objectness = True

    def __init__(self, cfg: DenseDetectorConfig, num_classes: int) -> None:
        strides = strides_of(cfg)
        norm = group_norm if cfg.head_norm == "group" else None
        heads = (LevelHead(cfg.channels, num_classes, *of, norm) for of in zip(cfg.anchors, strides))
        rows = {
            "cls": pick(cfg.loss.cls, "sigmoid", "detector.loss.cls"),
            "box": pick(cfg.loss.box, "box", "detector.loss.box"),
            "quality": pick(cfg.loss.quality, "quality", "detector.loss.quality"),
        }
        super().__init__(
            build_backbone(cfg),
            LevelHeads(heads),
            SidesAnchors(cfg.anchors, strides),
            DeltaCoder(),
            num_classes=num_classes,
            strides=strides,
            assigner=RatioAssigner(cfg.assigner.most),
            rows=rows,
            weights={name: gain * getattr(cfg.loss, name).weight for name, gain in GAINS.items()},
            normalizer=normalizer_of_batch,
            decode=cfg.decode,
            rule=rule_of(cfg.decode),
            normalise=Normalise(cfg.pixel_std),
        )
        self.level_weights = cfg.level_weights

    def reduce(
        self,
        assigned: Assigned,
        rows: Mapping[str, RowLoss] | None = None,
        factors: Mapping[str, float] | None = None,
    ) -> dict[str, Tensor]:
        """See ``Dense.reduce``.

        ``cls_weight`` says how much a row counts as an object or as background; so it weighs the objectness, too, where
        an assignment has no ``quality_weight``. Class losses of rows without a class are left out.
        """
        p, a = assigned["dense"]
        q = a.quality_of or a
        if q.quality is None:
            q = with_objectness(p, q)
        elif q.quality_weight is None:
            q = replace(q, quality_weight=known_weight(p, q, q.cls_weight))
        a = q if a.quality_of is None else replace(a, quality_of=q)
        learns = has_class(a, p.num_classes) & (p.num_classes > 1)
        return super().reduce({"dense": (p, replace(a, cls_weight=a.cls_weight * learns))}, rows, factors)

    @property
    def cls_layers(self) -> dict[str, nn.Conv2d | nn.Linear]:
        """The layer that says the class logits, of the first level; those of the others are as large."""
        return {"dense": self.head[0].classification_head.cls_logits}

    def cls_normalizer(self, stage: str, p: Predictions, a: Assignment) -> Tensor:
        """See ``structures.Detector``."""
        given = a.normalizer.get("cls")
        return of_rows(p, mean_count(of_levels(p, positives(a, p.num_classes)))) if given is None else given

    def normalizers(self, p: Predictions, a: Assignment) -> dict[str, Tensor]:
        """Return what each loss is divided by, [R]: the rows of its level that learn it, objectness by all of them."""
        everything = torch.ones_like(p.image, dtype=torch.bool)
        counted = [positives(a, p.num_classes), a.fg, everything]
        cls, box, all_ = mean_count(torch.stack([of_levels(p, rows) for rows in counted]))
        weights = all_.new_tensor(self.level_weights)
        own = {"cls": of_rows(p, cls), "box": of_rows(p, box), "quality": of_rows(p, all_ / weights)}
        return own | a.normalizer


def of_levels(p: Predictions, rows: Tensor) -> Tensor:
    """Return [levels] float32: how many of the rows [R] bool are of each level."""
    return torch.stack([of.sum() for of in rows.view(p.num_images, -1).split(p.levels, 1)]).float()


def of_rows(p: Predictions, values: Tensor) -> Tensor:
    """Return [R]: the value of each row's level, of [levels]."""
    return torch.cat([v.expand(n) for v, n in zip(values, p.levels)]).repeat(p.num_images)


def build_dense_detector(cfg: DenseDetectorConfig, num_classes: int) -> DenseDetector:
    """Return a Dense Detector with random weights."""
    return DenseDetector(cfg, num_classes)

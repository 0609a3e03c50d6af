"""RetinaNet (Lin et al. 2017), from torchvision's parts."""

from typing import Literal

from torchvision.models.detection.retinanet import RetinaNetHead

from ssod.assign.centre import CentreAssigner
from ssod.assign.iou import IoUAssigner
from ssod.boxes import DeltaCoder
from ssod.detectors.anchors import AnchorConfig, Anchors
from ssod.detectors.backbones import BackboneConfig, build_backbone, group_norm
from ssod.detectors.decode import DecodeConfig
from ssod.detectors.dense import Assigner, Dense, count_in_batch, count_per_image
from ssod.losses.pick import Loss, LossSpec, pick
from ssod.schema import Section


class RetinaNetLoss(Section):
    """Losses of RetinaNet, each a name or `{name:, weight:, <parameters>}`."""

    cls: Loss = LossSpec(name="focal")
    "Class loss of a sigmoid head."
    box: Loss = LossSpec(name="l1")
    "Box loss."


class RetinaNetConfig(BackboneConfig):
    """One stage, anchors, sigmoid classes."""

    name: Literal["retinanet"] = "retinanet"
    "The detector."
    head_norm: Literal["none", "group"] = "none"
    "Group normalisation in the head's towers; `none` is torchvision's head."
    level_scale: bool = False
    "Multiply the box outputs of each level by a learnt number (the Consistent-Teacher baseline does)."
    anchors: AnchorConfig = AnchorConfig()
    "Anchor boxes."
    assigner: Literal["iou", "centre"] = "iou"
    "Which rows learn which box: best overlap, or FCOS's centre rule."
    normalizer: Literal["image", "batch"] = "image"
    "Divide losses by the positives of each image (torchvision), or of the batch (detectron2, mmdetection)."
    loss: RetinaNetLoss = RetinaNetLoss()
    "Losses."
    decode: DecodeConfig = DecodeConfig()
    "From rows to detections."


def build_retinanet(cfg: RetinaNetConfig, num_classes: int) -> Dense:
    """Return a RetinaNet with random weights."""
    strides = strides_of(cfg)
    backbone = build_backbone(cfg)
    anchors = Anchors(cfg.anchors.sizes(strides), cfg.anchors.ratios)
    norm = group_norm if cfg.head_norm == "group" else None
    return Dense(
        backbone,
        RetinaNetHead(cfg.channels, anchors.per_cell, num_classes, norm_layer=norm),
        anchors,
        DeltaCoder(),
        num_classes=num_classes,
        strides=strides,
        assigner=pick_assigner(cfg.assigner),
        rows={
            "cls": pick(cfg.loss.cls, "sigmoid", "detector.loss.cls"),
            "box": pick(cfg.loss.box, "box", "detector.loss.box"),
        },
        weights={"cls": cfg.loss.cls.weight, "box": cfg.loss.box.weight},
        count=count_per_image if cfg.normalizer == "image" else count_in_batch,
        decode=cfg.decode,
        level_scale=cfg.level_scale,
    )


def strides_of(cfg: BackboneConfig) -> tuple[int, ...]:
    """Return pixels per cell of each level."""
    return tuple(2**level for level in range(cfg.levels[0], cfg.levels[1] + 1))


def pick_assigner(name: str) -> Assigner:
    """Return the assigner of a dense head, with its published thresholds."""
    return {"iou": IoUAssigner, "centre": CentreAssigner}[name]()

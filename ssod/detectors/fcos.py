"""FCOS with center sampling, GIoU and normalised distances (Tian et al. 2019), from torchvision's parts."""

from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn
from torchvision.models.detection.fcos import FCOSClassificationHead, FCOSRegressionHead

from ssod.assign.build import AssignerConfig, for_points, pick_assigner
from ssod.assign.center import CenterConfig
from ssod.assign.quality import Quality
from ssod.detectors.anchors import Anchors
from ssod.detectors.backbones import BackboneConfig, Normalise, NormLayer, build_backbone, group_norm
from ssod.detectors.decode import DecodeConfig, rule_of
from ssod.detectors.dense import Dense, normalizer_of_batch
from ssod.detectors.heads.box_std import BoxStd, box_std_layer, spread_rows
from ssod.detectors.heads.fam3d import bias_of
from ssod.detectors.heads.integral import Integral
from ssod.detectors.heads.towers import classify, each
from ssod.detectors.retinanet import strides_of
from ssod.losses.build import Kind, Loss, LossSpec, pick
from ssod.structures.boxes import LtrbCoder
from ssod.utils.schema import Section, over_default


class FcosLoss(Section):
    """Losses of FCOS, each a name or `{name:, weight:, <parameters>}`."""

    cls: Loss = LossSpec(name="focal")
    "Class loss of a sigmoid head."
    box: Loss = LossSpec(name="giou")
    "Box loss."
    quality: Loss = LossSpec(name="bce")
    "Loss of the quality branch."
    spread: Loss | None = None
    "Loss beside the box loss that teaches `detector.spread`, e.g. `{name: nll, weight: 0.05}`; by default none."


class FcosConfig(BackboneConfig):
    """One stage, no anchors, sigmoid classes, centerness."""

    name: Literal["fcos"] = "fcos"
    "The detector."
    head_norm: Literal["none", "group"] = "group"
    "Group normalisation in the head's towers; `group` is torchvision's head."
    level_scale: bool = False
    "Multiply the distances of each level by a learnt number."
    assigner: AssignerConfig = CenterConfig()
    """Which rows learn which box: FCOS's `center` rule, overlap with the cell's square (`iou`), or the rows that
    predict it best already (`adaptive`); a name, or a name with its options. The weighting `cleanliness` stands in for
    it."""
    quality: Quality = "centerness"
    """What the quality branch predicts, by which scores are multiplied: `centerness`, or the `iou` of a row's box with
    its object (Dense Teacher)."""
    points: Literal["middle"] | None = None
    "`middle` puts each point into the middle of its cell (the paper, detectron2), by default its corner (torchvision)."
    spread: BoxStd = None
    "`true`: predict how uncertain each distance is, for `loss.spread` or the box loss `nll`; decoding ignores it."
    bins: int | None = Field(None, ge=2, le=1000)
    """Read each distance as the mean of a softmax over so many whole numbers of strides, from 0 on (17 in Unbiased
    Teacher v2); by default the head says the distance itself."""
    box_weight: Literal["centerness"] | None = None
    """`centerness`: a row's box loss counts by how near it is to the box's center, and the sum of that divides it
    (FCOS's released code); by default all alike (torchvision, detectron2). It has no effect where a method weighs
    single sides, or says itself what divides the box loss."""
    loss: FcosLoss = FcosLoss()
    "Losses."
    decode: DecodeConfig = DecodeConfig(nms=0.6)
    "From rows to detections."

    _own = field_validator("decode", mode="before")(over_default)
    _points = field_validator("assigner")(for_points)

    @model_validator(mode="after")
    def _a_divisor_of_its_own(self) -> Self:
        if self.box_weight and self.assigner.name == "adaptive":
            raise ValueError("box_weight: assigner 'adaptive' says what divides box losses; leave it out")
        return self


class Head(nn.Module):
    """torchvision's two FCOS branches, under torchvision's names, with the normalisation open, and perhaps box_std.

    With ``bins`` the box branch has as many outputs a side, and starts with the same for all.

    Distances start at one stride, as with the paper's exponential, and not at 0 as torchvision's: there the ReLU has no
    slope, and a detector that learns from scratch was seen to end with boxes without area for good.
    """

    def __init__(
        self, channels: int, num_classes: int, norm: NormLayer, *, box_std: bool = False, bins: int | None = None
    ) -> None:
        super().__init__()
        self.classification_head = FCOSClassificationHead(channels, 1, num_classes, norm_layer=norm)
        self.regression_head = FCOSRegressionHead(channels, 1, norm_layer=norm)
        nn.init.ones_(bias_of(self.regression_head.bbox_reg))
        # Weights on disk have the name ``spread``.
        self.spread = box_std_layer(channels, 1) if box_std else None
        self.integral = None if bins is None else Integral(bins)
        if bins is not None:
            self.regression_head.bbox_reg = layer = nn.Conv2d(channels, 4 * bins, 3, padding=1)
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(bias_of(layer))

    def forward(self, features: list[Tensor]) -> dict[str, Any]:
        """Return class logits, distances (at least 0, in strides), centerness logits and perhaps the distances'
        box_std.

        Each is [N, rows, K | 4 | 1 | 4]; ``cls_features`` is a list with what the class output reads on each level.
        """
        branch = self.regression_head
        towers = [branch.conv(x) for x in features]
        out = classify(self.classification_head, features) | {
            "bbox_regression": self.distances(towers),
            "bbox_ctrness": each(branch.bbox_ctrness, towers, 1),
        }
        return out if self.spread is None else out | {"bbox_std": each(self.spread, towers, 4)}

    def distances(self, towers: list[Tensor]) -> Tensor:
        """Return distances [N, rows, 4] in strides, at least 0."""
        layer = self.regression_head.bbox_reg
        if self.integral is None:
            return each(layer, towers, 4).relu()
        return self.integral(each(layer, towers, 4 * self.integral.bins))


def build_fcos(cfg: FcosConfig, num_classes: int) -> Dense:
    """Return an FCOS with random weights."""
    strides = strides_of(cfg)
    norm = group_norm if cfg.head_norm == "group" else _no_norm
    kind: Kind = "box_std" if cfg.spread else "box"
    rows = {
        "cls": pick(cfg.loss.cls, "sigmoid", "detector.loss.cls"),
        "box": pick(cfg.loss.box, kind, "detector.loss.box"),
        "quality": pick(cfg.loss.quality, "quality", "detector.loss.quality"),
    } | spread_rows(bool(cfg.spread), cfg.loss.spread)
    return Dense(
        build_backbone(cfg),
        Head(cfg.channels, num_classes, norm, box_std=bool(cfg.spread), bins=cfg.bins),
        points_of(cfg, strides),
        LtrbCoder(),
        num_classes=num_classes,
        strides=strides,
        assigner=pick_assigner(cfg.assigner),
        rows=rows,
        weights={name: getattr(cfg.loss, name).weight for name in rows},
        normalizer=normalizer_of_batch,
        decode=cfg.decode,
        rule=rule_of(cfg.decode),
        box_kind=kind,
        level_scale=cfg.level_scale,
        normalise=Normalise(cfg.pixel_std),
        quality=cfg.quality,
        central=cfg.box_weight == "centerness",
    )


def points_of(cfg: FcosConfig, strides: tuple[int, ...]) -> Anchors:
    """Return the points, as squares of one stride around them."""
    squares: list[tuple[float, ...]] = [(float(s),) for s in strides]
    return Anchors(squares, (1.0,), strides, offset=0.5) if cfg.points == "middle" else Anchors(squares, (1.0,))


def _no_norm(channels: int) -> nn.Module:
    return nn.Identity()

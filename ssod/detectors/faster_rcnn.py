"""Faster R-CNN with FPN (Ren et al. 2015; Lin et al. 2017), from torchvision's parts."""

from __future__ import annotations

from functools import partial
from typing import Literal, cast

import torch
from pydantic import field_validator
from torch import Tensor, nn
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.rpn import RPNHead

from ssod.detectors.anchors import AnchorConfig, Anchors
from ssod.detectors.backbones import BackboneConfig, Normalise, build_backbone
from ssod.detectors.decode import DecodeConfig, detect
from ssod.detectors.heads.box_std import BoxStd, spread_rows
from ssod.detectors.rcnn import KINDS, Rcnn, RoiConfig, RpnConfig
from ssod.detectors.retinanet import strides_of
from ssod.detectors.roi_pool import RoIPool
from ssod.losses.build import Loss, LossSpec, pick
from ssod.structures import Kind, Predictions, RowLoss
from ssod.structures.boxes import DeltaCoder, SideCoder
from ssod.utils.schema import Section, Switch, over_default


class FasterRcnnLoss(Section):
    """Losses of Faster R-CNN, each a name or `{name:, weight:, <parameters>}`."""

    cls: Loss = LossSpec(name="cross_entropy")
    "Class loss of the RoI head, over K classes and background."
    box: Loss = LossSpec(name="smooth_l1")
    "Box loss of the RoI head."
    rpn_cls: Loss = LossSpec(name="bce")
    "Object-or-not loss of the proposal network."
    rpn_box: Loss = LossSpec(name="smooth_l1")
    "Box loss of the proposal network."
    spread: Loss | None = None
    "Loss beside the box loss that teaches `detector.spread`, e.g. `{name: nll, weight: 0.05}`; by default none."


class FasterRcnnConfig(BackboneConfig):
    """Two stages: proposals, then softmax classes."""

    name: Literal["faster_rcnn"] = "faster_rcnn"
    "The detector."
    levels: tuple[int, int] = (2, 6)
    "First and last pyramid level; boxes are pooled from levels up to 5."
    anchors: AnchorConfig = AnchorConfig(scale=8.0, octaves=1)
    "Anchor boxes of the proposal network."
    rpn: RpnConfig = RpnConfig()
    "The proposal network."
    roi: RoiConfig = RoiConfig()
    "The head that classifies boxes."
    assigner: Literal["iou"] = "iou"
    "Both stages assign by overlap."
    code: Literal["sides"] | None = None
    """What the RoI head's box outputs are. `sides`: how far each side of the proposal moves, ten times over the
    proposal's size (Unbiased Teacher v2); by default a shift of its center and log sizes."""
    agnostic: Switch = None
    "`true`: one box for all classes; by default one for each."
    spread: BoxStd = None
    "`true`: predict how uncertain each box output is, for `loss.spread` or the box loss `nll`; decoding ignores it."
    loss: FasterRcnnLoss = FasterRcnnLoss()
    "Losses."
    decode: DecodeConfig = DecodeConfig(per_level=10_000)
    "From proposals to detections."

    _own = field_validator("anchors", "decode", mode="before")(over_default)

    @field_validator("decode")
    @classmethod
    def _clips_first(cls, decode: DecodeConfig) -> DecodeConfig:
        if decode.clip is not None:
            raise ValueError(f"'clip: {decode.clip}' is for detectors of one stage; remove it")
        return decode


class BoxPredictor(FastRCNNPredictor):
    """torchvision's two outputs of the RoI head, under its names, perhaps with one box for all classes and ``box_std``.

    Args:
        channels: what it reads.
        num_columns: classes and background.
        agnostic: one box for all classes.
        box_std: predict a deviation for each side.
    """

    def __init__(self, channels: int, num_columns: int, *, agnostic: bool, box_std: bool) -> None:
        super().__init__(channels, num_columns)
        if agnostic:
            self.bbox_pred = nn.Linear(channels, 4)
        self.spread = nn.Linear(channels, 4) if box_std else None
        if self.spread is not None:
            nn.init.normal_(self.spread.weight, std=1e-4)
            nn.init.zeros_(self.spread.bias)


class FasterRcnn(Rcnn):
    """A two-stage detector.

    Its RoI head keeps torchvision's weights, where column 0 is background; its predictions have background last.

    Args:
        backbone: images to a pyramid.
        anchors: priors of the proposal network.
        levels: first and last pyramid level.
        rpn: thresholds and sizes of the proposal network.
        roi: those of the RoI head.
        decode: how proposals become detections.
        num_classes: K.
        rows: row loss by name: cls, box, rpn_cls, rpn_box.
        weights: factor of each loss by name.
        pixel_std: see ``BackboneConfig``.
        code: see ``FasterRcnnConfig``, as the next two.
        agnostic: one box for all classes.
        spread: predict ``box_std``.
    """

    def __init__(
        self,
        backbone: BackboneWithFPN,
        anchors: Anchors,
        *,
        levels: tuple[int, int],
        rpn: RpnConfig,
        roi: RoiConfig,
        decode: DecodeConfig,
        num_classes: int,
        rows: dict[str, RowLoss],
        weights: dict[str, float],
        pixel_std: tuple[float, float, float] | None = None,
        code: Literal["sides"] | None = None,
        agnostic: bool = False,
        spread: bool = False,
    ) -> None:
        strides = tuple(2**level for level in range(levels[0], levels[1] + 1))
        super().__init__(
            Normalise(pixel_std),
            backbone,
            anchors,
            strides=strides,
            rpn=rpn,
            roi=roi,
            roi_coder=SideCoder() if code == "sides" else DeltaCoder(shift=10, size=5),
            decode=decode,
            rule=partial(detect, min_size=1e-2),
            num_classes=num_classes,
            rows=rows,
            weights=weights,
        )
        channels = backbone.out_channels
        self.rpn = nn.ModuleDict({"head": RPNHead(channels, anchors.per_cell)})
        self.roi_heads = nn.ModuleDict(
            {
                "box_head": TwoMLPHead(channels * roi.size**2, roi.hidden),
                "box_predictor": BoxPredictor(roi.hidden, num_classes + 1, agnostic=agnostic, box_std=spread),
            }
        )
        self.agnostic, self.with_spread = agnostic, spread
        self.pool = RoIPool((levels[0], min(levels[1], 5)), roi.size, roi.scale, adaptive=roi.pooling == "adaptive")

    @property
    def kinds(self) -> dict[str, Kind]:
        """``KINDS``, with a box loss that may learn ``box_std``."""
        return kinds_of(self.with_spread)

    @property
    def cls_layers(self) -> dict[str, nn.Conv2d | nn.Linear]:
        """The layers that say object or not, and the classes."""
        rpn, roi = cast(RPNHead, self.rpn["head"]), cast(BoxPredictor, self.roi_heads["box_predictor"])
        return {"rpn": rpn.cls_logits, "roi": roi.cls_score}

    def rpn_head(self, features: list[Tensor]) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """See ``Rcnn.rpn_head``."""
        head = cast(RPNHead, self.rpn["head"])
        read = [head.conv(x) for x in features]
        return [head.cls_logits(x) for x in read], [head.bbox_pred(x) for x in read], read

    def roi_rows(self, features: dict[str, Tensor], boxes: Tensor, image: Tensor, sizes: Tensor) -> Predictions:
        """Run the RoI head on boxes [R, 4] of images [R]."""
        pooled = self.pool(list(features.values()), boxes, image)
        read = self.roi_heads["box_head"](pooled)
        predictor = cast(BoxPredictor, self.roi_heads["box_predictor"])
        logits, deltas = predictor(read)
        deltas = deltas.view(-1, 1, 4) if self.agnostic else deltas.view(-1, self.num_classes + 1, 4)[:, 1:]
        return Predictions(
            logits=torch.cat([logits[:, 1:], logits[:, :1]], 1),
            deltas=deltas,
            priors=boxes,
            image=image,
            sizes=sizes,
            coder=self.roi_coder,
            softmax=True,
            box_std=None if predictor.spread is None else predictor.spread(read),
            cls_features=[read],
        )


def kinds_of(spread: bool) -> dict[str, Kind]:
    """Return the row losses by name, and what each must be made for."""
    return KINDS | {"box": "box_std"} if spread else KINDS


def build_faster_rcnn(cfg: FasterRcnnConfig, num_classes: int) -> FasterRcnn:
    """Return a Faster R-CNN with random weights."""
    kinds, spread = kinds_of(bool(cfg.spread)), bool(cfg.spread)
    rows = {name: pick(getattr(cfg.loss, name), kind, f"detector.loss.{name}") for name, kind in kinds.items()}
    rows |= spread_rows(spread, cfg.loss.spread)
    return FasterRcnn(
        build_backbone(cfg),
        cfg.anchors.build(strides_of(cfg)),
        levels=cfg.levels,
        rpn=cfg.rpn,
        roi=cfg.roi,
        decode=cfg.decode,
        num_classes=num_classes,
        rows=rows,
        weights={name: getattr(cfg.loss, name).weight for name in rows},
        pixel_std=cfg.pixel_std,
        code=cfg.code,
        agnostic=bool(cfg.agnostic),
        spread=spread,
    )

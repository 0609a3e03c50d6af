"""RetinaNet (Lin et al. 2017), from torchvision's parts."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field
from torchvision.models.detection.retinanet import RetinaNetHead

from ssod.assign.build import AssignerConfig, pick_assigner
from ssod.assign.iou import IoUConfig
from ssod.detectors.anchors import AnchorConfig
from ssod.detectors.backbones import BackboneConfig, Normalise, build_backbone, group_norm
from ssod.detectors.decode import DecodeConfig, rule_of
from ssod.detectors.dense import Dense, normalizer_of_batch, normalizer_per_image
from ssod.detectors.heads.box_std import BoxStd, BoxStdHead, spread_rows
from ssod.detectors.heads.fam3d import Align, AlignConfig, TowerHead, named_or_none
from ssod.detectors.heads.towers import RetinaHead
from ssod.losses.build import Kind, Loss, LossSpec, pick
from ssod.structures.boxes import Coder, DeltaCoder, LtrbCoder, SideCoder
from ssod.utils.errors import SsodError
from ssod.utils.schema import Section


class RetinaNetLoss(Section):
    """Losses of RetinaNet, each a name or `{name:, weight:, <parameters>}`."""

    cls: Loss = LossSpec(name="focal")
    "Class loss of a sigmoid head."
    box: Loss = LossSpec(name="l1")
    "Box loss."
    spread: Loss | None = None
    "Loss beside the box loss that teaches `detector.spread`, e.g. `{name: nll, weight: 0.05}`; by default none."


class RetinaNetConfig(BackboneConfig):
    """One stage, anchors, sigmoid classes."""

    name: Literal["retinanet"] = "retinanet"
    "The detector."
    head_norm: Literal["none", "group"] = "none"
    "Group normalisation in the head's towers; `none` is torchvision's head."
    level_scale: bool = False
    "Multiply the box outputs of each level by a learnt number (the Consistent-Teacher baseline does)."
    anchors: AnchorConfig = AnchorConfig()
    """Anchor boxes; Consistent-Teacher's one square of 8 strides per cell is
    `{scale: 8, octaves: 1, ratios: [1], spacing: stride}`."""
    delta_std: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] | None = None
    """What the head's box outputs are multiplied by, shifts and log sizes: `[0.1, 0.2]` in mmdetection (Mean-Teacher,
    Consistent-Teacher); nothing in torchvision's RetinaNet."""
    code: Literal["sides"] | None = None
    """What the head's box outputs are. `sides`: how far each side of the anchor moves, ten times over the anchor's
    size, which Unbiased Teacher v2 needs; by default a shift of its center and log sizes."""
    align: Annotated[
        AlignConfig | None, BeforeValidator(named_or_none, json_schema_input_type=str | AlignConfig | None)
    ] = None
    """Take each box from the cells (`2d`), or cells and levels (`3d`, Consistent-Teacher's FAM-3D), that its features
    point to; `none` takes it from its own cell. Needs one anchor per cell and a loss on boxes such as giou."""
    assigner: AssignerConfig = IoUConfig()
    """Which rows learn which box: best overlap (`iou`), FCOS's `center` rule, the rows that predict it best already
    (`adaptive`), or anchors of its shape (`ratio`, YOLO's rule); a name, or a name with its options. The weighting
    `cleanliness` stands in for it."""
    normalizer: Literal["image", "batch"] = "image"
    "Divide losses by the positives of each image (torchvision), or of the batch (detectron2, mmdetection)."
    spread: BoxStd = None
    "`true`: predict how uncertain each box output is, for `loss.spread` or the box loss `nll`; decoding ignores it."
    loss: RetinaNetLoss = RetinaNetLoss()
    "Losses."
    decode: DecodeConfig = DecodeConfig()
    "From rows to detections."


def build_retinanet(cfg: RetinaNetConfig, num_classes: int) -> Dense:
    """Return a RetinaNet with random weights.

    Raises:
        SsodError: options that do not go together.
    """
    strides = strides_of(cfg)
    anchors = cfg.anchors.build(strides)
    refuse_impossible_alignment(cfg, anchors.per_cell)
    backbone = build_backbone(cfg)
    kind: Kind = "aligned" if cfg.align else "box_std" if cfg.spread else "box"
    head = build_head(cfg, kind, anchors.per_cell, num_classes)
    rows = {
        "cls": pick(cfg.loss.cls, "sigmoid", "detector.loss.cls"),
        "box": pick(cfg.loss.box, kind, "detector.loss.box"),
    } | spread_rows(bool(cfg.spread), cfg.loss.spread)
    return Dense(
        backbone,
        head,
        anchors,
        coder_of(cfg),
        num_classes=num_classes,
        strides=strides,
        assigner=pick_assigner(cfg.assigner),
        rows=rows,
        weights={name: getattr(cfg.loss, name).weight for name in rows},
        normalizer=normalizer_per_image if cfg.normalizer == "image" else normalizer_of_batch,
        decode=cfg.decode,
        rule=rule_of(cfg.decode),
        box_kind=kind,
        level_scale=cfg.level_scale,
        normalise=Normalise(cfg.pixel_std),
        align=None if cfg.align is None else build_align(cfg.align, head, cfg.channels, strides),
    )


def build_head(cfg: RetinaNetConfig, kind: Kind, per_cell: int, num_classes: int) -> RetinaNetHead:
    """Return the head for box losses of ``kind``."""
    norm = group_norm if cfg.head_norm == "group" else None
    if cfg.align is not None:
        distances = cfg.align.decode == "distances"
        return TowerHead(cfg.channels, per_cell, num_classes, norm_layer=norm, distances=distances)
    head = BoxStdHead if kind == "box_std" else RetinaHead
    return head(cfg.channels, per_cell, num_classes, norm_layer=norm)


def coder_of(cfg: RetinaNetConfig) -> Coder:
    """Return the meaning of the head's box outputs."""
    if cfg.align and cfg.align.decode == "distances":
        return LtrbCoder(cfg.anchors.scale)
    if cfg.code == "sides":
        return SideCoder()
    shift, size = cfg.delta_std or (1.0, 1.0)
    return DeltaCoder(1 / shift, 1 / size)


def build_align(cfg: AlignConfig, head: RetinaNetHead, channels: int, strides: tuple[int, ...]) -> Align:
    """Return the alignment of the boxes of ``head``."""
    convolutions = len(head.classification_head.conv) + len(head.regression_head.conv)
    across = cfg.name == "3d"
    return Align(convolutions * channels, cfg.hidden, strides, across=across, keep_inverted=cfg.keep_inverted)


def refuse_impossible_alignment(cfg: RetinaNetConfig, per_cell: int) -> None:
    """Raise ``SsodError`` where ``align``, or ``code``, does not go with the rest."""
    if cfg.code == "sides" and cfg.delta_std is not None:
        problem = f"{list(cfg.delta_std)} is of shifts and log sizes, and detector.code asks for sides"
        raise SsodError("config", "detector.delta_std", problem, "use delta_std: null, or leave out code")
    if cfg.align is None:
        return
    if cfg.code == "sides":
        problem = f"boxes that align: {cfg.align.name} moves are not decoded from sides"
        raise SsodError("config", "detector.code", problem, "remove it, or detector.align")
    if cfg.spread:
        problem = "it is the deviation of what the head encodes, and aligned boxes are not encoded"
        raise SsodError("config", "detector.spread", problem, "remove it, or detector.align")
    if per_cell > 1:
        problem = f"{cfg.align.name} moves one box per cell, and there are {per_cell} anchors"
        raise SsodError("config", "detector.align", problem, "use anchors: {scale: 8, octaves: 1, ratios: [1]}")
    if cfg.align.name == "3d" and cfg.levels[0] == cfg.levels[1]:
        problem = "3d moves boxes between levels, and there is one"
        raise SsodError("config", "detector.align", problem, "use align: 2d, or more levels")
    if cfg.align.decode == "distances" and cfg.delta_std is not None:
        problem = f"{list(cfg.delta_std)} is of shifts and log sizes, and detector.align.decode asks for distances"
        raise SsodError("config", "detector.delta_std", problem, "use delta_std: null, or leave out decode")
    if cfg.align.decode == "distances" and cfg.anchors.ratios != (1.0,):
        problem = f"ratios {list(cfg.anchors.ratios)}: distances are counted in strides, by a square anchor"
        raise SsodError("config", "detector.anchors", problem, "use ratios: [1], or leave out detector.align.decode")


def strides_of(cfg: BackboneConfig) -> tuple[int, ...]:
    """Return pixels per cell of each level."""
    return tuple(2**level for level in range(cfg.levels[0], cfg.levels[1] + 1))

"""Which of our detectors is the same function as a detector of detectron2: its config section."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ssod.detectors.backbones import GROUPS, group_norm
from ssod.detectors.d2.config import FIELD
from ssod.detectors.d2.dense import D2Dense
from ssod.detectors.d2.faster_rcnn import D2FasterRcnn
from ssod.detectors.d2.model import D2Model
from ssod.detectors.d2.parts import Pixels
from ssod.detectors.decode import DecodeConfig
from ssod.structures.boxes import Coder, DeltaCoder
from ssod.utils.errors import SsodError

_DEPTHS = {(2, 2, 2, 2): "resnet18", (3, 4, 6, 3): "resnet50", (3, 4, 23, 3): "resnet101"}
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_EPS = 1e-5

Keys = dict[str, Any]
D2Detector = D2Dense | D2FasterRcnn


@dataclass(frozen=True)
class Layout:
    """What the order of rows, and the names, depend on.

    Attributes:
        first: first pyramid level.
        sizes: anchor sizes of a cell.
        ratios: anchor ratios of a cell.
        bgr: whether detectron2's model sees BGR.
        norm: whether the towers of the head have normalisation layers.
    """

    first: int
    sizes: int
    ratios: int
    bgr: bool
    norm: bool


def same(theirs: D2Detector) -> tuple[Keys, Layout]:
    """Return the config section, without ``weights``, of our detector that is ``theirs``, and the layout of its rows.

    Losses and assigners are our defaults: they do not change what is found.

    Args:
        theirs: a ``D2Dense`` or ``D2FasterRcnn``.

    Raises:
        SsodError: code 2, our detectors cannot be that.
    """
    sizes, ratios, anchors = anchor_section(theirs)
    section: Keys = {"name": "", **backbone_section(theirs)}
    norm = False
    if isinstance(theirs, D2FasterRcnn):
        section |= {"name": "faster_rcnn", "anchors": anchors, **two_stage_section(theirs)}
    else:
        norm = tower_norm(theirs)
        section["head_norm"] = "group" if norm else "none"
        section |= fcos_section(theirs) if "quality" in theirs.rows else retinanet_section(theirs, anchors)
    section["decode"] = decode_section(theirs.decode)
    return section, Layout(section["levels"][0], sizes, ratios, theirs.normalise.bgr, norm)


def decode_section(cfg: DecodeConfig) -> Keys:
    """Return the keys of ``DecodeConfig``."""
    return cfg.model_dump(exclude_none=True)


def backbone_section(theirs: D2Detector) -> Keys:
    """Return the keys of ``BackboneConfig``."""
    pyramid = theirs.backbone
    body = pyramid.bottom_up
    blocks = tuple(len(stage) for stage in body.stages)
    if blocks not in _DEPTHS or pyramid.lateral_convs[0].norm is not None or pyramid._fuse_type != "sum":
        raise unlike(f"its backbone has stages of {blocks} blocks, or its pyramid averages or normalises")
    backbone = _DEPTHS[blocks]
    norms = [m for m in body.modules() if "Norm" in type(m).__name__]
    kinds = {type(m).__name__ for m in norms}
    if kinds not in ({"FrozenBatchNorm2d"}, {"BatchNorm2d"}) or {m.eps for m in norms} != {_EPS}:
        raise unlike(f"its backbone has {' and '.join(sorted(kinds)) or 'no normalisation'}, or another epsilon")
    levels = [int(name[1:]) for name in pyramid.output_shape()]
    section: Keys = {
        "backbone": backbone,
        "norm": "batch" if kinds == {"BatchNorm2d"} else "frozen",
        "trainable_layers": trainable(body, backbone),
        "channels": pyramid.out_channels,
        "levels": (levels[0], levels[-1]),
        **pixel_section(theirs.normalise),
    }
    if backbone != "resnet18" and body.stages[1][0].conv1.stride == (2, 2):
        section["downsample"] = "1x1"
    if levels[-1] == 7 and pyramid.top_block.in_feature.startswith("res"):
        section["level6"] = "c5"
    return section


def trainable(body: D2Model, backbone: str) -> int:
    """Return how many stages learn, the stem among them."""
    return len(GROUPS[backbone]) - sum(
        not any(p.requires_grad for p in stage.parameters()) for stage in (body.stem, *body.stages)
    )


def pixel_section(pixels: Pixels) -> Keys:
    """Return ``pixel_std`` where it is not ImageNet's."""
    mean, std = (x.flatten().flip(0) if pixels.bgr else x.flatten() for x in (pixels.mean, pixels.std))
    if not torch.allclose(mean, torch.tensor(_MEAN) * 255, rtol=0, atol=1e-2):
        raise unlike(f"its PIXEL_MEAN is {mean.tolist()} in RGB, ours is ImageNet's")
    if torch.allclose(std, torch.tensor(_STD) * 255, rtol=0, atol=1e-3):
        return {}
    return {"pixel_std": tuple(std.tolist())}


def anchor_section(theirs: D2Detector) -> tuple[int, int, Keys]:
    """Return how many sizes and ratios a cell has, and the keys of ``AnchorConfig``."""
    anchors = theirs.anchors
    side = anchors.cell0[:, 2:] - anchors.cell0[:, :2]
    size, ratio = side.prod(1).sqrt(), side[:, 1] / side[:, 0]
    ratios = [round(r, 4) for r in ratio[(size - size[0]).abs() < 1e-2].tolist()]
    octaves = len(side) // len(ratios)
    section = {
        "scale": round(float(size[0]) / anchors.strides[0], 4),
        "octaves": octaves,
        "ratios": ratios,
        "spacing": "stride",
        "rounding": "none",
    }
    if anchors.offset != (0.5 if "quality" in theirs.rows else 0.0):
        raise unlike(f"its anchors begin {anchors.offset} strides from the corner")
    return octaves, len(ratios), section


def tower_norm(theirs: D2Dense) -> bool:
    """Return whether the towers of the head are normalised by groups, as ours are."""
    norms = [m for m in theirs.head.modules() if "Norm" in type(m).__name__]
    if not norms:
        return False
    like = group_norm(theirs.backbone.out_channels)
    for norm in norms:
        if not isinstance(norm, nn.GroupNorm) or (norm.num_groups, norm.eps) != (like.num_groups, like.eps):
            raise unlike(f"its head has {norm}, ours {like}")
    return True


def retinanet_section(theirs: D2Dense, anchors: Keys) -> Keys:
    """Return the keys of ``RetinaNetConfig`` beyond the backbone's."""
    coder = check_clip(theirs.coder)
    section: Keys = {"name": "retinanet", "anchors": anchors, "normalizer": "batch"}
    if (coder.shift, coder.size) != (1, 1):
        section["delta_std"] = (1 / coder.shift, 1 / coder.size)
    return section


def fcos_section(theirs: D2Dense) -> Keys:
    """Return the keys of ``FcosConfig`` beyond the backbone's."""
    return {"name": "fcos", "points": "middle"}


def two_stage_section(theirs: D2FasterRcnn) -> Keys:
    """Return the keys of ``FasterRcnnConfig`` that the heads decide."""
    roi = theirs.roi_heads
    pooler, hidden = roi.box_pooler, [name for name, _ in roi.box_head.named_parameters()]
    align = pooler.level_poolers[0]
    how = (align.aligned, align.sampling_ratio)
    coders = [(c.shift, c.size) for c in map(check_clip, (theirs.rpn_coder, theirs.roi_coder))]
    if how not in ((True, 0), (False, 2)) or coders != [(1, 1), (10, 5)]:
        raise unlike(f"it pools with (aligned, samples) {how}, or has BBOX_REG_WEIGHTS {coders}")
    if hidden != ["fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"]:
        raise unlike("its box head is not two linear layers")
    last = min(len(theirs.strides) + pooler.min_level - 1, 5)
    if pooler.canonical_level != 4 or pooler.max_level != last or pooler.output_size[0] != pooler.output_size[1]:
        raise unlike("it pools boxes from other levels, or to cells that are not square")
    section: Keys = {
        "rpn": theirs.rpn_cfg.model_dump() | {"high": theirs.rpn_assigner.high, "low": theirs.rpn_assigner.low},
        "roi": {
            "iou": theirs.roi_assigner.high,
            "rows": theirs.roi_cfg.rows,
            "fraction": theirs.roi_cfg.fraction,
            "size": pooler.output_size[0],
            "hidden": roi.box_head.fc1.out_features,
            "scale": float(pooler.canonical_box_size),
        },
    }
    if how == (True, 0):
        section["roi"]["pooling"] = "adaptive"
    return section


def check_clip(coder: Coder) -> DeltaCoder:
    """Return the coder, or refuse one of another kind or with another largest size."""
    if not isinstance(coder, DeltaCoder):
        raise unlike("its box outputs are no shifts and sizes")
    if abs(coder.clip - DeltaCoder().clip) > 1e-6:
        raise unlike(f"its boxes grow to at most exp({coder.clip:.4g}), ours to exp({DeltaCoder().clip:.4g})")
    return coder


def unlike(problem: str) -> SsodError:
    """Return the refusal of a model that is none of ours."""
    return SsodError("config", FIELD, f"no detector of ours is like it: {problem}", "name another")

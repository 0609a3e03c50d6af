"""detectron2's detectors, small ones, beside ours with the same weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ssod.detectors.build import DetectorConfig, build
from ssod.structures import Targets
from tests.detectors.reference import CONFIG, SIZES, enliven, images, view

K = 5
NAMES = ("d2_retinanet", "d2_fcos", "d2_faster_rcnn")
FINAL = ("cls_score", "bbox_pred", "ctrness", "objectness_logits", "anchor_deltas")
_YAML = {
    "MODEL.RESNETS.DEPTH": 18,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 64,
    "MODEL.RESNETS.NORM": "BN",
    "MODEL.BACKBONE.FREEZE_AT": 0,
    "MODEL.FPN.OUT_CHANNELS": 32,
}
OPTS: dict[str, dict[str, Any]] = {
    "d2_retinanet": _YAML,
    "d2_fcos": {
        "model.backbone.bottom_up.stages.norm": "BN",
        "model.backbone.bottom_up.stem.norm": "BN",
        "model.backbone.bottom_up.freeze_at": 0,
        "model.head.conv_dims": [64],
    },
    "d2_faster_rcnn": _YAML
    | {
        "MODEL.ROI_BOX_HEAD.FC_DIM": 64,
        "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 64,
        "MODEL.RPN.PRE_NMS_TOPK_TRAIN": 300,
        "MODEL.RPN.POST_NMS_TOPK_TRAIN": 200,
        "MODEL.RPN.PRE_NMS_TOPK_TEST": 150,
        "MODEL.RPN.POST_NMS_TOPK_TEST": 100,
    },
}


def section(name: str, **changes: Any) -> DetectorConfig:
    """A small detector that starts from random weights."""
    opts = OPTS[name] | changes.pop("opts", {})
    return CONFIG.validate_python({"name": name, "opts": opts, **changes})


def pair(name: str, lively: bool = False, classes: int = K, **changes: Any) -> tuple[nn.Module, nn.Module]:
    """detectron2's model, and ours with its weights."""
    from ssod.detectors.d2.model import build_model

    torch.manual_seed(1)
    cfg = section(name, **changes)
    theirs = build_model(cfg, classes)
    if lively:
        enliven(theirs, lambda: detect(theirs, images()), FINAL)
    ours = build(cfg, classes, pretrained=False)
    missing, unexpected = ours.load_state_dict(theirs.state_dict(), strict=False)
    assert not unexpected
    assert set(missing) <= {"normalizer.value"}
    return theirs, ours


def inputs(pictures: list[Tensor], targets: list[Targets] | None = None) -> list[dict[str, Any]]:
    """What detectron2's models take: BGR in 0..255, and boxes."""
    from detectron2.structures import Boxes, Instances

    batch = []
    for i, picture in enumerate(pictures):
        entry: dict[str, Any] = {"image": picture.flip(0) * 255.0}
        if targets is not None:
            entry["instances"] = Instances(tuple(picture.shape[1:]))
            entry["instances"].gt_boxes = Boxes(targets[i].boxes.clone())
            entry["instances"].gt_classes = targets[i].labels.clone()
        batch.append(entry)
    return batch


@torch.no_grad()
def detect(model: nn.Module, pictures: list[Tensor]) -> list[Targets]:
    """What detectron2's own inference finds."""
    found = [out["instances"] for out in model.eval()(inputs(pictures))]
    return [Targets(f.pred_boxes.tensor, f.pred_classes, f.scores) for f in found]


__all__ = ["NAMES", "OPTS", "SIZES", "K", "detect", "images", "inputs", "pair", "section", "view"]

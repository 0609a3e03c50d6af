"""What ``ssod init`` starts a detector from: a whole detector of COCO where there is one of its form, and why.

A detector that learnt COCO's 118 000 images has a pyramid and heads that know objects, where ImageNet's weights are of
a backbone alone; with a few hundred labels that is most of what is to be learnt. The class layers start afresh where
the classes are others. It needs the detector's form to be that of the file: anchors, levels and channels.
"""

from __future__ import annotations

from typing import Any

from ssod.detectors.build import DetectorConfig
from ssod.detectors.faster_rcnn import FasterRcnnConfig
from ssod.detectors.fcos import FcosConfig

# Keys that say how large a layer is, or what its outputs mean; the file's are the defaults.
_FORM = ("channels", "levels", "head_norm", "anchors", "points", "bins", "code", "agnostic")
_FORM += ("level6", "downsample", "pixel_std")
_COCO = (
    "coco # a whole detector that learnt COCO; imagenet: its backbone alone, where pictures are no photos; or a file"
)


def coco_fits(cfg: DetectorConfig) -> bool:
    """Return whether torchvision has COCO weights of a detector's backbone, and of its form."""
    if not isinstance(cfg, FcosConfig | FasterRcnnConfig) or cfg.backbone != "resnet50" or cfg.norm == "group":
        return False
    plain, fields = type(cfg)(), type(cfg).model_fields
    same = all(getattr(cfg, key) == getattr(plain, key) for key in _FORM if key in fields)
    if isinstance(cfg, FasterRcnnConfig):
        return same and (cfg.roi.size, cfg.roi.hidden) == (FasterRcnnConfig().roi.size, FasterRcnnConfig().roi.hidden)
    return same


def line_of(section: dict[str, Any]) -> str:
    """Return the line of the config that says what a detector starts from, and why.

    Args:
        section: the detector's, with ``weights``.
    """
    weights, backbone = section["weights"], section.get("backbone")
    if weights == "coco":
        return f"weights: {_COCO}"
    if weights == "imagenet" and backbone == "resnet50":
        return "weights: imagenet # torchvision's COCO weights are of a detector of another form; or a file of your own"
    if weights == "imagenet":
        return f"weights: imagenet # there are no COCO weights with {backbone}; or a file of your own"
    return f"weights: {weights} # or a file of your own"

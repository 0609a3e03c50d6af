"""The one door to the detectors: a config section in, an ``nn.Module`` out."""

from typing import Annotated

from pydantic import Field

from ssod.detectors.faster_rcnn import FasterRcnnConfig, build_faster_rcnn
from ssod.detectors.fcos import FcosConfig, build_fcos
from ssod.detectors.retinanet import RetinaNetConfig, build_retinanet
from ssod.structures import Detector

DetectorConfig = Annotated[RetinaNetConfig | FcosConfig | FasterRcnnConfig, Field(discriminator="name")]

_BUILDERS = {"retinanet": build_retinanet, "fcos": build_fcos, "faster_rcnn": build_faster_rcnn}


def build(cfg: DetectorConfig, num_classes: int) -> Detector:
    """Build the detector that ``cfg`` names for classes ``0..num_classes - 1``."""
    return _BUILDERS[cfg.name](cfg, num_classes)

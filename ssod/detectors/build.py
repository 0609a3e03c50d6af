"""The one door to the detectors: a config section in, an ``nn.Module`` out."""

from collections.abc import Callable, Sequence
from typing import Annotated, Any

from pydantic import Field

from ssod.detectors.d2.config import D2Config, D2FasterRcnnConfig, D2FcosConfig, D2RetinaNetConfig
from ssod.detectors.d2.dense import build_d2_dense
from ssod.detectors.d2.faster_rcnn import build_d2_faster_rcnn
from ssod.detectors.d2.weights import initialise as initialise_d2
from ssod.detectors.faster_rcnn import FasterRcnnConfig, build_faster_rcnn
from ssod.detectors.fcos import FcosConfig, build_fcos
from ssod.detectors.retinanet import RetinaNetConfig, build_retinanet
from ssod.detectors.weights import initialise, match_eps
from ssod.structures import Detector
from ssod.utils.errors import SsodError

OurConfig = Annotated[RetinaNetConfig | FcosConfig | FasterRcnnConfig, Field(discriminator="name")]
DetectorConfig = Annotated[
    RetinaNetConfig | FcosConfig | FasterRcnnConfig | D2RetinaNetConfig | D2FcosConfig | D2FasterRcnnConfig,
    Field(discriminator="name"),
]

_CONFIGS = {
    "retinanet": RetinaNetConfig,
    "fcos": FcosConfig,
    "faster_rcnn": FasterRcnnConfig,
    "d2_retinanet": D2RetinaNetConfig,
    "d2_fcos": D2FcosConfig,
    "d2_faster_rcnn": D2FasterRcnnConfig,
}
# Each is called with the section of its own name.
_BUILDERS: dict[str, Callable[[Any, int], Detector]] = {
    "retinanet": build_retinanet,
    "fcos": build_fcos,
    "faster_rcnn": build_faster_rcnn,
    "d2_retinanet": build_d2_dense,
    "d2_fcos": build_d2_dense,
    "d2_faster_rcnn": build_d2_faster_rcnn,
}


def build(cfg: DetectorConfig, num_classes: int, *, pretrained: bool = True, classes: Sequence[str] = ()) -> Detector:
    """Build the detector that ``cfg`` names.

    Args:
        cfg: the config section.
        num_classes: K; labels are 0..K-1.
        pretrained: load ``cfg.weights``. Leave it out where trained weights follow, so that nothing is downloaded.
        classes: the names of the K classes, by which weights of another model of ssod are told apart.

    Raises:
        SsodError: options that do not go together, unknown losses, weights that are absent or do not fit, a detector of
            detectron2 where that is not installed.
    """
    if num_classes < 1:
        raise SsodError("data", "classes", f"{num_classes} classes", "a detector needs at least one")
    detector = _BUILDERS[cfg.name](cfg, num_classes)
    if not isinstance(cfg, D2Config):
        match_eps(detector, cfg)
    if pretrained:
        own = not isinstance(cfg, D2Config)
        loaded = initialise(detector, cfg, classes) if own else initialise_d2(detector, cfg, classes)
        detector.pretrained_heads = heads_among(detector, set(loaded.fresh))
    return detector


def heads_among(detector: Detector, fresh: set[str]) -> bool:
    """Return whether any weight above ``detector.body`` is not among the names ``fresh``."""
    body = {id(parameter) for parameter in detector.body.parameters()}
    return any(id(p) not in body and name not in fresh for name, p in detector.named_parameters())


def describe() -> list[tuple[str, str]]:
    """Return each detector's name and one line about it."""
    return [(name, (config.__doc__ or "").strip().splitlines()[0]) for name, config in _CONFIGS.items()]

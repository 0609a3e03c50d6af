"""The one door to the detectors: a config section in, an ``nn.Module`` out."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from ssod.assign.iou import IoUConfig
from ssod.detectors.d2.config import D2Config, D2FasterRcnnConfig, D2FcosConfig, D2RetinaNetConfig
from ssod.detectors.d2.dense import build_d2_dense
from ssod.detectors.d2.faster_rcnn import build_d2_faster_rcnn
from ssod.detectors.d2.weights import initialise as initialise_d2
from ssod.detectors.dense_detector import DenseDetectorConfig, build_dense_detector
from ssod.detectors.faster_rcnn import FasterRcnnConfig, build_faster_rcnn
from ssod.detectors.fcos import FcosConfig, build_fcos
from ssod.detectors.retinanet import RetinaNetConfig, build_retinanet
from ssod.detectors.weights import Loaded, initialise, match_eps
from ssod.structures import Detector
from ssod.utils import model_file
from ssod.utils.errors import Exit, SsodError

OurConfig = Annotated[
    RetinaNetConfig | FcosConfig | FasterRcnnConfig | DenseDetectorConfig, Field(discriminator="name")
]
DetectorConfig = Annotated[
    RetinaNetConfig
    | FcosConfig
    | FasterRcnnConfig
    | DenseDetectorConfig
    | D2RetinaNetConfig
    | D2FcosConfig
    | D2FasterRcnnConfig,
    Field(discriminator="name"),
]

# Each is called with the section of its own name.
_BUILDERS: dict[str, Callable[[Any, int], Detector]] = {
    "retinanet": build_retinanet,
    "fcos": build_fcos,
    "faster_rcnn": build_faster_rcnn,
    "dense_detector": build_dense_detector,
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
        loaded = _initialise(detector, cfg, classes)
        detector.pretrained_heads = heads_among(detector, set(loaded.fresh))
    return detector


def load_trained(detector: Detector, cfg: DetectorConfig, file: Path, classes: Sequence[str]) -> None:
    """Fill a detector with the weights of a trained one, each class by its name; nothing may start afresh.

    Args:
        detector: of ``cfg``.
        cfg: its config; what it says of ``weights`` is not read.
        file: ``.safetensors`` of ssod's own, which knows the names of its classes; or a ``state_dict`` of as many.
        classes: the names of the detector's classes.

    Raises:
        SsodError: code 3, it knows other classes; code 4, it is damaged, does not fit, or lacks a weight.
    """
    loaded = _initialise(detector, cfg.model_copy(update={"weights": str(file)}), classes)
    theirs = model_file.class_names(file)
    unknown = [name for name in classes if name not in (classes if theirs is None else theirs)]
    if unknown:
        problem = f"it does not know {', '.join(unknown[:5])}"
        raise SsodError(file, "classes", problem, "give one that was trained on these", code=Exit.DATA)
    fresh = [name for name, _ in detector.named_parameters() if name in loaded.fresh]
    if fresh:
        problem = f"{len(fresh)} weights are not in it, or of other classes"
        raise SsodError(file, fresh[0], problem, "give the weights of a trained detector", code=Exit.CHECKPOINT)


def names_assigner(cfg: DetectorConfig) -> bool:
    """Return whether a config gives a one-stage detector another assigner than it has by itself, ``divisor`` aside."""
    if isinstance(cfg, FasterRcnnConfig | D2FasterRcnnConfig):
        return False
    own = cfg.assigner
    plain = own.model_copy(update={"divisor": None}) if isinstance(own, IoUConfig) else own
    return plain != type(cfg).model_fields["assigner"].default


def _initialise(detector: Detector, cfg: DetectorConfig, classes: Sequence[str]) -> Loaded:
    return initialise_d2(detector, cfg, classes) if isinstance(cfg, D2Config) else initialise(detector, cfg, classes)


def heads_among(detector: Detector, fresh: set[str]) -> bool:
    """Return whether any weight above ``detector.body`` is not among the names ``fresh``."""
    body = {id(parameter) for parameter in detector.body.parameters()}
    return any(id(p) not in body and name not in fresh for name, p in detector.named_parameters())

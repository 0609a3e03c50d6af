"""From a config's word to the assigner of a dense head: ``iou``, or ``{name: adaptive, topk: 9}``."""

import math
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, SerializerFunctionWrapHandler, WrapSerializer

from ssod.assign.adaptive import AdaptiveAssigner, AdaptiveConfig
from ssod.assign.center import CenterAssigner, CenterConfig
from ssod.assign.iou import IoUAssigner, IoUConfig
from ssod.assign.ratio import RatioAssigner, RatioConfig
from ssod.structures import Assigner
from ssod.utils.schema import named


def _short(value: Any, write: SerializerFunctionWrapHandler) -> Any:
    """Write the two assigners that had no options once as they were written then: older checkpoints compare equal."""
    return value.name if value in (IoUConfig(), CenterConfig()) else write(value)


# ``iou`` is short for ``{name: iou}``.
AssignerConfig = Annotated[
    Annotated[IoUConfig | CenterConfig | AdaptiveConfig | RatioConfig, Field(discriminator="name")],
    BeforeValidator(named, json_schema_input_type=str | IoUConfig | CenterConfig | AdaptiveConfig | RatioConfig),
    WrapSerializer(_short),
]


def for_points(cfg: object) -> object:
    """Refuse ``ratio`` to a detector whose priors are points."""
    if isinstance(cfg, RatioConfig):
        raise ValueError("'ratio' compares boxes with the sides of anchors, and FCOS has points; use iou or center")
    return cfg


def divisor_of(assigner: Assigner | None) -> int | None:
    """Return what an image is padded to a multiple of, where rows beyond it are none for this assigner; else None."""
    return assigner.divisor if isinstance(assigner, IoUAssigner | AdaptiveAssigner) else None


def pick_assigner(cfg: IoUConfig | CenterConfig | AdaptiveConfig | RatioConfig) -> Assigner:
    """Return the assigner that ``cfg`` names."""
    if isinstance(cfg, IoUConfig):
        return IoUAssigner(cfg.high, cfg.low, bool(cfg.claim), cfg.divisor, own=cfg.claim == "own")
    if isinstance(cfg, CenterConfig):
        return CenterAssigner(math.inf if cfg.radius == "box" else cfg.radius)
    if isinstance(cfg, RatioConfig):
        return RatioAssigner(cfg.most)
    return AdaptiveAssigner(**cfg.model_dump(exclude={"name"}))

"""A method around an untrained detector that it takes, for tools that need no data."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import ValidationError

from ssod.detectors.build import DetectorConfig, build
from ssod.methods.base import Method
from ssod.methods.config import Common
from ssod.methods.registry import find
from ssod.structures import Detector
from ssod.utils import recipes
from ssod.utils.config_errors import read_section
from ssod.utils.errors import SsodError
from tools.options import COMMAND_LINE
from tools.synthetic import CLASSES

FAMILIES = ("retinanet", "dense_detector", "fcos", "faster_rcnn")  # in the order in which they are tried
LONG = 800  # pixels; the images of COCO, by which a method's own sizes are chosen


def fitted(name: str, family: str | None, backbone: str, side: int) -> tuple[Method, str]:
    """Return a method whose unlabelled images teach as early as it allows, and its detector in words.

    The detector is plain; where the method refuses that, it has what the method's recipe asks of it.

    Args:
        name: of the method.
        family: of the detector; None = the first of ``FAMILIES`` that the method takes.
        backbone: of the detector.
        side: the shorter side of images in pixels.

    Raises:
        SsodError: the method takes no such detector, or there is no such name.
    """
    kind, refusal = find(name), None
    cfg = at_once(kind, side)
    for each in FAMILIES if family is None else (family,):
        plain = detector({"name": each, "backbone": backbone})
        try:
            return kind(plain, cfg), f"{each} {backbone}"
        except SsodError as error:
            refusal = error
        try:
            asked = asked_for(name, each, backbone)
            built = detector({"name": each, "backbone": backbone} | asked)
            return kind(built, cfg), f"{each} {backbone} with {', '.join(asked)} as its recipe asks"
        except SsodError:
            continue  # the first refusal says why
    assert refusal is not None  # there is a family, and none was taken
    raise refusal


def detector(section: dict[str, Any]) -> Detector:
    """Return an untrained detector, the same in each call."""
    torch.manual_seed(0)
    return build(read_section(DetectorConfig, section, "detector", COMMAND_LINE, {}), CLASSES, pretrained=False)


def asked_for(method: str, family: str, backbone: str) -> dict[str, Any]:
    """Return the keys of a detector that a method's recipe changes.

    Raises:
        SsodError: code 2; the recipe does not offer the detector.
    """
    file = f"{family}_{'tiny' if backbone == 'tiny' else 'r50'}_fpn"
    plain, changed = (recipes.compose(recipes.Recipe(method=of, detector=file))[0]["detector"] for of in (None, method))
    return {key: value for key, value in changed.items() if key not in plain or plain[key] != value}


def at_once(kind: type[Method], side: int = LONG) -> Common:
    """Return the config of a method whose unlabelled images teach as early as it allows: STAC's teacher burns in.

    What a method makes in a size of its own, meant for images of COCO, is scaled to images of ``side``.
    """
    fields = kind.Config.model_fields
    early: dict[str, Any] = {"name": kind.__module__.rpartition(".")[2]}
    early |= {key: 0 for key in ("burn_in", "start") if key in fields}
    if "mosaic_size" in fields:
        early["mosaic_size"] = [max(1, length * side // LONG) for length in fields["mosaic_size"].default]
    try:
        return kind.Config.model_validate(early, context={"steps": 1000})
    except ValidationError:
        return kind.Config.model_validate(early | {"burn_in": 1}, context={"steps": 1000})

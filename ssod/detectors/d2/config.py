"""Config sections of detectron2's detectors. Nothing here imports detectron2.

``config`` names one of detectron2's own configs, or a YAML file, which is read with our safe reader and kept in the
section: run folder and model file then need no other file. detectron2's own configs may be Python or ask its loader to
evaluate expressions; a stranger's may not, as both are code.
"""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from pydantic import Field, field_validator

from ssod.assign.build import AssignerConfig, for_points
from ssod.utils.errors import Exit, SsodError
from ssod.utils.schema import Section
from ssod.utils.yaml_io import read_yaml

FIELD = "detector.config"
BASE = "_BASE_"
# What to do about a config that detectron2 itself refuses, and about one with parts that have no counterpart here.
MEND = "mend it, or name a config of detectron2's own"
PLAIN = "name a config with upright boxes, and anchors that are alike on all levels"


class D2Config(Section):
    """What detectron2's detectors have in common."""

    config: str | dict[str, Any]
    """One of detectron2's own configs by name (`COCO-Detection/retinanet_R_50_FPN_1x.yaml`), a YAML file of yours, or
    what would stand in that file."""
    opts: dict[str, Any] = {}
    """Changes to that config, with dotted keys: `{MODEL.FPN.OUT_CHANNELS: 128}`; of Python configs,
    `{model.head.num_classes: 3}`. The number of classes comes from the data."""
    weights: str = "none"
    """Start from `none` or from a .pkl, .pth or .safetensors: detectron2's models, its ImageNet backbones, or what it
    saved in training. Give a path: nothing is downloaded."""

    @field_validator("config", mode="after")
    @classmethod
    def _inline(cls, value: str | dict[str, Any]) -> str | dict[str, Any]:
        return read_config(Path(value)) if isinstance(value, str) and is_own_file(value) else value

    @field_validator("opts", mode="after")
    @classmethod
    def _flat(cls, value: dict[str, Any]) -> dict[str, Any]:
        return flatten(value)


class DenseD2Config(D2Config):
    """What detectron2's one-stage detectors have in common."""

    assigner: AssignerConfig | None = None
    """Which rows learn which box, as for our own detectors (`iou`, `center`, `adaptive`, of RetinaNet `ratio`); left
    out: as detectron2 does. The weighting `cleanliness` stands in for it."""
    normalizer: Literal["running", "batch"] = "running"
    """Divide losses by a running mean of the positives of a batch, which starts at 100 (FCOS: 300) and is kept in
    checkpoints (detectron2), or by the positives of the batch."""


class D2RetinaNetConfig(DenseD2Config):
    """detectron2's RetinaNet."""

    name: Literal["d2_retinanet"] = "d2_retinanet"
    "The detector."
    config: str | dict[str, Any] = "COCO-Detection/retinanet_R_50_FPN_1x.yaml"
    "One of detectron2's own configs by name, a YAML file of yours, or what would stand in that file."


class D2FcosConfig(DenseD2Config):
    """detectron2's FCOS."""

    name: Literal["d2_fcos"] = "d2_fcos"
    "The detector."
    config: str | dict[str, Any] = "COCO-Detection/fcos_R_50_FPN_1x.py"
    "One of detectron2's own configs by name; it has FCOS in Python configs only, which `opts` may change."

    _points = field_validator("assigner")(for_points)


class D2FasterRcnnConfig(D2Config):
    """detectron2's Faster R-CNN."""

    name: Literal["d2_faster_rcnn"] = "d2_faster_rcnn"
    "The detector."
    config: str | dict[str, Any] = Field("COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml")
    "One of detectron2's own configs by name, a YAML file of yours, or what would stand in that file."


# Any of them.
AnyD2Config = D2RetinaNetConfig | D2FcosConfig | D2FasterRcnnConfig


def is_own_file(name: str) -> bool:
    """Whether ``name`` is a YAML file of the user's, and not the name of one of detectron2's configs.

    Raises:
        SsodError: code 7 for a Python file outside detectron2; code 2 for another kind of file or one that is absent.
    """
    if name.endswith((".yaml", ".yml")):
        if Path(name).is_file():
            return True
        if is_package_name(name):
            return False
        raise SsodError("config", FIELD, f"no file '{name}'", "give a YAML file, or one of detectron2's own configs")
    if name.endswith(".py"):
        if is_package_name(name) and not Path(name).exists():
            return False
        raise unsafe(f"'{name}' is a Python file outside detectron2, and is not run", "write it as YAML")
    raise SsodError("config", FIELD, f"'{name}' is no .yaml", "give a YAML file, or one of detectron2's own configs")


def is_package_name(name: str) -> bool:
    """Whether ``name`` could name a config inside the package: relative, and never upwards."""
    parts = PurePosixPath(name.replace("\\", "/")).parts
    return bool(parts) and not Path(name).is_absolute() and ".." not in parts and not name.startswith(("/", "~"))


def read_config(path: Path, seen: tuple[str, ...] = ()) -> dict[str, Any]:
    """Read a detectron2 config from YAML, its bases merged below it; a base inside the package stays named.

    Raises:
        SsodError: code 2 for a file that is absent, no YAML or its own base; code 7 for one that wants to run code.
    """
    tree = read_yaml(path)
    if not isinstance(tree, dict):
        raise SsodError(path, "", f"is a {type(tree).__name__}, expected keys", "write keys such as MODEL")
    base = tree.get(BASE)
    if base is None:
        return tree
    if not isinstance(base, str):
        raise SsodError(path, BASE, "is not one path", "name one file, relative to this one")
    below = path.parent / base
    own = (*seen, os.path.realpath(path))
    if os.path.realpath(below) in own:
        raise SsodError(path, BASE, "bases form a circle", "remove one")
    if not below.is_file():
        if base.endswith((".yaml", ".yml")) and is_package_name(base):
            return tree
        raise SsodError(path, BASE, f"'{base}' not found", "name a file relative to this one, or a detectron2 config")
    del tree[BASE]
    return merge(read_config(below, own), tree)


def merge(base: dict[str, Any], top: dict[str, Any]) -> dict[str, Any]:
    """Return ``base`` with the values of ``top``, key by key."""
    both = {key: merge(base[key], top[key]) for key in base if isinstance(base[key], dict) and _is_dict(top.get(key))}
    return base | top | both


def _is_dict(value: Any) -> bool:
    return isinstance(value, dict)


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return plain values by dotted key.

    Raises:
        SsodError: code 7 for a key or value by which a Python config could be made to call something.
    """
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        path = f"{prefix}{key}"
        if isinstance(value, dict):
            flat |= flatten(value, f"{path}.")
        elif any(part.startswith("_") for part in path.split(".")) or "${" in str(value):
            raise unsafe(f"opts.{path} is no setting", "set numbers and words only", field="detector.opts")
        elif not _plain(value):
            raise SsodError(
                "config", f"detector.opts.{path}", f"{value!r} is no plain value", "write a number or a word"
            )
        else:
            flat[path] = value
    return flat


def _plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(_plain(v) for v in value)
    return value is None or isinstance(value, bool | int | float | str)


def unsafe(problem: str, fix: str, field: str = FIELD) -> SsodError:
    """Return the refusal of what would run code."""
    return SsodError("config", field, problem, fix, code=Exit.UNSAFE)

"""From a config section to detectron2's own model, on the CPU and with random weights."""

from __future__ import annotations

import importlib
import importlib.util
import logging
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ssod.detectors.d2.config import BASE, FIELD, MEND, AnyD2Config, is_package_name, unsafe
from ssod.utils.errors import SsodError

# A model of detectron2: of its attributes nothing is known where it is not installed.
D2Model = Any

INSTALL = "https://detectron2.readthedocs.io/en/latest/tutorials/install.html"
# Where a YAML config keeps the number of classes, and what the detector is called there.
_ARCHITECTURES = {"d2_retinanet": "RetinaNet", "d2_faster_rcnn": "GeneralizedRCNN"}


def require(name: str) -> None:
    """Raise ``SsodError`` (code 2) where detectron2 cannot be imported."""
    if importlib.util.find_spec("detectron2") is None:
        problem = f"'{name}' needs detectron2, which is not installed"
        raise SsodError("config", "detector.name", problem, f"see {INSTALL}")
    try:
        importlib.import_module("detectron2.modeling")
    except ImportError as error:
        problem = f"'{name}' needs detectron2, which is installed but cannot be imported: {error}"
        raise SsodError("config", "detector.name", problem, f"see {INSTALL}") from error


def build_model(cfg: AnyD2Config, num_classes: int) -> D2Model:
    """Return detectron2's model.

    Raises:
        SsodError: code 2, detectron2 is not installed, has no such config, or the config is of another detector or has
            keys and values that detectron2 does not know; code 7, a Python config that is not detectron2's own.
    """
    require(cfg.name)
    if isinstance(cfg.config, str) and cfg.config.endswith(".py"):
        return from_python(package_config(cfg.config), cfg, num_classes)
    return from_yaml(cfg, num_classes)


def package_config(name: str) -> Path:
    """Return the file of one of detectron2's own configs.

    Raises:
        SsodError: there is none of this name.
    """
    import detectron2

    root = Path(detectron2.__file__).parent / "model_zoo" / "configs"
    file = root / name
    if not is_package_name(name) or not file.is_file():
        if name.endswith(".py"):
            raise unsafe(f"'{name}' is a Python file that is not detectron2's own, and is not run", "write it as YAML")
        raise SsodError("config", FIELD, f"detectron2 has no config '{name}'", f"its own are below {root}")
    return file


def from_yaml(section: AnyD2Config, num_classes: int) -> D2Model:
    """Build from a YAML config: detectron2's own by name, or a tree that was read safely."""
    from detectron2.config import CfgNode, get_cfg
    from detectron2.modeling import build_model as build

    name = section.name
    if name not in _ARCHITECTURES:
        raise SsodError("config", FIELD, "is YAML, and detectron2 has FCOS in Python configs only", "leave it out")
    tree = section.config
    node = get_cfg()
    own = tree if isinstance(tree, str) else tree.get(BASE)
    try:
        if own is not None:
            with _quiet():  # its own files ask for more than a safe reader gives, and its reader warns of them
                node.merge_from_file(str(package_config(own)))
        if isinstance(tree, dict):
            version = tree.get("VERSION", node.VERSION)
            if version != node.VERSION:
                raise SsodError(
                    "config", FIELD, f"VERSION {version}, needed {node.VERSION}", "let detectron2 upgrade it"
                )
            node.merge_from_other_cfg(CfgNode({k: v for k, v in tree.items() if k != BASE}))
        node.merge_from_list([part for item in section.opts.items() for part in item])
    except (KeyError, ValueError, AssertionError) as error:
        raise SsodError("config", FIELD, f"detectron2 refuses it: {str(error).strip(chr(39))}", MEND) from error
    found = node.MODEL.META_ARCHITECTURE
    if found != _ARCHITECTURES[name]:
        raise SsodError("config", FIELD, f"is of a {found}, not of '{name}'", "name the detector that it is of")
    if node.MODEL.MASK_ON or node.MODEL.KEYPOINT_ON:
        raise SsodError("config", FIELD, "has masks or keypoints", "set MODEL.MASK_ON and KEYPOINT_ON to False in opts")
    node.MODEL.DEVICE, node.VIS_PERIOD = "cpu", 0
    node.MODEL.RETINANET.NUM_CLASSES = node.MODEL.ROI_HEADS.NUM_CLASSES = num_classes
    with _refusals():
        return build(node)


def from_python(file: Path, section: AnyD2Config, num_classes: int) -> D2Model:
    """Build from one of detectron2's own Python configs."""
    from detectron2.config import LazyConfig, instantiate
    from omegaconf import OmegaConf

    cfg = LazyConfig.load(str(file))
    for key, value in section.opts.items():
        _set(OmegaConf, cfg, key, value)
    head = cfg.model.roi_heads if "roi_heads" in cfg.model else cfg.model
    head.num_classes = num_classes
    with _refusals():
        model = instantiate(cfg.model)
    wanted = {"d2_retinanet": "RetinaNet", "d2_fcos": "FCOS", "d2_faster_rcnn": "GeneralizedRCNN"}[section.name]
    if type(model).__name__ != wanted:
        raise SsodError("config", FIELD, f"is of a {type(model).__name__}, not of '{section.name}'", "name that one")
    return model


@contextmanager
def _refusals() -> Generator[None, None, None]:
    """Turn what detectron2 says of a config into one line."""
    try:
        yield
    except (KeyError, ValueError, TypeError, AssertionError) as error:
        problem = f"detectron2 refuses it: {type(error).__name__}: {str(error).strip(chr(39))}"
        raise SsodError("config", FIELD, problem, MEND) from error


@contextmanager
def _quiet() -> Generator[None, None, None]:
    logger = logging.getLogger("fvcore.common.config")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _set(conf: Any, cfg: Any, key: str, value: Any) -> None:
    """Change one setting that is there; ``flatten`` has let no other kind through."""
    parent, _, last = key.rpartition(".")
    node = conf.select(cfg, parent) if parent else None
    if not key.startswith("model.") or node is None or last not in node:
        raise SsodError("config", f"detector.opts.{key}", "the config has no such key", "write e.g. model.head.norm")
    conf.update(cfg, key, value, merge=False)

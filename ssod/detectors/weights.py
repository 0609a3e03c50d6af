"""Pretrained weights: where they come from, and how their names and class columns become ours.

Our detectors keep torchvision's ``state_dict`` names, so a torchvision checkpoint needs no renaming (its modules
rename what older files call otherwise). Two things are mapped:

* **backbone files** (ImageNet classifiers): ``<name>`` or ``features.<name>`` -> ``backbone.body.<name>``; the
  classifier is left out. The authors' RLA-ResNets have other names (``ssod.detectors.rla``), and a plain ResNet's
  convolutions are filled up with 0 where ours read a memory.
* **class columns**, where the file has another number of them than we have:

  ========================  ================================  =====================================================
  file                      ours                              columns taken
  ========================  ================================  =====================================================
  as many                   K (dense), K + 1 (two-stage)      all; column 0 of a two-stage head is background
  91 (torchvision's COCO)   80 classes                        the 80 category ids in use, and background (two-stage)
  K + 1 (torchvision)       K, dense                          all but column 0, which torchvision leaves unused
  any other                 any                               none: the class layers start afresh, which is logged
  ========================  ================================  =====================================================

  A model of ssod's own says what its classes are called. Each of ours then takes the column of its name, and background
  that of background; a class that the file does not know starts afresh, which is logged.
"""

from __future__ import annotations

import logging
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.models import WeightsEnum, get_model_weights
from torchvision.ops import FrozenBatchNorm2d

from ssod.detectors.backbones import GROUPS, BackboneConfig
from ssod.detectors.rla import FRESH, own_name, widened
from ssod.structures import Detector
from ssod.utils import graph_file, model_file, torch_file
from ssod.utils.errors import Exit, SsodError

State = dict[str, Tensor]

TORCHVISION = {
    "retinanet": "retinanet_resnet50_fpn",
    "fcos": "fcos_resnet50_fpn",
    "faster_rcnn": "fasterrcnn_resnet50_fpn",
}

_DENSE = "classification_head.cls_logits."  # of the head, or of each of its levels
_SCORE, _BOX = "roi_heads.box_predictor.cls_score.", "roi_heads.box_predictor.bbox_pred."
_WORDS = ("imagenet", "coco", "none")

log = logging.getLogger("ssod")


class Loaded(NamedTuple):
    """What a file gave: the number of tensors taken, and the names of ours that it had nothing for."""

    taken: int
    fresh: tuple[str, ...]


def initialise(detector: Detector, cfg: BackboneConfig, classes: Sequence[str] = ()) -> Loaded:
    """Load the weights that ``cfg.weights`` names into a freshly built detector.

    Args:
        detector: of ``cfg``.
        cfg: its config.
        classes: the names of its classes, if they are known.

    Raises:
        SsodError: offline and not downloaded before; no such file; damaged; made for another detector.
    """
    if cfg.weights == "none":
        return Loaded(0, tuple(detector.state_dict()))
    if cfg.weights == "imagenet":
        state = fetch(get_model_weights(cfg.backbone)["IMAGENET1K_V1"])
    elif cfg.weights == "coco":
        state = fetch(get_model_weights(TORCHVISION[cfg.name])["COCO_V1"])
    else:
        state = read(Path(cfg.weights))
        theirs = model_file.class_names(cfg.weights) if classes else None
        if theirs is not None and theirs != list(classes):
            state = by_name(detector, state, theirs, classes, cfg.weights)
    loaded = fit(detector, state, cfg, cfg.weights)
    log.info("weights %s: %d tensors taken, %d start afresh", cfg.weights, loaded.taken, len(loaded.fresh))
    return loaded


def match_eps(detector: Detector, cfg: BackboneConfig) -> None:
    """Give frozen batch-norm the epsilon that the weights were trained with.

    torchvision's COCO weights of RetinaNet and Faster R-CNN were trained when its frozen batch-norm had none.
    """
    if cfg.weights == "coco" and cfg.name != "fcos":
        for module in detector.modules():
            if isinstance(module, FrozenBatchNorm2d):
                module.eps = 0.0


def fetch(weights: WeightsEnum) -> State:
    """Return torchvision's weights, downloaded once into torch's cache.

    Raises:
        SsodError: they are not in the cache and cannot be downloaded.
    """
    cache = Path(torch.hub.get_dir()) / "checkpoints"
    try:
        return weights.get_state_dict(progress=True, check_hash=True, weights_only=True, map_location="cpu")
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise SsodError(
            "config",
            "detector.weights",
            f"cannot get {weights.url} ({type(error).__name__})",
            f"put that file into {cache}, or use weights: <path> or none",
            code=Exit.IO,
        ) from error


def read(path: Path) -> State:
    """Read a ``state_dict`` from ``.safetensors`` or ``.pth``/``.pt``, tensors only; no code in the file can run.

    Names may begin with ``module.``, as ``DataParallel`` has them.

    Raises:
        SsodError: absent, damaged, not finite, not a ``state_dict``, or a pickle that wants more than tensors (code 7).
    """
    if not path.is_file():
        words = ", ".join(_WORDS)
        raise SsodError("config", "detector.weights", f"no file '{path}'", f"one of {words}, or a file's path")
    graph_file.refuse(path, "trained on, or copied into a detector")
    if path.suffix == ".safetensors":
        return _finite(path, alone(model_file.tensors(path)))
    state = torch_file.read(path, "save its state_dict alone, or as .safetensors")
    for wrapper in ("model", "state_dict"):
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    named = isinstance(state, dict) and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items())
    if not named or not state:
        raise SsodError(path, "", "holds no state_dict", "save model.state_dict()", code=Exit.CHECKPOINT)
    return _finite(path, alone(state))


def alone(state: State) -> State:
    """Take `module.` off the names of a net that ``DataParallel`` had around it."""
    wrapped = all(name.startswith("module.") for name in state)
    return {name.removeprefix("module."): value for name, value in state.items()} if wrapped else state


def _finite(path: Path, state: State) -> State:
    """Refuse weights that no training recovers from, here where the file is known."""
    model_file.check_finite(path, state, Exit.CHECKPOINT)
    return state


def fit(detector: Detector, state: State, cfg: BackboneConfig, source: str) -> Loaded:
    """Copy ``state`` into ``detector``, mapping names and class columns as the module's page says.

    Raises:
        SsodError: code 4; the file lacks weights of the backbone (or, from a detector, of the pyramid or the head), or
            their shapes differ.
    """
    whole = any(name.startswith("backbone.") for name in state)
    state = adapt_classes(detector, state) if whole else backbone_names(state, cfg.backbone)
    own = detector.state_dict()
    state = widened(state, own)
    try:
        missing, unexpected = detector.load_state_dict(state, strict=False)
    except RuntimeError as error:
        detail = str(error).strip().splitlines()[-1].strip()
        raise _misfit(source, detail) from error
    by_class = {name for name in own if is_by_class(name)}
    optional = by_class | {name for name in own if name.endswith("num_batches_tracked")} | {"level_scale"}
    new = ("head.spread.", "roi_heads.box_predictor.spread.", "backbone.finest.", *FRESH)
    optional |= {name for name in own if name.startswith(new)}
    needed = set(own) if whole else {name for name in own if name.startswith("backbone.body.")}
    lacking = [name for name in missing if name in needed - optional]
    stages = tuple(f"backbone.body.{child}." for group in GROUPS[cfg.backbone] for child in group)
    foreign = [name for name in unexpected if not name.startswith(stages) and not name.endswith("num_batches_tracked")]
    if lacking:
        raise _misfit(source, f"{len(lacking)} of {len(needed)} weights are not in it, first {lacking[0]}")
    if foreign:
        raise _misfit(source, f"{len(foreign)} of its weights have no place, first {foreign[0]}")
    fresh = tuple(name for name in missing if not name.endswith("num_batches_tracked"))
    if whole and by_class & set(fresh):
        log.warning("weights %s: other classes; the class layers start afresh", source)
    return Loaded(len(own) - len(missing), fresh)


def backbone_names(state: State, backbone: str) -> State:
    """Rename an ImageNet classifier's weights; the classifier itself is left out."""
    prefix = "features." if backbone == "mobilenet_v3_large" else ""
    heads = ("fc.", "classifier.", "bn2.")
    return {
        f"backbone.body.{own_name(name).removeprefix(prefix)}": value
        for name, value in state.items()
        if not name.startswith(heads)
    }


def adapt_classes(detector: Detector, state: State) -> State:
    """Choose the class columns of the last layers, or leave those layers out where no column fits."""
    own, adapted = detector.state_dict(), dict(state)
    for name, outer, inner in class_layers(detector, state):
        value = state[name]
        have, want = len(value) // (outer * inner), len(own[name]) // (outer * inner)
        columns = class_columns(have, want, _DENSE in name)
        if columns is None or len(value) != outer * inner * have:
            del adapted[name]
        else:
            grid = value.view(outer, have, inner, *value.shape[1:])
            adapted[name] = grid[:, columns].reshape(own[name].shape[0], *value.shape[1:])
    return adapted


def by_name(detector: Detector, state: State, theirs: list[str], ours: Sequence[str], source: str) -> State:
    """Give each of our classes the column of its name, and those that the file does not know the detector's own.

    Args:
        detector: freshly built.
        state: of a detector with the classes ``theirs``.
        theirs: the file's classes, in its order.
        ours: the detector's.
        source: the file, for the log.
    """
    known = [name for name in ours if name in theirs]
    if len(known) < len(ours):
        new = ", ".join(name for name in ours if name not in theirs)
        log.warning("weights %s: no class of these names, they start afresh: %s", source, new)
    own, adapted = detector.state_dict(), dict(state)
    for name, outer, inner in class_layers(detector, state):
        if name.startswith(_BOX) and len(own[name]) == len(state[name]) == 4:
            continue  # one box for all classes
        background = 0 if _DENSE in name else 1
        to = [*range(background), *(background + ours.index(c) for c in known)]
        of = [*range(background), *(background + theirs.index(c) for c in known)]
        if len(state[name]) != outer * inner * (background + len(theirs)):
            raise _misfit(source, f"{name} has {len(state[name])} rows, not those of {len(theirs)} classes")
        shape = (outer, -1, inner, *state[name].shape[1:])
        grid = own[name].clone().view(shape)
        grid[:, to] = state[name].view(shape)[:, of].to(grid)
        adapted[name] = grid.flatten(0, 2)
    return adapted


def class_layers(detector: Detector, state: State) -> list[tuple[str, int, int]]:
    """Return the weights with rows for classes: name, outer and inner of their rows [outer, classes, inner]."""
    own = detector.state_dict()
    return [
        (name, detector.anchors.per_cell if _DENSE in name else 1, 4 if name.startswith(_BOX) else 1)
        for name in state
        if name in own and is_by_class(name)
    ]


def is_by_class(name: str) -> bool:
    """Whether a weight of this name has rows for classes."""
    return _DENSE in name or name.startswith((_SCORE, _BOX))


def class_columns(have: int, want: int, dense: bool) -> list[int] | None:
    """Return which of a file's ``have`` class columns are our ``want``, or None; see the module's page."""
    if have == want:
        return list(range(have))
    categories = coco_ids()
    background = [] if dense else [0]
    if have == 91 and want == len(categories) + len(background):
        return background + categories
    if dense and have == want + 1:
        return list(range(1, have))
    return None


def coco_ids() -> list[int]:
    """Return COCO's 80 category ids in use, ascending: the order of labels 0..79."""
    names = get_model_weights(TORCHVISION["retinanet"])["COCO_V1"].meta["categories"]
    return [i for i, name in enumerate(names) if name not in ("N/A", "__background__")]


def _misfit(source: str, detail: str) -> SsodError:
    fix = "the detector section must be the one that the file was trained with"
    return SsodError(source, "", f"does not fit: {detail}", fix, code=Exit.CHECKPOINT)

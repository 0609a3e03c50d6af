"""Weights in detectron2's files, read without running what they say, and fitted by name.

detectron2's zoo is pickles of NumPy arrays (``.pkl``), its training writes ``.pth``. A pickle names functions to call;
here every one of the few names that an array needs stands for a class of ours that only keeps what it is given, and any
other name is refused.
"""

from __future__ import annotations

import logging
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from ssod.detectors.d2.config import D2Config
from ssod.detectors.weights import Loaded, State, read
from ssod.structures import Detector
from ssod.utils import model_file
from ssod.utils.errors import Exit, SsodError

# Layers with a row for each class.
CLASS_LAYERS = (
    "head.cls_score.",
    "roi_heads.box_predictor.cls_score.",
    "roi_heads.box_predictor.bbox_pred.",
)
# What older files hold besides: anchors and pixel statistics, which the config says.
_DERIVED = ("anchor_generator.", "pixel_mean", "pixel_std")
_NUMBERS = {"f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"}

log = logging.getLogger("ssod")


def initialise(detector: Detector, cfg: D2Config, classes: Sequence[str] = ()) -> Loaded:
    """Load the weights that ``cfg.weights`` names into a freshly built detector.

    Args:
        detector: of ``cfg``.
        cfg: its config.
        classes: the names of its classes, if they are known. Where the file is a model of ssod's own with others, or
            with the same in another order, the class layers start afresh.

    Raises:
        SsodError: code 2, no weights though the backbone is frozen, or no such file; code 4, damaged or made for
            another detector; code 7, a pickle that wants more than arrays.
    """
    if cfg.weights == "none":
        refuse_frozen(detector)
        return Loaded(0, tuple(detector.state_dict()))
    state, heuristics = read_file(Path(cfg.weights))
    if classes and model_file.class_names(cfg.weights) not in (None, list(classes)):
        log.warning("weights %s: other classes; the class layers start afresh", cfg.weights)
        state = {name: value for name, value in state.items() if not name.startswith(CLASS_LAYERS)}
    if heuristics:
        state = match_names(detector, state)
    loaded = fit(detector, state, cfg.weights, backbone_only=heuristics)
    log.info("weights %s: %d tensors taken, %d start afresh", cfg.weights, loaded.taken, len(loaded.fresh))
    return loaded


def refuse_frozen(detector: Detector) -> None:
    """Raise ``SsodError`` where random weights would stay as they are."""
    frozen = [p for p in detector.backbone.parameters() if not p.requires_grad]
    kinds = {type(module).__name__ for module in detector.backbone.modules()}
    if frozen or "FrozenBatchNorm2d" in kinds or any(isinstance(m, FrozenBatchNorm2d) for m in detector.modules()):
        problem = "none, and the config freezes layers or batch-norm, which would stay random"
        fix = "give a path, or opts: {MODEL.RESNETS.NORM: BN, MODEL.BACKBONE.FREEZE_AT: 0}"
        raise SsodError("config", "detector.weights", problem, fix)


def read_file(path: Path) -> tuple[State, bool]:
    """Return the tensors of a ``.pkl``, ``.pth`` or ``.safetensors``, and whether their names are Caffe2's.

    Raises:
        SsodError: see ``initialise``.
    """
    if path.suffix != ".pkl":
        return read(path), False
    if not path.is_file():
        raise SsodError("config", "detector.weights", f"no file '{path}'", "one of none, or a file's path")
    tree = read_pickle(path)
    zoo = "model" in tree and "__author__" in tree
    arrays = tree["model"] if zoo else tree.get("blobs", tree)
    if not isinstance(arrays, dict) or not arrays:
        raise SsodError(path, "", "holds no weights", "it is no model of detectron2", code=Exit.CHECKPOINT)
    state = {}
    for name, value in arrays.items():
        if isinstance(value, np.ndarray) and isinstance(name, str):
            state[name] = torch.from_numpy(value)
        elif zoo:
            problem = f"is a {type(value).__name__}, no array"
            raise SsodError(path, str(name), problem, "save arrays alone", code=Exit.CHECKPOINT)
    model_file.check_finite(path, state, Exit.CHECKPOINT)
    return state, bool(tree.get("matching_heuristics")) or not zoo


def match_names(detector: nn.Module, state: State) -> State:
    """Rename Caffe2's weights, as those of ImageNet backbones; detectron2 knows how."""
    from detectron2.checkpoint.c2_model_loading import align_and_update_state_dicts

    own = detector.state_dict()
    kept = {name: value for name, value in state.items() if not name.endswith("_momentum")}
    renamed = align_and_update_state_dicts(own, kept, c2_conversion=True)
    return {name: value for name, value in renamed.items() if name in own}


def fit(detector: nn.Module, state: State, source: str, *, backbone_only: bool = False) -> Loaded:
    """Copy ``state`` into ``detector`` by name; class layers of another number of classes start afresh, with a warning.

    Args:
        detector: with detectron2's names.
        state: the file's tensors.
        source: the file, for messages.
        backbone_only: whether the file need not hold more than the backbone.

    Raises:
        SsodError: code 4; the file lacks weights, has some that have no place, or of another shape.
    """
    own = detector.state_dict()
    state = {n: v for n, v in state.items() if not any(part in n for part in _DERIVED)}
    other = [n for n in own if n.startswith(CLASS_LAYERS) and n in state and state[n].shape != own[n].shape]
    for name in other:
        del state[name]
    if other:
        log.warning("weights %s: other classes; the class layers start afresh", source)
    needed = {n for n in own if not n.startswith(("normalizer", *CLASS_LAYERS)) and not n.endswith("batches_tracked")}
    if backbone_only:
        needed = {n for n in needed if n.startswith("backbone.bottom_up.")}
    lacking = sorted(n for n in needed if n not in state)
    foreign = [n for n in state if n not in own]
    wrong = [n for n in state if n in own and state[n].shape != own[n].shape]
    if lacking:
        raise _misfit(source, f"{len(lacking)} of {len(needed)} weights are not in it, first {lacking[0]}")
    if foreign:
        raise _misfit(source, f"{len(foreign)} of its weights have no place, first {foreign[0]}")
    if wrong:
        name = wrong[0]
        raise _misfit(source, f"{name} is {list(state[name].shape)}, needed {list(own[name].shape)}")
    detector.load_state_dict(state, strict=False)
    return Loaded(len(state), tuple(n for n in own if n not in state and not n.endswith("batches_tracked")))


def _misfit(source: str, detail: str) -> SsodError:
    fix = "the detector section must be the one that the file was trained with"
    return SsodError(source, "", f"does not fit: {detail}", fix, code=Exit.CHECKPOINT)


# ---- pickles -------------------------------------------------------------------------------------------------------


def read_pickle(path: Path) -> dict[str, Any]:
    """Read a pickled dict of plain values and NumPy arrays of numbers; nothing in it is called.

    Raises:
        SsodError: code 7, it names anything else; code 4, it is damaged or no dict.
    """
    try:
        with open(path, "rb") as file:
            tree = _Reader(file, encoding="latin1").load()
        tree = _arrays(tree)
    except _Refused as error:
        fix = "save its arrays alone, or as .safetensors"
        raise SsodError(path, "", f"is not unpickled: it wants {error}", fix, code=Exit.UNSAFE) from None
    except Exception as error:  # a damaged pickle can raise anything
        problem = f"cannot be read: {type(error).__name__}"
        raise SsodError(path, "", problem, "copy it again", code=Exit.CHECKPOINT) from error
    if not isinstance(tree, dict):
        problem = f"holds a {type(tree).__name__}, no weights"
        raise SsodError(path, "", problem, "save a dict of arrays by name", code=Exit.CHECKPOINT)
    return tree


class _Refused(Exception):
    pass


class _Dtype:
    """What a pickle says of a ``numpy.dtype``: the word it is made from, and its byte order."""

    def __init__(self, word: Any = "", *_: Any) -> None:
        self.word, self.order = word, "<"

    def __setstate__(self, state: Any) -> None:
        self.order = state[1]

    def real(self) -> np.dtype:
        if self.word not in _NUMBERS or self.order not in ("<", ">", "|", "="):
            raise _Refused(f"an array of {self.word!r}")
        return np.dtype(f"{self.order}{self.word}")


class _Array:
    """What a pickle says of an array: shape, type, order and bytes."""

    def __init__(self, *_: Any) -> None:
        self.state: tuple = ()

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def real(self) -> np.ndarray:
        _, shape, kind, fortran, data = self.state
        if not isinstance(kind, _Dtype):
            raise _Refused("an array of no type")
        if isinstance(data, str):  # bytes, as Python 2 wrote them
            data = data.encode("latin1")
        if not isinstance(data, bytes):
            raise _Refused("an array of objects")
        flat = np.frombuffer(data, kind.real())
        return flat.reshape(shape, order="F" if fortran else "C").astype(kind.real().newbyteorder("="), order="C")


class _Scalar:
    """What a pickle says of a NumPy number."""

    def __init__(self, kind: Any, data: Any) -> None:
        self.kind, self.data = kind, data

    def real(self) -> Any:
        data = self.data.encode("latin1") if isinstance(self.data, str) else self.data
        if not isinstance(self.kind, _Dtype) or not isinstance(data, bytes):
            raise _Refused("a number of no type")
        return np.frombuffer(data, self.kind.real())[0].item()


def _latin1(text: str, encoding: str) -> bytes:
    """Python 3 writes bytes into an old pickle as text and its encoding."""
    if encoding != "latin1" or not isinstance(text, str):
        raise _Refused(f"text in {encoding}")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    """Python 3 writes empty bytes into an old pickle as a call of ``bytes``."""
    return b""


def _buffer(data: Any, kind: Any, shape: Any, order: str) -> _Array:
    """Newer pickles write an array as its bytes."""
    array = _Array()
    array.state = (1, shape, kind, order == "F", bytes(data) if isinstance(data, bytearray) else data)
    return array


_KNOWN = {
    ("numpy", "dtype"): _Dtype,
    ("numpy", "ndarray"): _Array,
    ("numpy.core.numeric", "_frombuffer"): _buffer,
    ("numpy._core.numeric", "_frombuffer"): _buffer,
    ("_codecs", "encode"): _latin1,
    ("__builtin__", "bytes"): _no_bytes,
    ("collections", "OrderedDict"): dict,
} | {
    (f"numpy.{core}.multiarray", name): kind
    for core in ("core", "_core")
    for name, kind in (("_reconstruct", _Array), ("scalar", _Scalar))
}


class _Reader(pickle.Unpickler):
    """Knows the names of ``_KNOWN`` and refuses the rest."""

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _KNOWN[module, name]
        except KeyError:
            raise _Refused(f"{module}.{name}") from None


def _arrays(value: Any) -> Any:
    """Replace what was kept of arrays by arrays, in dicts and lists however deep."""
    if isinstance(value, _Array | _Scalar):
        return value.real()
    if isinstance(value, dict):
        return {key: _arrays(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_arrays(inner) for inner in value)
    if value is None or isinstance(value, str | bytes | int | float | bool):
        return value
    raise _Refused(f"a {type(value).__name__}")

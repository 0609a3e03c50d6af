"""What a checkpoint holds, part by part: one that a stranger wrote has a good hash, and may lack anything."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field, InstanceOf
from torch import Tensor

from ssod.engine.checkpointing import checkpoint
from ssod.engine.checkpointing.checkpoint import State
from ssod.utils import untrusted
from ssod.utils.errors import Exit
from ssod.utils.untrusted import Kinds, Source

MOST_VALUES = 100_000  # of a vector that a line of the log tells: one for each class

_Count = Annotated[int, Field(ge=0)]
_Tensors = dict[str, InstanceOf[Tensor]]

_PARTS: Kinds = {
    **{"step": _Count, "bad": _Count, "best": float | None, "metrics": dict[str, float], "pending": bool},
    **{"ahead": _Count | None, "plateau": dict[str, Any] | None, "plateau.best": float | None},
    **{"plateau.waited": _Count | None},
    **{"setbacks": _Count | None, "watch": dict[str, Any] | None, "watch.best": float | None},
    **{"watch.teaching": bool | None, "watch.lasting": dict[str, _Count] | None},
    **{"identity": dict[str, Any], "identity.config": dict[str, Any] | None, "identity.classes": dict[str, Any] | None},
    **{"identity.classes.names": list[str] | None, "identity.world_size": Annotated[int, Field(ge=1)] | None},
    "identity.pixels": dict[str, str] | None,
    **{"method": dict[str, Any], "optimizer": dict[str, dict[str, Any]], "scaler": dict[str, Any]},
    "ranks": Annotated[list[dict[str, Any]], Field(min_length=1)],
    "deciding": dict[str, Any] | None,
}
_RANK: Kinds = {
    **{"window": dict[str, Any], "window.sums": _Tensors, "window.last": _Tensors, "window.skipped": _Count},
    **{"window.counts": dict[str, Annotated[int, Field(ge=1)]], "buffers": _Tensors},
}


def load(path: Path) -> State:
    """Return the state in ``path``, on the CPU, with all its parts.

    Raises:
        SsodError: code 4 when the file is damaged, of another schema, lacks a part or holds one of another kind;
            code 7 when it holds anything but tensors and plain values.
    """
    state = checkpoint.load(path)
    source = Source(path, "use another checkpoint", Exit.CHECKPOINT)
    untrusted.checked(source, "", state, _PARTS)
    names = None
    for number, rank in enumerate(state["ranks"]):
        where = f"ranks[{number}]"
        untrusted.checked(source, where, rank, _RANK)
        names = rank["buffers"].keys() if names is None else names
        if rank["buffers"].keys() != names:
            raise source.error(f"{where}.buffers", "others than those of the first process")
        _check_window(source, f"{where}.window", rank["window"])
    return state


def _check_window(source: Source, where: str, window: Mapping[str, Any]) -> None:
    """Test that averages are numbers, and that of vectors there is no more than a line of the log can tell."""
    if window["sums"].keys() != window["counts"].keys():
        raise source.error(where, "sums and counts of other names")
    for part, most in (("sums", 1), ("last", MOST_VALUES)):
        name = next((name for name, value in window[part].items() if not 1 <= value.numel() <= most), None)
        if name is not None:
            raise source.error(f"{where}.{part}.{name}", f"{window[part][name].numel()} values, at most {most}")


def check_fit(path: Path, saved: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Test that all tensors of a state fit the method that was built: its own, its momentum, the ranks' buffers.

    Args:
        path: the file, for messages.
        saved: what ``load`` returned.
        own: ``state_dict`` of the method.

    Raises:
        SsodError: code 4; names the first key that does not fit.
    """
    checkpoint.check_model(path, saved["method"], own)
    source = Source(path, "use another checkpoint", Exit.CHECKPOINT)
    for name, values in saved["optimizer"].items():
        for key, value in values.items() if name in own else ():
            shape = value.shape if isinstance(value, Tensor) else None
            if value is not None and shape != (torch.Size() if key == "step" else own[name].shape):
                said = f"a {type(value).__name__}" if shape is None else f"shape {list(shape)}"
                raise source.error(f"optimizer.{name}.{key}", f"{said} beside a weight of {list(own[name].shape)}")
    for rank in saved["ranks"]:
        for name, value in rank["buffers"].items():
            if name in own and (value.shape, value.dtype) != (own[name].shape, own[name].dtype):
                problem = f"{value.dtype} {list(value.shape)}, the model has {own[name].dtype} {list(own[name].shape)}"
                raise source.error(f"ranks.buffers.{name}", problem)

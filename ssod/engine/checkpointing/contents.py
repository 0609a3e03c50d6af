"""What a checkpoint holds, part by part: one that a stranger wrote has a good hash, and may lack anything."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, InstanceOf
from torch import Tensor

from ssod.engine.checkpointing import checkpoint
from ssod.engine.checkpointing.checkpoint import State
from ssod.utils import untrusted
from ssod.utils.errors import Exit
from ssod.utils.untrusted import Kinds, Source

_Count = Annotated[int, Field(ge=0)]
_Tensors = dict[str, InstanceOf[Tensor]]

_PARTS: Kinds = {
    **{"step": _Count, "bad": _Count, "best": float | None, "metrics": dict[str, float], "pending": bool},
    **{"setbacks": _Count | None, "watch": dict[str, Any] | None, "watch.best": float | None},
    **{"watch.teaching": bool | None, "watch.lasting": dict[str, _Count] | None},
    **{"identity": dict[str, Any], "identity.config": dict[str, Any] | None, "identity.classes": dict[str, Any] | None},
    **{"identity.classes.names": list[str] | None, "identity.world_size": Annotated[int, Field(ge=1)] | None},
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
    for number, rank in enumerate(state["ranks"]):
        untrusted.checked(source, f"ranks[{number}]", rank, _RANK)
        window = rank["window"]
        if window["sums"].keys() != window["counts"].keys():
            raise source.error(f"ranks[{number}].window", "sums and counts of other names")
    return state


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
    kept = ((f"optimizer.{name}.{key}", own[name], value) for name, values in saved["optimizer"].items()
            if name in own for key, value in values.items() if isinstance(value, Tensor) and value.ndim)  # fmt: skip
    buffers = ((f"ranks.buffers.{name}", own[name], value) for rank in saved["ranks"]
               for name, value in rank["buffers"].items() if name in own)  # fmt: skip
    for where, tensor, value in (*kept, *buffers):
        if value.shape != tensor.shape:
            raise source.error(where, f"shape {list(value.shape)}, the model has {list(tensor.shape)}")

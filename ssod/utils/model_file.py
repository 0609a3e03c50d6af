"""A trained detector in one file: safetensors, with a card in its header that says how to build it and what it is."""

import json
import struct
from pathlib import Path
from typing import Any

import safetensors
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor

from ssod.utils import atomic
from ssod.utils.errors import Exit, SsodError

FORMAT = 1
HEADER_LIMIT = 100 * 1024 * 1024
_CARD = "ssod"
_NEEDED = ("format", "detector", "classes", "val_view")

Card = dict[str, Any]


def save(path: Path | str, state: dict[str, Tensor], card: Card) -> None:
    """Write weights and card, all or nothing.

    Args:
        path: the file, ``*.safetensors``.
        state: the detector's ``state_dict``; tensors of any device.
        card: plain values. ``detector`` (its config section), ``classes`` (``names``, ``ids``), ``val_view`` (the
            views pipeline of evaluation), ``pixels`` (``levels`` and ``alpha``, how images were read), ``method``,
            ``metrics``, ``split_hash``, ``version``, ``step``.

    Raises:
        SsodError: code 5 when a weight is not finite, code 6 when the disk refuses.
    """
    path = Path(path)
    _check_finite(path, state, Exit.DIVERGED)
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}
    content = to_bytes(tensors, {_CARD: json.dumps({"format": FORMAT, **card})})
    atomic.write(path, lambda file: file.write(content), label="model")


def read(path: Path | str) -> tuple[dict[str, Tensor], Card]:
    """Return the weights, on the CPU, and the card.

    Raises:
        SsodError: code 4 when the file is absent, damaged, of a newer format, without a card or with non-finite
            weights; code 7 when it is no safetensors file or its header is unreasonable.
    """
    path = Path(path)
    card = read_card(path)
    state = load_file(path)
    _check_finite(path, state, Exit.CHECKPOINT)
    return state, card


def read_card(path: Path | str) -> Card:
    """Return the card alone; raises as ``read`` does, but looks at no weight."""
    path = Path(path)
    _check_header(path)
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except safetensors.SafetensorError as error:
        raise SsodError(path, "", f"damaged: {error}", "copy or download it again", code=Exit.CHECKPOINT) from error
    try:
        card = json.loads(metadata[_CARD])
    except (KeyError, ValueError, RecursionError) as error:
        raise SsodError(
            path,
            "header",
            "has no readable card: not written by ssod",
            "use a run's best.safetensors",
            code=Exit.CHECKPOINT,
        ) from error
    version = card.get("format") if isinstance(card, dict) else None
    if version != FORMAT:
        fix = "upgrade ssod" if isinstance(version, int) and version > FORMAT else ""
        raise SsodError(path, "format", f"{version}, this version reads {FORMAT}", fix, code=Exit.CHECKPOINT)
    missing = [key for key in _NEEDED if key not in card]
    if missing:
        raise SsodError(path, f"card.{missing[0]}", "missing", "write the file again", code=Exit.CHECKPOINT)
    return card


def class_names(path: Path | str) -> list[str] | None:
    """Return the classes of a model that ssod wrote, in the order of their labels; None for any other file.

    Raises:
        SsodError: as ``read_card`` does, for a file that ssod wrote.
    """
    if Path(path).suffix != ".safetensors":
        return None
    with safetensors.safe_open(path, framework="pt") as file:
        known = _CARD in (file.metadata() or {})
    return list(read_card(path)["classes"]["names"]) if known else None


def _check_header(path: Path) -> None:
    """Refuse pickles and absurd headers before any parser sees the file."""

    def damaged(problem: str, fix: str = "copy or download it again") -> SsodError:
        return SsodError(path, "", problem, fix, code=Exit.CHECKPOINT)

    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            head = file.read(8)
    except OSError as error:
        raise damaged(f"cannot be read: {error.strerror}", "check the path") from error
    if len(head) < 8:
        raise damaged(f"cut off after {size} bytes")
    length = struct.unpack("<Q", head)[0]
    if 8 + length <= size and length <= HEADER_LIMIT:
        return
    # Only now: the length of an honest header may begin with the same bytes.
    if head[:2] in (b"PK", *(bytes([0x80, protocol]) for protocol in range(2, 6))):
        raise SsodError(path, "", "a pickle or .pt file; only .safetensors is loaded", "convert it", code=Exit.UNSAFE)
    if length > HEADER_LIMIT:
        problem = f"header of {length:.2g} bytes > {HEADER_LIMIT // 2**20} MB limit"
        raise SsodError(path, "", problem, "not a safetensors file; refused", code=Exit.UNSAFE)
    raise damaged(f"cut off after {size} bytes")


def _check_finite(path: Path, state: dict[str, Tensor], code: Exit) -> None:
    for name, value in state.items():
        bad = int((~value.isfinite()).sum()) if value.is_floating_point() else 0
        if bad:
            raise SsodError(path, name, f"{bad} non-finite values; refusing", "use an older model", code=code)

"""A trained detector in one file: safetensors, with a card in its header that says how to build it and what it is."""

import json
import struct
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import safetensors
from pydantic import Field
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor

from ssod.utils import atomic, untrusted
from ssod.utils.errors import Exit, SsodError
from ssod.utils.untrusted import MB, Kinds, Source

FORMAT = 1
HEADER_LIMIT = 100 * MB
CARD_LIMIT = 16 * MB
MOST_CLASSES = 100_000
_CARD = "ssod"

Card = dict[str, Any]

_Name = Annotated[str, Field(min_length=1, max_length=1000)]
# What a card must say and may say; that the detector's section and the view are good is for those who build them.
_ENTRIES: Kinds = {
    **{"format": int, "detector": dict[str, Any], "classes": dict[str, Any]},
    "classes.names": Annotated[list[_Name], Field(min_length=1, max_length=MOST_CLASSES)],
    **{"classes.ids": list[int], "val_view": list[Any], "pixels": dict[str, Any] | None},
    "tiles": dict[str, Any] | None,
    "pixels.levels": Annotated[list[float], Field(min_length=2, max_length=2)] | None,
    "pixels.alpha": Literal["blend", "ignore"] | None,
    **{"step": Annotated[int, Field(ge=0)] | None, "method": str | None, "metrics": dict[str, float | None] | None},
}
_KINDS = {f"card.{key}": kind for key, kind in _ENTRIES.items()}


def save(path: Path | str, state: dict[str, Tensor], card: Card) -> None:
    """Write weights and card, all or nothing.

    Args:
        path: the file, ``*.safetensors``.
        state: the detector's ``state_dict``; tensors of any device.
        card: plain values. ``detector`` (its config section), ``classes`` (``names``, ``ids``), ``val_view`` (the
            views pipeline of evaluation), ``tiles`` (where large images are looked at in parts: ``views.tiles``),
            ``pixels`` (``levels`` and ``alpha``, how images were read), ``method``, ``metrics``, ``split_hash``,
            ``version``, ``step``.

    Raises:
        SsodError: code 5 when a weight is not finite, code 6 when the disk refuses.
    """
    path = Path(path)
    check_finite(path, state, Exit.DIVERGED)
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}
    content = to_bytes(tensors, {_CARD: json.dumps({"format": FORMAT, **card})})
    atomic.write(path, lambda file: file.write(content), label="model")


def read(path: Path | str) -> tuple[dict[str, Tensor], Card]:
    """Return the weights, on the CPU, and the card.

    Raises:
        SsodError: code 4 when the file is absent, damaged, of a newer format, without a card or with non-finite
            weights; code 7 when it is no safetensors file or its header is unreasonable.
    """
    card = read_card(path)
    return weights(path), card


def weights(path: Path | str) -> dict[str, Tensor]:
    """Return the weights alone; raises as ``read`` does. ``shapes`` tells before what memory they take."""
    path = Path(path)
    state = tensors(path)
    check_finite(path, state, Exit.CHECKPOINT)
    return state


def tensors(path: Path) -> dict[str, Tensor]:
    """Return what any ``.safetensors`` holds; raises as ``read`` does, but asks for no card and no finite numbers."""
    with _opened(path):
        return load_file(path)


def read_card(path: Path | str) -> Card:
    """Return the card alone, whose entries are of the kinds that they must be; looks at no weight.

    Raises:
        SsodError: as ``read`` does.
    """
    path = Path(path)
    with _opened(path) as file:
        text = (file.metadata() or {}).get(_CARD)
    if text is None:
        problem = "has no readable card: not written by ssod"
        raise SsodError(path, "header", problem, "use a run's best.safetensors", code=Exit.CHECKPOINT)
    return card_of(path, text)


def card_of(path: Path, text: str, again: str = "write the file again") -> Card:
    """Return the card that a text says, whose entries are of the kinds that they must be.

    Args:
        path: the file that it stands in, for messages.
        text: JSON.
        again: what to do about a file whose card is none.

    Raises:
        SsodError: code 4.
    """
    foreign = Source(path, "use a run's best.safetensors", Exit.CHECKPOINT)
    if len(text) > CARD_LIMIT:
        raise foreign.error("card", f"{len(text) / MB:.0f} MB > {CARD_LIMIT / MB:.0f} MB limit")
    card = untrusted.parse_json(foreign, "card", text)
    version = card.get("format") if isinstance(card, dict) else None
    if version != FORMAT:
        fix = "upgrade ssod" if isinstance(version, int) and version > FORMAT else again
        raise SsodError(path, "format", f"{version!r:.40}, this version reads {FORMAT}", fix, code=Exit.CHECKPOINT)
    source = Source(path, again, Exit.CHECKPOINT)
    untrusted.checked(source, "", {"card": card}, _KINDS)
    names, ids = card["classes"]["names"], card["classes"]["ids"]
    for what, values in (("names", names), ("ids", ids)):
        if len(set(values)) < len(names):
            raise source.error(f"card.classes.{what}", f"{len(set(values))} different ones of {len(names)} classes")
    return card


def shapes(path: Path | str) -> dict[str, tuple[int, ...]]:
    """Return the shape of each weight by its name, from the header alone; raises as ``read`` does."""
    with _opened(Path(path)) as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118  no mapping


def class_names(path: Path | str) -> list[str] | None:
    """Return the classes of a model that ssod wrote, in the order of their labels; None for any other file.

    Raises:
        SsodError: as ``read_card`` does, for a file that ssod wrote.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        return None
    with _opened(path) as file:
        known = _CARD in (file.metadata() or {})
    return list(read_card(path)["classes"]["names"]) if known else None


@contextmanager
def _opened(path: Path) -> Generator[Any, None, None]:
    """Open a file whose header is reasonable; what the parser says against it is one line."""
    _check_header(path)
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            yield file
    except (safetensors.SafetensorError, OSError) as error:
        raise SsodError(path, "", f"damaged: {error}", "copy or download it again", code=Exit.CHECKPOINT) from error


def _check_header(path: Path) -> None:
    """Refuse pickles and absurd headers before any parser sees the file."""

    def damaged(problem: str, fix: str = "copy or download it again") -> SsodError:
        return SsodError(path, "", problem, fix, code=Exit.CHECKPOINT)

    try:
        size = untrusted.regular_size(Source(path, "check the path", Exit.CHECKPOINT))
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
        problem = f"header of {length:.2g} bytes > {HEADER_LIMIT // MB} MB limit"
        raise SsodError(path, "", problem, "not a safetensors file; refused", code=Exit.UNSAFE)
    raise damaged(f"cut off after {size} bytes")


def check_finite(path: Path, state: dict[str, Tensor], code: Exit) -> None:
    """Raise ``SsodError`` of ``code`` about the first weight that holds NaN or infinity."""
    for name, value in state.items():
        bad = int((~value.isfinite()).sum()) if value.is_floating_point() else 0
        if bad:
            raise SsodError(path, name, f"{bad} non-finite values; refusing", "use an older model", code=code)

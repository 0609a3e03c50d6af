"""Reading ``.npz`` files that may be damaged, or made to unpack to more than there is memory for."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from ssod.utils import untrusted
from ssod.utils.errors import SsodError
from ssod.utils.untrusted import MB, Kinds, Source

LARGEST = 512 * MB  # of all arrays of a file together; the table of a val set of 80 000 images has a quarter of it
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


class Array(NamedTuple):
    """What an array must be.

    Attributes:
        kinds: letters of the NumPy kinds that it may have.
        shape: its sides: a number, or a word that stands for the same number wherever it occurs.
        below: what all of it must be below, as it counts such things from 0; None = any finite number.
    """

    kinds: str
    shape: tuple[int | str, ...]
    below: str | None = None


def read(
    source: Source, layout: Mapping[str, Array], text: Kinds, lists: Mapping[str, str]
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Read the arrays of a layout, and the JSON object that the entry ``text`` holds.

    Nothing is unpacked before its size is known, and no other entry is looked at. A wrong byte may show itself as
    nearly any error, of the archive, of zlib, of numpy's header: whatever is raised in here is the file's fault.

    Args:
        source: the file.
        layout: arrays by name.
        text: the kinds that the JSON object must have.
        lists: word of the layout -> list of the JSON object whose length it is.

    Raises:
        SsodError: of the source's code; absent, damaged, larger than ``LARGEST``, or not of this layout.
    """
    try:
        untrusted.regular_size(source)
        with zipfile.ZipFile(source.path) as archive:
            members = {name: archive.getinfo(f"{name}.npy") for name in ("text", *layout)}
            size = sum(member.file_size for member in members.values())
            if size > LARGEST:
                raise source.error("", f"unpacks to {size / MB:.0f} MB > {LARGEST / MB:.0f} MB limit")
            words = str(_array(source, archive, members["text"], "U"))
            about = untrusted.checked(source, "text", untrusted.parse_json(source, "text", words), text)
            arrays = {name: _array(source, archive, members[name], array.kinds) for name, array in layout.items()}
        sides = {word: len(about[name]) for word, name in lists.items()}
        for name, array in arrays.items():
            _check(source, name, array, layout[name], sides)
    except SsodError:
        raise
    except Exception as error:
        raise source.error("", f"cannot be read: {type(error).__name__}: {error}") from None
    return about, arrays


def _array(source: Source, archive: zipfile.ZipFile, member: zipfile.ZipInfo, kinds: str) -> np.ndarray:
    """Unpack one array, whose header must say what its size is: numpy takes the memory that a header asks for."""
    with archive.open(member) as file:
        shape, _, kind = _HEADERS[np.lib.format.read_magic(file)](file)
        if kind.kind not in kinds:
            raise source.error(member.filename, f"holds {kind}")
        needed = math.prod(shape) * kind.itemsize
        if needed != member.file_size - file.tell():
            raise source.error(member.filename, f"is {member.file_size} bytes, its header says {needed}")
    with archive.open(member) as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def _check(source: Source, name: str, array: np.ndarray, wanted: Array, sides: dict[str, int]) -> None:
    """Test that an array has the sides that it must have, of which ``sides`` are known, and counts nothing else."""
    fits = array.ndim == len(wanted.shape) and all(
        have == (sides.setdefault(side, have) if isinstance(side, str) else side)
        for have, side in zip(array.shape, wanted.shape)
    )
    if not fits:
        known = ", ".join(f"{side} = {length}" for side, length in sides.items())
        raise source.error(name, f"has shape {list(array.shape)}, wanted {list(wanted.shape)} with {known}")
    outside = ~np.isfinite(array)
    if wanted.below is not None:
        outside |= (array < 0) | (array >= sides[wanted.below])
    if outside.any():
        raise source.error(name, f"cannot hold {array[outside][0]}")

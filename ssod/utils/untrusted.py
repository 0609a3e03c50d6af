"""Reading what a stranger may have written: a whole file within a limit, plain JSON, and values of the asked kinds.

Whatever is wrong with a file, it is told in one line that names the file and the place in it. What comes out holds
numbers that fit 64 bits and are finite, text that can be written as UTF-8, and is not deep.
"""

from __future__ import annotations

import functools
import json
import math
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from ssod.utils.errors import Exit, SsodError

MB = 1 << 20
LARGEST = 256 * MB  # of a file that is read as a whole; a run of a million lines has less
DEEPEST = 50
_WORD = 1 << 63

# Dotted key -> the type that its value must have, as pydantic reads it strictly: True is no int, "1" is none, 1 is a
# float. What may be None may be absent.
Kinds = Mapping[str, Any]


@dataclass(frozen=True)
class Source:
    """The file that is read, and what the user can do about it if it is not what it should be."""

    path: Path
    fix: str
    code: Exit = Exit.DATA

    def error(self, where: str, problem: str) -> SsodError:
        """Return the refusal of what stands at ``where``."""
        return SsodError(self.path, where, problem, self.fix, code=self.code)


# ---- files -----------------------------------------------------------------------------------------------------------


def read_bytes(source: Source, most: int = LARGEST) -> bytes:
    """Read a regular file of at most so many bytes.

    Raises:
        SsodError: of the source's code; there is no such file, it is a folder or a device, or it is larger.
    """
    try:
        size = regular_size(source)
        if size > most:
            raise source.error("", f"{size / MB:.0f} MB > {most / MB:.0f} MB limit")
        return source.path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a name with NUL
        raise source.error("", f"cannot be read: {getattr(error, 'strerror', None) or error}") from None


def regular_size(source: Source) -> int:
    """Return the bytes of a regular file; a pipe would never end, and a device is none of ours."""
    status = os.stat(source.path)
    if not stat.S_ISREG(status.st_mode):
        what = "a folder" if stat.S_ISDIR(status.st_mode) else "no regular file"
        raise source.error("", f"cannot be read: it is {what}")
    return status.st_size


def read_json(source: Source, most: int = LARGEST) -> Any:
    """Read a file of JSON; raises as ``read_bytes`` and ``parse_json`` do."""
    return parse_json(source, "", read_bytes(source, most))


def parse_json(source: Source, where: str, text: str | bytes) -> Any:
    """Return the plain value of a JSON text.

    Raises:
        SsodError: of the source's code; it is not JSON, too deep, or holds what no file of ours does.
    """
    try:
        if isinstance(text, bytes):
            text = text.decode()
        value = json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else f"{error}"
        raise source.error(where, f"damaged: {reason}") from None
    problem = _strange(value)
    if problem:
        raise source.error(where, f"damaged: {problem}")
    return value


def _no_number(word: str) -> float:
    raise ValueError(f"{word} is no number")


def _strange(value: Any) -> str | None:
    """Return what is in a JSON value and could not be counted with, written or walked through; else None."""
    level, depth = [value], 0
    while level:
        if depth > DEEPEST:
            return "nested too deeply"
        below: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                below += item.keys()
                below += item.values()
            elif isinstance(item, list):
                below += item
            elif isinstance(item, str):
                if not encodable(item):
                    return "half a character (a lone surrogate)"
            elif isinstance(item, float):
                if not math.isfinite(item):
                    return "a number out of range"
            elif isinstance(item, int) and not -_WORD <= item < _WORD:
                return "a number out of range"
        level, depth = below, depth + 1
    return None


def encodable(text: str) -> bool:
    """Return whether a text can be written as UTF-8; half of a pair of surrogates cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


# ---- values ----------------------------------------------------------------------------------------------------------


@functools.cache
def _adapter(kind: Any) -> TypeAdapter:
    return TypeAdapter(kind)


def checked(source: Source, where: str, value: Any, kinds: Kinds) -> dict[str, Any]:
    """Return ``value``, a JSON object whose keys have the kinds that they must have; others it may have.

    Raises:
        SsodError: of the source's code; names the first key whose value is missing or of another kind.
    """
    if not isinstance(value, dict):
        raise source.error(where, f"cannot be {shown(value)}")
    for key, kind in kinds.items():
        found: Any = value
        for part in key.split("."):
            found = found.get(part) if isinstance(found, dict) else None
        of_kind(source, f"{where}: {key}" if where else key, found, kind)
    return value


def of_kind(source: Source, where: str, value: Any, kind: Any) -> None:
    """Test that a value has a kind, and name the place in it that has not.

    Raises:
        SsodError: of the source's code.
    """
    try:
        _adapter(kind).validate_python(value, strict=True)
    except ValidationError as error:
        for part in error.errors(include_url=False)[0]["loc"]:  # some name members of a union, and no place
            if isinstance(value, dict) and part in value:
                value, where = value[part], f"{where}.{part}"
            elif isinstance(value, list) and isinstance(part, int) and part < len(value):
                value, where = value[part], f"{where}[{part}]"
        raise source.error(where, "missing" if value is None else f"cannot be {shown(value)}") from None


def shown(value: Any) -> str:
    """Return a value for a message, in at most 40 letters."""
    return f"{value!r:.40}"

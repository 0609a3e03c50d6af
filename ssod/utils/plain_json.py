"""Results as JSON: dataclasses of plain values, for programs that read what a command found."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any


def to_json(result: Any) -> str:
    """Return a dataclass as one line of JSON; see ``plain``."""
    return json.dumps(plain(result), allow_nan=False)


def plain(value: Any) -> Any:
    """Return a value as JSON has it.

    A dataclass becomes an object of its fields and its public properties, in the order in which they are written; a
    field that its ``repr`` leaves out is for people, or too large, and is left out here, too. A number that is not
    finite becomes null, for JSON has none; a path becomes a text.

    Raises:
        TypeError: what is none of these is no plain value.
    """
    if is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in fields(value) if field.repr]
        return {name: plain(getattr(value, name)) for name in [*names, *_properties(type(value))]}
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return int(value)  # an exit code is its number
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    raise TypeError(f"{type(value).__name__} is no plain value: {value!r}")


def _properties(kind: type) -> list[str]:
    """Return the public properties of a class and of those that it is made from."""
    found = [name for base in reversed(kind.__mro__) for name, item in vars(base).items() if isinstance(item, property)]
    return [name for name in dict.fromkeys(found) if not name.startswith("_")]

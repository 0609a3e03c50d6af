"""JSON that is written while its items are made, the same bytes as ``json.dumps`` gives for all of them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ssod.utils import atomic


def write(path: Path, value: Mapping[str, Any] | Iterator[Any]) -> None:
    """Write an object whose members may be iterators, or a list that is one; whole, or not at all.

    Raises:
        SsodError: with code 6 when the disk refuses.
    """
    atomic.write(path, lambda file: file.writelines(piece.encode() for piece in _pieces(value)))


@contextmanager
def growing_list(path: Path) -> Generator[Callable[[Any], None], None, None]:
    """Give what adds an item to the list in a new file. Only a folder that nobody reads from yet may hold it.

    Raises:
        OSError: the disk refuses.
    """
    with open(path, "wb") as file:
        between = iter(("[",))

        def add(item: Any) -> None:
            file.write(f"{next(between, ', ')}{json.dumps(item)}".encode())

        yield add
        file.write(f"{next(between, '')}]".encode())
        file.flush()
        os.fsync(file.fileno())


def _pieces(value: Mapping[str, Any] | Iterator[Any]) -> Iterator[str]:
    if isinstance(value, Mapping):
        yield "{"
        for number, (key, member) in enumerate(value.items()):
            yield f"{', ' if number else ''}{json.dumps(key)}: "
            yield from _pieces(member) if isinstance(member, Iterator) else (json.dumps(member),)
        yield "}"
    else:
        yield "["
        yield from _listed(value)
        yield "]"


def _listed(items: Iterable[Any]) -> Iterator[str]:
    for number, item in enumerate(items):
        yield f"{', ' if number else ''}{json.dumps(item)}"

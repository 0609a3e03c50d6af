"""Addresses in the place of paths, ``s3://bucket/photos``: images are read from there, and nothing is written there."""

from __future__ import annotations

import os
import re

from ssod.utils.errors import SsodError

_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+")  # one letter is a drive


def is_url(path: str | os.PathLike) -> bool:
    """Whether a path is an address, also if pathlib took one of its slashes; what is there as a path is none."""
    text = os.fspath(path)
    return _ADDRESS.match(text) is not None and not os.path.exists(text)


def plain_url(path: str | os.PathLike) -> str:
    """Return an address with two slashes behind its protocol, and three where a path of this machine follows."""
    text = os.fspath(path)
    found = _ADDRESS.match(text)
    if found is None:
        return text
    slashes = "///" if found[1].lower() in ("file", "local") else "//"
    return f"{found[1]}:{slashes}{text[found.end() :]}"


def refuse_url(path: str | os.PathLike) -> None:
    """Refuse an address as a place to write to.

    A run folder needs locks and renames that happen at once or not at all, and gets its log line by line; no store of
    objects has these.

    Raises:
        SsodError: code 2.
    """
    if is_url(path):
        problem = "is an address; what is written needs locks, renames and appended lines, which a store has not"
        raise SsodError(plain_url(path), "", problem, "write to a disk and copy it at the end (docs/cluster.md)")

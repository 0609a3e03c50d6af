"""Whether two images are the same file: one notion for ``ssod check``, ``ssod train`` and every pair of sets.

They are the same where their places are: the folder with its links resolved, and the name as the disk spells it, so
that ``./a``, a link, another Unicode form and, where the disk does not tell them apart, another case make no
difference. They are the same, too, where their bytes are, under whatever name.

What it costs: a listing of each folder, and for the bytes a look at the length of every file, in threads, since a
network's disk takes a while to answer. Files of equal length are compared by 4 KB from their middle, and only where
these agree by all their bytes.
"""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from ssod.data.formats import remote
from ssod.data.formats.paths import Opener, same_text
from ssod.data.formats.records import Images

_THREADS = 16
_CHUNK = 500  # files of one thread's turn
_MIDDLE = 4096  # bytes


def common_places(first: Images, second: Images) -> list[tuple[str, str]]:
    """Return (name in ``first``, name in ``second``) of images that lie in the same place, in the second's order."""
    folders: dict[str, dict[str, str]] = defaultdict(dict)
    for (folder, base), name in zip(_places(first), first.paths):
        folders[folder].setdefault(base, name)
    pairs = ((folders.get(folder, {}).get(base), name) for (folder, base), name in zip(_places(second), second.paths))
    return [(mine, name) for mine, name in pairs if mine is not None]


def common_content(
    first: Images, second: Images, limit: int | None = None, *, allow_symlinks: bool = False
) -> list[tuple[str, str]]:
    """Return (name in ``first``, name in ``second``) of images with the same bytes.

    Those that are absent, or must not be opened, are left out.

    Args:
        first: one set.
        second: the other.
        limit: look at no more than this many images of ``second``; None = all.
        allow_symlinks: whether links may lead out of the sets' folders.
    """
    one, other = (Opener(images.root, allow_symlinks=allow_symlinks) for images in (first, second))
    wanted, there = _by_length(other, second.paths[:limit]), _by_length(one, first.paths)
    found: dict[str, str] = {}
    for length in wanted.keys() & there.keys():
        for a, b in _alike(one, there[length], other, wanted[length], _middle):
            for twins, names in _alike(one, a, other, b, _whole):
                found |= dict.fromkeys(names, twins[0])
    return [(found[name], name) for name in second.paths[:limit] if name in found]


def _places(images: Images) -> Iterator[tuple[str, str]]:
    """Yield (folder, name) of each image: where it lies once links are resolved, and how the disk spells its name."""
    listed: dict[str, tuple[str, dict[str, bool], dict[str, str]]] = {}
    for path in images.paths:
        folder, _, base = path.rpartition("/")
        if folder not in listed:
            listed[folder] = _listing(os.path.join(images.root, folder))
        real, links, spelled = listed[folder]
        if base not in links:
            other = spelled.get(same_text(base).casefold())
            if other is not None and (same_text(other) == same_text(base) or _exists(os.path.join(real, base))):
                base = other
        if links.get(base):
            target = os.path.realpath(os.path.join(real, base))
            yield os.path.dirname(target), same_text(os.path.basename(target))
        else:
            yield real, same_text(base)


def _listing(folder: str) -> tuple[str, dict[str, bool], dict[str, str]]:
    """Return the folder with links resolved, {name: whether it is a link}, and {name without case: name}."""
    try:
        with os.scandir(folder) as entries:
            links = {entry.name: entry.is_symlink() for entry in entries}
    except OSError:
        links = {}
    return os.path.realpath(folder), links, {same_text(name).casefold(): name for name in links}


def _exists(path: str) -> bool:
    try:
        return os.path.lexists(path)
    except ValueError:  # a name that no file can have
        return False


def _by_length(opener: Opener, names: Sequence[str]) -> dict[int, list[str]]:
    """Return {length in bytes: names} of the regular files that are not empty and may be opened."""
    found: dict[int, list[str]] = defaultdict(list)
    if opener.remote:  # the lengths were told with the names; only files of equal length are fetched
        lengths = remote.sizes_of(opener.root)
        for name in names:
            if lengths.get(name):
                found[lengths[name]].append(name)
        return found
    parts = [names[i : i + _CHUNK] for i in range(0, len(names), _CHUNK)]
    with ThreadPoolExecutor(_THREADS) as pool:
        for part, lengths in zip(parts, pool.map(lambda part: [_length(opener.path(n)) for n in part], parts)):
            for name, length in zip(part, lengths):
                if length:
                    found[length].append(name)
    return found


def _length(path: str | None) -> int:
    try:
        return 0 if path is None else os.stat(path).st_size
    except OSError:
        return 0


def _alike(
    one: Opener, names: Sequence[str], other: Opener, others: Sequence[str], digest: Callable[[str], str]
) -> Iterator[tuple[list[str], list[str]]]:
    """Yield the names of one set and those of the other that share a digest, for each that both have."""
    mine, theirs = defaultdict(list), defaultdict(list)
    for opener, of, found in ((one, names, mine), (other, others, theirs)):
        for name in of:
            path = opener.path(name)
            found["" if path is None else digest(path)].append(name)
    for key in theirs.keys() & mine.keys() - {""}:
        yield mine[key], theirs[key]


def _middle(path: str) -> str:
    """Return a digest of 4 KB from a file's middle; beginnings are alike in all files of one camera."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size // 2 - _MIDDLE // 2))
            return hashlib.sha256(file.read(_MIDDLE)).hexdigest()
    except OSError:
        return ""


def _whole(path: str) -> str:
    """Return a file's SHA-256, or nothing if it must not be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""

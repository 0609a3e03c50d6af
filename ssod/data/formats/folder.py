"""Images without labels: a folder, a glob, or a .txt list.

Nothing is opened and, for a list, nothing is even looked up: a million names load in a second or two. Ids are the
relative paths, because a stem may repeat between folders.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ssod.data.formats import remote
from ssod.data.formats.findings import Context, short
from ssod.data.formats.jsonfile import nearest, read_text
from ssod.data.formats.leftout import report_left_out
from ssod.data.formats.listing import glob_names, image_names, images_among, is_image, warn_of_hidden
from ssod.data.formats.paths import IMAGE_SUFFIXES, plain_name, refuse_unsafe, unsafe_names
from ssod.data.formats.presence import as_spelled
from ssod.data.formats.records import Images
from ssod.utils.address import is_url, plain_url


def read_folder(path: str, images: str | None, ctx: Context) -> Images:
    """Read ``path``: a folder (searched recursively), a glob pattern, or a .txt list of paths.

    Args:
        path: relative to the data root, absolute, or an address (``ssod.data.formats.remote``).
        images: folder that the lines of a list are relative to, or an address; None = the list's own folder.
        ctx: root, rules and findings.

    Returns:
        Images with sizes None, sorted by path; a list keeps its own order. Files of a folder or glob whose names are
        never opened (not UTF-8, a backslash) are left out and recorded, as are hidden ones.

    Raises:
        SsodError: the path is absent, holds no image, or a list names something outside its folder.
    """
    if any(map(is_url, filter(None, (path, images)))):
        return _read_remote(path, images, ctx)
    where = ctx.path(path)
    root, pattern = before_wildcard(where)
    if pattern:
        names = _openable(glob_names(root, pattern, ctx), root, ctx)
    elif os.path.isdir(where):
        names = _openable(image_names(where, ctx), where, ctx)
    elif where.lower().endswith(".txt"):
        root = ctx.path(images) if images else os.path.dirname(where)
        names = _from_list(where, root, ctx)
    elif os.path.exists(where):
        raise ctx.findings.fatal("D01", where, f"{ctx.section}.path", "neither a folder nor a .txt list", "use one")
    else:
        hint = nearest(where)
        raise ctx.findings.fatal("D01", where, f"{ctx.section}.path", f"not found{hint}", f"fix {ctx.section}.path")
    _refuse_nothing(names, where, ctx)
    found = Images(root, names, names)
    if not pattern and not os.path.isdir(where):
        found = as_spelled(found, where, ctx)
    return replace(found, ids=found.paths)


def _read_remote(path: str, images: str | None, ctx: Context) -> Images:
    """Read images of which the folder, the list, or both lie elsewhere; arguments as of ``read_folder``."""
    url, cache = plain_url(path).rstrip("/"), ctx.rules.cache
    above, _, last = url.rpartition("/")
    if url.lower().endswith(".txt"):
        file = ctx.path(path)
        if is_url(path):
            root, there = remote.listed(above, cache, glob.escape(last))
            file = remote.fetch(root, there[0] if there else last)
        base = images or above
        root = remote.listed(base, cache)[0] if is_url(base) else ctx.path(base)
        names = _from_list(file, root, ctx)
    else:
        parts = url.split("/")
        first = next((i for i, part in enumerate(parts) if i > 2 and glob.has_magic(part)), len(parts))
        base, pattern = "/".join(parts[:first]), "/".join(parts[first:])
        if not pattern and is_image(url):
            base, pattern = above, last
        root, found = remote.listed(base, cache, pattern)
        names = _openable(images_among(found, pattern, url, ctx), url, ctx)
    _refuse_nothing(names, url, ctx)
    return Images(root, names, names)


def _refuse_nothing(names: list[str], where: str, ctx: Context) -> None:
    """Record an error where there is no image, and raise the first of all."""
    if not names:
        fix = f"put images there ({', '.join(IMAGE_SUFFIXES)}) or fix the path"
        ctx.findings.error("D39", where, ctx.section, "0 images", fix)
    ctx.findings.raise_first()


def before_wildcard(path: str) -> tuple[str, str]:
    """Divide a path before the first part that is a wildcard; "" where none is: a folder may be named ``set[1]``."""
    parts = path.split(os.sep)
    for i, part in enumerate(parts):
        if glob.has_magic(part) and not os.path.exists(os.sep.join(parts[: i + 1])):
            root = os.sep.join(parts[:i]) or (os.sep if os.path.isabs(path) else os.curdir)
            return root, os.sep.join(parts[i:])
    return path, ""


def _openable(names: list[str], root: str, ctx: Context) -> list[str]:
    """Leave out the names that would be refused when the image is opened, and record how many."""
    odd = unsafe_names(names, root)
    if odd:
        row, (id, problem, _) = next(iter(odd.items()))
        text = f"{short(names[row])}: {problem} ({len(odd)} left out)"
        ctx.findings.skipped(id, root, ctx.section, text, "rename the file", count=len(odd))
    return [name for row, name in enumerate(names) if row not in odd]


def _from_list(path: str, root: str, ctx: Context) -> list[str]:
    """Lines of a list: blank ones and ``#`` comments left out, repeated ones once, absolute ones made relative."""
    names = [plain_name(name, root) for _, name in list_lines(path, f"{ctx.section}.path", ctx)]
    refuse_unsafe(names, root, path, "name {}", ctx)
    warn_of_hidden(names, path, ctx)
    return once(names, path, ctx)


def list_lines(path: str, field: str, ctx: Context, root: str | None = None) -> list[tuple[int, str]]:
    """Return (line number, text) of the lines of a list, without blank ones and ``#`` comments.

    Comments that read like an image's name are counted. ``root`` is that of ``read_text``.
    """
    lines = [(i, line.strip()) for i, line in enumerate(read_text(path, ctx, field, root).split("\n"), start=1)]
    report_left_out("L04", [line for _, line in lines if line.startswith("#") and is_image(line)], path, ctx)
    return [(i, line) for i, line in lines if line and not line.startswith("#")]


def in_list(path: str, paths: Sequence[str], field: str, ctx: Context) -> np.ndarray:
    """Return [N] bool: which of N images, by their paths below the image folder, a .txt list names.

    Raises:
        SsodError: a list that is not there, or names what is no image of these.
    """
    file, known = ctx.path(path), set(paths)
    lines = [line for _, line in list_lines(file, field, ctx)]
    names = {line if line in known else line.removeprefix("./") for line in lines}  # ./#1.jpg, which is no comment
    unknown = names - known
    if unknown:
        problem = f"{len(unknown)} lines name no image of data.labeled, first {short(min(unknown))}"
        raise ctx.findings.fatal("D38", file, field, problem, "remove them, or make the list anew")
    return np.array([path in names for path in paths], dtype=bool)


def once(names: list[str], file: str, ctx: Context) -> list[str]:
    """Return each name once, in order, and record how many are repeated."""
    kept = list(dict.fromkeys(names))
    again = len(names) - len(kept)
    if again:
        ctx.findings.repaired("D36", file, ctx.section, f"{again} repeated lines", "each image once", count=again)
    return kept

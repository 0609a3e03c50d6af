"""Images without labels: a folder, a glob, or a .txt list.

Nothing is opened and, for a list, nothing is even looked up: a million names load in a second or two. Ids are the
relative paths, because a stem may repeat between folders.
"""

from __future__ import annotations

import glob
import os

from ssod.data.formats.findings import Context, short
from ssod.data.formats.jsonfile import nearest, read_text
from ssod.data.formats.paths import IMAGE_SUFFIXES, refuse_unsafe, unsafe_names
from ssod.data.formats.records import Images


def read_folder(path: str, images: str | None, ctx: Context) -> Images:
    """Read ``path``: a folder (searched recursively), a glob pattern, or a .txt list of paths.

    Args:
        path: relative to the data root, or absolute.
        images: folder that the lines of a list are relative to; None = the list's own folder.
        ctx: root, rules and findings.

    Returns:
        Images with sizes None, sorted by path; a list keeps its own order. Files of a folder or glob whose names are
        never opened (not UTF-8, a backslash) are left out and recorded.

    Raises:
        SsodError: the path is absent, holds no image, or a list names something outside its folder.
    """
    where = ctx.path(path)
    root, pattern = before_wildcard(where)
    if pattern:
        names = _openable(_from_glob(root, pattern), root, ctx)
    elif os.path.isdir(where):
        names = _openable(image_names(where), where, ctx)
    elif where.lower().endswith(".txt"):
        root = ctx.path(images) if images else os.path.dirname(where)
        names = _from_list(where, root, ctx)
    elif os.path.exists(where):
        raise ctx.findings.fatal("D01", where, f"{ctx.section}.path", "neither a folder nor a .txt list", "use one")
    else:
        hint = nearest(where)
        raise ctx.findings.fatal("D01", where, f"{ctx.section}.path", f"not found{hint}", f"fix {ctx.section}.path")
    if not names:
        fix = f"put images there ({', '.join(IMAGE_SUFFIXES)}) or fix the path"
        ctx.findings.error("D39", where, ctx.section, "0 images", fix)
    ctx.findings.raise_first()
    return Images(root, names, names)


def image_names(root: str) -> list[str]:
    """Return the paths of all image files below ``root``, sorted; links to folders are not followed."""
    names = []
    for folder, _, files in os.walk(root):
        prefix = os.path.relpath(folder, root)
        prefix = "" if prefix == "." else f"{prefix}/"
        names += [prefix + name for name in files if name.lower().endswith(IMAGE_SUFFIXES)]
    return sorted(names)


def before_wildcard(path: str) -> tuple[str, str]:
    """Divide a path before the first part that is a wildcard; "" where none is: a folder may be named ``set[1]``."""
    parts = path.split(os.sep)
    for i, part in enumerate(parts):
        if glob.has_magic(part) and not os.path.exists(os.sep.join(parts[: i + 1])):
            root = os.sep.join(parts[:i]) or (os.sep if os.path.isabs(path) else os.curdir)
            return root, os.sep.join(parts[i:])
    return path, ""


def _from_glob(root: str, pattern: str) -> list[str]:
    names = glob.glob(pattern, root_dir=root, recursive=True)
    return sorted(name for name in names if name.lower().endswith(IMAGE_SUFFIXES))


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
    lines = [line.strip() for line in read_text(path, ctx, f"{ctx.section}.path").split("\n")]
    prefix = os.path.join(root, "")
    names = [line.removeprefix(prefix).removeprefix("./") for line in lines if line and line[0] != "#"]
    refuse_unsafe(names, root, path, "name {}", ctx)
    once = dict.fromkeys(names)
    if len(once) == len(names):
        return names
    ctx.findings.repaired(
        "D36",
        path,
        ctx.section,
        f"{len(names) - len(once)} repeated lines",
        "each image once",
        count=len(names) - len(once),
    )
    return list(once)

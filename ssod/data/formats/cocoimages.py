"""The images of a COCO JSON: their ids, names and sizes, and files that have several entries."""

from __future__ import annotations

from collections import Counter
from typing import Literal

import numpy as np

from ssod.data.formats.columns import Rows
from ssod.data.formats.findings import Context, short
from ssod.data.formats.listing import warn_of_hidden
from ssod.data.formats.paths import plain_name, refuse_unsafe
from ssod.data.formats.presence import as_spelled
from ssod.data.formats.records import Images
from ssod.data.formats.tails import tails

MANY = 0.25  # of the files may be named by several images


Names = Literal["path", "last"]  # what of a file_name counts


def read_image_table(table: Rows, root: str, ctx: Context, *, needed: bool, names: Names = "path") -> Images:
    """Read the images of a COCO file, and record what is wrong with their ids, names and sizes.

    Args:
        table: the file's ``images``.
        root: folder that their names are relative to.
        ctx: rules and findings.
        needed: boxes belong to them.
        names: what of a ``file_name`` counts: ``path``: all of it; ``last``: its longest end that is a file below
            ``root``, as where a tool wrote the place of a file on its server.

    Returns:
        Images; empty where ids or names are unsound.
    """
    ids = table.integers("id")
    said, names = _names(table, names)
    paths = None if said is None else list(map(plain_name, said))
    sizes = table.sizes()
    if paths is not None:
        paths = tails(paths, root, table.file, ctx) if names == "last" else paths
        refuse_unsafe(paths, root, table.file, "images[{}].file_name", ctx)
    if ids is None or paths is None:
        return Images(root, [], [])
    for id, rows in repeated(ids):
        problem = f"id {id} used {len(rows)}× (rows {', '.join(map(str, rows[:5]))})"
        table.findings.error("D14", table.file, "images", problem, "ids must be unique")
    found = Images(root, paths, ids.tolist(), sizes.astype(np.int32) if sizes.any() else None)
    found = as_spelled(found, table.file, ctx)
    warn_of_hidden(found.paths, table.file, ctx)
    _report_twice(found, table, needed)
    return found


def _names(table: Rows, names: Names) -> tuple[list[str] | None, Names]:
    """Return what files are called; LVIS's entries have an address alone, such as ``http://.../train2017/42.jpg``."""
    addresses = table.values("coco_url")
    if addresses and not any(table.values("file_name")) and all(type(text) is str and text for text in addresses):
        return ["/".join(text.split("/")[-2:]) for text in addresses], "last"
    return table.strings("file_name", "D43"), names


def _report_twice(images: Images, table: Rows, needed: bool) -> None:
    """Record files with several entries. Many are an error: each entry lacks the boxes of the others."""
    counts = Counter(images.paths)
    twice = [name for name, count in counts.items() if count > 1]
    if not twice:
        return
    first = [id for id, name in zip(images.ids, images.paths) if name == twice[0]]
    problem = f"{len(twice)} files are named by more than one image, first {short(twice[0])} by ids "
    problem += ", ".join(map(str, first[:5]))
    fix = "keep one entry a file, and give its annotations that image_id"
    record = table.findings.error if needed and len(twice) > MANY * len(counts) else table.findings.warning
    record("D36", table.file, "images", problem, fix, count=len(twice))


def repeated(ids: np.ndarray) -> list[tuple[int, list[int]]]:
    """Return every value that occurs more than once, with its rows."""
    values, counts = np.unique(ids, return_counts=True)
    return [(int(v), np.flatnonzero(ids == v).tolist()) for v in values[counts > 1][:1000]]

"""Labelled images that are measured on and not learnt from: a list that divides one set into two."""

from __future__ import annotations

from ssod.data.data_config import DataConfig
from ssod.data.formats.findings import Context, short
from ssod.data.formats.folder import list_lines
from ssod.data.formats.records import Labeled
from ssod.data.formats.registry import read_labeled


def read_part(cfg: DataConfig, part: str, ctx: Context) -> Labeled:
    """Read ``labeled`` or ``val`` of a data section, each without the images that the other one has by its list.

    Args:
        cfg: the ``data`` section.
        part: ``labeled`` or ``val``.
        ctx: data root, section, rules and findings.

    Raises:
        SsodError: see ``read_labeled``; a list that is not there, or names what is no image of the set.
    """
    data = read_labeled(cfg.labeled if part == "labeled" else cfg.val, ctx, classes=cfg.classes)
    if cfg.held_out is None:
        return data
    file = ctx.path(cfg.held_out)
    lines, paths = [line for _, line in list_lines(file, "data.held_out", ctx)], set(data.images.paths)
    names = {line if line in paths else line.removeprefix("./") for line in lines}  # ./#1.jpg, which is no comment
    held = [path in names for path in data.images.paths]
    unknown = names - paths
    if unknown:
        problem = f"{len(unknown)} lines name no image of data.labeled, first {short(min(unknown))}"
        raise ctx.findings.fatal("D38", file, "data.held_out", problem, "remove them, or make the list anew")
    rows = [row for row, out in enumerate(held) if out == (part == "val")]
    if not rows:
        problem = "names all images of data.labeled" if part == "labeled" else "names no image"
        raise ctx.findings.fatal("D38", file, "data.held_out", problem, "make the list anew")
    return data.subset(rows)

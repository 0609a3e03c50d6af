"""Labelled images that are measured on and not learnt from: a list that divides one set into two."""

from __future__ import annotations

from ssod.data.data_config import DataConfig
from ssod.data.formats.findings import Context
from ssod.data.formats.folder import in_list
from ssod.data.formats.incomplete import judge_measured
from ssod.data.formats.records import Labeled
from ssod.data.formats.registry import file_of, read_labeled
from ssod.utils.given import given


def read_part(cfg: DataConfig, part: str, ctx: Context) -> Labeled:
    """Read ``labeled`` or ``val`` of a data section, each without the images that the other one has by its list.

    Args:
        cfg: the ``data`` section.
        part: ``labeled`` or ``val``.
        ctx: data root, section, rules and findings.

    Raises:
        SsodError: see ``read_labeled``; a list that is not there, or names what is no image of the set; a class whose
            labels are complete in no image to measure on.
    """
    of_one = part == "labeled" or cfg.held_out is not None
    source = cfg.labeled if of_one else given(cfg.val, "who asks for this part has it")
    data = read_labeled(source, ctx, classes=cfg.classes)
    if cfg.held_out is not None:
        file = ctx.path(cfg.held_out)
        held = in_list(cfg.held_out, data.images.paths, "data.held_out", ctx)
        rows = [row for row, out in enumerate(held) if out == (part == "val")]
        if not rows:
            problem = "names all images of data.labeled" if part == "labeled" else "names no image"
            raise ctx.findings.fatal("D38", file, "data.held_out", problem, "make the list anew")
        data = data.subset(rows)
    if part == "val":
        judge_measured(data, ctx.path(file_of(source)), ctx)
    return data

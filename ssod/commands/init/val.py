"""``ssod init --val 20%``: images to measure on, cut from the labelled ones, and the list that names them."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast, get_args

from ssod.data import datasets
from ssod.data.cutting import Group, cut
from ssod.data.data_config import DataConfig
from ssod.data.formats.infer import MEASURED, labeled_source
from ssod.utils import atomic
from ssod.utils.config_errors import Source, read_section
from ssod.utils.errors import Exit, SsodError

SHARE = 0.2  # of the labelled images, where nothing is said


def share_of(val: str | None, group: str | None) -> float | None:
    """Return the share of the labelled images to cut; None where ``val`` names images.

    Raises:
        SsodError: no share that leaves images on both sides, or a group that nothing would be cut by.
    """
    if group is not None and group not in get_args(Group):
        raise SsodError("command line", "--group", f"'{group}' is unknown", f"use {' or '.join(get_args(Group))}")
    if val is None:
        return SHARE
    if not val.endswith("%"):
        if group is not None:
            raise SsodError("command line", "--group", "nothing is cut: --val names images", "leave one of them out")
        return None
    try:
        share = float(val[:-1]) / 100
    except ValueError:
        share = 0.0
    if not 0 < share < 1:
        raise SsodError(
            "command line", "--val", f"'{val}' is no share between 0 and 100 %", "write 20%, or name images"
        )
    return share


@contextmanager
def cut_off(out: Path, section: dict[str, Any], share: float, group: str | None) -> Iterator[None]:
    """Write the list beside ``out`` and name it in a data section; what fails inside takes it away again.

    Raises:
        SsodError: an error in the labelled images, too few of them, or a list that is there already.
    """
    cfg = read_section(DataConfig, section, "data", Source("command line", {}), {})
    data = datasets.load_labeled(cfg, datasets.context(cfg)("labeled"))
    rows = cut(data, share, cast(Group | None, group))
    if not len(rows):
        what = "images" if group is None else f"groups by {group}"
        kind = "labelled images" if data.incomplete is None else "images with complete labels"
        problem = f"{share:.0%} of {len(data.complete())} {kind} are none that the rest can spare ({what} stay whole)"
        fix = "give a larger share, label more, or name images"
        raise SsodError("command line", "--val", problem, fix, code=Exit.DATA)
    file = out.with_name(f"{out.stem}.val.txt")
    names = [data.images.paths[row] for row in rows]
    text = "".join(f"{'./' if name.startswith('#') else ''}{name}\n" for name in names)
    head = f"# {len(rows)} of {len(data)} labelled images, to measure on and not to learn from\n"
    try:
        atomic.write_text(file, head + text, new=True)
    except SsodError as error:
        raise SsodError(file, "", error.problem, "choose another name, or remove it first", code=Exit.IO) from error
    section["val"] = dict(section["labeled"])
    section["held_out"] = _below(file, section.get("root"))
    try:
        yield
    except BaseException:
        file.unlink(missing_ok=True)
        del section["val"], section["held_out"]
        raise


def _below(file: Path, root: str | None) -> str:
    """Return a path as the config names it: relative to the data root where it lies below that."""
    absolute = os.path.abspath(file)
    inside = root is not None and os.path.commonpath([absolute, os.path.abspath(root)]) == os.path.abspath(root)
    return os.path.relpath(absolute, root) if inside else absolute


def other_part(section: Mapping[str, Any]) -> str:
    """Return a hint at the part of the labelled data set that was made to measure on; empty where none is known."""
    labeled = section["labeled"]
    if "split" not in labeled:
        return ""
    where = os.path.join(section.get("root", ""), labeled["root"])
    with suppress(SsodError):
        part = labeled_source(where, "--val", MEASURED).get("split")
        if part in MEASURED and part != labeled["split"]:
            return f"; --val {shlex.quote(where)} measures on its part '{part}'"
    return ""

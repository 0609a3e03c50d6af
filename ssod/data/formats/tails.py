"""File names that a tool wrote for another place: which of their ends is a file here."""

from __future__ import annotations

import os
from collections.abc import Sequence

from ssod.data.formats.findings import Context, short
from ssod.data.formats.leftout import report_left_out
from ssod.data.formats.paths import MAX_PATH


def tail(name: str, root: str) -> str:
    """Return the longest end of a path that is a file below ``root``; its last part where none is.

    Neither ``..`` nor a leading ``/`` is part of it, so it never leaves ``root``.
    """
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    if not parts or len(name) > MAX_PATH:
        return name
    ends = ("/".join(parts[i:]) for i in range(len(parts)))
    return next((end for end in ends if os.path.isfile(os.path.join(root, end))), parts[-1])


def tails(names: Sequence[str], root: str, file: str, ctx: Context) -> list[str]:
    """Return ``tail`` of each name, and record how many changed; two names that become one are an error."""
    found = [tail(name, root) for name in names]
    first: dict[str, str] = {}
    same = [(first[end], name) for name, end in zip(names, found) if first.setdefault(end, name) != name]
    if same:
        problem = f"{short(same[0][0])} and {short(same[0][1])} are read as one file; {len(same)} such names"
        ctx.findings.error("D36", file, ctx.section, problem, "give each file a name of its own", count=len(same))
    report_left_out("L15", [name for name, end in zip(names, found) if name != end], file, ctx, "read by their ends")
    return found

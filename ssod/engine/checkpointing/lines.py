"""The lines of ``metrics.jsonl``, of which a run keeps those up to its checkpoint, and others take over some."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path

TAIL = 1 << 16  # bytes at the end of a log that are read for its last lines


def step_of(line: str | bytes) -> float:
    """Return the step that a line tells of, infinity where it is damaged or still being written."""
    try:
        step = json.loads(line)["step"]
        return step if isinstance(step, int) else math.inf
    except (ValueError, LookupError, TypeError, RecursionError):
        return math.inf


def at_end(path: Path) -> list[bytes]:
    """Return the last whole lines of a log, 64 KB of them at most; none where there is no file."""
    try:
        with open(path, "rb") as file:
            begin = max(0, file.seek(0, os.SEEK_END) - TAIL)
            file.seek(begin)
            parts = file.read().split(b"\n")
    except OSError:
        return []
    return parts[begin > 0 : -1]  # the first may be cut off, the last is still being written


def up_to(lines: Sequence[str], step: int, *, pending: bool = False) -> list[str]:
    """Return the whole lines that are not later than ``step``.

    Args:
        lines: in the order in which they were written.
        step: of a state.
        pending: leave out the evaluation of that step, which is still to come, and what it gave rise to.
    """
    kept = [line for line in lines if step_of(line) <= step]
    if not pending:
        return kept
    rows = (json.loads(line) for line in kept)
    evaluated = (i for i, row in enumerate(rows) if (row.get("kind"), row["step"]) == ("eval", step))
    return kept[: next(evaluated, None)]

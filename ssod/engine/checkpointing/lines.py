"""The lines of ``metrics.jsonl``, of which a run keeps those up to its checkpoint, and others take over some."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence


def step_of(line: str | bytes) -> float:
    """Return the step that a line tells of, infinity where it is damaged or still being written."""
    try:
        step = json.loads(line)["step"]
        return step if isinstance(step, int) else math.inf
    except (ValueError, LookupError, TypeError, RecursionError):
        return math.inf


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

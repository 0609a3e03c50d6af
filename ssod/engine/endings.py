"""The errors that end a run before its last step: what happened, and how it goes on."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ssod.utils.errors import Exit, SsodError


def go_on(folder: Path) -> str:
    """Return how a run whose state is saved goes on; without the folder it would be another run."""
    return f"run it again with -o {shlex.quote(str(folder))} to go on"


def _of_all(error: SsodError) -> SsodError:
    """Return an error that every rank ends with at the same step: rank 0 tells it."""
    error.teller = 0
    return error


def stopped(folder: Path, step: int, code: int) -> SsodError:
    """Return the error that ends a run which was asked to stop; its state is saved."""
    why = "preempted" if code == Exit.PREEMPTED else "interrupted"
    return _of_all(SsodError(folder, "", f"{why} after step {step}, state saved", go_on(folder), code=Exit(code)))


def diverged(folder: Path, step: int, fault: str, times: int, images: Sequence[Any]) -> SsodError:
    """Return the error that ends a run whose last ``times`` steps were all skipped for a fault."""
    shown = ", ".join(str(i) for i in images[:8])
    problem = f"diverged: {fault} is out of range, {times} steps in a row; images {shown}"
    fix = "lower train.lr or set train.clip; the last good checkpoint is kept"
    return _of_all(SsodError(folder, f"step {step}", problem, fix, code=Exit.DIVERGED))


def collapsed(folder: Path, problem: str) -> SsodError:
    """Return the error that ends a run whose teacher is lost."""
    fix = "see the alarm in train.log; best.safetensors keeps the best teacher"
    return _of_all(SsodError(folder, "train.on_collapse", problem, fix, code=Exit.DIVERGED))


def no_room_to_evaluate(folder: Path, step: int) -> SsodError:
    """Return the error that ends a run whose evaluation did not fit on the device; its state is saved."""
    problem = f"out of device memory in the evaluation after step {step}, state saved"
    return SsodError("config", "eval.batch", problem, f"lower it and {go_on(folder)}", code=Exit.IO)

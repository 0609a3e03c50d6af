"""Comparing runs bit for bit, and killing a training process again and again until it is done.

``kill_until_done`` works for any program that resumes by itself; ``final_state`` reads any run folder.
"""

from __future__ import annotations

import json
import math
import random
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ssod.engine.checkpointing import checkpoint
from ssod.utils import model_file
from tests.engine.fork import Forked
from tests.patience import LONG

# Figures of the machine, not of the run.
_CLOCKS = ("time/", "memory/")


def final_state(folder: Path) -> dict[str, Any]:
    """Return all that a run has learned and told: checkpoint, model file, metrics without timings."""
    state = checkpoint.load(checkpoint.find(folder / "checkpoints"))
    weights, card = model_file.read(folder / "best.safetensors")
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    rows = [{k: v for k, v in row.items() if not k.startswith(_CLOCKS)} for row in rows]
    return {"checkpoint": state, "best": weights, "card": card, "metrics": rows}


def difference(a: Any, b: Any, where: str = "") -> list[str]:
    """Return the paths at which two states differ in a single bit."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        same = a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
        return [] if same else [where]
    if isinstance(a, dict) and isinstance(b, dict):
        if a.keys() != b.keys():
            return [f"{where}: keys {sorted(map(str, a.keys() ^ b.keys()))}"]
        return [path for key in a for path in difference(a[key], b[key], f"{where}/{key}")]
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        if len(a) != len(b):
            return [f"{where}: {len(a)} and {len(b)} items"]
        return [path for i, (x, y) in enumerate(zip(a, b)) for path in difference(x, y, f"{where}/{i}")]
    same = a == b or (isinstance(a, float) and isinstance(b, float) and math.isnan(a) and math.isnan(b))
    return [] if same else [f"{where}: {a!r} != {b!r}"]


@dataclass
class Kills:
    """What became of a command that was killed.

    Attributes:
        killed: how often the process died by the signal.
        steps: the step of the checkpoint after each kill; None = there was none yet.
        codes: exit codes of the starts that were not killed.
    """

    killed: int = 0
    steps: list[int | None] = field(default_factory=list)
    codes: list[int] = field(default_factory=list)


def kill_until_done(
    start: Callable[[], Forked],
    folder: Path,
    *,
    kills: int,
    longest: float,
    seed: int = 0,
    number: int = signal.SIGKILL,
    resumable: Sequence[int] = (75, 130),
    after_save: bool = False,
    after_kill: Callable[[Kills], None] = lambda record: None,
) -> Kills:
    """Start a program again and again, kill it at a random moment, and in the end let it finish.

    Args:
        start: starts it; it trains in ``folder`` and goes on by itself where it was stopped.
        folder: the run folder; after each kill it must hold a loadable checkpoint or none at all.
        kills: how many times to kill; fewer if the program finishes before.
        longest: seconds within which the moment is drawn, uniformly; about the time of the whole run is good.
        seed: of the moments.
        number: the signal.
        resumable: exit codes that mean "start me again", for signals that a process survives.
        after_save: start the clock when the process has written its first checkpoint, so that every start gets
            further than the one before; otherwise it starts with the process, and start-up is killed too.
        after_kill: a further check.

    Raises:
        AssertionError: a start failed by itself, or a kill left a folder that cannot be resumed.
    """
    moments, record = random.Random(seed), Kills()
    newest = folder / "checkpoints" / checkpoint.LAST
    while True:
        before, program = _written(newest), start()
        process, last = program.process, len(record.steps) >= kills
        if after_save and not last:
            wait_for(lambda p=process, b=before: p.exitcode is not None or _written(newest) != b, 600)
        process.join(None if last else moments.uniform(0, longest))
        if process.exitcode is None:
            program.signal(number)
            process.join()
        code = process.exitcode
        if code == 0:
            record.codes.append(code)
            return record
        record.killed += code == -number
        if code != -number:
            record.codes.append(code)
            assert code in resumable, f"exit {code}:\n{program.output.read_text()[-3000:]}"
        path = checkpoint.find(folder / "checkpoints")
        record.steps.append(None if path is None else checkpoint.load(path)["step"])
        after_kill(record)


def _written(path: Path) -> int | None:
    return path.stat().st_mtime_ns if path.exists() else None


def wait_for(condition: Callable[[], bool], seconds: float = LONG) -> None:
    """Wait until ``condition`` holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)

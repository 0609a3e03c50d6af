"""A sweep of three runs on another executor: what is killed is gone on with, to the bits of runs that nobody disturbed.

``SSOD_ALL_ENDINGS=1`` tries each executor, without it the first one is tried.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

import ssod
from ssod.experiments.sweep.pool import locked
from ssod.experiments.sweep.sweep import Cell, finished, read_sweep
from ssod.utils.errors import Exit
from tests.engine.crash import difference, final_state, wait_for
from tests.patience import LONG
from tests.small import small_config

STEPS = 12
CHANGES = [f"train.steps={STEPS}", "train.eval_every=0", "train.log_every=1", "train.save_every=2"]
METHODS = [
    {"name": "supervised", "ema": {"decay": 0.9}},
    {"name": "mean_teacher", "burn_in": 1, "score": 0.02, "ema": {"decay": 0.9}},
    {"name": "unbiased_teacher", "burn_in": 1, "score": 0.02, "ema": {"decay": 0.9, "warm_up": True, "start": 0}},
]
EXECUTORS = {
    "submitit": {"name": "submitit", "cluster": "local", "parameters": {"timeout_min": 30}},
    "ray": {"name": "ray", "init": {"num_cpus": 2, "object_store_memory": 80_000_000}},
}
CHOSEN = list(EXECUTORS) if "SSOD_ALL_ENDINGS" in os.environ else list(EXECUTORS)[:1]


def sweep_file(folder: Path, executor: dict[str, object]) -> Path:
    """Write a sweep of three methods, and what it reads."""
    small_config(folder)
    keys = {"out": str(folder / "runs"), "base": "small.yaml", "methods": METHODS, "folds": [1]}
    changes = {"overrides": CHANGES, "jobs": 2, "share_burn_in": False, "executor": executor}
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump({**keys, **changes}))
    return path


def sweep(file: Path) -> subprocess.Popen:
    """Start the sweep; what it prints goes to ``sweep.out`` beside its file."""
    with open(file.with_suffix(".out"), "ab") as told:
        command = [sys.executable, "-m", "ssod", "compare", "--sweep", str(file), "--resamples", "10"]
        return subprocess.Popen(command, stdout=told, stderr=subprocess.STDOUT, start_new_session=True)


def steps(cell: Cell) -> list[int]:
    """Return the steps that a run has logged."""
    file = cell.folder / "metrics.jsonl"
    lines = file.read_text().split("\n")[:-1] if file.exists() else []
    return [row["step"] for row in map(json.loads, lines) if row["kind"] == "train"]


def trainers(cells: Sequence[Cell]) -> dict[str, int]:
    """Return the processes that train cells, by the cells' names."""
    found = {}
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = place.read_bytes().split(b"\0")[:-1]
        except OSError:  # it has ended
            continue
        if words[1:4] == [b"-m", b"ssod", b"train"]:
            of = [cell.name for cell in cells if words[-1] == bytes(cell.folder)]
            found |= dict.fromkeys(of, int(place.parent.name))
    return found


def kill_one_that_trains(cells: Sequence[Cell]) -> Cell:
    """Kill a run between its first steps and its last ones."""
    chosen: list[Cell] = []

    def begun() -> bool:
        chosen[:] = [cell for cell in cells if 2 < len(steps(cell)) < STEPS - 3 and cell.name in trainers(cells)]
        return bool(chosen)

    wait_for(begun, 2 * LONG)
    os.kill(trainers(cells)[chosen[0].name], signal.SIGKILL)
    return chosen[0]


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
@pytest.mark.parametrize("name", CHOSEN)
def test_a_killed_run_and_a_killed_sweep_are_gone_on_with(tmp_path: Path, name: str) -> None:
    pytest.importorskip(name)
    file = sweep_file(tmp_path, EXECUTORS[name])
    cells = read_sweep(file).cells
    assert len(cells) == 3
    first = sweep(file)
    try:
        killed = kill_one_that_trains(cells)
        told = file.with_suffix(".out")
        wait_for(lambda: f"{killed.name} failed" in told.read_text(), LONG)
        others = [cell for cell in cells if cell is not killed]
        wait_for(lambda: any(1 < len(steps(cell)) < STEPS for cell in others), LONG)
    finally:
        first.kill()
        first.wait()
    assert not all(map(finished, cells))
    second = sweep(file)
    try:
        assert second.wait(3 * LONG) == Exit.OK, told.read_text()
    finally:
        second.kill()
    assert not any(locked(cell.folder) for cell in cells)
    for cell in cells:
        assert finished(cell)
        assert steps(cell) == list(range(1, STEPS + 1))
        ssod.train(cell.load(), out=tmp_path / "undisturbed" / cell.name)
        assert difference(final_state(cell.folder), final_state(tmp_path / "undisturbed" / cell.name)) == []

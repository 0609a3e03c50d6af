"""Another run of a sweep starts only when it is known that there is memory for it."""

from __future__ import annotations

import io
import json
import subprocess
from pathlib import Path

import pytest
from rich.console import Console

from ssod.engine.logging.log import drop_after
from ssod.experiments.sweep import memory, pool
from ssod.experiments.sweep.memory import Stated, free_memory
from ssod.experiments.sweep.pool import Job
from ssod.experiments.sweep.sweep import Cell, Sweep


def cells(folder: Path, count: int) -> list[Cell]:
    return [Cell(f"row{i}", folder / "x.yaml", (), folder / f"row{i}") for i in range(count)]


@pytest.fixture
def waiting(tmp_path: Path) -> pool._Pool:
    """A pool of two jobs, of which one runs and says nothing yet."""
    found = pool._Pool(Sweep([], 2, tmp_path), Console(file=io.StringIO()))
    found.waiting = cells(tmp_path, 2)
    assert found._room()
    found.running = [job(found.waiting.pop(0))]
    return found


def job(cell: Cell, slot: int = 0) -> Job:
    return Job(cell, None, None, slot, Stated(cell.folder / "metrics.jsonl"))


def write(cell: Cell, *steps: int, gb: float, mode: str = "a") -> Path:
    """Add training lines to a run."""
    cell.folder.mkdir(exist_ok=True)
    with open(cell.folder / "metrics.jsonl", mode) as file:
        file.writelines(json.dumps({"kind": "train", "step": step, "memory/gb": gb}) + "\n" for step in steps)
    return cell.folder / "metrics.jsonl"


def test_another_run_starts_only_when_memory_allows(waiting: pool._Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    (one,) = waiting.running
    assert not waiting._room()  # nobody knows what a run takes
    write(one.cell, 1, gb=2.0)
    for free, room in ((2.5, False), (2.7, True)):
        monkeypatch.setattr(pool, "free_memory", lambda gpu, free=free: free)
        assert waiting._room() is room
    waiting.running.append(job(waiting.waiting[0], 1))
    assert not waiting._room()


def test_what_a_run_stated_before_it_was_resumed_counts_for_nothing(tmp_path: Path) -> None:
    (cell,) = cells(tmp_path, 1)
    path = write(cell, 100, 150, gb=9.0)
    stated = Stated(path)
    assert stated.look() == 0
    drop_after(path, 100)  # as a process does that goes on from step 100
    assert stated.look() == 0
    write(cell, 110, gb=2.0)
    with open(path, "a") as file:
        file.write('{"kind": "tra')
    assert stated.look() == 2.0
    with open(path, "a") as file:
        file.write('in", "step": 120, "memory/gb": 3.0}\n{"kind": "alarm", "step": 120, "text": "x"}\n')
    assert stated.look() == 3.0
    with open(path, "a") as file:
        file.write('{"kind": "tr{"kind": "train"}\n')  # a disk that was full for a while
    assert stated.look() == 3.0
    drop_after(path, 110)  # as a roll back might
    assert stated.look() == 3.0


def test_a_resumed_run_that_drops_nothing(tmp_path: Path) -> None:
    (cell,) = cells(tmp_path, 1)
    stated = Stated(write(cell, 100, gb=9.0))
    write(cell, 110, gb=2.0)
    assert stated.look() == 2.0
    assert Stated(tmp_path / "absent").look() == 0


def test_each_look_reads_what_is_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (cell,) = cells(tmp_path, 1)
    stated = Stated(tmp_path / "row0" / "metrics.jsonl")
    write(cell, *range(100), gb=2.0)
    seen = []
    inner = json.loads
    monkeypatch.setattr(memory.json, "loads", lambda text: seen.append(text) or inner(text))
    for number in (100, 100, 101):
        assert stated.look() == 2.0
        write(cell, number, gb=2.0)
    stated.look()
    assert len(seen) == 103


@pytest.mark.parametrize(
    "fault",
    [
        FileNotFoundError("nvidia-smi"),
        subprocess.CalledProcessError(6, "nvidia-smi"),
        subprocess.TimeoutExpired("nvidia-smi", 60),
        "[N/A]\n",
        "",
    ],
)
def test_free_memory_of_a_gpu_that_cannot_be_asked(fault: object, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*_: object, **__: object) -> subprocess.CompletedProcess:
        if isinstance(fault, Exception):
            raise fault
        return subprocess.CompletedProcess([], 0, stdout=fault)

    monkeypatch.setattr(memory.subprocess, "run", run)
    assert free_memory("MIG-1c9a") is None


def test_free_memory_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    assert free_memory(None) > 0
    monkeypatch.setattr(memory, "MEMINFO", "/proc/absent")  # macOS
    assert free_memory(None) is None


def test_where_free_memory_is_unknown_runs_go_one_at_a_time(
    waiting: pool._Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "free_memory", lambda gpu: None)
    write(waiting.running[0].cell, 1, gb=2.0)
    assert not waiting._room()
    assert not waiting._room()
    assert waiting.console.file.getvalue().count("free memory is unknown here; one run at a time\n") == 1
    waiting.gpus = ["MIG-1", "MIG-2"]
    assert waiting._room()  # a device of its own
    waiting.gpus = ["MIG-1"]
    assert not waiting._room()
    waiting.running = []
    assert waiting._room()

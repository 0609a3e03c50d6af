"""A sweep on a terminal: the runs that are being made, counts, and the time that is left."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest
from rich.console import Console

from ssod.experiments.sweep import board, pool
from ssod.experiments.sweep.board import Advance, Board, Row, last_told
from ssod.experiments.sweep.pool import run_cells
from ssod.experiments.sweep.sweep import Cell, Sweep, read_sweep
from tests.experiments.fake import STEPS
from tests.experiments.test_sweep import METHODS, as_cell, executable, sweep_file
from tests.terminal import Window, on_terminal


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Time that stands still until a test moves it."""
    now = [100.0]
    monkeypatch.setattr(board.time, "monotonic", lambda: now[0])
    return now


def cells_of(folder: Path, folds: int) -> list[Cell]:
    keys = {"base": "small.yaml", "methods": METHODS, "folds": list(range(1, folds + 1))}
    return read_sweep(sweep_file(folder, **keys, overrides=["train.steps=100"])).cells


def tell(cell: Cell, step: int, **values: object) -> None:
    """Add a line to a run's log."""
    cell.folder.mkdir(parents=True, exist_ok=True)
    row = {"kind": "train", "step": step, "time/step": 0.5, **values}
    with open(cell.folder / "metrics.jsonl", "a") as file:
        file.write(json.dumps(row) + "\n")


def test_a_run_tells_how_far_it_is(tmp_path: Path, clock: list[float]) -> None:
    row = Row(cells_of(tmp_path, 1)[0], 100)
    row.look(clock[0])
    assert (row.step, row.ap, math.isnan(row.left(clock[0]))) == (0, None, True)
    clock[0] += 30.0  # it starts
    tell(row.cell, 10)
    row.look(clock[0])
    assert (row.step, row.left(clock[0])) == (10, pytest.approx(45.0)), "at its own pace, not that of its start"
    assert row.left(clock[0] + 5) == pytest.approx(40.0)
    tell(row.cell, 10, kind="eval", **{"teacher/AP": 0.25})
    for step in (20, 30, 40):
        clock[0] += 10.0  # steps and evaluations
        tell(row.cell, step)
        row.look(clock[0])
    assert (row.step, row.ap, row.left(clock[0])) == (40, 0.25, pytest.approx(60.0))
    (row.cell.folder / "metrics.jsonl").unlink()  # a new file, as of a run that goes on from an earlier state
    tell(row.cell, 30)
    clock[0] += 100.0
    row.look(clock[0])
    assert (row.step, row.left(clock[0])) == (30, pytest.approx(35.0))
    tell(row.cell, 40)
    row.look(clock[0])
    assert (row.left(clock[0]), row.left(clock[0] + 1000)) == (pytest.approx(30.0), 0)


def test_a_run_that_goes_on_is_not_timed_by_its_start(tmp_path: Path, clock: list[float]) -> None:
    row = Row(cells_of(tmp_path, 1)[0], 100)
    tell(row.cell, 50)
    row.look(clock[0])
    assert (row.step, row.left(clock[0] + 99)) == (50, pytest.approx(25.0))
    clock[0] += 99.0
    tell(row.cell, 60)
    row.look(clock[0])
    assert row.left(clock[0]) == pytest.approx(20.0)


def test_a_log_is_read_at_its_end_and_only_when_it_grew(
    tmp_path: Path, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    row, read = Row(cells_of(tmp_path, 1)[0], 100), []
    inner = board.lines.at_end
    monkeypatch.setattr(board.lines, "at_end", lambda path: read.append(inner(path)) or read[-1])
    for step in range(3000):
        tell(row.cell, step, text="x" * 100)
    for _ in range(3):
        row.look(clock[0])
    assert row.step == 2999
    assert len(read) == 1
    assert sum(map(len, read[0])) <= board.lines.TAIL
    assert all(json.loads(line) for line in read[0])


@pytest.mark.parametrize("text", ["", "nonsense\n", '{"step": 4', '{"kind": "train", "step": 3, "time/step": null}\n'])
def test_a_log_that_tells_nothing(text: str, tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text(text)
    assert last_told(tmp_path / "metrics.jsonl") == (3 if "3" in text else 0, None, None)
    assert last_told(tmp_path / "absent") == (0, None, None)


def standing(cells: list[Cell], running: int, finished: int = 0, failed: int = 0) -> Advance:
    return Advance(len(cells), cells[:finished], failed, cells[finished + failed + running :],
                    cells[finished + failed : finished + failed + running])  # fmt: skip


@pytest.mark.parametrize("width", [20, 40, 80, 120])
def test_rows_fit_the_window(width: int, tmp_path: Path, clock: list[float]) -> None:
    cells = cells_of(tmp_path, 3)
    shown = Board(Console(width=width))
    tell(cells[0], 10)
    tell(cells[0], 10, kind="eval", **{"teacher/AP": 0.256})
    shown.see(standing(cells, 2))
    lines = shown.text(width, 24)
    assert len(lines) == 3
    assert all(len(line) <= width for line in lines)
    if width >= 40:
        assert lines[0].startswith("0/6 finished  ")
        assert lines[0].endswith("eta 0:02:30"), "two at a time, and all take what the first does"
        assert "fold1-seed0" in lines[1]
        assert lines[1].endswith("eta 0:00:45")
        assert lines[2].endswith("eta       ?")
    if width >= 80:
        assert lines[0] == "0/6 finished  2 running  4 waiting  eta 0:02:30"
        assert re.fullmatch(r"supervised/fold1-seed0 +10/100  AP 25.6  eta 0:00:45", lines[1])
        assert re.fullmatch(r"supervised/fold2-seed0 +0/100  AP    -  eta       \?", lines[2])


def test_of_many_runs_as_many_are_shown_as_there_is_room_for(tmp_path: Path, clock: list[float]) -> None:
    cells = cells_of(tmp_path, 6)
    shown = Board(Console(width=80))
    shown.see(standing(cells, 10))
    lines = shown.text(80, 8)
    assert len(lines) == 7
    assert lines[-1] == "and 5 more"
    assert len(shown.text(80, 24)) == 11


def test_a_sweep_is_timed_by_runs_that_are_alike(
    tmp_path: Path, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = cells_of(tmp_path, 2)  # two methods, two folds
    as_cell(tmp_path, cells[0])
    shown = Board(Console(width=80))
    shown.see(Advance(4, cells[:1], 0, cells[1:], ()))
    assert shown.left() == 3 * STEPS * 0.5, "others do as the one that is known"
    tell(cells[2], 50, **{"time/step": 2.0})
    shown.see(Advance(4, cells[:1], 0, [cells[1], cells[3]], [cells[2]]))
    assert shown.left() == 100 + STEPS * 0.5 + 200
    shown.see(Advance(4, cells[:1], 1, [cells[3]], [cells[2]]))
    assert "1 failed" in shown.text(80, 24)[0]


def test_in_a_terminal_and_in_a_pipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two runs side by side, played by a program that writes a log and leaves what a run leaves."""
    script = f"""
import json, pathlib, sys, time
folder = pathlib.Path(sys.argv[sys.argv.index("-o") + 1])
folder.mkdir(parents=True, exist_ok=True)
for step in range(10, 101, 10):
    with open(folder / "metrics.jsonl", "a") as file:
        file.write(json.dumps({{"kind": "train", "step": step, "time/step": 0.02, "memory/gb": 0.1}}) + "\\n")
        file.write(json.dumps({{"kind": "eval", "step": step, "teacher/AP": step / 200}}) + "\\n")
    time.sleep(0.3)
sys.exit(3 if "{METHODS[0]["name"]}" in str(folder) else 0)
"""
    cells = cells_of(tmp_path, 1)
    monkeypatch.setattr(pool, "POLL", 0.05)
    monkeypatch.setattr(pool, "free_memory", lambda gpu: 100.0)
    monkeypatch.setattr(pool.sys, "executable", str(executable(tmp_path, script)))
    window = Window(80, 24)
    terminal = on_terminal(window, monkeypatch)
    assert len(run_cells(Sweep(cells, 2, tmp_path / "runs", share_burn_in=False), terminal)) == 2
    rows = re.compile(r"(supervised|mean_teacher)/fold1-seed0 +(\d+)/100  AP +([\d.]+|-)  eta +(\S+)")
    seen = [match.groups() for lines in window.seen for line in lines if (match := rows.fullmatch(line))]
    for name in ("supervised", "mean_teacher"):
        steps = [int(step) for who, step, _, _ in seen if who == name]
        assert steps == sorted(steps)
        assert len(set(steps)) > 2
    assert any(sum(bool(rows.fullmatch(line)) for line in lines) == 2 for lines in window.seen), "one row a run"
    assert any("0/2 finished  2 running  0 waiting" in line for lines in window.seen for line in lines)
    last = "\n".join(window.everything())
    assert "eta" not in last
    assert "2 runs, 0 finished, 2 to go, 2 at a time\n" in last
    assert "supervised/fold1-seed0 starts\n" in last
    assert window.sane

    for cell in cells:
        (cell.folder / "metrics.jsonl").unlink()
    with open(tmp_path / "pipe", "w") as file:
        run_cells(
            Sweep(cells, 2, tmp_path / "runs", share_burn_in=False), Console(file=file, force_terminal=False, width=400)
        )
    told = (tmp_path / "pipe").read_text()
    assert "eta" not in told
    assert len(told.splitlines()) == 5, told

"""Cells of a sweep that are equal until burn-in ends make it once, and learn what they would have learnt alone."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path

import pytest
import torch
from rich.console import Console

from ssod import run
from ssod.commands.compare import compare
from ssod.engine.checkpointing import checkpoint
from ssod.engine.checkpointing.burn_in import path_of
from ssod.experiments.sweep import pool
from ssod.experiments.sweep.sharing import KEEP, Group, Sharing, decided, groups_of
from ssod.experiments.sweep.sweep import Cell, Sweep, read_sweep
from tests.experiments.test_sweep import as_cell, sweep_file

EMA = {"decay": 0.9}
MEAN = {"name": "mean_teacher", "burn_in": 3, "score": 0.02, "ema": EMA}
UNBIASED = {"name": "unbiased_teacher", "burn_in": 3, "score": 0.02, "ema": {**EMA, "warm_up": True, "start": 0}}
METHODS = [{"name": "supervised", "ema": EMA}, MEAN, UNBIASED]
BRIEF = [
    *("train.steps=6", "train.log_every=1", "train.save_every=1", "train.eval_every=2"),
    *("train.warm_up.steps=0", "eval.diagnose=0"),
]


def steps_made(cell: Cell) -> list[int]:
    """Return the steps that a run made itself, each told in a line of its log."""
    return [int(step) for step in re.findall(r" step (\d+)/6 ", (cell.folder / "train.log").read_text())]


def lines(folder: Path) -> list[tuple[str, int]]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(row["kind"], row["step"]) for row in rows if row["kind"] != "alarm"]


def learnt(folder: Path) -> dict[str, torch.Tensor]:
    return checkpoint.load(folder / "checkpoints/last.pt")["method"]


@pytest.fixture
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here and in processes that are started, so that their sums have one order."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.timeout(1800)
@pytest.mark.usefixtures("one_thread")
def test_a_sweep_makes_burn_in_once_and_nothing_else_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run that makes the burn-in is killed in it, and the sweep is started again."""
    monkeypatch.setattr(pool, "POLL", 0.05)
    file = sweep_file(tmp_path, base="small.yaml", methods=METHODS, overrides=BRIEF)
    cells = read_sweep(file).cells
    monkeypatch.setenv("SSOD_FAILPOINT", "ckpt.after_dir_fsync:2:kill")
    first = pool._Pool(Sweep(cells, 1, tmp_path / "runs"), Console(quiet=True))
    first.fill()
    (job,) = first.running
    assert job.process.wait() == -signal.SIGKILL
    assert (job.cell, steps_made(job.cell)) == (cells[1], [1, 2])
    first.stop()
    monkeypatch.delenv("SSOD_FAILPOINT")

    compare(sweep=file, out=[tmp_path / "shared.md"], resamples=20)
    assert [steps_made(cell) for cell in cells] == [[4, 5, 6], [1, 2, 3, 4, 5, 6], [4, 5, 6]]
    note = "the first 3 steps of supervised, unbiased_teacher are those of mean_teacher, made once"
    assert note in (tmp_path / "shared.md").read_text()
    assert "supervised/fold1-seed0 waits for the burn-in of another run" in capsys.readouterr().out
    for cell in cells:
        alone = tmp_path / "alone" / cell.name
        run.train(cell.load(), out=alone)
        shared, apart = learnt(cell.folder), learnt(alone)
        assert shared.keys() == apart.keys()
        assert all(torch.equal(shared[name], apart[name]) for name in apart), cell.name
        assert lines(cell.folder) == lines(alone)


# ---- who waits for whom, on folders alone ----------------------------------------------------------------------------


def cells_of(folder: Path, *methods: dict, **keys: object) -> list[Cell]:
    return read_sweep(sweep_file(folder, base="small.yaml", methods=list(methods), overrides=BRIEF, **keys)).cells


def begin(cell: Cell, step: int) -> None:
    """Leave a folder as a run does that was stopped after ``step`` steps."""
    (cell.folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    (cell.folder / "checkpoints/last.pt").write_bytes(b"")
    (cell.folder / "metrics.jsonl").write_text(json.dumps({"kind": "train", "step": step, "time/step": 1.0}) + "\n")


def keep(cell: Cell, group: Group, **changes: object) -> None:
    """Leave the state at the end of burn-in in a folder, as a run does."""
    deciding = {**group.deciding, "classes": {}, "data": "abc", "world_size": 1, **changes}
    checkpoint.save(cell.folder / "checkpoints", {"method": {}, "deciding": deciding}, checkpoint.BURN_IN)


def started_with(cell: Cell) -> tuple[str, ...]:
    return ("--from-burn-in", str(cell.folder))


def names(groups: list[Group]) -> list[list[str]]:
    return [[cell.name.split("/")[0] + cell.name[-7] for cell in group.cells] for group in groups]


def test_cells_share_what_is_equal_until_burn_in_ends(tmp_path: Path) -> None:
    later = {**MEAN, "label": "later", "burn_in": 4}
    sharper = {**MEAN, "label": "sharper", "score": 0.1, "loss": {"unsup": {"cls": "focal", "weighting": "score"}}}
    copies = {**MEAN, "label": "copies", "ema": {"decay": 0.5, "start": None}}
    own = {"name": "instant_teaching_rectify", "burn_in": 3, "ema": EMA}
    none = {**MEAN, "label": "none", "burn_in": 0}
    cells = cells_of(tmp_path, *METHODS, later, sharper, copies, own, none, folds=[1, 2])
    found = names(groups_of(cells))
    fold = ["mean_teacher1", "unbiased_teacher1", "sharper1"]
    # The supervised run begins where the longest burn-in ends, though it would fit the others, too.
    assert found == [fold, [name[:-1] + "2" for name in fold], ["later1", "supervised1"], ["later2", "supervised2"]]


@pytest.mark.parametrize(
    "change",
    ["train.lr=0.1", "train.on_collapse=roll_back", "views.labeled.weak=[]", "data.root=.", "views.val=[flip]"],
)
def test_cells_that_differ_in_what_decides_it_do_not(tmp_path: Path, change: str) -> None:
    sweep_file(tmp_path)
    entries = [
        {"config": "small.yaml", "name": name, "overrides": changes} for name, changes in (("a", []), ("b", [change]))
    ]
    assert groups_of(read_sweep(sweep_file(tmp_path, configs=entries)).cells) == []


def test_what_unlabelled_images_alone_see_is_free(tmp_path: Path) -> None:
    sweep_file(tmp_path)
    changes = ["views.unlabeled.strong=[flip]", "train.batch.unlabeled=1", "train.log_every=1", "method.weight=3"]
    entries = [{"config": "small.yaml", "name": name, "overrides": more} for name, more in (("a", []), ("b", changes))]
    assert names(groups_of(read_sweep(sweep_file(tmp_path, configs=entries)).cells)) == [["a1", "b1"]]


def test_the_first_makes_it_and_the_others_wait_for_its_state(tmp_path: Path) -> None:
    plain, mean, unbiased = cells_of(tmp_path, *METHODS)
    sharing, (group,) = Sharing([plain, mean, unbiased]), groups_of([plain, mean, unbiased])
    assert [sharing.options(cell) for cell in (plain, mean, unbiased)] == [None, KEEP, None]
    begin(mean, 3)  # all steps are made, and the state is being written
    assert [sharing.options(cell) for cell in (plain, unbiased)] == [None, None]
    keep(mean, group)
    assert [sharing.options(cell) for cell in (plain, unbiased)] == [started_with(mean)] * 2
    assert sharing.options(mean) == (), "it goes on from its own"
    begin(unbiased, 4)
    assert sharing.options(unbiased) == ()
    for cell in (mean, unbiased):
        as_cell_of_a_later_sweep = Sharing([plain, cell])
        as_cell_of_a_later_sweep.over.add(cell.name)
        assert as_cell_of_a_later_sweep.options(plain) == (started_with(mean) if cell is mean else ())


def test_where_the_first_fails_or_has_no_state_the_next_makes_it(tmp_path: Path) -> None:
    plain, mean, unbiased = cells_of(tmp_path, *METHODS)
    sharing = Sharing([plain, mean, unbiased])
    sharing.over.add(mean.name)
    assert [sharing.options(cell) for cell in (plain, unbiased)] == [None, KEEP]
    sharing.over.add(unbiased.name)
    assert sharing.options(plain) == ()
    begin(mean, 4)  # by hand, or before sweeps kept a state
    again = Sharing([plain, mean, unbiased])
    assert [again.options(cell) for cell in (plain, mean, unbiased)] == [None, KEEP, KEEP]


def test_a_run_that_was_stopped_in_burn_in_makes_it(tmp_path: Path) -> None:
    plain, mean, unbiased = cells_of(tmp_path, *METHODS)
    begin(unbiased, 2)
    assert [Sharing([plain, mean, unbiased]).options(cell) for cell in (plain, mean, unbiased)] == [None, None, KEEP]


def test_the_last_that_is_left_runs_as_ever(tmp_path: Path) -> None:
    plain, mean, unbiased = cells_of(tmp_path, *METHODS)
    sharing = Sharing([plain, mean, unbiased])
    sharing.over |= {plain.name, unbiased.name}
    assert sharing.options(mean) == ()
    assert Sharing([mean]).options(mean) == ()


@pytest.mark.parametrize("changes", [{"train.lr": 0.5}, {"a key of another version": 1}, {"world_size": 2}])
def test_a_state_of_another_burn_in_is_left_alone(tmp_path: Path, changes: dict) -> None:
    plain, mean = cells_of(tmp_path, *METHODS[:2])
    (group,) = groups_of([plain, mean])
    keep(mean, group, **changes)
    sharing = Sharing([plain, mean])
    assert [sharing.options(cell) for cell in (plain, mean)] == [None, KEEP]
    path_of(mean.folder).write_bytes(b"cut off")
    assert [sharing.options(cell) for cell in (plain, mean)] == [None, KEEP]
    assert group.deciding == decided(mean.load(), 3)


def test_off_by_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = sweep_file(tmp_path, base="small.yaml", methods=METHODS, overrides=BRIEF, share_burn_in=False)
    assert not read_sweep(file).share_burn_in
    told: list[tuple[str, ...]] = []

    def start(self: pool._Pool, cell: Cell, log: object, more: tuple[str, ...]) -> pool.Job:
        told.append(more)
        as_cell(tmp_path, cell)
        raise KeyboardInterrupt

    monkeypatch.setattr(pool._Pool, "_start", start)
    with pytest.raises(KeyboardInterrupt):
        compare(sweep=file)
    assert told == [()]
    with pytest.raises(KeyboardInterrupt):
        compare(sweep=sweep_file(tmp_path, base="small.yaml", methods=METHODS, overrides=BRIEF))
    assert told == [(), KEEP]

"""Sweeps: what a file spells out, what is refused, and that a killed sweep goes on where it was."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from ssod.commands.compare import compare
from ssod.engine.checkpointing.run_dir import RunFolder
from ssod.experiments.sweep import pool
from ssod.experiments.sweep.pool import locked, run_cells, why
from ssod.experiments.sweep.sweep import Cell, Sweep, check_folder, finished, read_sweep
from ssod.methods.registry import names
from ssod.utils.errors import Exit, SsodError
from tests.engine.fork import Command
from tests.experiments.fake import config, fake_run
from tests.patience import LONG
from tests.small import small_config


def sweep_file(folder: Path, **keys: object) -> Path:
    """Write a sweep over the small config, and that config."""
    if not (folder / "small.yaml").exists():
        small_config(folder)
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump({"out": str(folder / "runs"), **keys}))
    return path


DOCS = Path(__file__).resolve().parents[2] / "docs"
SHAPE = {"name", "backbone", "channels", "levels", "anchors", "code", "spread", "align"}  # where equal, weights fit
UNSPLIT = "data={split: null, unlabeled: {format: folder, path: train}}"
METHODS = [
    {"name": "supervised", "ema": {"decay": 0.9}},
    {"name": "mean_teacher", "burn_in": 1, "score": 0.02, "ema": {"decay": 0.9}},
]


def test_the_grid_is_methods_x_detectors_x_percents_x_folds_x_seeds(tmp_path: Path) -> None:
    file = sweep_file(
        tmp_path,
        base="small.yaml",
        methods=METHODS,
        detectors=["fcos", "retinanet_tiny"],
        percents=[30, 40],
        folds=[1, 2],
        seeds=[0, 1, 2],
        overrides=["train.steps=30", "train.log_every=1{seed}"],
        jobs=3,
    )
    sweep = read_sweep(file)
    assert len(sweep.cells) == 2 * 2 * 2 * 2 * 3
    assert (sweep.jobs, sweep.out) == (3, tmp_path / "runs")
    assert len({cell.folder for cell in sweep.cells}) == len(sweep.cells)
    cell = next(c for c in sweep.cells if c.name == "mean_teacher_retinanet_tiny_30p/fold2-seed1")
    cfg = cell.load()
    assert (cfg.method.name, cfg.method.score, cfg.detector.name) == ("mean_teacher", 0.02, "retinanet")
    assert (cfg.data.split.percent, cfg.data.split.fold, cfg.train.seed) == (30, 2, 1)
    assert (cfg.train.steps, cfg.train.log_every) == (30, 11)
    assert cell.folder == tmp_path / "runs" / cell.name


def test_configs_by_pattern_and_with_changes(tmp_path: Path) -> None:
    file = sweep_file(
        tmp_path, configs=["sm*.yaml", {"config": "small.yaml", "name": "b", "overrides": ["train.lr=1"]}]
    )
    cells = read_sweep(file).cells
    assert [cell.name for cell in cells] == ["small/fold1-seed0", "b/fold1-seed0"]
    assert cells[1].load().train.lr == 1


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({}, "no run is named"),
        ({"confgs": []}, "did you mean 'configs'"),
        ({"configs": ["absent*.yaml"]}, "names no file"),
        ({"methods": ["mean_teacher"]}, "sweep.yaml: base: missing"),
        ({"base": "small.yaml", "methods": ["mean_techer"]}, "did you mean 'mean_teacher'"),
        ({"base": "small.yaml", "methods": [{"score": 1}]}, "has no name"),
        ({"configs": ["small.yaml", "small.yaml"]}, "two rows are called 'small'"),
        ({"configs": ["small.yaml"], "overrides": ["train.lrr=1"]}, "train.lrr"),
        ({"configs": ["small.yaml"], "overrides": [UNSPLIT], "folds": [1, 2]}, "has no data.split"),
        ({"configs": ["small.yaml"], "jobs": 0}, "sweep.jobs"),
        ({"configs": ["small.yaml"], "folds": [1, 2, 1]}, "sweep.folds: [1, 2, 1]: 1 is there twice"),
        ({"configs": ["small.yaml"], "seeds": [0, 0]}, "sweep.seeds: [0, 0]: 0 is there twice"),
        ({"base": "small.yaml", "percents": [5, 5.0]}, "sweep.percents: [5, 5.0]: 5 is there twice"),
        ({"configs": ["."]}, "'.' names no file"),
        ({"configs": [""]}, "'' names no file"),
        ({"configs": ["/"]}, "'/' names no file"),
        ({"configs": ["a**b"]}, "'a**b' names no file"),
        ({"configs": ["data"]}, "'data' names no file"),
        ({"configs": [{"config": "small.yaml", "name": "../../evil"}]}, "configs: '../../evil' is no folder name"),
        ({"configs": [{"config": "small.yaml", "name": "/tmp/evil"}]}, "configs: '/tmp/evil' is no folder name"),
        ({"configs": [{"config": "small.yaml", "name": ".."}]}, "configs: '..' is no folder name"),
        ({"configs": [{"config": "small.yaml", "name": ""}]}, "configs: '' is no folder name"),
        ({"base": "small.yaml", "methods": [{"name": "mean_teacher", "label": "a/b"}]}, "methods: 'a/b' is no folder"),
        ({"base": "small.yaml", "methods": [{"name": "mean_teacher", "label": 3}]}, "methods: 3 is no folder name"),
        (
            {"base": "small.yaml", "methods": [{"name": "mean_teacher", "score": s} for s in (0.3, 0.5)]},
            "two rows are called 'mean_teacher'; give one a name of its own: {label: ..., name: mean_teacher, ...}",
        ),
        ({"base": "small.yaml", "detectors": ["fcos", "fcos"]}, "detectors: two rows are called 'fcos'"),
    ],
)
def test_mistakes_are_reported_before_anything_runs(tmp_path: Path, keys: dict, words: str) -> None:
    with pytest.raises(SsodError) as error:
        read_sweep(sweep_file(tmp_path, **keys))
    assert words in error.value.line()
    assert error.value.code == Exit.USAGE


def test_one_method_or_detector_twice_under_labels(tmp_path: Path) -> None:
    sections = [
        {"label": label, "name": "mean_teacher", "score": score} for label, score in (("low", 0.3), ("high", 0.5))
    ]
    detectors = ["fcos", {"label": "fcos16", "name": "fcos", "backbone": "tiny", "channels": 16, "levels": [3, 5]}]
    file = sweep_file(tmp_path, base="small.yaml", methods=sections, detectors=detectors)
    cells = {cell.name: cell.load() for cell in read_sweep(file).cells}
    names = [f"{method}_{detector}/fold1-seed0" for method in ("low", "high") for detector in ("fcos", "fcos16")]
    assert list(cells) == names
    assert [cell.method.score for cell in cells.values()] == [0.3, 0.3, 0.5, 0.5]
    assert [cell.detector.channels for cell in cells.values()][1] == 16


def as_cell(folder: Path, cell: Cell) -> None:
    """Make a finished run of a cell."""
    fake_run(cell.folder, cell.load().method.name, cell.load().data.split.fold)
    (cell.folder / "config.yaml").write_text(yaml.safe_dump(cell.load().dump()))


def test_a_folder_of_another_run_is_refused(tmp_path: Path) -> None:
    file = sweep_file(tmp_path, configs=["small.yaml"])
    as_cell(tmp_path, read_sweep(file).cells[0])
    assert finished(read_sweep(file).cells[0])
    assert read_sweep(sweep_file(tmp_path, configs=["small.yaml"], overrides=["train.log_every=9"])).cells
    with pytest.raises(SsodError, match=r"holds a run with train\.lr=0\.001, the sweep says 0\.5"):
        read_sweep(sweep_file(tmp_path, configs=["small.yaml"], overrides=["train.lr=0.5"]))


def test_finished_cells_are_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = read_sweep(sweep_file(tmp_path, base="small.yaml", methods=METHODS, folds=[1, 2])).cells
    for cell in cells:
        as_cell(tmp_path, cell)
    monkeypatch.setattr(pool._Pool, "_start", lambda *_: pytest.fail("started"))
    assert run_cells(Sweep(cells, 2, tmp_path / "runs"), Console(quiet=True)) == {}


def test_a_failed_run_is_reported_and_the_others_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = sweep_file(tmp_path, base="small.yaml", methods=METHODS)
    done, bad = read_sweep(file).cells
    as_cell(tmp_path, done)
    script = "import sys; print('ssod: error: data: gone', file=sys.stderr); sys.exit(3)"
    monkeypatch.setattr(pool, "POLL", 0.05)
    monkeypatch.setattr(pool.sys, "executable", str(executable(tmp_path, script)))
    with pytest.raises(SsodError, match="data: gone") as error:
        compare(sweep=file, out=[tmp_path / "c.md"], resamples=20)
    assert error.value.field == bad.name
    assert "supervised" in (tmp_path / "c.md").read_text()  # what there is was compared first


def executable(folder: Path, script: str) -> Path:
    """Return a program that stands in for Python and runs ``script`` whatever it is asked."""
    path = folder / "python"
    path.write_text(f"#!{sys.executable}\n{script}\n")
    path.chmod(0o755)
    return path


def test_a_run_that_another_process_has_is_left_alone(tmp_path: Path) -> None:
    assert not locked(tmp_path / "absent")
    with RunFolder(tmp_path / "run"):
        assert locked(tmp_path / "run")
    assert not locked(tmp_path / "run")


def until(condition: Callable[[], object]) -> None:
    """Wait for what another process does."""
    end = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_two_sweeps_at_once_start_each_run_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (cell,) = read_sweep(sweep_file(tmp_path, configs=["small.yaml"])).cells
    script = "import time\nprint('mine', flush=True)\ntime.sleep(600)"
    monkeypatch.setattr(pool.sys, "executable", str(executable(tmp_path, script)))
    one, two = (pool._Pool(Sweep([cell], 1, tmp_path / "runs"), Console(quiet=True)) for _ in range(2))
    log = tmp_path / "runs" / "logs" / "small-fold1-seed0.log"
    try:
        one.fill()
        until(lambda: log.read_text() == "mine\n")
        two.fill()
        assert (len(one.running), two.running, two.waiting) == (1, [], [cell])
        one.running[0].log.close()  # the first sweep is killed; its run still saves its state
        two.fill()
        assert two.running == []
        assert log.read_text() == "mine\n"
    finally:
        one.stop()
        two.stop()
    as_cell(tmp_path, cell)
    two.fill()
    assert (two.running, two.waiting, two.done) == ([], [], 1)
    assert log.read_text() == "mine\n"


def test_a_run_that_found_its_folder_taken_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`ssod train` by hand, begun in the seconds between the start of the sweep's process and its lock."""
    (cell,) = read_sweep(sweep_file(tmp_path, configs=["small.yaml"])).cells
    monkeypatch.setattr(pool.sys, "executable", str(executable(tmp_path, "import sys; sys.exit(6)")))
    sweep = pool._Pool(Sweep([cell], 1, tmp_path / "runs"), Console(quiet=True))
    sweep.fill()
    with RunFolder(cell.folder):
        sweep.running[0].process.wait()
        sweep.reap()
        assert (sweep.running, sweep.waiting, sweep.failures, sweep.done) == ([], [cell], {}, 0)
        sweep.fill()
        assert sweep.running == []
    sweep.fill()
    sweep.running[0].process.wait()
    sweep.reap()
    assert list(sweep.failures) == [cell.name]  # nobody has it: that was another error of the disk


def test_a_run_that_another_process_finishes_meanwhile_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job of a sweep that was killed had the folder; the one of the next sweep ends as it finds it locked."""
    (cell,) = read_sweep(sweep_file(tmp_path, configs=["small.yaml"])).cells
    monkeypatch.setattr(pool.sys, "executable", str(executable(tmp_path, "import sys; sys.exit(6)")))
    sweep = pool._Pool(Sweep([cell], 1, tmp_path / "runs"), Console(quiet=True))
    sweep.fill()
    sweep.running[0].process.wait()
    as_cell(tmp_path, cell)
    sweep.reap()
    assert (sweep.failures, sweep.done) == ({}, 1)


def test_the_reason_of_an_end(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("step 1\nssod: error: train.lr: too high; lower it\nbye\n")
    assert why(tmp_path / "log", 2).startswith("train.lr: too high; lower it (code 2")
    (tmp_path / "log").write_text("Traceback\nKeyError: 'x'\n")
    assert why(tmp_path / "log", 1).startswith("KeyError: 'x' (code 1")


@pytest.mark.slow
@pytest.mark.timeout(580)
def test_a_killed_sweep_is_resumed_and_nothing_runs_twice(tmp_path: Path) -> None:
    """Two rows x two folds; the whole command is killed when a run is done, and started again."""
    entries = [
        {"config": "small.yaml", "name": f"row{i}", "overrides": [f"method={json.dumps(method)}"]}
        for i, method in enumerate(METHODS)
    ]
    changes = [
        "train.steps=3",
        "train.eval_every=0",
        "train.log_every=1",
        "train.save_every=1",
        "train.warm_up.steps=0",
    ]
    file = sweep_file(tmp_path, configs=entries, folds=[1, 2], jobs=2, overrides=changes)
    command = [sys.executable, "-m", "ssod", "compare", "--sweep", str(file), "--resamples", "20"]
    killed = Command(command, output=tmp_path / "killed.out")
    cells = read_sweep(file).cells
    while not any(map(finished, cells)):
        assert killed.process.is_alive(), killed.output.read_text()
        time.sleep(0.2)
    killed.signal(signal.SIGKILL)
    killed.process.join()
    before = {cell.name: os.stat(cell.folder / "metrics.jsonl").st_mtime_ns for cell in cells if finished(cell)}
    code, told = Command(command, output=tmp_path / "whole.out").wait(2 * LONG)
    assert code == 0, told
    assert all(map(finished, cells))
    for cell in cells:
        lines = [json.loads(line) for line in (cell.folder / "metrics.jsonl").read_text().splitlines()]
        assert [row["step"] for row in lines if row["kind"] == "train"] == [1, 2, 3]
        if cell.name in before:
            assert os.stat(cell.folder / "metrics.jsonl").st_mtime_ns == before[cell.name]
    assert (tmp_path / "runs" / "compare.html").stat().st_size > 10_000
    assert "4 x" not in told
    assert told.count("2 x 1") == 2


def test_the_fake_runs_are_like_real_ones(tmp_path: Path) -> None:
    """The small config resolves to the same keys as the fake run's, so that tests on fakes mean something."""
    cell = read_sweep(sweep_file(tmp_path, configs=["small.yaml"])).cells[0]
    assert cell.load().dump().keys() == config("mean_teacher").keys()


def test_the_sweep_of_the_docs_is_sound() -> None:
    """Every cell validates, and each method is a baseline's equal but for what it does with unlabelled images."""
    cells = read_sweep(DOCS / "sweep_shapes.yaml").cells
    assert len(cells) == 4 * 2
    trees = [cell.load() for cell in cells]
    assert len({tree.method.ema.model_dump_json() for tree in trees}) == 1
    assert {tree.data.split.fold for tree in trees} == {1, 2}


def test_the_sweeps_of_every_method_have_them_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two further rows are taught by boxes of files, and each detector has a row without a teacher."""
    monkeypatch.chdir(tmp_path)
    files = ("sweep_neu_det.yaml", "sweep_neu_det_own_detectors.yaml")
    trees = [cell.load() for file in files for cell in read_sweep(DOCS / file).cells]
    assert {tree.method.name for tree in trees} == set(names())
    assert len(trees) == 3 * (len(names()) + 5)
    teachers = [tree.method.teacher for tree in trees if getattr(tree.method, "teacher", None)]
    taught = Counter(teacher.results for teacher in teachers if teacher.name == "file")
    assert taught == {"runs/truth.json": 3, "runs/part.json": 3}


@pytest.mark.parametrize(
    ("file", "models", "rows"),
    [
        ("sweep_neu_det.yaml", ("retinanet",), 18),
        ("sweep_neu_det_own_detectors.yaml", ("retinanet_sides", "retinanet_aligned", "dense_detector"), 6),
        ("sweep_neu_det_two_stage.yaml", ("faster_rcnn",), 10),
        ("sweep_neu_det_weighting.yaml", ("retinanet",), 5),
    ],
)
def test_the_second_sweep_of_a_table_begins_where_the_first_one_leaves_its_models(
    file: str, models: tuple[str, ...], rows: int
) -> None:
    start, cells = (read_sweep(DOCS / name).cells for name in ("sweep_neu_det_start.yaml", file))
    left = {str(cell.folder / "best.safetensors"): cell for cell in start if cell.name.split("/")[0] in models}
    assert (len(left), len(cells)) == (3 * len(models), rows * 3)
    trees = [cell.load() for cell in cells]
    assert {tree.detector.weights for tree in trees} == left.keys()
    for tree in trees:  # the fold's own model, of the same detector but for what has no weights
        model = left[tree.detector.weights].load()
        assert model.data.split.fold == tree.data.split.fold
        assert model.detector.model_dump(include=SHAPE) == tree.detector.model_dump(include=SHAPE)
    assert not any(getattr(tree.method, "fresh_heads", False) for tree in trees), "the models' heads would be lost"


@pytest.mark.parametrize("text", ["", "5", "[1]"])
def test_a_damaged_config_in_a_run_folder_is_one_line(tmp_path: Path, text: str) -> None:
    (cell,) = read_sweep(sweep_file(tmp_path, configs=["small.yaml"])).cells
    cell.folder.mkdir(parents=True)
    (cell.folder / "config.yaml").write_text(text)
    with pytest.raises(SsodError, match="no run's config"):
        check_folder(cell)

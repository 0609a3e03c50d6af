"""``ssod demo`` shows the runs it was asked for, and no others that happen to be there."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ssod.commands import demo
from ssod.engine.checkpointing.run_dir import RunFolder
from ssod.utils.errors import Exit, SsodError


def finished(run: Path, steps: int, ap: float) -> None:
    with RunFolder(run) as folder:
        folder.write_inputs({"train": {"steps": steps}})
        folder.metrics.write_text(json.dumps({"kind": "eval", "step": steps, "teacher/AP": ap}) + "\n")


@pytest.fixture(autouse=True)
def nothing_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(*args: object, **options: object) -> None:
        raise AssertionError("training was started")

    monkeypatch.setattr(demo, "_start", start)
    monkeypatch.setattr(demo, "write_shapes", lambda folder, **sizes: folder)
    monkeypatch.setattr(demo, "predict_files", lambda weights, images, out, score: out.mkdir())


def child(code: str) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", code])


@pytest.mark.parametrize("failing", demo.METHODS)
def test_a_training_that_fails_ends_the_other_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    started = []

    def start(name: str, *args: object) -> subprocess.Popen:
        started.append(child("raise SystemExit(3)" if name == failing else "import time; time.sleep(600)"))
        return started[-1]

    monkeypatch.setattr(demo, "_start", start)
    with pytest.raises(SsodError, match=f"training {failing} ended with code 3") as caught:
        demo.demo(tmp_path)
    assert caught.value.code == Exit.DATA
    assert sorted(job.returncode for job in started) == [-signal.SIGTERM, 3]  # not waited for until its end


def test_no_steps_are_not_the_default(tmp_path: Path) -> None:
    finished(tmp_path / "runs/supervised-1", 2600, 0.1)
    with pytest.raises(SsodError, match="2600 in this run, 0 wanted"):
        demo.demo(tmp_path, steps=0)


def test_a_folder_is_printed_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "[/b] [red]" / ":car:"
    for name in demo.METHODS:
        finished(out / f"runs/{name}-1", 2600, 0.5)
    demo.demo(out)
    assert f"pictures: {out / 'pictures'}" in capsys.readouterr().out


@pytest.mark.parametrize(("there", "asked"), [(2600, None), (20, 20)])
def test_finished_runs_are_not_repeated(tmp_path: Path, there: int, asked: int | None) -> None:
    for ap, name in enumerate(demo.METHODS):
        finished(tmp_path / f"runs/{name}-1", there, ap / 2)
    for _ in range(2):  # nor are the pictures drawn again
        assert demo.demo(tmp_path, steps=asked).rows == ({"supervised": 0.0, "mean_teacher": 0.5},)


@pytest.mark.parametrize(("there", "asked", "wanted"), [(20, None, 2600), (2600, 20, 20), (20, 30, 30)])
def test_runs_of_another_length_are_not_shown_as_the_demo(
    tmp_path: Path, there: int, asked: int | None, wanted: int
) -> None:
    for name in demo.METHODS:
        finished(tmp_path / f"runs/{name}-1", there, 0.1)
    with pytest.raises(SsodError, match=rf"runs/supervised-1: train.steps: {there} in this run, {wanted} wanted"):
        demo.demo(tmp_path, steps=asked)


@pytest.mark.parametrize(
    ("there", "wanted"), [((), [False, True]), (("mean_teacher",), [True]), (("supervised",), [True])]
)
def test_the_steps_of_one_training_are_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: tuple[str, ...], wanted: list[bool]
) -> None:
    for name in there:
        finished(tmp_path / f"runs/{name}-1", 2600, 0.5)
    shown = []

    def start(name: str, run: Path, root: Path, seed: int, steps: int | None, watched: bool) -> subprocess.Popen:
        shown.append(watched)
        finished(run, 2600, 0.5)
        return child("pass")

    monkeypatch.setattr(demo, "_start", start)
    demo.demo(tmp_path)
    assert shown == wanted

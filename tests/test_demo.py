"""``ssod demo`` shows the runs it was asked for, and no others that happen to be there."""

import json
from pathlib import Path

import pytest

from ssod import demo
from ssod.engine.runfolder import RunFolder
from ssod.errors import SsodError


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


@pytest.mark.parametrize(("there", "asked"), [(2600, None), (20, 20)])
def test_finished_runs_are_not_repeated(tmp_path: Path, there: int, asked: int | None) -> None:
    for ap, name in enumerate(demo.METHODS):
        finished(tmp_path / f"runs/{name}-1", there, ap / 2)
    for _ in range(2):  # nor are the pictures drawn again
        assert demo.demo(tmp_path, steps=asked) == [{"supervised": 0.0, "mean_teacher": 0.5}]


@pytest.mark.parametrize(("there", "asked", "wanted"), [(20, None, 2600), (2600, 20, 20), (20, 30, 30)])
def test_runs_of_another_length_are_not_shown_as_the_demo(
    tmp_path: Path, there: int, asked: int | None, wanted: int
) -> None:
    for name in demo.METHODS:
        finished(tmp_path / f"runs/{name}-1", there, 0.1)
    with pytest.raises(SsodError, match=rf"runs/supervised-1: train.steps: {there} in this run, {wanted} wanted"):
        demo.demo(tmp_path, steps=asked)

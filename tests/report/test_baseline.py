"""The supervised twin of a run: which is found, which may be named, and what is said where there is no interval."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from ssod.experiments.runs import read_run
from ssod.report.baseline import find_twin
from ssod.report.run_page import report
from ssod.utils.errors import Exit, SsodError
from tests.experiments.fake import fake_run
from tests.report.test_pages import check


def test_the_twin_is_found_beside_the_run(trained: Path, tmp_path: Path) -> None:
    assert find_twin(read_run(trained / "mean_teacher")).path == trained / "supervised"
    assert find_twin(read_run(trained / "supervised")) is None
    shutil.copytree(trained / "mean_teacher", tmp_path / "alone" / "run")
    page = check(report(tmp_path / "alone" / "run").read_text("utf-8"))
    assert "No supervised twin was found" in page.text


@pytest.mark.parametrize(
    ("own", "twin", "near"),
    [
        ("sweep/mean_teacher/fold1-seed0", "sweep/supervised/fold1-seed0", True),
        ("runs/mean_teacher/20261121-1", "runs/supervised/20261121-2", True),
        ("mine/a", "mine/b", True),
        ("mine/a", "yours/b", False),
        ("mine/x/a", "mine/y/fold1-seed0", False),
    ],
)
def test_a_twin_is_sought_no_further_than_runs_are_filed(tmp_path: Path, own: str, twin: str, near: bool) -> None:
    run, other = fake_run(tmp_path / own), fake_run(tmp_path / twin, "supervised")
    found = find_twin(read_run(run))
    assert (found and found.path) == (other if near else None)


def test_a_twin_is_sought_from_inside_its_folder_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_run(tmp_path / "sweep/mean_teacher/fold1-seed0")
    fake_run(tmp_path / "sweep/supervised/fold1-seed0", "supervised")
    monkeypatch.chdir(tmp_path / "sweep/mean_teacher")
    assert find_twin(read_run(Path("fold1-seed0"))).method == "supervised"


OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "its method is unbiased_teacher": ("unbiased_teacher", {}),
    "labelled split 333333333333, not 000000000000": ("supervised", {"split": {"hash": "3" * 64}}),
    "val set wwwwwwwwwwww, not vvvvvvvvvvvv": ("supervised", {"about": {"val": "w" * 64}}),
    "score threshold 0.5, not 0.05": ("supervised", {"about": {"score": 0.5}}),
    "metric voc, not coco": ("supervised", {"changes": {"eval.metric": "voc"}}),
    "detector retinanet, not fcos": ("supervised", {"changes": {"detector.name": "retinanet"}}),
}


@pytest.mark.parametrize("reason", OTHERS)
def test_a_run_that_is_no_twin_is_refused_and_not_found(tmp_path: Path, reason: str) -> None:
    method, options = OTHERS[reason]
    run, other = fake_run(tmp_path / "run", ap=0.6), fake_run(tmp_path / "other", method, **options)
    with pytest.raises(SsodError) as error:
        report(run, twin=other)
    assert reason in error.value.line()
    assert str(other) in error.value.line()
    assert error.value.code == Exit.USAGE
    assert not (run / "report.html").exists()
    assert find_twin(read_run(run)) is None


def test_a_supervised_run_has_no_twin(tmp_path: Path) -> None:
    run, other = (fake_run(tmp_path / name, "supervised", seed=i) for i, name in enumerate("ab"))
    with pytest.raises(SsodError, match="it has no twin"):
        report(run, twin=other)


def test_a_twin_may_be_named_before_the_first_evaluation(tmp_path: Path) -> None:
    run, twin = fake_run(tmp_path / "run", saved=False, code=None), fake_run(tmp_path / "far" / "twin", "supervised")
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(line for line in lines if '"eval"' not in line))
    assert "No evaluation yet" in check(report(run, twin=twin).read_text("utf-8")).text


@pytest.mark.parametrize(
    ("own", "twins", "said"),
    [
        ({"saved": False}, {}, "no interval: this run saved no eval/step_24.npz"),
        ({}, {"saved": False}, "no interval: the twin saved no eval/step_24.npz"),
        ({"code": None}, {}, "no interval: this run is at step 24 of 24, no exit.json: running or killed"),
    ],
)
def test_why_there_is_no_interval(tmp_path: Path, own: dict[str, Any], twins: dict[str, Any], said: str) -> None:
    run = fake_run(tmp_path / "run", changes={"train.steps": 24}, **own)
    twin = fake_run(tmp_path / "far" / "twin", "supervised", changes={"train.steps": 24}, **twins)
    page = check(report(run, twin=twin).read_text("utf-8"))
    assert said in " ".join(page.text.split())
    assert "AP over the supervised twin" in page.text


def test_a_twin_without_an_evaluation_gives_no_gain(tmp_path: Path) -> None:
    run, twin = fake_run(tmp_path / "run"), fake_run(tmp_path / "far" / "twin", "supervised", code=None)
    (twin / "metrics.jsonl").write_text("")
    page = check(report(run, twin=twin).read_text("utf-8"))
    assert "AP over the supervised twin" not in page.text
    assert "the twin has no AP yet" in page.text
    assert "nan" not in page.text.split()

"""The supervised baseline of a run: which is found, which may be named, and what is said where there is no interval."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from ssod import cli
from ssod.experiments.runs import read_run
from ssod.report.baseline import find_baseline
from ssod.report.run_page import report
from ssod.utils.errors import Exit, SsodError
from tests.experiments.fake import fake_run
from tests.report.test_pages import check


def test_the_baseline_is_found_beside_the_run(trained: Path, tmp_path: Path) -> None:
    assert find_baseline(read_run(trained / "mean_teacher")).path == trained / "supervised"
    assert find_baseline(read_run(trained / "supervised")) is None
    shutil.copytree(trained / "mean_teacher", tmp_path / "alone" / "run")
    page = check(report(tmp_path / "alone" / "run").read_text("utf-8"))
    assert "No supervised baseline was found" in page.text


@pytest.mark.parametrize(
    ("own", "baseline", "near"),
    [
        ("sweep/mean_teacher/fold1-seed0", "sweep/supervised/fold1-seed0", True),
        ("runs/mean_teacher/20261121-1", "runs/supervised/20261121-2", True),
        ("mine/a", "mine/b", True),
        ("mine/a", "yours/b", False),
        ("mine/x/a", "mine/y/fold1-seed0", False),
    ],
)
def test_a_baseline_is_sought_no_further_than_runs_are_filed(
    tmp_path: Path, own: str, baseline: str, near: bool
) -> None:
    run, other = fake_run(tmp_path / own), fake_run(tmp_path / baseline, "supervised")
    found = find_baseline(read_run(run))
    assert (found and found.path) == (other if near else None)


def test_a_baseline_is_sought_from_inside_its_folder_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_run(tmp_path / "sweep/mean_teacher/fold1-seed0")
    fake_run(tmp_path / "sweep/supervised/fold1-seed0", "supervised")
    monkeypatch.chdir(tmp_path / "sweep/mean_teacher")
    assert find_baseline(read_run(Path("fold1-seed0"))).method == "supervised"


OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "its method is unbiased_teacher": ("unbiased_teacher", {}),
    "labelled split fold 1 (33333333), not fold 1 (00000000)": ("supervised", {"split": {"hash": "3" * 64}}),
    "val set wwwwwwwwwwww, not vvvvvvvvvvvv": ("supervised", {"about": {"val": "w" * 64}}),
    "score threshold 0.5, not 0.05": ("supervised", {"about": {"score": 0.5}}),
    "metric voc, not coco": ("supervised", {"changes": {"eval.metric": "voc"}}),
    "detector retinanet, not fcos": ("supervised", {"changes": {"detector.name": "retinanet"}}),
}


@pytest.mark.parametrize("reason", OTHERS)
def test_a_run_that_is_no_baseline_is_refused_and_not_found(tmp_path: Path, reason: str) -> None:
    method, options = OTHERS[reason]
    run, other = fake_run(tmp_path / "run", ap=0.6), fake_run(tmp_path / "other", method, **options)
    with pytest.raises(SsodError) as error:
        report(run, baseline=other)
    assert reason in error.value.line()
    assert str(other) in error.value.line()
    assert error.value.code == Exit.USAGE
    assert not (run / "report.html").exists()
    assert find_baseline(read_run(run)) is None


def test_a_supervised_run_has_no_baseline(tmp_path: Path) -> None:
    run, other = (fake_run(tmp_path / name, "supervised", seed=i) for i, name in enumerate("ab"))
    with pytest.raises(SsodError, match="it has no baseline"):
        report(run, baseline=other)


@pytest.mark.parametrize("option", ["--baseline", "--twin"])
def test_the_command_takes_both_names_of_the_option(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    """``--twin`` is the name before; what people have written in scripts goes on to work."""
    run, other = fake_run(tmp_path / "run"), fake_run(tmp_path / "far" / "run", "supervised")
    monkeypatch.setattr(sys, "argv", ["ssod", "report", str(run), option, str(other)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert not stop.value.code
    assert "AP over the supervised baseline" in check((run / "report.html").read_text("utf-8")).text


def test_a_baseline_may_be_named_before_the_first_evaluation(tmp_path: Path) -> None:
    run, baseline = (
        fake_run(tmp_path / "run", saved=False, code=None),
        fake_run(tmp_path / "far" / "baseline", "supervised"),
    )
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(line for line in lines if '"eval"' not in line))
    assert "No evaluation yet" in check(report(run, baseline=baseline).read_text("utf-8")).text


@pytest.mark.parametrize(
    ("own", "baselines", "message"),
    [
        ({"saved": False}, {}, "no interval: this run saved no eval/step_24.npz"),
        ({}, {"saved": False}, "no interval: the baseline saved no eval/step_24.npz"),
        ({"code": None}, {}, "no interval: this run is at step 24 of 24, no exit.json: running or killed"),
    ],
)
def test_why_there_is_no_interval(tmp_path: Path, own: dict[str, Any], baselines: dict[str, Any], message: str) -> None:
    run = fake_run(tmp_path / "run", changes={"train.steps": 24}, **own)
    baseline = fake_run(tmp_path / "far" / "baseline", "supervised", changes={"train.steps": 24}, **baselines)
    page = check(report(run, baseline=baseline).read_text("utf-8"))
    assert message in " ".join(page.text.split())
    assert "AP over the supervised baseline" in page.text


def test_a_baseline_without_an_evaluation_gives_no_gain(tmp_path: Path) -> None:
    run, baseline = fake_run(tmp_path / "run"), fake_run(tmp_path / "far" / "baseline", "supervised", code=None)
    (baseline / "metrics.jsonl").write_text("")
    page = check(report(run, baseline=baseline).read_text("utf-8"))
    assert "AP over the supervised baseline" not in page.text
    assert "the baseline has no AP yet" in page.text
    assert "nan" not in page.text.split()

"""Labelled images are called by the number of their draw; digits of a hash stand where a number is not enough."""

from __future__ import annotations

from pathlib import Path

from ssod.experiments.draws import draw_of, draws
from ssod.experiments.groups import groups_of
from ssod.experiments.runs import Run, read_run
from ssod.experiments.settings import rows_of
from tests.experiments.fake import fake_run


def run(folder: Path, fold: int | None, digit: str, percent: float | None = 10.0) -> Run:
    return read_run(fake_run(folder / digit, split={"fold": fold, "hash": digit * 64, "percent": percent}))


def test_the_number_is_the_name(tmp_path: Path) -> None:
    runs = [run(tmp_path, 1, "a"), run(tmp_path, 2, "b")]
    assert draws(runs) == {"a" * 64: "fold 1", "b" * 64: "fold 2"}
    assert draw_of(runs[1]) == "fold 2"
    assert draw_of(run(tmp_path, None, "c", None)) == "labels cccccccc"


def test_what_shares_a_number_is_told_apart(tmp_path: Path) -> None:
    one, ten, other = run(tmp_path, 1, "a", 1.0), run(tmp_path, 1, "b"), run(tmp_path, 1, "c")
    assert draws([one, ten]) == {"a" * 64: "fold 1 of 1 %", "b" * 64: "fold 1 of 10 %"}
    assert draws([ten, other]) == {"b" * 64: "fold 1 (bbbbbbbb)", "c" * 64: "fold 1 (cccccccc)"}
    assert len(set(draws([one, ten, other, run(tmp_path, 2, "d")]).values())) == 4


def test_a_refusal_names_folds(tmp_path: Path) -> None:
    runs = [fake_run(tmp_path / "a", "supervised", 1), fake_run(tmp_path / "b", "mean_teacher", 2)]
    _, (line,) = groups_of(rows_of([read_run(folder) for folder in runs]), resamples=20)
    assert line.endswith("different labelled split fold 2 and fold 1") or line.endswith("fold 1 and fold 2")

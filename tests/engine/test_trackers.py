"""Trackers get what metrics.jsonl gets, and none of them can stop a run."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from ssod.engine.trackers import numbers
from ssod.errors import SsodError
from tests.engine import toy


class Recorder:
    """Stands in for both libraries: keeps what it is told, with the signatures of the real ones."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, dict]] = []
        self.started: list[dict] = []
        self.ended = 0

    def init(self, *, project: str, name: str, id: str, resume: str, dir: str) -> Recorder:
        self.started.append({"id": id, "name": name})
        return self

    def log(self, data: dict, step: int | None = None) -> None:
        self.rows.append((step, data))

    def finish(self) -> None:
        self.ended += 1

    def start_run(self, run_id: str | None = None, run_name: str | None = None) -> SimpleNamespace:
        self.started.append({"id": run_id, "name": run_name})
        return SimpleNamespace(info=SimpleNamespace(run_id="abc"))

    def log_metrics(self, metrics: dict, step: int | None = None) -> None:
        self.rows.append((step, metrics))

    def end_run(self) -> None:
        self.ended += 1


def install(monkeypatch: pytest.MonkeyPatch, name: str, told: Recorder, *functions: str) -> None:
    module = ModuleType(name)
    for function in functions:
        setattr(module, function, getattr(told, function))
    monkeypatch.setitem(sys.modules, name, module)


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_tracker_gets_the_same_numbers(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = Recorder()
    install(monkeypatch, name, told, "init", "start_run", "log_metrics", "end_run")
    toy.run(tmp_path / "run", **{name: True})
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [step for step, _ in told.rows] == [row["step"] for row in rows]
    assert told.ended == 1
    for (_, values), row in zip(told.rows, rows):
        assert numbers(row).items() <= values.items()
    toy.run(tmp_path / "run", **{name: True}, steps=16)
    first, second = told.started
    assert second["id"] == (first["id"] if name == "wandb" else "abc")  # a resumed run goes on with its own


@pytest.mark.parametrize("point", ["start_run", "log_metrics", "end_run"])
def test_a_tracker_that_fails_never_stops_a_run(
    point: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    told = Recorder()
    install(monkeypatch, "mlflow", told, "start_run", "log_metrics", "end_run")

    def broken(*args: object, **kwargs: object) -> None:
        raise ConnectionError("the server\nis gone")

    monkeypatch.setattr(sys.modules["mlflow"], point, broken)
    toy.run(tmp_path / "run", mlflow=True)
    assert (tmp_path / "run/best.safetensors").exists()
    assert [m for m in caplog.messages if "mlflow failed (the server is gone)" in m] == caplog.messages
    assert len(caplog.messages) == 1


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_one_that_is_not_installed_is_told_before_the_first_step(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(SsodError, match=f"pip install {name}"):
        toy.run(tmp_path / "run", **{name: True})


def test_lists_are_numbered_and_what_is_no_number_is_left_out() -> None:
    row = {"step": 3, "kind": "train", "a": 1, "b": float("nan"), "threshold": [0.5, 0.25], "phase": "ssod", "c": None}
    assert numbers(row) == {"a": 1.0, "threshold/0": 0.5, "threshold/1": 0.25}

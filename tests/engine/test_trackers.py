"""Trackers get what metrics.jsonl gets, and none of them can stop a run."""

from __future__ import annotations

import io
import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from ssod.engine.logging.trackers import numbers
from ssod.utils.errors import SsodError
from tests.engine import toy


@dataclass
class Picture:
    data: np.ndarray


class Recorder:
    """Stands in for both libraries: keeps what it is told, with the signatures of the real ones."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, dict]] = []
        self.images: list[tuple[int, str, np.ndarray]] = []
        self.started: list[dict] = []
        self.ended = 0

    def init(self, *, project: str, name: str, id: str, resume: str, dir: str) -> Recorder:
        self.started.append({"id": id, "name": name})
        return self

    def log(self, data: dict, step: int | None = None) -> None:
        pictures = {name: value for name, value in data.items() if isinstance(value, Picture)}
        self.images += [(step, name, value.data) for name, value in pictures.items()]
        if not pictures:
            self.rows.append((step, data))

    def Image(self, data_or_path: np.ndarray) -> Picture:
        return Picture(data_or_path)

    def finish(self) -> None:
        self.ended += 1

    def start_run(self, run_id: str | None = None, run_name: str | None = None) -> SimpleNamespace:
        self.started.append({"id": run_id, "name": run_name})
        return SimpleNamespace(info=SimpleNamespace(run_id="abc"))

    def log_metrics(self, metrics: dict, step: int | None = None) -> None:
        self.rows.append((step, metrics))

    def log_image(self, image: np.ndarray, artifact_file: str | None = None, *, key: str, step: int) -> None:
        self.images.append((step, key, image))

    def end_run(self) -> None:
        self.ended += 1


def install(monkeypatch: pytest.MonkeyPatch, name: str, logged: Recorder, *functions: str) -> None:
    module = ModuleType(name)
    for function in functions:
        setattr(module, function, getattr(logged, function))
    monkeypatch.setitem(sys.modules, name, module)


EVERYTHING = ("init", "Image", "start_run", "log_metrics", "log_image", "end_run")


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_tracker_gets_the_same_numbers(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logged = Recorder()
    install(monkeypatch, name, logged, *EVERYTHING)
    toy.run(tmp_path / "run", **{name: True})
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [step for step, _ in logged.rows] == [row["step"] for row in rows]
    assert logged.ended == 1
    for (_, values), row in zip(logged.rows, rows):
        wanted = numbers(row, ["a", "b"])
        if name == "mlflow":  # its file store has no file and folder of one name
            wanted = {re.sub(r"(?<=/)(\w+)/", r"\1.", key): value for key, value in wanted.items()}
            assert all(key.count("/") < 2 for key in values)
        assert wanted.items() <= values.items()
    of_class = {"wandb": "teacher/AP/a", "mlflow": "teacher/AP.a"}[name]
    assert all(values[of_class] == 0.5 for (_, values), row in zip(logged.rows, rows) if row["kind"] == "eval")
    toy.run(tmp_path / "run", **{name: True}, steps=16)
    first, second = logged.started
    assert second["id"] == (first["id"] if name == "wandb" else "abc")  # a resumed run goes on with its own


@pytest.mark.parametrize("point", ["start_run", "log_metrics", "end_run"])
def test_a_tracker_that_fails_never_stops_a_run(
    point: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    logged = Recorder()
    install(monkeypatch, "mlflow", logged, "start_run", "log_metrics", "end_run")

    def broken(*args: object, **kwargs: object) -> None:
        raise ConnectionError("the server\nis gone")

    monkeypatch.setattr(sys.modules["mlflow"], point, broken)
    toy.run(tmp_path / "run", mlflow=True)
    assert (tmp_path / "run/best.safetensors").exists()
    assert [m for m in caplog.messages if "mlflow failed (the server is gone)" in m] == caplog.messages
    assert len(caplog.messages) == 1
    assert logged.ended == (point == "log_metrics"), "what is left out is closed: this process may start another run"


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_one_that_is_not_installed_is_reported_before_the_first_step(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(SsodError, match=f"pip install {name}"):
        toy.run(tmp_path / "run", **{name: True})


def test_lists_are_numbered_and_what_is_no_number_is_left_out() -> None:
    row = {"step": 3, "kind": "train", "a": 1, "b": float("nan"), "threshold": [0.5, 0.25], "phase": "ssod", "c": None}
    assert numbers(row) == {"a": 1.0, "threshold/0": 0.5, "threshold/1": 0.25}


def test_a_threshold_of_each_class_has_its_name() -> None:
    row = {"pseudo/threshold": [0.5, 0.25], "pseudo/score_quantiles": [0.1, 0.9], "loss": 1.0}
    named = {"pseudo/threshold/cat": 0.5, "pseudo/threshold/dog": 0.25}
    numbered = {"pseudo/score_quantiles/0": 0.1, "pseudo/score_quantiles/1": 0.9}
    assert numbers(row, ["cat", "dog"]) == {**named, **numbered, "loss": 1.0}
    assert "pseudo/threshold/1" in numbers(row, ["cat", "dog", "cow"])


# ---- pictures ------------------------------------------------------------------------------------------------------


def picture(step: int) -> dict[str, np.ndarray]:
    """A picture that says which step it is of."""
    image = np.zeros((4, 6, 3), np.uint8)
    image[1, 2] = step, 20, 30
    return {"figures/dot": image}


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_tracker_gets_the_pictures_of_each_evaluation(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged = Recorder()
    install(monkeypatch, name, logged, *EVERYTHING)
    toy.run(tmp_path / "run", pictures=picture, **{name: True})
    assert [(step, key) for step, key, _ in logged.images] == [(step, "figures/dot") for step in (4, 8, 12)]
    assert all(np.array_equal(image, picture(step)["figures/dot"]) for step, _, image in logged.images)


def test_tensorboard_keeps_numbers_and_pictures(tmp_path: Path) -> None:
    """Read back from the event files, of a run that was cut and went on: every step once, bit for bit."""
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator", reason="no tensorboard")
    toy.run(tmp_path / "run", tensorboard=True, pictures=picture)
    toy.run(tmp_path / "run", tensorboard=True, pictures=picture, steps=16)
    board = events.EventAccumulator(str(tmp_path / "run/tb"), {"images": 0, "scalars": 0}).Reload()
    images = board.Images("figures/dot")
    assert [event.step for event in images] == [4, 8, 12, 16]
    for event in images:
        pixels = np.array(Image.open(io.BytesIO(event.encoded_image_string)))
        assert np.array_equal(pixels, picture(event.step)["figures/dot"])
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    written = {(row["step"], name): value for row in rows for name, value in numbers(row, ["a", "b"]).items()}
    read = {(e.step, name): e.value for name in board.Tags()["scalars"] for e in board.Scalars(name)}
    assert read.keys() >= written.keys()
    assert {key: read[key] for key in written} == pytest.approx(written, rel=1e-6)
    assert [e.step for e in board.Scalars("teacher/AP/a")] == [4, 8, 12, 16]


def test_without_a_tracker_nothing_is_drawn(tmp_path: Path) -> None:
    toy.run(tmp_path / "run", pictures=lambda step: pytest.fail("drawn for nobody"))


def test_a_tracker_that_takes_no_pictures_gets_numbers_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    logged = Recorder()
    install(monkeypatch, "mlflow", logged, *EVERYTHING)

    def broken(*args: object, **kwargs: object) -> None:
        raise ConnectionError("no room for artifacts")

    monkeypatch.setattr(sys.modules["mlflow"], "log_image", broken)
    toy.run(tmp_path / "run", mlflow=True, pictures=picture)
    assert len([m for m in caplog.messages if "pictures to mlflow failed (no room for artifacts)" in m]) == 1
    assert len(caplog.messages) == 1
    assert logged.rows[-1][0] == 12
    assert logged.ended == 1


def test_a_picture_that_cannot_be_drawn_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    logged = Recorder()
    install(monkeypatch, "mlflow", logged, *EVERYTHING)
    install(monkeypatch, "wandb", logged, *EVERYTHING)
    drawn: list[int] = []

    def broken(step: int) -> dict[str, np.ndarray]:
        drawn.append(step)
        raise ValueError("no numbers")

    metrics = toy.run(tmp_path / "run", mlflow=True, wandb=True, pictures=broken)
    assert metrics == toy.run(tmp_path / "plain")
    assert drawn == [4]
    assert [m for m in caplog.messages if "drawing for trackers failed (no numbers)" in m] == caplog.messages
    assert len(caplog.messages) == 1

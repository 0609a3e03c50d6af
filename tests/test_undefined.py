"""Where there is nothing to find there is no AP: no number stands for it anywhere, and no run starts on it."""

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from torch import nn

import ssod
from ssod.commands.evaluate import Evaluated, _show, evaluate
from ssod.config import load
from ssod.data import datasets
from ssod.data.objects import check_measurable
from ssod.engine.checkpointing.run_dir import RunFolder
from ssod.engine.logging import trackers
from ssod.engine.logging.alarms import Watch
from ssod.engine.logging.log import format_line
from ssod.engine.record import Record
from ssod.evaluation.coco import coco_metrics
from ssod.evaluation.voc import voc_metrics
from ssod.experiments.runs import read_run
from ssod.report.run_page import report
from ssod.utils import model_file
from ssod.utils.errors import Exit, SsodError
from tests.small import small_config

TRUTH = {
    "images": [{"id": 1, "width": 64, "height": 64}],
    "annotations": [{"image_id": 1, "category_id": 1, "bbox": [0.0, 0.0, 9.0, 9.0], "iscrowd": 1}],
    "categories": [{"id": 1, "name": "disc"}],
}
NEGATIVE = re.compile(r"-\s?[1-9]\d*\.\d|\bnan\b|NaN")


@pytest.mark.parametrize("metrics", [coco_metrics, voc_metrics])
def test_undefined_is_no_number(metrics) -> None:
    found = metrics(TRUTH, [{"image_id": 1, "category_id": 1, "bbox": [0.0, 0.0, 9.0, 9.0], "score": 0.9}])
    assert all(math.isnan(value) for value in found.values())


@pytest.fixture
def undefined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run whose val has nothing to find; such a set is refused today, but a run may have been started before."""
    told: list[dict[str, float]] = []

    class Told:
        def __init__(self, folder: Path, step: int) -> None:
            return None

        def scalars(self, step: int, values: dict[str, float]) -> None:
            told.append(values)

        def pictures(self, step: int, images: dict[str, np.ndarray]) -> None:
            return None

        def close(self) -> None:
            return None

    monkeypatch.setitem(trackers.KINDS, "tensorboard", (Told, ""))
    cfg = small_config(tmp_path, train__steps=4, train__eval_every=2, train__log_every=1, method__burn_in=2)
    _all_crowd(tmp_path / "data" / "annotations" / "val.json")
    with monkeypatch.context() as patch:
        patch.setattr("ssod.data.formats.coco.check_counts", lambda *_: None)
        patch.setattr("ssod.build.check_measurable", lambda *_: None)
        ssod.train(load(cfg, ["train.tensorboard=true"]), out=tmp_path / "run")
    assert told
    assert all(value > -1e-6 for values in told for key, value in values.items() if "/AP" in key or "/AR" in key)
    return tmp_path / "run"


def _all_crowd(path: Path) -> None:
    table = json.loads(path.read_text())
    for row in table["annotations"]:
        row["iscrowd"] = 1
    path.write_text(json.dumps(table))


def test_nobody_is_shown_a_number(undefined: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = (undefined / "train.log").read_text()
    assert "teacher/AP -  teacher/AP50 -" in said
    assert "teacher AP -, best -" in said
    assert not NEGATIVE.search(re.sub(r"^[\d: -]{19}", "", said, flags=re.M)), said
    rows = [json.loads(line) for line in (undefined / "metrics.jsonl").read_text().splitlines()]
    assert {row["teacher/AP"] for row in rows if row["kind"] == "eval"} == {None}
    run = read_run(undefined)
    assert run.ap() is None
    assert not run.finished  # it has no place in a comparison
    page = report(undefined).read_text()
    assert re.search(r"AP, last step</td>\s*<td[^>]*>-<", page)
    assert not re.search(r">-100\.0<|>nan<|>-1\.0<", page)
    assert model_file.read_card(undefined / "best.safetensors")["metrics"]["AP"] is None
    capsys.readouterr()
    _show(Evaluated(coco_metrics(TRUTH, []), Path("crowds-alone"), None, 1, 0.05, 0.9, ()))
    assert not NEGATIVE.search(capsys.readouterr().out)


def test_a_run_of_an_earlier_version_has_no_number_either(undefined: Path) -> None:
    path = undefined / "metrics.jsonl"
    path.write_text(path.read_text().replace('"teacher/AP": null', '"teacher/AP": -1.0'))
    assert read_run(undefined).ap() is None


def test_lines_of_a_log() -> None:
    assert "AP -" in format_line(1, 2, 3.0, {"teacher/AP": math.nan, "time/step": 0.1})
    assert "nan" not in format_line(1, 2, math.nan, {})


def test_the_best_teacher_is_one_that_could_be_measured(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run") as folder:
        record = Record(folder, {"detector": {}, "classes": {}, "val_view": []}, "AP")
        taken = [record.take({"AP": value}) for value in (math.nan, math.nan, 0.2, math.nan, 0.1, 0.3)]
        assert taken == [True, True, True, False, False, True]
        assert record.best == 0.3
        record.take({"AP": math.nan})
        record.write(nn.Linear(1, 1).requires_grad_(False), 6)
        assert b"NaN" not in folder.best.read_bytes()[:500]


def test_no_alarm_is_made_of_it() -> None:
    watch = Watch(1)
    watch.judge({"teacher/AP": 0.5})
    assert watch.judge({"teacher/AP": math.nan, "student/AP": math.nan}) == {}
    assert watch.best == 0.5
    assert "collapse" in watch.judge({"teacher/AP": 0.0})


@pytest.mark.parametrize("part", ["train", "val"])
def test_crowds_alone_are_no_objects(part: str, tmp_path: Path) -> None:
    cfg = small_config(tmp_path)
    _all_crowd(tmp_path / "data" / "annotations" / f"{part}.json")
    use = "measure on" if part == "val" else "learn from"
    with pytest.raises(SsodError, match=f"{part}.json.*no object to {use}.*iscrowd") as caught:
        datasets.load(load(cfg).data)
    assert caught.value.code == Exit.DATA


def test_a_split_with_crowds_alone(tmp_path: Path) -> None:
    cfg = load(small_config(tmp_path)).data
    path = tmp_path / "data" / "annotations" / "train.json"
    keeps = set(datasets.load(cfg).labeled.images.ids)
    table = json.loads(path.read_text())
    for row in table["annotations"]:
        row["iscrowd"] = int(row["image_id"] in keeps)
    path.write_text(json.dumps(table))
    with pytest.raises(SsodError, match=r"data.split: the \d+ images that the split labels have no object"):
        datasets.load(cfg)


def test_difficult_boxes_alone_cannot_be_measured_by_vocs_metric(tmp_path: Path) -> None:
    path = small_config(tmp_path)
    val = datasets.load(load(path).data).val
    hard = datasets.replace(val, difficult=np.ones(len(val.boxes), bool))
    check_measurable("coco", hard)
    with pytest.raises(SsodError, match=r"data\.val: no object to measure on: eval\.metric=voc"):
        check_measurable("voc", hard)


def test_eval_refuses_what_cannot_be_measured(tmp_path: Path) -> None:
    cfg = small_config(tmp_path, train__steps=2, method__burn_in=1)
    ssod.train(load(cfg), out=tmp_path / "run")
    _all_crowd(tmp_path / "data" / "annotations" / "val.json")
    with pytest.raises(SsodError, match="no object to measure on"):
        evaluate(tmp_path / "run")

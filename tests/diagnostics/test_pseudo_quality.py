"""What is looked at after an evaluation is right, changes nothing, and is the only thing that sees hidden truth."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ssod import build
from ssod.config import load
from ssod.data import datasets
from ssod.data.datasets import DataSets
from ssod.diagnostics.pseudo_quality import Diagnose, churn, counts, fixed_set, previous, same_views, untouched
from ssod.engine.checkpointing.run_dir import RunFolder
from ssod.engine.trainer import Trainer
from ssod.evaluation.matching import mean_ap, read
from ssod.methods.registry import find, names
from tests.evaluation.test_matching import m
from tests.small import seen_once, small_config


def trained(config: Path, out: Path, *changes: str, data: DataSets | None = None) -> Trainer:
    cfg = load(config, ["train.steps=8", "method.burn_in=2", "train.eval_every=4", *changes])
    with RunFolder(out) as folder:
        trainer = build.build(cfg, data or datasets.load(cfg.data), folder)
        trainer.fit()
    return trainer


def lines(out: Path, kind: str) -> list[dict]:
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    timing = ("time/", "memory/")
    return [{k: v for k, v in row.items() if not k.startswith(timing)} for row in rows if row["kind"] == kind]


def same_weights(a: Trainer, b: Trainer) -> bool:
    ours, theirs = a.method.state_dict(), b.method.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_config(tmp_path_factory.mktemp("diagnose"))


@pytest.fixture(scope="module")
def first(config: Path) -> Trainer:
    return trained(config, config.parent / "first")


def test_training_cannot_read_the_hidden_truth(config: Path, first: Trainer) -> None:
    """With all hidden boxes moved, relabelled and half of them removed every weight is the same, to the bit."""
    data = datasets.load(load(config).data)
    lies = data.hidden.subset(np.arange(len(data.hidden)))
    keep = np.arange(len(data.hidden)) % 2 == 0
    counts = np.diff(lies.starts) * keep
    rows = np.repeat(keep, np.diff(lies.starts))
    false = replace(
        lies,
        boxes=lies.boxes[rows] + 3,
        labels=(lies.labels[rows] + 1) % len(lies.classes),
        crowd=lies.crowd[rows],
        difficult=lies.difficult[rows],
        starts=np.concatenate([[0], counts.cumsum()]),
        area=None,
    )
    other = trained(config, config.parent / "lies", data=replace(data, hidden=false))
    assert same_weights(first, other)
    assert lines(config.parent / "first", "train") == lines(config.parent / "lies", "train")
    true, wrong = (lines(config.parent / name, "eval")[-1]["pseudo/true"] for name in ("first", "lies"))
    assert wrong < true
    assert not hasattr(data.unlabeled, "boxes")


def test_looking_changes_nothing(config: Path, first: Trainer) -> None:
    blind = trained(config, config.parent / "blind", "eval.diagnose=0")
    assert same_weights(first, blind)
    assert lines(config.parent / "first", "train") == lines(config.parent / "blind", "train")
    assert "pseudo/kept" not in lines(config.parent / "blind", "eval")[-1]


def test_what_an_evaluation_saves(config: Path, first: Trainer) -> None:
    folder = config.parent / "first" / "eval"
    for row in lines(config.parent / "first", "eval"):
        table = read(folder / f"step_{row['step']}.npz")
        assert mean_ap(table)[0] == pytest.approx(row["teacher/AP"], abs=1e-9)
        assert table.about["score"] == first.method.teacher.model.decode.score
    assert {"pseudo/precision", "pseudo/recall", "pseudo/kept", "pseudo/true"} <= row.keys()
    assert 0 <= row["pseudo/churn"] <= 1
    whole = json.loads((folder / "step_8.json").read_text(), parse_constant=pytest.fail)
    assert "pseudo/kept/circle" in whole


def test_a_disk_that_refuses_a_look_costs_the_report_alone(
    config: Path, first: Trainer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in (".lock", "eval"):  # a file where the folder is to be
        (tmp_path / name).touch()
    assert same_weights(trained(config, tmp_path), first)
    for end in (".npz", ".pseudo.npz"):
        assert f"{end}: cannot be written" in caplog.text


def test_the_same_teacher_agrees_with_itself(config: Path, first: Trainer) -> None:
    again = first.parts.diagnose(9, first.method)
    assert again["pseudo/kept"] > 0
    assert again["pseudo/inconsistency"] == pytest.approx(0, abs=1e-9)
    assert again["pseudo/churn"] == 0
    assert previous(first.folder.eval, 9).ids == previous(first.folder.eval, 99).ids
    assert previous(first.folder.eval, 4) is None


def test_images_without_truth_have_no_precision(config: Path) -> None:
    changes = "data.unlabeled={format: folder, path: train}"
    trained(config, config.parent / "folder", "data.split=null", changes)
    row = lines(config.parent / "folder", "eval")[-1]
    assert "pseudo/kept" in row
    assert "pseudo/precision" not in row


def test_a_method_that_chooses_no_box_can_be_looked_at(config: Path) -> None:
    out = config.parent / "soft"
    trained(config, out, "method={name: humble_teacher, ema: {decay: 0.9}}", "method.burn_in=2")
    assert not any(key.startswith("pseudo/") for row in lines(out, "eval") for key in row)
    look = previous(out / "eval", 9)  # what its teacher detects is for the report
    assert look.boxes == []
    assert look.known


def test_the_fixed_set_is_spread_over_the_images(config: Path) -> None:
    data = datasets.load(load(config).data)
    images, hidden = fixed_set(data, 3, 8)
    assert list(images.ids) == [data.unlabeled.ids[i] for i in (0, len(data.unlabeled) // 2, len(data.unlabeled) - 1)]
    assert list(hidden.images.ids) == list(images.ids)
    assert fixed_set(data, 10**6, 10**6)[0].ids == data.unlabeled.ids
    assert fixed_set(data, 0, 8) == (None, None)


@pytest.mark.parametrize("batch", [1, 3, 5, 100])
def test_every_image_that_counts_is_looked_at_once(config: Path, batch: int) -> None:
    """Otherwise recall and boxes per image would be divided by images that nobody looked at."""
    cfg = load(config, [f"eval.batch={batch}"])
    data = datasets.load(cfg.data)
    images, hidden = fixed_set(data, 7, batch)
    assert len(images) == {1: 7, 3: 6, 5: 5, 100: 7}[batch]
    seen = [image for shown in same_views(cfg, data.labeled, images) for image in shown.weak.ids]
    assert sorted(seen) == sorted(images.ids) == sorted(hidden.images.ids)


def test_banks_are_put_back() -> None:
    method = torch.nn.Module()
    method.teacher, method.gate = torch.nn.Linear(2, 2), torch.nn.Module()
    method.gate.register_buffer("bank", torch.zeros(3))
    method.gate.register_buffer("grown", torch.zeros(1))
    method.stats = {"a": torch.ones(())}
    with untouched(method):
        method.gate.bank += 1
        method.gate.grown = torch.ones(5)
        method.stats = {}
    assert method.gate.bank.tolist() == [0, 0, 0]
    assert method.gate.grown.tolist() == [0]
    assert list(method.stats) == ["a"]


def test_churn_by_hand() -> None:
    before = np.array([[1, 0], [2, 0], [3, 1]])
    now = np.array([[2, 0], [3, 2], [4, 1]])  # 1 left, 2 stayed, 3 changed its label, 4 came
    assert churn(before, now) == pytest.approx(3 / 4)
    assert churn(before, before) == 0
    assert churn(before[:0], before[:0]) == 0


def test_precision_and_recall_by_hand() -> None:
    truth = {
        "images": [{"id": 1}, {"id": 2}],
        "categories": [{"id": 0, "name": "a"}, {"id": 1, "name": "b"}],
        "annotations": [{"image_id": i, "category_id": 0, "bbox": [0, 0, 10, 10]} for i in (1, 2)],
    }
    found = [
        {"image_id": 1, "category_id": 0, "bbox": [0, 0, 10, 8], "score": 0.9},
        {"image_id": 1, "category_id": 0, "bbox": [1, 0, 10, 10], "score": 0.8},  # the same box again
        {"image_id": 2, "category_id": 1, "bbox": [0, 0, 10, 10], "score": 0.7},  # the wrong class
    ]
    got = counts(m.match(truth, found, "coco"), truth, True)
    assert got["pseudo/precision"] == pytest.approx(1 / 3)
    assert got["pseudo/recall"] == pytest.approx(1 / 2)
    assert (got["pseudo/kept"], got["pseudo/true"], got["pseudo/kept/a"]) == (1.5, 1.0, 1.0)
    assert got["pseudo/precision/b"] == 0
    assert np.isnan(got["pseudo/recall/b"])


SEMI = [name for name in names() if find(name).uses_unlabeled]
TWO_STAGE = "roi: {rows: 8, hidden: 16, size: 3, scale: 64}, rpn: {rows: 16, before: [30, 30], after: [20, 20]}"


@pytest.mark.parametrize(
    ("name", "detector"),
    [*((name, "name: fcos") for name in SEMI), ("mean_teacher", f"name: faster_rcnn, {TWO_STAGE}")],
)
def test_every_method_can_be_looked_at(name: str, detector: str, config: Path) -> None:
    """Looking leaves every tensor of the method as it was, whatever its ``label`` remembers."""
    sides = ", spread: true, loss: {spread: nll}" if name == "unbiased_teacher_v2" else ""
    changes = [f"method={{name: {name}}}", f"detector={{{detector}, backbone: tiny, channels: 16{sides}}}"]
    cfg = load(config, ["train.steps=200000", *changes, *seen_once(name)])
    data = datasets.load(cfg.data)
    method = build.build_method(cfg, data).train()
    look = Diagnose(cfg, data, RunFolder(config.parent / f"{name}-{len(detector)}"))
    before = {key: value.clone() for key, value in method.state_dict().items()}
    found = look(1, method)
    assert found.get("pseudo/kept", 0) >= 0
    after = method.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert look(2, method).get("pseudo/churn", 0) == 0

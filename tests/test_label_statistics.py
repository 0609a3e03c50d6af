"""What the labelled set holds is counted once and handed to a method that asks."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from ssod import build, run
from ssod.config import load
from ssod.data.formats.records import Classes, Images, Labeled
from ssod.data.label_statistics import label_statistics
from ssod.data.splits import coverage
from ssod.engine.checkpointing import checkpoint
from ssod.methods import base
from ssod.structures import LabelStatistics
from tests.small import small_config


def labeled() -> Labeled:
    """Four images: a cat and a dog; two cats and a crowd of dogs; nothing; a crowd of birds."""
    labels = np.array([0, 1, 0, 0, 1, 2])
    return Labeled(
        images=Images("", list("abcd"), [1, 2, 3, 4]),
        classes=Classes(("cat", "dog", "bird"), (1, 2, 3)),
        boxes=np.tile(np.array([0, 0, 9, 9], dtype=np.float32), (6, 1)),
        labels=labels,
        crowd=np.array([False, False, False, False, True, True]),
        difficult=np.zeros(6, dtype=bool),
        starts=np.array([0, 2, 5, 5, 6]),
    )


def test_ignore_regions_do_not_count_and_images_without_a_box_do() -> None:
    found = label_statistics(labeled())
    assert found.images == 4
    assert found.boxes.tolist() == [3, 1, 0]
    assert found.images_with.tolist() == [2, 1, 0]
    assert found.boxes_per_image.tolist() == [0.75, 0.25, 0]
    assert dict(zip(labeled().classes.names, found.boxes.tolist())) == coverage(labeled())


def test_a_set_without_a_box() -> None:
    nothing = replace(labeled(), crowd=np.ones(6, dtype=bool))
    found = label_statistics(nothing)
    assert found.boxes.tolist() == found.images_with.tolist() == [0, 0, 0]


class Asks(base.Method):
    """Keeps boxes per image, and remembers how often it was asked."""

    calls = 0

    def see_labels(self, statistics: LabelStatistics) -> None:
        self.calls += 1
        self.register_buffer("expected", statistics.boxes_per_image)


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    module = ModuleType("tests.asks_for_statistics")
    module.METHOD = Asks
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return small_config(tmp_path, method={"name": module.__name__, "burn_in": 1})


def test_a_method_that_asks_is_reported_once_before_training(config: Path) -> None:
    cfg = load(config)
    data = build.load_data(cfg)
    method = build.build_method(cfg, data)
    assert method.calls == 1
    boxes = np.bincount(data.labeled.labels, minlength=len(data.classes))
    assert torch.equal(method.expected, torch.from_numpy(boxes) / len(data.labeled))


def test_a_run_that_goes_on_is_reported_before_its_state_is_loaded(config: Path, tmp_path: Path) -> None:
    for steps in (2, 4):
        run.train(load(config, [f"train.steps={steps}", "train.eval_every=0"]), out=tmp_path / "parts")
    run.train(load(config, ["train.steps=4", "train.eval_every=0"]), out=tmp_path / "whole")
    whole, parts = (checkpoint.load(tmp_path / n / "checkpoints/last.pt")["method"] for n in ("whole", "parts"))
    assert "expected" in whole
    assert all(torch.equal(value, parts[name]) for name, value in whole.items())

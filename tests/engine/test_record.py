"""The best teacher is the first of the best; its model file says which it was."""

from pathlib import Path

import torch
from torch import nn

from ssod.engine.record import Record
from ssod.utils import model_file
from tests.engine import toy

CARD = {"detector": {"name": "toy"}, "classes": toy.CLASSES, "val_view": []}


def test_only_a_better_teacher_is_the_best(tmp_path: Path) -> None:
    record = Record(toy.RunFolder(tmp_path), CARD, "AP50")
    assert record.results() == {}
    assert [record.take({"AP": 0.9 - ap, "AP50": ap}) for ap in (0.2, 0.2, 0.4, 0.3)] == [True, False, True, False]
    assert (record.best, record.last["AP50"]) == (0.4, 0.3)
    assert record.results() == {"teacher AP50": 0.3, "best": 0.4}


def test_the_model_file_is_of_the_last_evaluation(tmp_path: Path) -> None:
    record, teacher = Record(toy.RunFolder(tmp_path), CARD, "AP"), nn.Linear(2, 3)
    record.take({"AP": 0.25})
    record.write(teacher, 7)
    weights, card = model_file.read(tmp_path / "best.safetensors")
    assert (card["step"], card["metrics"], card["classes"]) == (7, {"AP": 0.25}, toy.CLASSES)
    assert torch.equal(weights["weight"], teacher.weight)
    assert "step" not in CARD

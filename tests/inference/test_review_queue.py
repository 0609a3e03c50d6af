"""Doubtful images come first."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from ssod.inference.label import label_files
from ssod.inference.review_queue import Doubts, advice, doubt, place, write
from tests.trained import model_file, photos


def table(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def test_doubt_by_hand() -> None:
    found = doubt("a", np.array([0.9, 0.6, 0.5, 0.3, 0.25]), 0.5)
    assert (found.kept, found.below) == (2, 3)
    assert found.lowest == 0.6
    assert found.doubt == pytest.approx(0.2 + 0.8 + 1 + 0.2 + 0)
    assert doubt("b", np.zeros(0), 0.5) == type(found)("b", 0.0, 0, 0, None)
    assert doubt("c", np.array([0.4]), 0.0).doubt == pytest.approx(0.6)


def test_the_ranking(tmp_path: Path) -> None:
    doubts = [doubt(name, np.array(scores), 0.5) for name, scores in (("sure", [0.99]), ("b", [0.5]), ("a", [0.5]))]
    write(tmp_path / "review.csv", Doubts(doubts))
    rows = table(tmp_path / "review.csv")
    assert [row["image"] for row in rows] == ["a", "b", "sure"]
    assert [row["rank"] for row in rows] == ["1", "2", "3"]


@pytest.mark.parametrize(
    ("target", "expected"),
    [("o", "o/review.csv"), ("o/instances.json", "o/review.csv"), ("o/p.json", "o/p-review.csv")],
)
def test_where_it_lies(target: str, expected: str) -> None:
    assert place(Path(target)) == Path(expected)


@pytest.mark.parametrize("format", ["coco", "voc"])
def test_labels_come_with_a_ranking(format: str, tmp_path: Path) -> None:
    model_file(tmp_path / "best.safetensors")
    photos(tmp_path / "images", ["a.jpg", "b.jpg", "c.jpg"])
    weights = tmp_path / "best.safetensors"
    data = label_files(weights, tmp_path / "images", tmp_path / "out", format=format, score=0.3).labels
    rows = table(tmp_path / "out" / "review.csv")
    assert sorted(row["image"] for row in rows) == ["a.jpg", "b.jpg", "c.jpg"]
    assert sum(int(row["labels"]) for row in rows) >= len(data.boxes)
    values = [float(row["doubt"]) for row in rows]
    assert values == sorted(values, reverse=True)


def test_no_label_at_all_is_told_with_a_fix(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model_file(tmp_path / "best.safetensors")
    photos(tmp_path / "images", ["a.jpg"])
    label_files(tmp_path / "best.safetensors", tmp_path / "images", tmp_path / "out", score=0.999)
    _, said = capsys.readouterr().out.splitlines()
    assert said.startswith("no label: ")
    nothing = "no label: 0 boxes score between 0.25 and 0.5; lower --score further, or train the model longer"
    assert advice(Doubts([doubt("a", np.zeros(0), 0.5)]), 0.5) == nothing
    near = "no label: 2 boxes score between 0.25 and 0.5; lower --score"
    assert advice(Doubts([doubt("a", np.array([0.3, 0.4]), 0.5)]), 0.5) == near

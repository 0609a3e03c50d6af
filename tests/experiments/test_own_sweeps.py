"""The sweeps of docs that need files of other commands first: each run names the files that those write."""

from pathlib import Path
from typing import Any

import pytest

from ssod.experiments.sweep.sweep import read_sweep

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # runs of a clone do not count


def trees(name: str) -> dict[str, dict[str, Any]]:
    return {cell.name: cell.load().dump() for cell in read_sweep(DOCS / name).cells}


@pytest.mark.parametrize(("data", "few"), [("neu_det", {1: 5}), ("bccd", {1: 1, 5: 5})])
def test_both_methods_learn_from_the_same_shots(data: str, few: dict[int, int]) -> None:
    found = trees(f"sweep_shots_{data}.yaml")
    assert len(found) == 2 * 4 * 3
    for shots in (1, 5, 10, 50):
        for fold in (1, 2, 3):
            pair = [found[f"{method}_{shots}/fold{fold}-seed0"] for method in ("supervised", "mean_teacher")]
            stem = f"runs/shots/{data}.{fold}@{shots}shot"
            for tree in pair:
                assert tree["data"]["labeled"]["ann"] == f"{stem}.json"
                assert tree["data"]["unlabeled"]["ann"] == f"{stem}-unlabeled.json"
                assert tree["train"]["batch"]["labeled"] == few.get(shots, 8)
            assert [tree["method"].pop("name") for tree in pair] == ["supervised", "mean_teacher"]
            assert pair[0]["data"] == pair[1]["data"]
            assert pair[0]["detector"] == pair[1]["detector"]
            assert pair[0]["train"] == pair[1]["train"]

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


def test_naive_and_ours_differ_in_what_they_say_of_missing_labels() -> None:
    found = trees("sweep_incomplete.yaml")
    assert len(found) == (2 * 2 * 2 + 1) * 3
    for seed in (1, 2, 3):
        for method in ("supervised", "mean_teacher"):
            half, half_ours, part, part_ours = (
                found[f"{row}_{method}/fold1-seed{seed}"]
                for row in ("half_naive", "half_ours", "part_naive", "part_ours")
            )
            assert half["data"]["labeled"].pop("which") == "all"
            assert half_ours["data"]["labeled"].pop("which") == "labeled"
            assert half == half_ours
            for source in ("labeled", "unlabeled"):
                ann = part["data"][source].pop("ann")
                assert part_ours["data"][source].pop("ann") == ann.replace("@part", "@marked")
                assert f".{seed}@" in ann
            assert part == part_ours


def test_whole_images_tiles_and_crops_cost_about_the_same() -> None:
    found = trees("sweep_tiles.yaml")
    assert len(found) == 3 * 2 * 3
    rows = {row: found[f"{row}_mean_teacher/fold1-seed1"] for row in ("whole", "tiles", "crops")}
    short = {row: tree["views"]["val"] for row, tree in rows.items()}
    assert short == {"whole": [{"resize": {"short": [300, 300]}}], "tiles": [], "crops": []}
    assert rows["tiles"]["views"]["tiles"]["size"] == 352
    assert 0.9 < 352**2 / (400 * 300) < 1.1
    for row, tree in rows.items():
        assert tree["data"]["root"] == f"runs/tiny/{'crops' if row == 'crops' else 'large'}"
        assert tree["data"].get("split") is None
        for key in ("detector", "train", "method"):
            assert tree[key] == rows["whole"][key]

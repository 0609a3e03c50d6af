"""tools/incomplete_set.py: which images lose which boxes, and what a run reads of the files."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ssod.config import load_recipe
from ssod.data import datasets
from ssod.data.formats.findings import Findings
from ssod.data.formats.records import Labeled
from ssod.data.synthetic import write_shapes
from tools.incomplete_set import drawn, lost, main, tables


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes(tmp_path_factory.mktemp("shapes"), train=20, val=2, unlabeled=2, size=96)


def config(root: Path, *overrides: str) -> datasets.DataConfig:
    overrides = (f"data.root={root}", "data.split=null", *overrides)
    return load_recipe(method="supervised", detector="fcos_tiny_fpn", data="shapes", overrides=overrides).data


@pytest.fixture(scope="module")
def whole(root: Path) -> Labeled:
    cfg = config(root)
    return datasets.load_labeled(cfg, datasets.context(cfg)("labeled"))


def boxes(table: dict) -> np.ndarray:
    """Return how many boxes each image has."""
    owner = np.array([row["image_id"] for row in table["annotations"]])
    return (owner[:, None] == [row["id"] for row in table["images"]]).sum(0)


def test_the_drawn_images_lose_the_share_and_others_nothing(whole: Labeled) -> None:
    before, few = np.diff(whole.starts), drawn(len(whole), 0.6, seed=1)
    found = tables(whole, 0.6, 0.5, seed=1)
    assert few.sum() == 12
    assert boxes(found["half"]).tolist() == np.where(few, 0, before).tolist()
    left = boxes(found["part"])
    assert (left[~few] == before[~few]).all()
    assert (np.abs(left[few] - before[few] / 2) < 1).all(), "the whole number above or below half"
    assert left.sum() < before.sum()
    assert found["marked"]["annotations"] == found["part"]["annotations"]
    assert [row.get("incomplete", False) for row in found["marked"]["images"]] == few.tolist()
    assert not any("incomplete" in row for row in found["part"]["images"] + found["half"]["images"])
    assert tables(whole, 0.6, 0.5, seed=1) == found != tables(whole, 0.6, 0.5, seed=2)
    assert (few >= drawn(len(whole), 0.3, seed=1)).all(), "more images, the same first"


def test_a_share_is_met_on_average_and_a_crowd_stays(whole: Labeled) -> None:
    crowd = np.arange(len(whole.boxes)) % 4 == 0
    of = np.mean([lost(replace(whole, crowd=crowd), np.ones(20, bool), 0.3, seed) for seed in range(300)], axis=0)
    assert (of[crowd] == 0).all()
    assert of[~crowd].mean() == pytest.approx(0.3, abs=0.02)


def test_a_run_reads_the_files(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--images", "0.6", "--boxes", "0.5", "--draws", "2", f"data.root={root}"]
    assert main(["--data", "shapes", *options, "-o", str(tmp_path)]) == 0
    names = [f"shapes.{draw}@{name}.json" for draw in (1, 2) for name in ("half", "part", "marked")]
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(names)
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()] == [str(tmp_path / n) for n in names]

    def load(name: str, labeled: str, unlabeled: str) -> datasets.DataSets:
        ann = f"format: coco, images: train, ann: {tmp_path / f'shapes.2@{name}.json'}"
        changes = (f"data.labeled={{{ann}{labeled}}}", f"data.unlabeled={{{ann}{unlabeled}}}")
        return datasets.load(config(root, *changes), Findings())

    few, before = drawn(20, 0.6, seed=2), json.loads((tmp_path / "shapes.2@part.json").read_text())
    bare = np.bincount([row["image_id"] for row in before["annotations"]], minlength=21)[1:]
    ours = load("half", ", which: labeled", ", which: bare")
    assert set(ours.unlabeled.paths) >= {before["images"][i]["file_name"] for i in np.flatnonzero(few)}
    assert len(ours.labeled) + len(ours.unlabeled) == 20
    naive = load("half", ", which: all", ", which: bare")
    assert len(naive.labeled) == 20
    marked = load("marked", "", "")
    assert marked.labeled.incomplete.all(1).tolist() == few.tolist()
    assert np.diff(marked.labeled.starts).tolist() == bare.tolist()


@pytest.mark.parametrize(("option", "value"), [("--images", "1"), ("--boxes", "0"), ("--boxes", "x"), ("--draws", "0")])
def test_what_is_no_share_is_refused(
    option: str, value: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["--data", "shapes", option, value, "-o", str(tmp_path)])
    assert f"argument {option}: '{value}' is no" in capsys.readouterr().err


def test_data_that_is_not_there_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--data", "shapes", f"data.root={tmp_path / 'none'}", "-o", str(tmp_path / "x")]) != 0
    assert len(capsys.readouterr().err.splitlines()) == 1

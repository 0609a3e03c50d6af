"""The tool that brings COCO into the configs' layout."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

from ssod.data.datasets import DataConfig, load
from ssod.data.splits import draw
from tests.data.nano import coco, picture

TOOL = Path(__file__).resolve().parents[2] / "tools" / "prepare_coco.py"


def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("prepare_coco", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def download(tmp_path: Path) -> Path:
    root = tmp_path / "download"
    (root / "annotations").mkdir(parents=True)
    for name, prefix, images, first in (
        ("train2017", "a", 20, 100),
        ("val2017", "v", 4, 900),
        ("unlabeled2017", "u", 5, 2000),
    ):
        data = coco(prefix, images, first)
        for i in range(images):
            picture(root / name / f"{prefix}{i}.jpg", first + i)
        if name == "unlabeled2017":
            data = {"info": {}, "images": data["images"]}
            (root / "annotations/image_info_unlabeled2017.json").write_text(json.dumps(data))
        else:
            (root / f"annotations/instances_{name}.json").write_text(json.dumps(data))
    return root


def run(download: Path, target: Path, *more: str) -> int:
    return tool().main(
        ["--source", str(download), "--target", str(target), "--percent", "10", "25", "--folds", "2", *more]
    )


def test_layout_splits_and_unlabelled_set(download: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "sets/coco"
    assert run(download, target, "--subset") == 0
    assert run(download, target, "--subset") == 0  # again: nothing in its way
    message = capsys.readouterr().out
    assert "train2017: 20 images, 40 annotations, 40 of them usable, no file missing" in message
    assert "unlabeled2017: 5 images" in message
    written = sorted(path.name for path in (target / "annotations/semi_supervised").iterdir())
    assert written == sorted(
        f"instances_train2017.{fold}@{percent}{end}.json"
        for fold in (1, 2)
        for percent in (10, 25)
        for end in ("", "-unlabeled")
    )
    folder = "annotations/semi_supervised/instances_train2017.2@25"
    section = {
        "root": str(target),
        "labeled": {"format": "coco", "ann": f"{folder}.json", "images": "train2017"},
        "unlabeled": {"format": "coco", "ann": "annotations/instances_unlabeled2017.json", "images": "unlabeled2017"},
        "val": {"format": "coco", "ann": "annotations/instances_val2017.json", "images": "val2017"},
    }
    data = load(DataConfig.model_validate(section))
    names = [row["file_name"] for row in coco("a", 20, 100)["images"]]
    assert data.labeled.images.paths == [names[i] for i in sorted(draw(20, 25, 2))]
    assert len(data.unlabeled) == 5
    made = json.loads((target / "annotations/instances_unlabeled2017.json").read_text())
    assert made["annotations"] == []
    assert made["categories"] == coco("a", 1, 1)["categories"]


def test_a_partial_download_is_refused(download: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(download, tmp_path / "coco") == 3
    assert "20 images and 40 annotations, the release has 118287 images and 860001" in capsys.readouterr().err


def test_a_missing_image_is_named(download: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (download / "train2017/a7.jpg").unlink()
    assert run(download, tmp_path / "coco", "--subset") == 3
    assert "'a7.jpg': not found" in capsys.readouterr().err


@pytest.mark.parametrize(("make", "words"), [(False, "not found"), (True, "md5 ")])
def test_another_index_file_is_refused(
    make: bool, words: str, download: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if make:
        (download / "COCO_supervision.txt").write_text("{}")
    assert run(download, tmp_path / "coco", "--subset", "--family", "index_file") == 3
    assert words in capsys.readouterr().err

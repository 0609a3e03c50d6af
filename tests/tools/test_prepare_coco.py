"""The tool that brings COCO into the configs' layout."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

from ssod.config import load_recipe
from ssod.data.datasets import DataConfig, load
from ssod.data.loading.reader import Reader
from ssod.data.splits import draw
from ssod.data.voc_in_coco import COCO_NAME, LIST
from tests.data.nano import HEIGHT, WIDTH, coco, picture, voc_object, xml

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


# ---- VOC 07+12+COCO20 ----------------------------------------------------------------------------------------------


@pytest.fixture
def with_voc(download: Path, tmp_path: Path) -> Path:
    """VOC beside COCO, which shows a sofa in a0, a crowd of tv in v1, and nothing of VOC's else."""
    sets = tmp_path / "sets"
    for year, split, first in (("2007", "trainval", 0), ("2007", "test", 50), ("2012", "trainval", 90)):
        base = sets / f"voc/VOCdevkit/VOC{year}"
        for folder in ("Annotations", "ImageSets/Main"):
            (base / folder).mkdir(parents=True, exist_ok=True)
        stems = [f"{year}_{first + i:03d}" for i in range(4)]
        for i, stem in enumerate(stems):
            picture(base / f"JPEGImages/{stem}.jpg", 5000 + first + i)
            (base / f"Annotations/{stem}.xml").write_text(xml(objects=voc_object("sofa"), name=f"{stem}.jpg"))
        (base / f"ImageSets/Main/{split}.txt").write_text("\n".join(stems))
    for part, image, name, crowd in (("train2017", "a0", "couch", 0), ("val2017", "v1", "tv", 1)):
        path = download / f"annotations/instances_{part}.json"
        data = json.loads(path.read_text())
        data["categories"] = [{"id": 1, "name": "banana"}, {"id": 2, "name": name}, {"id": 3, "name": "sofa bed"}]
        id = next(row["id"] for row in data["images"] if row["file_name"] == f"{image}.jpg")
        for row in data["annotations"]:
            row |= {"category_id": 2, "iscrowd": crowd} if row["image_id"] == id else {"category_id": 1}
        path.write_text(json.dumps(data))
    return sets


def test_the_images_of_voc_s_classes_are_listed_and_the_recipe_reads_them(
    download: Path, with_voc: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(download, with_voc / "coco", "--subset") == 0
    assert "VOC2012: 4 images, COCO with one of VOC's classes: 2; wrote" in capsys.readouterr().out
    recipe = {"method": "mean_teacher", "detector": "fcos_r50_fpn", "data": "voc_coco20"}
    data = load(load_recipe(**recipe, overrides=[f"data.root={with_voc}"]).data)
    voc = [f"voc/VOCdevkit/VOC2012/JPEGImages/2012_{i:03d}.jpg" for i in range(90, 94)]
    assert list(data.unlabeled.paths) == [*voc, "coco/train2017/a0.jpg", "coco/val2017/v1.jpg"]
    assert [Reader(allow_symlinks=True)(data.unlabeled, i).size for i in (0, 4, 5)] == [(WIDTH, HEIGHT)] * 3
    assert (len(data.labeled), len(data.val)) == (4, 4)


def test_without_a_class_of_voc_s_or_with_a_damaged_voc_nothing_is_listed(
    download: Path, with_voc: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = download / "annotations/instances_val2017.json"
    path.write_text(path.read_text().replace('"tv"', '"kite"'))
    assert run(download, with_voc / "coco", "--subset") == 3
    assert "instances_val2017.json: categories: no image has one of VOC's 20 classes" in capsys.readouterr().err
    (with_voc / "voc/VOCdevkit/VOC2012/JPEGImages/2012_091.jpg").unlink()
    assert run(download, with_voc / "coco", "--subset") == 3
    assert not (with_voc / "coco" / LIST).exists()


def test_each_class_of_voc_s_has_one_of_coco_s() -> None:
    classes = load_recipe(method="supervised", detector="fcos_r50_fpn", data="voc").data.classes
    assert list(COCO_NAME) == classes
    assert len(set(COCO_NAME.values())) == 20
    same = {"aeroplane", "diningtable", "motorbike", "pottedplant", "sofa", "tvmonitor"}
    assert {name for name, other in COCO_NAME.items() if name != other} == same


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

"""`ssod init` on projects of which somebody labelled a part: the rest is unlabelled, or the user says what it is."""

import json
from pathlib import Path

import pytest

from ssod.commands.init.write import write_config
from ssod.config import load
from ssod.data import datasets
from ssod.utils.errors import Exit, SsodError
from tests.small_sets import coco, pictures, voc, yolo


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A COCO set and a YOLO set of which 3 of 9 images are labelled, and the current folder."""
    names = [f"{i}.png" for i in range(9)]
    coco(tmp_path / "coco/few.json", tmp_path / "coco", names)
    tree = json.loads((tmp_path / "coco/few.json").read_text())
    (tmp_path / "coco/few.json").write_text(json.dumps(tree | {"annotations": tree["annotations"][:3]}))
    yolo(tmp_path / "yolo", {"train": 9, "val": 2})
    for i in range(3, 9):
        (tmp_path / f"yolo/labels/train/train{i}.txt").unlink()
    voc(tmp_path / "voc", {"test": 3})
    pictures(tmp_path / "free", ["u0.png", "u1.png"])
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("labeled", ["coco", "yolo"])
def test_the_rest_is_unlabelled(here: Path, labeled: str) -> None:
    message = write_config("my.yaml", labeled, "rest", "voc")
    data = datasets.load(load("my.yaml").data)
    assert (len(data.labeled), len(data.unlabeled), len(data.val)) == (3, 6, 3)
    assert not set(data.labeled.images.paths) & set(data.unlabeled.paths)
    assert "unlabelled 6 images (those of " in message


def test_more_than_half_without_a_box_is_not_taught_as_background(here: Path) -> None:
    with pytest.raises(SsodError) as caught:
        write_config("my.yaml", "coco", "free", "voc")
    assert caught.value.code == Exit.USAGE
    assert not Path("my.yaml").exists()
    assert caught.value.line() == (
        "command line: --labeled: 6 of 9 images have no box; if nobody labelled them yet: --unlabeled rest; if they "
        "show no object: data.labeled.which=all"
    )
    write_config("my.yaml", "coco", "free", "voc", overrides=["data.labeled.which=all"])
    assert len(datasets.load(load("my.yaml").data).labeled) == 9


def test_that_holds_for_what_is_measured_on_and_for_a_split(here: Path) -> None:
    with pytest.raises(SsodError, match=r"--val: 6 of 9 images have no box; .*data\.val\.which=labeled; .*=all"):
        write_config("my.yaml", "voc", "free", "coco")
    with pytest.raises(SsodError, match="--labeled: 6 of 9 images have no box"):
        write_config("my.yaml", "coco", None, "voc", percent=50)


def test_without_label_files_they_are_left_out(here: Path) -> None:
    write_config("my.yaml", "yolo", "free", "voc")
    assert len(datasets.load(load("my.yaml").data).labeled) == 3

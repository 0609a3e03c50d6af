"""One notion of "the same file", for check, train, leakage and labels: place, spelling, links and bytes."""

from __future__ import annotations

import json
import os
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ssod.commands.check import check
from ssod.data.checks.samefile import common_content, common_places
from ssod.data.datasets import DataConfig, load
from ssod.data.formats.findings import Context, Findings
from ssod.data.formats.records import Classes, Images
from ssod.data.formats.registry import CocoSource, FolderSource, VocSource, YoloSource, read_images, read_labeled
from ssod.data.stored import read_stored
from ssod.utils.errors import SsodError
from tests.data.nano import Nano, picture, voc, yolo

NFC, NFD = (unicodedata.normalize(form, "Jérôme") for form in ("NFC", "NFD"))


def image(nano: Nano) -> Path:
    """Return the image that the second set is to have, too."""
    return nano.root / "train" / nano.train["images"][0]["file_name"]


def copied(nano: Nano) -> str:
    shutil.copy(image(nano), nano.root / "val/other.jpg")
    return "other.jpg"


def hard_link(nano: Nano) -> str:
    os.link(image(nano), nano.root / "val/other.jpg")
    return "other.jpg"


def link(nano: Nano) -> str:
    (nano.root / "val/other.jpg").symlink_to(image(nano))
    return "other.jpg"


def linked_folder(nano: Nano) -> str:
    (nano.root / "val/deep").symlink_to(nano.root / "train")
    return f"deep/{image(nano).name}"


def moved(nano: Nano) -> str:
    """The whole of the second set lies below the first's folder."""
    shutil.move(nano.root / "val", nano.root / "train/val")
    nano.section["val"]["images"] = "train"
    for row in nano.val["images"]:
        row["file_name"] = f"./val/{row['file_name']}"
    return f".//{image(nano).name}"


WAYS: list[Callable[[Nano], str]] = [copied, hard_link, link, linked_folder, moved]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_an_image_in_train_and_val_stops_training_however_it_is_spelled(
    way: Callable[[Nano], str], tmp_path: Path
) -> None:
    nano = Nano(tmp_path)
    nano.section["allow_symlinks"] = True
    load(nano.config())
    nano.val["images"][0]["file_name"] = way(nano)
    with pytest.raises(SsodError, match=r"data\.val: 1 images are in train and val"):
        load(nano.config())
    (found,) = [f for f in check(nano.config()).findings if f.id == "D37"]
    assert (found.level, found.count) == ("error", 1)


@pytest.mark.parametrize("way", [copied, hard_link, link], ids=lambda way: way.__name__)
def test_an_unlabelled_image_that_is_another_is_told(way: Callable[[Nano], str], tmp_path: Path) -> None:
    nano = Nano(tmp_path)
    nano.section["allow_symlinks"] = True
    name = way(nano)
    (tmp_path / "val" / name).rename(tmp_path / "more" / name)
    shutil.copy(tmp_path / "val/v0.jpg", tmp_path / "more/w.jpg")
    findings = Findings()
    load(nano.config(), findings)
    told = [(f.level, f.id, f.count) for f in findings]
    assert told == [("warning", "D36", 1)] * 2
    assert [(f.level, f.id, f.count) for f in check(nano.config()).findings] == told


def test_other_bytes_of_equal_length_are_another_image(tmp_path: Path) -> None:
    """Raw pictures of one size have one length: only what is inside tells them apart."""
    for i in range(4):
        picture(tmp_path / f"a/{i}.bmp", i)
        picture(tmp_path / f"b/{i}.bmp", 10 + i)
    (tmp_path / "b/x.bmp").write_bytes((tmp_path / "a/2.bmp").read_bytes())
    late = bytearray((tmp_path / "a/3.bmp").read_bytes())
    late[-1] ^= 1  # the middle is alike
    (tmp_path / "b/y.bmp").write_bytes(bytes(late))
    first, second = (Images(str(tmp_path / d), sorted(os.listdir(tmp_path / d)), []) for d in "ab")
    assert common_content(first, second) == [("2.bmp", "x.bmp")]
    assert common_content(first, second, limit=4) == []
    assert common_places(first, second) == []


def test_unicode_forms_of_a_name_are_one_place(tmp_path: Path) -> None:
    picture(tmp_path / f"{NFD}.jpg", 1)
    first, second = Images(str(tmp_path), [f"{NFC}.jpg"], []), Images(str(tmp_path), [f"{NFD}.jpg"], [])
    assert common_places(first, second) == [(f"{NFC}.jpg", f"{NFD}.jpg")]


@pytest.mark.parametrize(("said", "there"), [(NFC, NFD), (NFD, NFC)])
def test_a_name_in_another_unicode_form_finds_its_file_and_its_label(said: str, there: str, tmp_path: Path) -> None:
    if (tmp_path / there).mkdir() or (tmp_path / said).exists():
        pytest.skip("this disk makes no difference between the forms")
    ctx = Context()
    source = voc(tmp_path / "voc", 1)
    for name in ("JPEGImages/000.jpg", "Annotations/000.xml"):
        path = tmp_path / "voc" / name
        path.rename(path.with_stem(there))
    text = (tmp_path / f"voc/Annotations/{there}.xml").read_text().replace("000.jpg", f"{said}.jpg")
    (tmp_path / f"voc/Annotations/{there}.xml").write_text(text)
    for line in (said, f"{said}.jpg"):
        (tmp_path / "voc/ImageSets/Main/train.txt").write_text(f"{line}\n")
        data = read_labeled(VocSource.model_validate(source), ctx)
        assert (data.images.paths, len(data.boxes)) == ([f"{there}.jpg"], 2)
    source = yolo(tmp_path / "yolo", 2)
    (tmp_path / "yolo/images/train/0.png").rename(tmp_path / f"yolo/images/train/{there}.png")
    (tmp_path / "yolo/labels/train/0.txt").rename(tmp_path / f"yolo/labels/train/{said}.txt")
    data = read_labeled(YoloSource.model_validate(source), ctx)
    assert data.images.paths == ["1.png", f"{there}.png"]
    assert len(data.targets(1)) == 1
    assert not ctx.findings.lines()
    folder = tmp_path / "yolo/images/train"
    (folder / "list.txt").write_text(f"{said}.png\n1.png\n")
    found = read_images(FolderSource(format="folder", path=str(folder / "list.txt")), ctx)
    assert found.paths == [f"{there}.png", "1.png"]
    coco = {"images": [{"id": 1, "file_name": f"{said}.png"}, {"id": 2, "file_name": f"{there}.png"}]}
    (tmp_path / "coco.json").write_text(json.dumps(coco))
    found = read_images(CocoSource(format="coco", ann=str(tmp_path / "coco.json"), images=str(folder)), ctx)
    assert found.paths == [f"{there}.png"] * 2
    assert [(f.id, f.count) for f in ctx.findings] == [("L16", 1), ("L16", 1), ("D36", 1)]


def test_stored_boxes_find_their_image_by_any_spelling(tmp_path: Path) -> None:
    images = Images(str(tmp_path), [f"day/{NFD}.jpg", "b.jpg"], ["x", "y"])
    rows = [
        {"image_id": name, "category_id": 1, "bbox": [1, 1, 9, 9], "score": 0.9}
        for name in (f"./day/{NFC}.jpg", f"{NFC}", "./b.jpg")
    ]
    (tmp_path / "boxes.json").write_text(json.dumps(rows))
    ctx = Context(str(tmp_path))
    stored = read_stored("boxes.json", images, Classes(("car",), (1,)), ctx)
    assert (stored.ids, np.diff(stored.starts).tolist()) == (["x", "y"], [2, 1])


def test_a_list_and_a_json_write_a_name_in_one_way(tmp_path: Path) -> None:
    nano = Nano(tmp_path)
    first = nano.train["images"][0]
    first["file_name"] = f"./{first['file_name']}"
    (tmp_path / "list.txt").write_text(f"./train/./{Path(first['file_name']).name}\ntrain//a5.jpg\n")
    nano.section["unlabeled"] = {"format": "folder", "path": "list.txt"}
    findings = Findings()
    data = load(nano.config(), findings)
    assert not [name for name in [*data.labeled.images.paths, *data.unlabeled.paths] if "./" in name or "//" in name]
    assert [(f.id, f.count) for f in findings] == [("D36", 2)]


def test_the_config_spells_a_folder_as_it_likes(tmp_path: Path) -> None:
    nano = Nano(tmp_path)
    (tmp_path / "again").symlink_to(tmp_path / "train")
    (tmp_path / "train.json").write_text("{}")
    for images in ("./train", "val/../train", "again", str(tmp_path / "train")):
        nano.val = nano.train
        nano.section["val"]["images"] = images
        with pytest.raises(SsodError, match="10 images are in train and val"):
            load(DataConfig.model_validate(nano.config().model_dump()))

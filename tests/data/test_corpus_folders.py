"""The table of bad inputs for VOC and YOLO folders: one error a row, with the right id, place, words and exit code."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ssod.commands.check import check
from ssod.data.datasets import DataConfig, load
from ssod.utils.errors import SsodError
from tests.data.nano import Nano, picture, voc, voc_object, xml, yolo

# ---- VOC ---------------------------------------------------------------------------------------------------------


def rewrite(text: str) -> Callable[[Path], None]:
    return lambda root: (root / "Annotations/001.xml").write_text(text) and None


BOMB = """<?xml version="1.0"?><!DOCTYPE lolz [<!ENTITY a "lol"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">
<!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;&b;&b;">]><annotation><object><name>&c;</name></object></annotation>"""
EXTERNAL = '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotation><filename>&x;</filename></annotation>'
VOC_CASES = [
    (
        "V01",
        lambda root: (root / "Annotations/001.xml").unlink(),
        "001",
        "not found (ImageSets/Main/train.txt line 2)",
        3,
    ),
    ("V02", rewrite("<annotation>\n<object>\n<name>car</name></annotation>"), "line 3", "not closed tag <object>", 3),
    ("V02", rewrite(f"<annotation><{'x' * 5000}>"), "line 1", "mend it", 3),
    ("V02", rewrite("car 1 2 3 4"), "line 1", "not XML", 3),
    ("V02", rewrite("<a>" * 1000), "line 1", "nested deeper", 3),
    ("V02", rewrite(f"<annotations>{xml(objects=voc_object())}</annotations>"), "001", "is <annotations>, so no", 3),
    (
        "V04",
        rewrite(xml(objects=voc_object() + voc_object(box=(90, 5, 10, 9)))),
        "object[1].bndbox",
        "xmin 90 ≥ xmax 10",
        3,
    ),
    ("V05", rewrite(xml(objects=voc_object() + "<object><name>car</name></object>")), "object[1]", "bndbox missing", 3),
    ("V05", rewrite(xml(objects=voc_object().replace("<name>car</name>", ""))), "object[0]", "name missing", 3),
    (
        "V06",
        rewrite(xml(objects=voc_object("vann"))),
        "data.labeled",
        "'vann' is not in data.classes: 1 boxes in 1 files, first Annotations/001.xml; did you mean 'van'?",
        3,
    ),
    ("D22", rewrite(xml(objects=voc_object(box=("x", 5, 10, 9)))), "object[0].bndbox.xmin", "expected a number", 3),
    ("D32", rewrite(xml(objects=voc_object(difficult="true"))), "object[0].difficult", "'true', expected 0 or 1", 3),
    ("D28", rewrite(xml(objects=voc_object(box=(90, 5, 99, 9)))), "object[0].bndbox", "outside image 64×48", 3),
    ("D14", lambda root: (root / "ImageSets/Main/train.txt").write_text("001\n001\n") and None, "split", "repeated", 3),
    ("D01", lambda root: (root / "ImageSets/Main/train.txt").unlink(), "data.labeled.split", "not found", 3),
    ("D08", lambda root: (root / "ImageSets/Main/train.txt").write_text("\n\n") and None, "split", "0 images", 3),
    ("S12", rewrite(BOMB), "DOCTYPE", "DTD not allowed", 7),
    ("S12", rewrite(EXTERNAL), "DOCTYPE", "DTD not allowed", 7),
    (
        "S12",
        lambda root: (root / "Annotations/001.xml").write_bytes(BOMB.encode("utf-16")) and None,
        "DOCTYPE",
        "DTD",
        7,
    ),
    (
        "S01",
        lambda root: (root / "ImageSets/Main/train.txt").write_text("../../x\n") and None,
        "name 0",
        "leaves root",
        7,
    ),
    ("I01", lambda root: (root / "JPEGImages/001.jpg").unlink(), "images[1]", "not found", 3),
]


@pytest.mark.parametrize(("id", "spoil", "field", "words", "code"), VOC_CASES)
def test_one_row_of_the_voc_table(
    id: str, spoil: Callable[[Path], None], field: str, words: str, code: int, tmp_path: Path
) -> None:
    source = voc(tmp_path)
    spoil(tmp_path)
    check_one_error({"labeled": source, "classes": ["car", "van"]}, id, field, words, code)


def check_one_error(data: dict[str, Any], id: str, field: str, words: str, code: int) -> None:
    cfg = DataConfig.model_validate(data)
    report = check(cfg)
    errors = report.findings.errors()
    assert [f.id for f in errors] == [id], report.lines()
    assert field in errors[0].field
    assert words in errors[0].line()
    assert report.code == code
    with pytest.raises(SsodError) as caught:
        load(cfg)
    assert caught.value.code == code
    assert len(caught.value.line()) <= 300


YOLO_CASES = [
    ("D22", "labels/train/1.txt", "0 0.5 0.5 0.1\n", "line 1", "4 values, expected 5", 3),
    ("D22", "labels/train/1.txt", "0 0.5 0.5 0.1 x\n", "line 1", "expected 5 numbers", 3),
    ("D19", "labels/train/1.txt", "\n7 0.5 0.5 0.1 0.1\n", "data.labeled", "class '7' is not in 0..1", 3),
    ("D26", "labels/train/1.txt", "0 32 20 10 10\n", "line 1", "'32' is not in 0..1; are these pixels?", 3),
    ("D12", "labels/train/1.txt", "0 nan 0.5 0.1 0.1\n", "line 1", "nan", 3),
    ("D24", "labels/train/1.txt", "0 0.5 0.5 -0.005 0.1\n", "line 1", "negative", 3),
    ("D09", "data.yaml", "names: []\n", "names", "0 classes", 3),
    ("D16", "data.yaml", "names: [car, car]\n", "names", "'car' is listed twice", 3),
    ("C03", "data.yaml", "names: [car, true]\n", "names[1]", "boolean True, expected string", 3),
    ("S10", "data.yaml", "names: !!python/object/apply:os.system ['true']\n", "root", "write plain v", 7),
    ("D05", "labels/train/1.txt", "\x00\x000", "labels", "UTF-16", 3),
]


@pytest.mark.parametrize(("id", "file", "text", "field", "words", "code"), YOLO_CASES)
def test_one_row_of_the_yolo_table(
    id: str, file: str, text: str, field: str, words: str, code: int, tmp_path: Path
) -> None:
    source = yolo(tmp_path)
    (tmp_path / file).write_text(text)
    check_one_error({"labeled": source}, id, field, words, code)


def test_yolo_images_that_share_a_text_file_are_refused(tmp_path: Path) -> None:
    source = yolo(tmp_path)
    picture(tmp_path / "images/train/1.jpg", 1)
    words = "'1.jpg' and '1.png' share one label file; 1 such images"
    check_one_error({"labeled": source}, "D14", "data.labeled.split", words, 3)


@pytest.mark.parametrize(
    ("make", "fix"),
    [(voc, "remove their lines from ImageSets/Main/train.txt"), (yolo, "move them out of the images of 'train'")],
)
def test_images_that_are_labelled_and_unlabelled_are_reported_of_the_unlabelled_set(
    make: Callable[[Path], dict[str, Any]], fix: str, tmp_path: Path
) -> None:
    source = make(tmp_path)
    report = check(DataConfig.model_validate({"labeled": source, "unlabeled": source}))
    (line,) = [f.line() for f in report.findings if f.id == "D36"]
    assert line.startswith(f"warning[D36] {tmp_path}: data.unlabeled: ")
    assert line.endswith(fix)


def test_a_class_that_is_not_declared_is_one_line_and_the_set_is_still_counted(tmp_path: Path) -> None:
    source = voc(tmp_path, images=30)
    (tmp_path / "Annotations/000.xml").write_text(xml(objects=voc_object("tram") + voc_object("tram")))
    report = check(DataConfig.model_validate({"labeled": source, "classes": ["car"]}))
    assert report.lines() == [
        f"error[V06] {tmp_path}: data.labeled: 'tram' is not in data.classes: 2 boxes in 1 files, "
        "first Annotations/000.xml; add it, or remove these objects",
        f"error[V06] {tmp_path}: data.labeled: 'van' is not in data.classes: 29 boxes in 29 files, "
        "first Annotations/001.xml; add it, or remove these objects",
    ]
    assert [f.count for f in report.findings] == [2, 29]
    assert report.counts["labeled"]["boxes_per_class"] == {"car": 29, "tram": 2, "van": 29}


@pytest.mark.parametrize(
    ("name", "meant"),
    [("scratches", ""), ("Patches", "'patches'"), ("patchs", "'patches'"), ("pitted-surface", "'pitted_surface'")],
)
def test_only_a_near_name_is_suggested(name: str, meant: str, tmp_path: Path) -> None:
    source = voc(tmp_path, images=2)
    for xml_file in (tmp_path / "Annotations").iterdir():
        xml_file.write_text(xml(objects=voc_object(name)))
    report = check(DataConfig.model_validate({"labeled": source, "classes": ["patches", "pitted_surface"]}))
    (line,) = report.lines()
    assert ("did you mean" in line) == bool(meant)
    assert f"{meant}? if not, add it" in line or not meant


@pytest.mark.parametrize("classes", [None, ["car", "van"]])
def test_a_yolo_class_without_a_name_is_one_line(classes: list[str] | None, tmp_path: Path) -> None:
    source = yolo(tmp_path, images=5)
    for i in range(4):
        (tmp_path / f"labels/train/{i}.txt").write_text("2 0.5 0.5 0.1 0.1\n1.5 0.5 0.5 0.1 0.1\n2 0.5 0.5 0.2 0.2\n")
    if classes is not None:
        (tmp_path / "data.yaml").unlink()
    report = check(DataConfig.model_validate({"labeled": source, "classes": classes}))
    where = "data.yaml" if classes is None else "data.classes"
    assert report.lines() == [
        f"error[D19] {tmp_path}/labels/train: data.labeled: class '{label}' is not in 0..1: {boxes} boxes in 4 files, "
        f"first 0.txt; add its name to {where}, or mend the lines"
        for label, boxes in (("2", 8), ("1.5", 4))
    ]


def test_a_coco_class_that_is_not_declared_leaves_the_counts(tmp_path: Path) -> None:
    nano = Nano(tmp_path)
    nano.section["classes"] = ["car", "van"]
    report = check(nano.config())
    assert {f.id for f in report.findings} == {"D40"}
    assert list(report.counts["labeled"]["boxes_per_class"]) == ["car", "van", "bus"]
    assert "val" in report.counts

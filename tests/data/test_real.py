"""Real data sets give the numbers that their files hold."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from ssod.commands.check import check
from ssod.data.datasets import DataConfig, load
from ssod.data.formats.coco import to_coco
from ssod.data.formats.findings import Findings
from tests.paths import shared_path

DATA = shared_path("data")


def config(**section: object) -> DataConfig:
    return DataConfig.model_validate({"root": str(DATA), **section})


def voc(root: str, split: str) -> dict:
    return {"format": "voc", "root": root, "split": split}


def coco(split: str) -> dict:
    ann = f"coco-mini/annotations/instances_{split}2017.json"
    return {"format": "coco", "ann": ann, "images": f"coco-mini/{split}2017"}


def test_neu_det() -> None:
    data = load(config(labeled=voc("neu-det", "trainval"), val=voc("neu-det", "test"), split={"percent": 10}))
    assert (len(data.labeled), len(data.hidden), len(data.val)) == (134, 1215, 450)
    assert data.classes.names == ("crazing", "inclusion", "patches", "pitted_surface", "rolled-in_scale", "scratches")
    everything = (data.labeled, data.hidden, data.val)
    assert sum(len(part.boxes) for part in everything) == 4186
    assert sum(int(part.difficult.sum()) for part in everything) == 81
    assert {tuple(size) for part in everything for size in part.images.sizes.tolist()} == {(200, 200)}
    kinds = Counter(id.rsplit("_", 1)[0] for id in data.val.images.ids)
    assert set(kinds.values()) == {75}
    assert all((part.boxes[:, :2] < part.boxes[:, 2:]).all() for part in everything)


def test_bccd() -> None:
    findings = Findings()
    data = load(config(labeled=voc("bccd", "trainval"), val=voc("bccd", "test")), findings)
    assert (len(data.labeled), len(data.val)) == (292, 72)
    assert data.classes.names == ("Platelets", "RBC", "WBC")
    dropped = sum(f.count for f in findings if f.id == "D23")
    assert dropped == 2  # two boxes of a single pixel
    assert len(data.labeled.boxes) + len(data.val.boxes) + dropped == 4888
    assert data.unlabeled is None
    assert data.split["classes_without_boxes"] == []


def test_coco_mini(tmp_path: Path) -> None:
    named = {row["file_name"] for row in json.loads((DATA / coco("val")["ann"]).read_text())["images"]}
    rest = sorted(path.name for path in (DATA / "coco-mini/val2017").iterdir() if path.name not in named)
    (tmp_path / "rest.txt").write_text("\n".join(rest))
    unlabeled = {"format": "folder", "path": str(tmp_path / "rest.txt"), "images": "coco-mini/val2017"}
    findings = Findings()
    data = load(config(labeled=coco("train"), val=coco("val"), unlabeled=unlabeled), findings)
    assert (len(data.labeled), len(data.val), len(data.unlabeled)) == (80, 79, 80)
    assert data.hidden is None
    assert int(data.labeled.crowd.sum() + data.val.crowd.sum()) == 13
    assert len(data.classes) == 80
    assert data.classes.ids[-1] == 90
    assert [f.id for f in findings if f.level == "error"] == []


def test_a_folder_that_holds_val_is_warned_of() -> None:
    findings = Findings()
    unlabeled = {"format": "folder", "path": "coco-mini/val2017"}
    data = load(config(labeled=coco("train"), val=coco("val"), unlabeled=unlabeled), findings)
    assert len(data.unlabeled) == 159
    assert [(f.level, f.count) for f in findings if f.id == "D36"] == [("warning", 79)]


@pytest.mark.parametrize("split", ["train", "val"])
def test_coco_mini_comes_back_as_it_was(split: str) -> None:
    original = json.loads((DATA / coco(split)["ann"]).read_text())
    written = to_coco(load(config(labeled=coco(split))).labeled)
    assert [(r["id"], r["height"], r["width"]) for r in written["images"]] == [
        (r["id"], r["height"], r["width"]) for r in original["images"]
    ]
    order = {row["id"]: i for i, row in enumerate(original["images"])}
    rows = sorted(original["annotations"], key=lambda row: order[row["image_id"]])
    assert len(rows) == len(written["annotations"])
    for key in ("image_id", "category_id", "iscrowd", "area"):
        assert [row[key] for row in written["annotations"]] == [row[key] for row in rows]
    np.testing.assert_allclose(
        [row["bbox"] for row in written["annotations"]], [row["bbox"] for row in rows], atol=1e-4
    )


def test_check_of_neu_det_finds_repeated_boxes_and_nothing_else() -> None:
    report = check(config(labeled=voc("neu-det", "trainval"), val=voc("neu-det", "test")))
    assert {(f.level, f.id, f.field) for f in report.findings} == {
        ("warning", "L12", "data.labeled"),
        ("warning", "L12", "data.val"),
    }, report.lines()
    assert report.counts["labeled"]["images"] == 1349
    assert report.counts["val"]["boxes"] == 1086
    assert report.counts["labeled"]["difficult"] + report.counts["val"]["difficult"] == 81
    assert report.counts["labeled"]["aspect"] == {"wide": 0, "other": 1349}
    json.dumps(report.counts)

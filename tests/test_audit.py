"""``ssod audit``: labels are held against their corrections by the names of images and classes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from ssod.commands.audit import audit
from ssod.evaluation.agreement import ALL, Agreement, wilson
from ssod.utils.errors import Exit, SsodError
from tests.small_sets import coco, yolo

NAMES = [f"p{i}.jpg" for i in range(6)]


def changed(source: Path, target: Path, **tables: object) -> Path:
    """Write a JSON with other tables: each a function of the old one."""
    tree = json.loads(source.read_text())
    for name, how in tables.items():
        tree[name] = how(tree[name])
    target.write_text(json.dumps(tree))
    return target


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    coco(tmp_path / "labels.json", tmp_path / "photos", NAMES)
    return tmp_path / "labels.json"


def test_a_corrected_file_says_how_right_the_labels_were(
    labels: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def mended(rows: list[dict]) -> list[dict]:
        """Image 1: another class; image 2: a box that was forgotten; image 3: the box moved away."""
        rows[0]["category_id"] = 30 if rows[0]["category_id"] == 10 else 10
        rows.append({"id": 99, "image_id": 2, "category_id": 10, "bbox": [50, 30, 8, 8], "area": 64, "iscrowd": 0})
        rows[2]["bbox"] = [30, 20, 30, 24]
        return rows

    swap = {1: 30, 2: 10}  # other ids of classes, and images in another order and folder
    other = changed(
        labels,
        tmp_path / "mended.json",
        categories=lambda rows: [{**row, "id": swap[row["id"]]} for row in rows],
        annotations=lambda rows: mended([{**row, "category_id": swap[row["category_id"]]} for row in rows]),
        images=lambda rows: [{**row, "file_name": f"upload/{row['file_name']}"} for row in rows[::-1]],
    )
    shutil.rmtree(tmp_path / "photos")  # no picture is looked at
    found = {row.name: row for row in audit(labels, other).classes}
    assert found[ALL] == Agreement(ALL, 6, 4, 7)
    assert sum(found[name].right for name in ("cat", "dog")) == 4
    out = capsys.readouterr().out
    low, high = wilson(4, 6)
    assert f"66.7 ({100 * low:.0f}-{100 * high:.0f})" in out
    assert "not compared" not in out


def test_a_label_is_not_wrong_where_the_truth_may_lack_a_box(labels: Path, tmp_path: Path) -> None:
    """Image 1 has a dog, image 2 a cat, and the truth has neither; of image 1 it says that dogs may be missing."""
    other = changed(
        labels,
        tmp_path / "truth.json",
        annotations=lambda rows: rows[2:],
        images=lambda rows: [rows[0] | {"incomplete": ["dog"]}, *rows[1:]],
    )
    found = {row.name: row for row in audit(labels, other).classes}
    assert found["dog"] == Agreement("dog", 2, 2, 2)
    assert found["cat"] == Agreement("cat", 3, 2, 2)


def test_a_sample_may_have_no_label_or_none_that_is_right(labels: Path, tmp_path: Path) -> None:
    none = changed(labels, tmp_path / "none.json", annotations=lambda rows: [])
    assert audit(none, labels).classes[-1] == Agreement(ALL, 0, 0, 6)
    assert audit(labels, none).classes[-1] == Agreement(ALL, 6, 0, 0)


def test_a_part_is_compared_and_the_rest_is_told(
    labels: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    part = changed(
        labels,
        tmp_path / "part.json",
        images=lambda rows: [
            {**row, "file_name": f"x{row['file_name']}"} if row["id"] == 2 else row for row in rows[:3]
        ],
        annotations=lambda rows: rows[:3],
        categories=lambda rows: [{**row, "name": f"{row['name']}s"} if row["id"] == 1 else row for row in rows],
    )
    audited = audit(labels, part)
    assert (audited.images, audited.left_out) == (2, 1)
    found = audited.classes
    assert found[-1] == Agreement(ALL, 2, 2, 2)
    assert [row.name for row in found] == ["cats", "dog", "cat", ALL], "a class that one of them lacks is shown"
    assert "1 images of" in capsys.readouterr().out


def test_formats_may_differ(labels: Path, tmp_path: Path) -> None:
    yolo(tmp_path / "yolo", {"train": 3})
    with pytest.raises(SsodError, match="has none of the 6 images") as caught:
        audit(labels, tmp_path / "yolo")
    assert caught.value.code == Exit.DATA
    for i in range(3):
        for folder, end in (("images", "png"), ("labels", "txt")):
            place = tmp_path / "yolo" / folder / "train"
            (place / f"train{i}.{end}").rename(place / f"p{i}.{end}")
    assert audit(labels, tmp_path / "yolo").classes[-1].true == 3
    with pytest.raises(SsodError, match="not found"):
        audit(labels, tmp_path / "absent.json")

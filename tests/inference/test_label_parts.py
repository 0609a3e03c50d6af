"""What a person is asked for: images that nobody labelled yet, in the form of the labels, beside them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from ssod.data.formats.infer import labeled_source
from ssod.data.formats.records import Images
from ssod.data.formats.registry import CocoSource, YoloSource, read_labeled
from ssod.inference.label import label_files
from ssod.inference.label_parts import Wanted, drawn, sample, unlabelled
from ssod.inference.labelled import parts
from ssod.utils.errors import SsodError
from tests.small_sets import coco
from tests.trained import model_file, photos

NAMES = ["a.png", "b.png", "c.png", "d.png", "sub/e.png"]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    model_file(tmp_path / "run" / "best.safetensors")
    photos(tmp_path / "images", NAMES)
    return tmp_path / "run"


def test_next_and_audit_are_parts_of_the_labels(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "known.txt").write_text(str(tmp_path / "images" / "a.png"))
    (run / "split.json").write_text(json.dumps({"hash": "0", "boxes": {"cat": 5}}))
    wanted = {"next": 2, "audit": 2, "labeled": [str(tmp_path / "known.txt")]}
    whole = label_files(run, tmp_path / "images", tmp_path / "out", score=0.3, **wanted).labels
    assert list(whole.images.paths) == NAMES, "labels are written of all images"
    tree = json.loads((tmp_path / "out" / "instances.json").read_text())
    own = {row["id"]: row["file_name"] for row in tree["images"]}
    asked: list[str] = []
    for name in ("next", "audit"):
        part = json.loads((tmp_path / "out" / name / "instances.json").read_text())
        names = [row["file_name"] for row in part["images"]]
        assert len(names) == 2
        asked += names
        assert all(own[row["id"]] == row["file_name"] for row in part["images"])
        ids = {row["id"] for row in part["images"]}
        strip = [{**row, "id": 0} for row in part["annotations"]]
        assert sorted(strip, key=str) == sorted(
            ({**row, "id": 0} for row in tree["annotations"] if row["image_id"] in ids), key=str
        )
    assert sorted(asked) == NAMES[1:], "nobody is asked for an image twice"
    rows = (tmp_path / "out" / "next" / "next.csv").read_text().splitlines()
    chosen = [row.split(",")[1] for row in rows[1:]]
    assert len(chosen) == 2
    assert {str(p.relative_to(tmp_path / "out/next/pictures")) for p in (tmp_path / "out/next").rglob("*.png")} == set(
        chosen
    )
    said = capsys.readouterr().out
    assert "to label next: 2 of 4 images without labels, none of which is to be checked -> " in said
    assert "to check: 2 of 4 images without labels" in said
    (tmp_path / "mine-next").mkdir()
    with pytest.raises(SsodError, match="mine-next: exists"):
        label_files(run, tmp_path / "images", tmp_path / "mine.json", score=0.3, next=1)


def test_init_finds_the_images_of_what_was_written(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    written = label_files(run, tmp_path / "images", tmp_path / "out", score=0.3, audit=2).labels
    for file, count in (("instances.json", 5), ("audit/instances.json", 2)):
        source = labeled_source(str(tmp_path / "out" / file), "--labeled", ("train",))
        assert source["images"] == str(tmp_path / "images")
        back = read_labeled(CocoSource(**source))
        assert len(back) == count
        assert back.classes == written.classes


def test_parts_have_the_format_of_the_labels(run: Path, tmp_path: Path) -> None:
    whole = label_files(run, tmp_path / "images", tmp_path / "out", format="yolo", score=0.3, audit=3).labels
    root = str(tmp_path / "out" / "audit")
    part = read_labeled(YoloSource(format="yolo", root=root, split="train"), classes=["cat", "dog", "bird"])
    assert len(part) == 3
    counts = dict(zip(whole.images.paths, np.diff(whole.starts).tolist()))
    assert np.diff(part.starts).tolist() == [counts[path.removeprefix("images/train/")] for path in part.images.paths]


def test_the_sample_is_fair_and_the_same_again() -> None:
    rows = list(range(3, 103))
    drawn = sample(rows, 10)
    assert drawn == sample(rows, 10) == sorted(set(drawn))
    assert set(drawn) <= set(rows)
    assert sample(rows, 999) == rows
    means = [np.mean(sample(list(range(n)), n // 4)) / n for n in range(200, 400)]
    assert 0.48 < np.mean(means) < 0.52


def test_the_sample_comes_first_and_leaves_some(run: Path, tmp_path: Path) -> None:
    audit, others = drawn([2, 3, 5, 8, 9], Wanted(next=2, audit=2))
    assert audit == sample([2, 3, 5, 8, 9], 2), "of all images, whatever is chosen of them to label next"
    assert sorted(audit + others) == [2, 3, 5, 8, 9]
    assert drawn([2, 3], Wanted(next=2)) == ([], [2, 3])
    with pytest.raises(SsodError, match="--audit: takes all 5 images without labels, and leaves --next none"):
        label_files(run, tmp_path / "images", tmp_path / "out", score=0.3, next=1, audit=5)
    assert not (tmp_path / "out").exists()


def test_what_is_labelled_is_known_by_place_and_by_content(tmp_path: Path) -> None:
    photos(tmp_path / "images", NAMES)
    images = Images(str(tmp_path / "images"), NAMES, NAMES)
    (tmp_path / "copy").mkdir()
    shutil.copy(tmp_path / "images" / "b.png", tmp_path / "copy" / "other.png")
    known = [Images(str(tmp_path), ["images/sub/e.png"], [1]), Images(str(tmp_path / "copy"), ["other.png"], [1])]
    assert [NAMES[i] for i in unlabelled(images, known)] == ["a.png", "c.png", "d.png"]
    with pytest.raises(SsodError, match="all 5 images are labelled already"):
        unlabelled(images, [images])


def test_a_run_tells_what_it_was_taught(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, count in (("train", 10), ("val", 2)):
        coco(tmp_path / "data" / f"{name}.json", tmp_path / "data" / name, [f"{name}{i}.jpg" for i in range(count)])
    data = {
        "root": str(tmp_path / "data"),
        "labeled": {"format": "coco", "ann": "train.json", "images": "train"},
        "val": {"format": "coco", "ann": "val.json", "images": "val"},
        "split": {"percent": 40, "fold": 1},
    }
    tree = {"data": data, "detector": {"name": "x"}, "method": {"name": "x"}, "eval": {"metric": "coco"}}
    tree["train"] = {"steps": 1, "seed": 0, "batch": {"labeled": 1, "unlabeled": 1}}
    assert parts(run, next=0, audit=0) == Wanted()
    assert parts(run, next=3).labelled == []
    assert "the images that the run was taught are not left out: " in capsys.readouterr().out
    (run / "config.yaml").write_text(yaml.safe_dump(tree))
    (run / "split.json").write_text(json.dumps({"hash": "0", "boxes": {"cat": 1, "dog": 3}}))
    wanted = parts(run, next=3, labeled=[str(tmp_path / "images")])
    assert [len(one) for one in wanted.labelled] == [4, 2, 5], "what the split hides is not labelled"
    assert wanted.counts == {"cat": 1, "dog": 3}
    assert wanted.names == ["next"]
    assert capsys.readouterr().out == ""
    for labeled, words in ((["absent"], "--labeled: 'absent' not found"), (["x"], "not found")):
        with pytest.raises(SsodError, match=words):
            parts(run, next=1, labeled=labeled)
    with pytest.raises(SsodError, match="nothing is chosen"):
        parts(run, labeled=["x"])

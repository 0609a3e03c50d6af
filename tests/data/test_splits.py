"""Splits equal the published ones; what lies in the golden file was made by running the original scripts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from ssod.data.datasets import DataConfig, load
from ssod.data.formats.coco import read_coco, to_coco
from ssod.data.formats.findings import Context
from ssod.data.formats.records import Classes, Images, Labeled
from ssod.data.splits import SplitConfig, draw, read_index_file, select, split_hash, with_objects, write_splits
from ssod.utils.errors import Exit, SsodError
from tests.data.nano import Nano, voc
from tests.paths import golden_path

GOLDEN = json.loads(golden_path("splits.json").read_text())
DRAWS = [
    pytest.param(family, case, id=f"{family}-{case['N']}-{case['fold']}@{case['percent']}")
    for family in ("without_replacement", "with_replacement")
    for case in GOLDEN[family]
]
RUNS = [pytest.param(r, id=f"{r['family']}-{r['fold']}@{r['percent']:g}") for r in GOLDEN["end_to_end"]["runs"]]
LISTS = GOLDEN["unbiased_teacher_index_file"]["lists"]


def sha(numbers: Iterable[int]) -> str:
    return hashlib.sha256(",".join(map(str, numbers)).encode()).hexdigest()


@pytest.mark.parametrize(("family", "case"), DRAWS)
def test_draws_equal_the_published_scripts(family: str, case: dict[str, Any]) -> None:
    drawn = draw(case["N"], case["percent"], case["fold"], replace=family == "with_replacement").tolist()
    unique = sorted(set(drawn))
    assert (len(drawn), len(unique)) == (case["drawn"], case["unique"])
    assert drawn[:10] == case["first10_draw_order"]
    assert sha(drawn) == case["sha256_draw_order"]
    assert sha(unique) == case["sha256_sorted_unique"]
    assert unique == case.get("sorted_unique", unique)


@pytest.mark.parametrize("run", RUNS)
def test_written_files_hold_the_published_partition(run: dict[str, Any], tmp_path: Path) -> None:
    source = GOLDEN["end_to_end"]["annotation_file"]
    ann = tmp_path / "instances_train2017.json"
    ann.write_text(json.dumps(source))
    (written,) = write_splits(ann, [run["percent"]], [run["fold"]], tmp_path / "out", run["family"])
    assert written.labeled.name == run["labelled_name"]
    labeled, unlabeled = (json.loads(path.read_text()) for path in (written.labeled, written.unlabeled))
    assert [row["id"] for row in labeled["images"]] == run["labelled_image_ids"]
    assert [row["id"] for row in unlabeled["images"]] == run["unlabelled_image_ids"]
    assert [row["id"] for row in labeled["annotations"]] == run["labelled_annotation_ids"]
    assert unlabeled["annotations"] == []  # the published file has them: run["unlabelled_annotations"]
    assert len(source["annotations"]) - len(labeled["annotations"]) == run["unlabelled_annotations"]
    assert labeled["categories"] == unlabeled["categories"] == source["categories"]
    assert written.split["hash"] == sha(sorted(run["labelled_image_ids"]))
    assert f"{len(run['labelled_image_ids'])} labelled" in str(written)


@pytest.mark.parametrize("percent", [1, 2, 5, 10])
def test_a_larger_percent_contains_the_smaller_ones(percent: int) -> None:
    for replace in (False, True):
        small, large = draw(118287, percent / 2, 3, replace=replace), draw(118287, percent, 3, replace=replace)
        assert large[: len(small)].tolist() == small.tolist()


# ---- Unbiased Teacher's index file -------------------------------------------------------------------------------

COCO_WITH_OBJECTS = 117_266


def whole(entry: dict[str, Any]) -> list[int]:
    """Complete a list of eleven from its first ten and its sum."""
    return [*entry["first10"], entry["sum"] - sum(entry["first10"])]


def test_the_index_file_is_read_as_published(tmp_path: Path) -> None:
    short = [entry for entry in LISTS if entry["count"] == 11]
    table: dict[str, dict[str, list[int]]] = {}
    for entry in short:
        table.setdefault(entry["percent_key"], {})[entry["seed_key"]] = whole(entry)
    (tmp_path / "COCO_supervision.txt").write_text(json.dumps(table))
    for entry in short:
        fold = int(entry["seed_key"])
        got = read_index_file("COCO_supervision.txt", 0.01, fold, COCO_WITH_OBJECTS, Context(str(tmp_path))).tolist()
        assert sha(got) == entry["sha256_file_order"]
        assert sha(sorted(got)) == entry["sha256_sorted"]


@pytest.mark.parametrize("entry", LISTS, ids=lambda e: f"{e['percent_key']}-{e['seed_key']}")
def test_lengths_of_the_index_file_follow_the_number_of_images_with_a_box(entry: dict[str, Any]) -> None:
    assert int(float(entry["percent_key"]) / 100 * COCO_WITH_OBJECTS) == entry["count"]
    assert 0 <= entry["min"] <= entry["max"] < COCO_WITH_OBJECTS


def index_set() -> Labeled:
    """Five images in unsorted id order; image 30 has a crowd only and image 20 nothing."""
    starts, crowd = np.array([0, 1, 2, 3, 3, 5]), np.array([False, True, False, False, False])
    images = Images("", list("abcde"), [50, 30, 40, 20, 10])
    boxes, labels = np.ones((5, 4), dtype=np.float32), np.zeros(5, dtype=np.int64)
    return Labeled(images, Classes(("x",), (1,)), boxes, labels, crowd, crowd, starts)


def test_index_file_counts_images_by_id_that_have_an_object(tmp_path: Path) -> None:
    data = index_set()
    assert [data.images.ids[row] for row in with_objects(data)] == [10, 40, 50]
    (tmp_path / "index.txt").write_text('{"67.0": {"1": [2, 0]}}')
    cfg = SplitConfig(percent=67, fold=1, family="index_file", file="index.txt")
    keeps, loses = select(data, cfg, Context(str(tmp_path)))
    assert [data.images.ids[row] for row in keeps] == [10, 50]
    assert [data.images.ids[row] for row in loses] == [40]


@pytest.mark.parametrize(
    ("text", "field", "words"),
    [
        ('{"1.0": {"1": [0, 1]}}', "data.split.percent", "no entry '67.0'; it has 1.0"),
        ('{"67.0": {"7": [0, 1]}}', "data.split.fold", "no entry '1'; it has 7"),
        ('{"67.0": {"1": [0]}}', "67.0.1", "lists 1 images, but 67 % of 3 images with a box are 2"),
        ('{"67.0": {"1": [0, 3]}}', "67.0.1", "an index is not in 0..2"),
        ('{"67.0": {"1": [0, 0]}}', "67.0.1", "listed twice"),
        ('{"67.0": {"1": [0, "1"]}}', "67.0.1", "expected a list of integers"),
        ('{"67.0": 5}', "data.split.fold", "no entry '1'"),
        ("{", "data.split.file", "invalid JSON"),
    ],
)
def test_an_index_file_that_does_not_fit_is_refused(text: str, field: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "index.txt").write_text(text)
    cfg = SplitConfig(percent=67, fold=1, family="index_file", file="index.txt")
    with pytest.raises(SsodError, match="index") as caught:
        select(index_set(), cfg, Context(str(tmp_path)))
    assert caught.value.code == Exit.DATA
    assert field in caught.value.field
    assert words in caught.value.line()


# ---- splits in a config ------------------------------------------------------------------------------------------


def test_what_a_split_hides_is_the_unlabelled_set_and_its_truth(tmp_path: Path) -> None:
    nano = Nano(tmp_path)
    nano.section.update(split={"percent": 30, "fold": 2}, unlabeled=None)
    data = load(nano.config())
    names = [row["file_name"] for row in nano.train["images"]]
    keeps = sorted(draw(10, 30, 2).tolist())
    assert data.labeled.images.paths == [names[i] for i in keeps]
    assert data.unlabeled.paths == [names[i] for i in range(10) if i not in keeps]
    assert data.hidden.images.ids == data.unlabeled.ids
    assert not hasattr(data.unlabeled, "boxes")
    assert data.split["hash"] == split_hash(data.labeled.images)
    assert (data.split["labeled"], data.split["unlabeled"]) == (3, 7)
    assert sum(data.split["boxes"].values()) == len(data.labeled.boxes) == 6
    json.dumps(data.split)


def test_a_given_unlabelled_set_stays_as_it_is(tmp_path: Path) -> None:
    nano = Nano(tmp_path)
    nano.section["split"] = {"percent": 30}
    data = load(nano.config())
    assert len(data.labeled) == 3
    assert data.unlabeled.paths == [f"u{i}.jpg" for i in range(6)]
    assert data.hidden is None


def test_a_written_fold_is_the_drawn_split(tmp_path: Path) -> None:
    nano = Nano(tmp_path)
    nano.section.update(split={"percent": 40, "fold": 3}, unlabeled=None)
    drawn = load(nano.config())
    (files,) = write_splits(tmp_path / "train.json", [40], [3], tmp_path / "folds")
    for key, path in (("labeled", files.labeled), ("unlabeled", files.unlabeled)):
        nano.section[key] = {"format": "coco", "ann": str(path), "images": "train"}
    read = load(DataConfig.model_validate(nano.section | {"split": None}))
    assert read.split["hash"] == drawn.split["hash"]
    assert read.labeled.boxes.tolist() == drawn.labeled.boxes.tolist()
    assert read.unlabeled.paths == drawn.unlabeled.paths


def test_voc_is_split_in_the_order_of_its_list(tmp_path: Path) -> None:
    source = voc(tmp_path, images=6)
    data = load(DataConfig.model_validate({"labeled": source, "split": {"percent": 50, "fold": 1}}))
    assert data.labeled.images.ids == [f"{i:03d}" for i in sorted(draw(6, 50, 1).tolist())]


def test_a_split_without_any_box_is_refused(tmp_path: Path) -> None:
    nano = Nano(tmp_path)
    nano.section.update(split={"percent": 10, "fold": 1}, unlabeled=None)
    labeled = nano.train["images"][int(draw(10, 10, 1)[0])]["id"]
    nano.train["annotations"] = [row for row in nano.train["annotations"] if row["image_id"] != labeled]
    with pytest.raises(SsodError, match="have no object; use another fold") as caught:
        load(nano.config())
    assert caught.value.code == Exit.DATA


def test_the_index_file_and_its_family_belong_together() -> None:
    with pytest.raises(ValidationError, match="index_file"):
        SplitConfig(percent=1, family="index_file")
    with pytest.raises(ValidationError, match="index_file"):
        SplitConfig(percent=1, file="x.txt")


def test_unwritable_output_is_an_io_error(tmp_path: Path) -> None:
    nano = Nano(tmp_path)
    nano.config()
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(SsodError) as caught:
        write_splits(tmp_path / "train.json", [50], [1], tmp_path / "taken")
    assert caught.value.code == Exit.IO


def test_the_hash_names_the_images_and_not_their_order(tmp_path: Path) -> None:
    nano = Nano(tmp_path)
    nano.config()
    data = read_coco("train.json", "train", Context(str(tmp_path)))
    assert split_hash(data.images) == split_hash(data.subset(np.arange(10)[::-1]).images)
    assert split_hash(data.images) != split_hash(data.subset(np.arange(9)).images)
    assert len(to_coco(data.subset([0]))["annotations"]) == 2


def test_a_family_that_nobody_knows_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(SsodError, match="family: 'nope'"):
        write_splits(tmp_path / "train.json", [40], [3], tmp_path / "folds", "nope")

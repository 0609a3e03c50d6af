"""Images to measure on, cut from the labelled ones, and few labels counted in boxes a class."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from ssod.data import datasets
from ssod.data.cutting import cut, prefix_of
from ssod.data.datasets import DataConfig
from ssod.data.formats.records import Classes, Images, Labeled
from ssod.data.shots import select_shots
from ssod.data.splits import write_splits
from ssod.utils.errors import Exit, SsodError
from tests.small_sets import coco, voc


def labeled(rows: list[list[int]], paths: list[str] | None = None) -> Labeled:
    """Return images with boxes of these classes."""
    labels = np.array([label for row in rows for label in row], dtype=np.int64)
    names = [f"{i}.png" for i in range(len(rows))] if paths is None else paths
    return Labeled(
        images=Images("", names, names, np.full((len(rows), 2), 64, dtype=np.int32)),
        classes=Classes(("a", "b", "c"), (0, 1, 2)),
        boxes=np.tile(np.array([1, 1, 9, 9], dtype=np.float32), (len(labels), 1)),
        labels=labels,
        crowd=np.zeros(len(labels), dtype=bool),
        difficult=np.zeros(len(labels), dtype=bool),
        starts=np.cumsum([0, *map(len, rows)]),
    )


def counts(data: Labeled) -> list[int]:
    return np.bincount(data.labels[~data.crowd], minlength=3).tolist()


MIXED = labeled([[0]] * 60 + [[0, 1]] * 30 + [[2, 2]] * 10)


@pytest.mark.parametrize("share", [0.1, 0.2, 0.5])
def test_each_class_gives_its_share(share: float) -> None:
    rows = cut(MIXED, share)
    assert len(rows) == pytest.approx(share * 100, abs=1)
    for got, of in zip(counts(MIXED.subset(rows)), counts(MIXED)):
        assert got == pytest.approx(share * of, abs=2)
    assert rows.tolist() == sorted(set(rows.tolist()))


def test_the_draw_is_the_seed_s() -> None:
    assert cut(MIXED, 0.2).tolist() == cut(MIXED, 0.2).tolist() != cut(MIXED, 0.2, seed=1).tolist()


def test_the_last_images_of_a_class_are_learnt_from() -> None:
    data = labeled([[0]] * 8 + [[0, 1]])
    for seed in range(20):
        assert 8 not in cut(data, 0.5, seed=seed)
    assert cut(labeled([[0]]), 0.9).tolist() == []


@pytest.mark.parametrize("group", ["folder", "prefix"])
def test_groups_stay_whole(group: str) -> None:
    places = [f"day{i // 12}/cam{i // 6}_{i:04d}.jpg" for i in range(60)]
    data = labeled([[i % 3] for i in range(60)], places)
    taken = cut(data, 0.2, group)
    name = (lambda path: path.split("/")[0]) if group == "folder" else prefix_of
    whole = Counter(map(name, places))
    assert len(taken) == 12
    assert all(whole[key] == count for key, count in Counter(name(places[row]) for row in taken).items())


def test_prefixes() -> None:
    names = ["a/cam1_0042.jpg", "a/cam1-7.png", "IMG20.png", "12.jpg", "x.jpg"]
    assert [prefix_of(name) for name in names] == ["a/cam1", "a/cam1", "IMG", "12", "x"]


# ---- the list in a config ----------------------------------------------------------------------------------------


def section(root: Path) -> dict:
    source = {"format": "voc", "root": str(root / "voc"), "split": "trainval"}
    return {"root": str(root), "labeled": source, "val": dict(source), "split": {"percent": 50}, "held_out": "val.txt"}


def test_a_list_divides_one_set(tmp_path: Path) -> None:
    voc(tmp_path / "voc", {"trainval": 10})
    (tmp_path / "val.txt").write_text("# two\ntrainval3.jpg\n./trainval7.jpg\n")
    data = datasets.load(DataConfig.model_validate(section(tmp_path)))
    assert list(data.val.images.ids) == ["trainval3", "trainval7"]
    assert (len(data.labeled), len(data.unlabeled)) == (4, 4)
    seen = {*data.labeled.images.ids, *data.unlabeled.ids}
    assert seen == {f"trainval{i}" for i in range(10)} - set(data.val.images.ids)
    measured = datasets.load_measured(DataConfig.model_validate(section(tmp_path)), data.classes)
    assert measured is not None
    assert measured.images.ids == data.val.images.ids


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("trainval99.jpg\n", "1 lines name no image of data.labeled, first 'trainval99.jpg'"),
        ("# none\n", "names no image"),
        ("".join(f"trainval{i}.jpg\n" for i in range(10)), "names all images"),
        (None, "not found"),
    ],
)
def test_a_list_that_divides_nothing(tmp_path: Path, text: str | None, says: str) -> None:
    voc(tmp_path / "voc", {"trainval": 10})
    if text is not None:
        (tmp_path / "val.txt").write_text(text)
    with pytest.raises(SsodError, match=says) as caught:
        datasets.load(DataConfig.model_validate(section(tmp_path)))
    assert caught.value.code == Exit.DATA


def test_a_list_needs_one_source(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="divides one source"):
        DataConfig.model_validate(section(tmp_path) | {"val": None})


# ---- boxes a class -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shots", [1, 5, 10])
def test_each_class_has_so_many_boxes(shots: int) -> None:
    keeps, loses = select_shots(MIXED, shots, 1)
    assert sorted([*keeps, *loses]) == list(range(100))
    found = counts(MIXED.subset(keeps))
    assert min(found) >= shots
    assert found[2] <= shots + 1  # pairs
    assert found[1] == shots
    less = set(select_shots(MIXED, shots - 1, 1)[0].tolist()) if shots > 1 else set()
    assert less < set(keeps.tolist())
    assert keeps.tolist() != select_shots(MIXED, shots, 2)[0].tolist()


def test_a_class_with_too_few_boxes_gives_all() -> None:
    data = labeled([[0]] * 20 + [[1], [2]])
    keeps, _ = select_shots(data, 4, 3)
    assert counts(data.subset(keeps)) == [4, 1, 1]


def test_shots_are_written_beside_percentages(tmp_path: Path) -> None:
    coco(tmp_path / "train.json", tmp_path / "images", [f"{i}.jpg" for i in range(8)])
    written = write_splits(tmp_path / "train.json", [50], [1, 2], tmp_path / "out", shots=[1, 9])
    names = [one.labeled.name for one in written]
    assert names == [f"train.{name}.json" for name in ("1@50", "2@50", "1@1shot", "1@9shot", "2@1shot", "2@9shot")]
    one = json.loads(written[2].labeled.read_text())
    assert sorted(row["category_id"] for row in one["annotations"]) == [1, 2]
    rest = json.loads(written[2].unlabeled.read_text())
    assert (len(rest["images"]), rest["annotations"]) == (6, [])
    assert "0 classes without a box, 2 with fewer than 9, sha256" in str(written[3])
    with pytest.raises(SsodError, match="--percent: missing"):
        write_splits(tmp_path / "train.json", None, [1], tmp_path / "out")
    with pytest.raises(SsodError, match="--shots: 0 boxes"):
        write_splits(tmp_path / "train.json", None, [1], tmp_path / "out", shots=[0])

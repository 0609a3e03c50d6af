"""Several sets as one: no image twice, no class twice, and it is said whose labels count."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ssod.data.formats.joined import Twice, join
from ssod.data.formats.records import Classes, Images, Labeled
from ssod.utils.errors import SsodError


def labeled(root: Path, boxes: dict[str, list[tuple[str, int]]], classes: tuple[str, ...] = ("cat", "dog")) -> Labeled:
    """Return a set: {image: [(class, left side of a box of 10 x 10)]}."""
    rows = [(name, x) for of in boxes.values() for name, x in of]
    return Labeled(
        images=Images(str(root), list(boxes), list(range(5, 5 + len(boxes))), np.full((len(boxes), 2), 50, np.int32)),
        classes=Classes(classes, tuple(range(len(classes)))),
        boxes=np.array([[x, 0, x + 10, 10] for _, x in rows], np.float32).reshape(-1, 4),
        labels=np.array([classes.index(name) for name, _ in rows], np.int64),
        crowd=np.zeros(len(rows), bool),
        difficult=np.zeros(len(rows), bool),
        starts=np.cumsum([0, *map(len, boxes.values())]).astype(np.int64),
    )


def content(data: Labeled) -> dict[str, list[tuple[str, float]]]:
    parts = [(path, data.subset([i])) for i, path in enumerate(data.images.paths)]
    return {
        path: [(data.classes.names[k], box[0]) for k, box in zip(one.labels.tolist(), one.boxes.tolist())]
        for path, one in parts
    }


def test_images_classes_and_ids_are_kept_apart(tmp_path: Path) -> None:
    one = labeled(tmp_path / "a", {"1.jpg": [("dog", 3)], "2.jpg": []})
    other = labeled(tmp_path / "b", {"1.jpg": [("cow", 4), ("dog", 5)]}, ("cow", "dog"))
    data, twice = join([one, other])
    assert content(data) == {"a/1.jpg": [("dog", 3)], "a/2.jpg": [], "b/1.jpg": [("cow", 4), ("dog", 5)]}
    assert data.classes == Classes(("cat", "dog", "cow"), (1, 2, 3))
    assert data.images.ids == [1, 2, 3]
    assert data.images.root == str(tmp_path)
    assert data.images.sizes.tolist() == [[50, 50]] * 3
    assert twice == []
    assert join([one])[0].classes == one.classes, "ids of a first set that has all classes stay"


def test_the_last_labels_of_an_image_count(tmp_path: Path) -> None:
    one = labeled(tmp_path, {"1.jpg": [("dog", 3)], "2.jpg": [("cat", 1), ("dog", 9)], "3.jpg": []})
    other = labeled(tmp_path, {"2.jpg": [("dog", 9), ("cat", 1)], "1.jpg": [("cat", 3)]})
    data, twice = join([one, other])
    assert content(data) == {"1.jpg": [("cat", 3)], "2.jpg": [("dog", 9), ("cat", 1)], "3.jpg": []}
    assert twice == [Twice("2.jpg", 0, 1, True), Twice("1.jpg", 0, 1, False)]
    back, _ = join([other, one])
    assert content(back) == {"2.jpg": [("cat", 1), ("dog", 9)], "1.jpg": [("dog", 3)], "3.jpg": []}


def test_what_is_the_same_can_be_said(tmp_path: Path) -> None:
    one, other = labeled(tmp_path / "a", {"1.jpg": [("dog", 3)]}), labeled(tmp_path / "b", {"x.jpg": []})
    data, twice = join([one, other], [["k"], ["k"]])
    assert content(data) == {"b/x.jpg": []}
    assert twice == [Twice("b/x.jpg", 0, 1, False)]


def test_a_link_is_the_image_that_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.jpg").write_bytes(b"x")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    same = [labeled(tmp_path / name, {"1.jpg": [("dog", 3)]}) for name in "ab"]
    data, twice = join(same)
    assert content(data) == {"1.jpg": [("dog", 3)]}
    assert [t.same for t in twice] == [True]


def test_a_file_that_one_set_has_twice_keeps_both_entries(tmp_path: Path) -> None:
    one = labeled(tmp_path, {"1.jpg": [("dog", 3)], "./1.jpg": [("cat", 4)]})
    assert len(join([one])[0]) == 2


def test_no_common_folder_is_refused() -> None:
    with pytest.raises(SsodError, match="no folder in common"):
        join([labeled(Path("/a"), {"1.jpg": []}), labeled(Path("/b"), {"1.jpg": []})])

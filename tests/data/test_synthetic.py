"""The generated set: real files, boxes that fit their figures, the same bytes from the same seed."""

import json
import time

import numpy as np
import pytest
from PIL import Image

from ssod.data import synthetic
from ssod.data.synthetic import CLASSES, draw_image, write_shapes
from ssod.utils.errors import SsodError
from tests.patience import in_time


def files(root):
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def test_same_seed_same_bytes_and_larger_sets_begin_alike(tmp_path):
    one = files(write_shapes(tmp_path / "a", train=6, val=3, unlabeled=2, size=64, seed=4))
    two = files(write_shapes(tmp_path / "b", train=6, val=3, unlabeled=2, size=64, seed=4))
    assert one == two
    more = files(write_shapes(tmp_path / "c", train=9, val=3, size=64, seed=4))
    assert all(more[name] == data for name, data in one.items() if name.startswith(("train/", "val/")))
    other = files(write_shapes(tmp_path / "d", train=6, val=3, size=64, seed=5))
    assert other["train/000000.jpg"] != one["train/000000.jpg"]
    assert one["train/000000.jpg"] != one["val/000000.jpg"]


def test_layout_and_annotations(tmp_path):
    root = write_shapes(tmp_path, train=40, val=5, unlabeled=3, size=96)
    for part, count in (("train", 40), ("val", 5), ("unlabeled", 3)):
        table = json.loads((root / "annotations" / f"{part}.json").read_text())
        assert len(table["images"]) == count == len(list((root / part).iterdir()))
        for image in table["images"]:
            with Image.open(root / part / image["file_name"]) as file:
                assert file.format == "JPEG"
                assert file.size == (image["width"], image["height"]) == (96, 96)
        if part == "unlabeled":
            assert set(table) == {"info", "images"}
            continue
        assert [c["name"] for c in table["categories"]] == list(CLASSES)
        assert len({a["id"] for a in table["annotations"]}) == len(table["annotations"])
        for a in table["annotations"]:
            x, y, w, h = a["bbox"]
            assert x >= 0
            assert y >= 0
            assert w > 2
            assert h > 2
            assert x + w <= 96.01
            assert y + h <= 96.01
    assert len(CLASSES) >= 5


def test_written_once(tmp_path):
    root = write_shapes(tmp_path / "s", train=2, val=1, size=32)
    stamp = (root / "train" / "000000.jpg").stat().st_mtime_ns
    write_shapes(root, train=2, val=1, size=32)
    assert (root / "train" / "000000.jpg").stat().st_mtime_ns == stamp
    with pytest.raises(SsodError, match="other settings"):
        write_shapes(root, train=3, val=1, size=32)
    with pytest.raises(SsodError, match="below 32"):
        write_shapes(tmp_path / "t", size=31)


def test_boxes_are_the_hull_of_what_is_seen():
    checked = 0
    for i in range(60):
        rng = np.random.default_rng(i)
        black = Image.new("RGB", (192, 192))
        boxes, labels = synthetic._objects(rng, black, 192)
        assert len(boxes) == len(labels)
        if len(boxes) != 1:
            continue
        rows, columns = (np.flatnonzero(np.asarray(black).any(-1).any(axis)) for axis in (1, 0))
        assert boxes[0].tolist() == [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
        checked += 1
    assert checked > 5


def test_objects_stay_in_sight(monkeypatch):
    masks = []
    monkeypatch.setattr(synthetic, "_paint", lambda rng, canvas, mask, label: masks.append(np.asarray(mask) > 127))
    hidden = 0
    for i in range(60):
        masks.clear()
        synthetic._objects(np.random.default_rng(i), Image.new("RGB", (128, 128)), 128)
        for k, mask in enumerate(masks):
            front = np.any([np.zeros_like(mask), *masks[k + 1 :]], axis=0)
            share = (mask & ~front).sum() / mask.sum()
            assert share >= synthetic._VISIBLE
            hidden += share < 1
    assert hidden > 10  # partial occlusion does occur


def test_contents_vary():
    pictures, counts, labels, sizes = set(), [], [], []
    for i in range(150):
        picture, boxes, found = draw_image(64, 1, "train", i)
        pictures.add(picture.tobytes())
        counts.append(len(boxes))
        labels += found.tolist()
        sizes += (boxes[:, 2:] - boxes[:, :2]).max(1).tolist()
    assert len(pictures) == 150
    assert {0, 1, 2, 3, 4} <= set(counts)
    assert np.bincount(labels, minlength=len(CLASSES)).min() > 25
    assert max(sizes) > 2.5 * min(sizes)


def test_it_is_fast(tmp_path):
    begin = time.process_time()
    write_shapes(tmp_path, train=100, val=1, size=128)
    assert in_time(time.process_time() - begin, 1.5)  # 1000 images in 15 s

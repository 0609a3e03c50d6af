"""tools/tiny_set.py: 8 pixels in 1600 x 1200, and the same pixels and objects in crops."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ssod.commands.init.write import write_config
from ssod.config import load
from ssod.data.synthetic import CLASSES as SHAPES
from tools import tiny_set
from tools.tiny_set import CLASSES, SIZE, crops, draw_image, main


@pytest.fixture(scope="module")
def image() -> tiny_set.Labelled:
    return draw_image(0, "train", 0)


def test_an_image_has_many_tiny_objects(image: tiny_set.Labelled) -> None:
    picture, boxes, labels = image
    assert picture.size == SIZE
    assert 8 <= len(boxes) == len(labels) <= 32
    sides = boxes[:, 2:] - boxes[:, :2]
    assert sides.min() > 5
    assert sides.max() < 10.5
    assert abs(sides.max(1).mean() - 8) < 1
    assert set(labels.tolist()) <= set(range(len(CLASSES)))
    assert SHAPES[: len(CLASSES)] == CLASSES
    pixels = np.asarray(picture, float)
    inside = np.array([pixels[int(y1 + y2) // 2, int(x1 + x2) // 2] for x1, y1, x2, y2 in boxes])
    around = np.array([pixels[max(int(y1) - 3, 0), max(int(x1) - 3, 0)] for x1, y1, _, _ in boxes])
    assert (np.abs(inside - around).max(1) > 25).mean() > 0.7, "most stand out"


def test_crops_hold_each_object_once_and_whole(image: tiny_set.Labelled) -> None:
    picture, boxes, labels = image
    parts = list(crops(image))
    assert [part.size for part, _, _ in parts] == [(400, 300)] * 16
    assert sum(len(found) for _, found, _ in parts) == len(boxes)
    whole, back = np.asarray(picture), []
    for i, (part, found, names) in enumerate(parts):
        corner = np.array([i % 4 * 400, i // 4 * 300])
        assert (np.asarray(part) == whole[corner[1] :, corner[0] :][:300, :400]).all()
        assert (found >= 0).all()
        assert (found <= [400, 300] * 2).all()
        back += [(*box, name) for box, name in zip((found + np.tile(corner, 2)).tolist(), names.tolist())]
    assert sorted(back) == sorted((*box, name) for box, name in zip(boxes.tolist(), labels.tolist()))


def test_an_image_depends_on_its_number_alone(image: tiny_set.Labelled) -> None:
    again, other = draw_image(0, "train", 0), draw_image(0, "val", 0)
    assert again[0].tobytes() == image[0].tobytes() != other[0].tobytes()
    assert again[1].tolist() == image[1].tolist()


def test_init_offers_tiles_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["--train", "1", "--unlabeled", "1", "--val", "1", "-o", "tiny"]) == 0
    tables = {
        (form, part): json.loads((tmp_path / "tiny" / form / "annotations" / f"{part}.json").read_text())
        for form in ("large", "crops")
        for part in ("train", "unlabeled", "val")
    }
    assert all(len(tables["crops", part]["images"]) == 16 for part in ("train", "unlabeled", "val"))
    assert "annotations" not in tables["large", "unlabeled"]
    count: Callable[[str], int] = lambda form: len(tables[form, "val"]["annotations"])  # noqa: E731
    assert count("large") == count("crops") > 0
    large = "tiny/large"
    write_config(
        "my.yaml",
        f"{large}/annotations/train.json",
        f"{large}/unlabeled",
        f"{large}/annotations/val.json",
        detector="retinanet_tiny_fpn",
    )
    assert load("my.yaml").views.tiles is not None

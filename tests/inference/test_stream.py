"""Images stream through label and predict: memory does not grow with them, and threads and batches change nothing."""

from __future__ import annotations

import json
import os
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree as xml

import numpy as np
import pytest
import torch
from PIL import Image

from ssod.inference import shown
from ssod.inference.label import label_files
from ssod.inference.model import Detected, Model
from ssod.inference.predict import predict_files
from ssod.transforms import raster
from ssod.utils import json_pieces
from ssod.utils.spool import Spool
from ssod.utils.threads import in_order
from tests.trained import model_file, photos

BOXES = 40
PER_IMAGE = 4096  # bytes: paths, a few numbers; one dictionary of a box takes a sixth of it
COMMANDS: dict[str, Callable] = {
    "predict": predict_files,
    "coco": lambda *args, **how: label_files(*args, score=0.3, next=2, audit=2, **how),
    "labelstudio": lambda *args, **how: label_files(*args, format="labelstudio", score=0.3, **how),
    "cvat": lambda *args, **how: label_files(*args, format="cvat", score=0.3, **how),
}


def many(detected: Detected) -> Callable:
    return lambda self, pictures, shown, score, workers: [detected[:] for _ in pictures]


@pytest.mark.parametrize("name", COMMANDS)
def test_memory_does_not_grow_with_the_images(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What Python holds at most, with many images less with few: links to one, in each of which much is found."""
    weights, picture = model_file(tmp_path / "m.safetensors"), tmp_path / "a.png"
    Image.new("RGB", (16, 16)).save(picture)
    found = Detected(torch.rand(BOXES, 4).cumsum(1) * 4, torch.zeros(BOXES).long(), torch.linspace(0.9, 0.4, BOXES))
    monkeypatch.setattr(Model, "look", many(found))
    monkeypatch.setattr(Model, "prepare", lambda self, picture: None)
    monkeypatch.setattr(Model, "batch", lambda self, pictures, prepared: [])
    peaks = []
    for count in (30, 110):
        folder = tmp_path / f"{count}"
        folder.mkdir()
        for number in range(count):
            os.link(picture, folder / f"{number:06}.png")
        tracemalloc.start()
        COMMANDS[name](weights, folder, tmp_path / f"out{count}")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert (peaks[1] - peaks[0]) / 80 < PER_IMAGE


def close(one: object, other: object) -> bool:
    """Whether two trees of JSON differ in nothing but the last digits of fractions."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(close(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(close, one, other))
    return one == pytest.approx(other, rel=1e-4, abs=2e-3) if isinstance(one, float) else one == other


@pytest.mark.parametrize("tiles", [None, {"size": 64, "overlap": 0.25}])
@pytest.mark.parametrize("name", ["predict", "coco"])
def test_threads_and_batches_change_nothing(name: str, tiles: dict | None, tmp_path: Path) -> None:
    weights = model_file(tmp_path / "m.safetensors", tiles=tiles)
    photos(tmp_path / "in", [f"{i}.jpg" for i in range(6)])
    photos(tmp_path / "in/sub", ["wide.png"])
    told = {}
    for workers, batch in ((0, 1), (2, 1), (0, 5), (2, 5), (4, 8)):
        out = tmp_path / f"{workers}-{batch}"
        COMMANDS[name](weights, tmp_path / "in", out, workers=workers, batch=batch)
        told[workers, batch] = (out / ("results.json" if name == "predict" else "instances.json")).read_text()
    assert told[0, 1] == told[2, 1]
    assert told[0, 5] == told[2, 5]
    trees = [json.loads(text) for text in told.values()]
    assert len(trees[0] if name == "predict" else trees[0]["annotations"]) > 6
    assert all(close(trees[0], tree) for tree in trees[1:]), "batches of a convolution round otherwise"


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("tiles", [None, {"size": 64, "overlap": 0.25}])
def test_who_feeds_the_detector_makes_no_view(
    tiles: dict | None, workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread that feeds the detector scales no picture and lays none into a batch, unless there is no other."""
    weights, done_by = model_file(tmp_path / "m.safetensors", tiles=tiles), []
    photos(tmp_path / "in", [f"{i}.jpg" for i in range(6)])

    def noted(name: str, work: Callable) -> Callable:
        def noting(*args: object) -> object:
            done_by.append((name, threading.current_thread() is threading.main_thread()))
            return work(*args)

        return noting

    monkeypatch.setattr(raster.ops, "resized", noted("resized", raster.ops.resized))
    monkeypatch.setattr(shown, "collate", noted("collate", shown.collate))
    label_files(weights, tmp_path / "in", tmp_path / "out", score=0.3, workers=workers, batch=4)
    assert set(done_by) == {("resized", not workers), ("collate", not workers)}
    assert len([name for name, _ in done_by if name == "collate"]) == (
        2 if tiles is None else 8
    )  # 9 tiles an image, 8 a batch


def test_threads_are_only_so_far_ahead_and_stop_with_whom_they_work_for() -> None:
    made: list[int] = []
    items = in_order(lambda i: made.append(i) or i * i, 50, 2, 5)
    assert [next(items) for _ in range(3)] == [0, 1, 4]
    items.close()
    assert set(range(3)) <= set(made) <= set(range(8))
    assert list(in_order(lambda i: i * i, 4, 0, 5)) == list(in_order(lambda i: i * i, 4, 3, 2)) == [0, 1, 4, 9]


@pytest.mark.parametrize("rows", [[], [1], [{"a": [1.5, None]}, "é\n", []]])
def test_json_in_pieces_is_json(rows: list, tmp_path: Path) -> None:
    json_pieces.write(tmp_path / "a.json", {"info": {"x": 1}, "rows": iter(rows), "none": iter(())})
    assert (tmp_path / "a.json").read_text() == json.dumps({"info": {"x": 1}, "rows": rows, "none": []})
    json_pieces.write(tmp_path / "b.json", iter(rows))
    with json_pieces.growing_list(tmp_path / "c.json") as add:
        for row in rows:
            add(row)
    assert [(tmp_path / name).read_text() for name in ("b.json", "c.json")] == [json.dumps(rows)] * 2


def test_a_spool_gives_back_its_columns_and_leaves_no_file(tmp_path: Path) -> None:
    spool = Spool(tmp_path, boxes=(np.float32, 4), labels=(np.int64, None), none=(np.float32, 3))
    for number in (2, 0, 1):
        spool.add(boxes=np.full((number, 4), number), labels=np.arange(number))
    columns = spool.read()
    assert list(tmp_path.iterdir()) == []
    del spool
    assert columns["boxes"].tolist() == [[2.0] * 4, [2.0] * 4, [1.0] * 4]
    assert columns["labels"].tolist() == [0, 1, 0]
    assert columns["none"].shape == (0, 3)
    columns["labels"][0] = 7


def test_xml_in_pieces_is_indented_as_a_whole(tmp_path: Path) -> None:
    weights = model_file(tmp_path / "m.safetensors")
    photos(tmp_path / "in", ["a.jpg", "b.jpg", "c.jpg"])  # nothing is found in the third
    COMMANDS["cvat"](weights, tmp_path / "in", tmp_path / "out")
    text = (tmp_path / "out" / "annotations.xml").read_text()
    tree = xml.fromstring(text)
    assert [len(image) > 0 for image in tree.iter("image")] == [True, True, False]
    xml.indent(tree)
    assert text.partition("\n")[2] == f"{xml.tostring(tree, encoding='unicode')}\n"

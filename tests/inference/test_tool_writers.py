"""What labelling tools are given holds the boxes that the detector found, in the tools' own measures."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree as xml

import numpy as np
import pytest

from ssod.inference import tool_writers
from ssod.inference.label import label_files
from ssod.utils.errors import SsodError
from tests.trained import model_file, photos

NAMES = ["a.png", "b c.png", "c.png", "sub/e.png"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model_file(tmp_path / "best.safetensors")
    photos(tmp_path / "images", NAMES)
    return tmp_path


def test_label_studio(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = label_files(folder, folder / "images", folder / "out", format="labelstudio", score=0.3).labels
    tasks = json.loads((folder / "out" / "tasks.json").read_text())
    links = ["images/a.png", "images/b%20c.png", "images/c.png", "images/sub/e.png"]
    assert [task["data"]["image"] for task in tasks] == [f"/data/local-files/?d={link}" for link in links]
    assert len(data.boxes) > 3
    for i, task in enumerate(tasks):
        targets = data.targets(i)
        results = task["predictions"][0]["result"]
        assert len(results) == len(targets)
        for result, box, label in zip(results, targets.boxes.tolist(), targets.labels.tolist()):
            value = result["value"]
            assert value["rectanglelabels"] == [data.classes.names[label]]
            x, y, w, h = (value[key] / 100 for key in ("x", "y", "width", "height"))
            assert [x * 150, y * 120, (x + w) * 150, (y + h) * 120] == pytest.approx(box, abs=1e-3)
            assert (result["original_width"], result["original_height"]) == (150, 120)
            assert result["score"] > 0.3
    assert len({r["id"] for task in tasks for r in task["predictions"][0]["result"]}) == len(data.boxes)
    view = xml.fromstring((folder / "out" / "labels.xml").read_bytes())
    assert [label.get("value") for label in view.iter("Label")] == ["cat", "dog", "bird"]
    assert view.find("RectangleLabels").get("name") == tasks[0]["predictions"][0]["result"][0]["from_name"]
    assert f"DOCUMENT_ROOT={folder.resolve()}" in capsys.readouterr().out
    assert (folder / "out" / "review.csv").is_file()


def test_cvat(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = label_files(folder, folder / "images", folder / "out", format="cvat", score=0.3).labels
    root = xml.fromstring((folder / "out" / "annotations.xml").read_bytes())
    assert root.findtext("version") == "1.1"
    images = root.findall("image")
    assert [image.get("name") for image in images] == list(data.images.paths) == NAMES
    for i, image in enumerate(images):
        targets = data.targets(i)
        assert (image.get("width"), image.get("height")) == ("150", "120")
        assert [box.get("label") for box in image] == [data.classes.names[k] for k in targets.labels.tolist()]
        sides = [[float(box.get(key)) for key in ("xtl", "ytl", "xbr", "ybr")] for box in image]
        np.testing.assert_allclose(np.array(sides).reshape(-1, 4), targets.boxes.numpy(), atol=1e-3)
    raw = json.loads((folder / "out" / "labels.json").read_text())
    assert [label["name"] for label in raw] == ["cat", "dog", "bird"]
    assert "as CVAT 1.1" in capsys.readouterr().out
    with pytest.raises(SsodError, match="exists"):
        label_files(folder, folder / "images", folder / "out", format="cvat", score=0.3)


def test_names_that_xml_cannot_hold_are_refused() -> None:
    tool_writers.refuse_not_xml(["a", "\u00e4 <&>", "\U0001f600"], "x")
    for name in ("a\x1b", "\ufffe", "\ud800"):
        with pytest.raises(SsodError, match="XML cannot"):
            tool_writers.refuse_not_xml(["a", name], "x")

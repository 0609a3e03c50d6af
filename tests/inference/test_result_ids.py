"""Results carry the ids of a user's own file, or such as nobody can take for them."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import pytest
from pycocotools.coco import COCO

from ssod.inference.predict import predict_files
from ssod.utils.errors import SsodError
from tests.trained import model_file, photos

IDS = {"cat": 41, "dog": 7, "bird": 12}  # the training file's are 3, 7, 11


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_file(tmp_path_factory.mktemp("weights") / "best.safetensors")


def listed(path: Path, names: list[str], first: int = 1, classes: dict[str, int] = IDS) -> Path:
    """Write a COCO JSON that numbers the images backwards."""
    images = [{"id": first + i, "file_name": name, "width": 150, "height": 120} for i, name in enumerate(names[::-1])]
    categories = [{"id": id, "name": name} for name, id in classes.items()]
    path.write_text(json.dumps({"images": images, "annotations": [], "categories": categories}))
    return path


def accepted(truth: Path, rows: list[dict]) -> bool:
    """Whether pycocotools takes results for those of a file."""
    with contextlib.redirect_stdout(io.StringIO()):
        table = COCO(str(truth))
        try:
            table.loadRes(rows)
        except AssertionError:
            return False
    return True


FOLDERS = {
    "frames": ["frame_0000.jpg", "frame_0001.jpg", "frame_0003.jpg"],
    "numbers": ["1.jpg", "2.jpg", "3.jpg"],
    "zeros": ["000001.jpg", "000002.jpg", "000003.jpg"],
    "cameras": ["a/000000.jpg", "b/000000.jpg", "b/000001.jpg"],
}


@pytest.mark.parametrize("names", FOLDERS.values(), ids=FOLDERS)
def test_ids_are_the_file_s_or_no_numbers(names: list[str], weights: Path, tmp_path: Path, capsys) -> None:
    photos(tmp_path / "im", names)
    truth = listed(tmp_path / "truth.json", names)
    rows = predict_files(weights, tmp_path / "im", tmp_path / "plain", score=0.0)
    assert {row["image_id"] for row in rows} <= set(names)
    assert not accepted(truth, list(rows))
    assert "image_id: names of files (--ids JSON" in capsys.readouterr().out
    rows = predict_files(weights, tmp_path / "im", tmp_path / "with", score=0.0, ids=truth)
    number = {image["file_name"]: image["id"] for image in json.loads(truth.read_text())["images"]}
    assert rows
    assert all(row["image_id"] == number[row["file_name"]] for row in rows)
    assert {row["category_id"] for row in rows} <= set(IDS.values())
    assert accepted(truth, list(rows))
    assert f"ids are those of {truth}" in capsys.readouterr().out


def test_a_json_in_the_place_of_images(weights: Path, tmp_path: Path) -> None:
    names = FOLDERS["frames"]
    photos(tmp_path / "images", names)
    photos(tmp_path / "images", ["more.jpg"])
    truth = listed(tmp_path / "truth.json", names, first=101)
    rows = predict_files(weights, truth, tmp_path / "out", score=0.0)
    number = {image["file_name"]: image["id"] for image in json.loads(truth.read_text())["images"]}
    assert rows
    assert all(row["image_id"] == number[row["file_name"]] for row in rows)
    assert not (tmp_path / "out" / "more.jpg").exists()


def test_a_class_is_found_by_its_name(weights: Path, tmp_path: Path) -> None:
    photos(tmp_path / "im", ["a.jpg"])
    plain = predict_files(weights, tmp_path / "im", tmp_path / "a", score=0.0)
    named = predict_files(weights, tmp_path / "im", tmp_path / "b", 0.0, ids=listed(tmp_path / "t.json", ["a.jpg"]))
    name = {3: "cat", 7: "dog", 11: "bird"}
    assert [row["category_id"] for row in named] == [IDS[name[row["category_id"]]] for row in plain]


def test_a_file_that_does_not_fit_is_refused_before_anything_is_written(weights: Path, tmp_path: Path) -> None:
    photos(tmp_path / "im", ["a/1.jpg", "b/1.jpg", "c.jpg"])
    cases = {
        "'c.jpg' is not in it": listed(tmp_path / "1.json", ["a/1.jpg", "b/1.jpg"]),
        "may be several of its images": listed(tmp_path / "2.json", ["x/1.jpg", "y/1.jpg", "c.jpg"]),
        "has no 'bird'": listed(tmp_path / "3.json", ["a/1.jpg", "b/1.jpg", "c.jpg"], classes={"cat": 1, "dog": 2}),
    }
    for words, truth in cases.items():
        with pytest.raises(SsodError, match=words):
            predict_files(weights, tmp_path / "im", tmp_path / "out", ids=truth)
        assert not (tmp_path / "out").exists()


def test_names_of_coco_s_own_images_are_their_ids(weights: Path, tmp_path: Path) -> None:
    photos(tmp_path / "im", ["000000000139.jpg", "000000000285.jpg"])
    rows = predict_files(weights, tmp_path / "im", tmp_path / "out", score=0.0)
    assert {row["image_id"] for row in rows} <= {139, 285}

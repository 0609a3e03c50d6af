"""Images with more objects than COCO's 100: a warning that names the key, which raises detector and evaluator alike."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

import ssod
from ssod.config import load
from ssod.evaluation.coco import coco_metrics
from ssod.evaluation.matching import match, mean_ap
from ssod.inference.label import label_files
from ssod.run import check
from tests.small import small_config
from tests.trained import model_file, photos


def scene(count: int) -> tuple[dict, list[dict]]:
    boxes = [[10.0 * (i % 20), 10.0 * (i // 20), 8.0, 8.0] for i in range(count)]
    truth = {
        "images": [{"id": 1, "width": 200, "height": 200}],
        "annotations": [{"image_id": 1, "category_id": 1, "bbox": box} for box in boxes],
        "categories": [{"id": 1, "name": "disc"}],
    }
    return truth, [{**row, "score": 0.9 - 0.001 * i} for i, row in enumerate(truth["annotations"])]


@pytest.mark.parametrize(("most", "least", "highest"), [(100, 0.3, 0.4), (300, 0.99, 1.0)])
def test_the_evaluators_count_as_many_as_are_asked_for(most: int, least: float, highest: float) -> None:
    truth, found = scene(280)
    result = coco_metrics(truth, found, most)
    assert least <= result["AP"] <= highest
    assert least <= result["AR100"] <= highest
    assert mean_ap(match(truth, found, "coco", most=most))[0] == pytest.approx(result["AP"])


def test_a_warning_names_the_key_and_the_key_helps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = small_config(tmp_path, train__steps=1, method__name="supervised", method__ema={"decay": 0.5})
    tree = yaml.safe_load(config.read_text())
    tree["method"] = {"name": "supervised", "ema": {"decay": 0.5}}
    config.write_text(yaml.safe_dump(tree))
    path = tmp_path / "data" / "annotations" / "val.json"
    table = json.loads(path.read_text())
    row = table["annotations"][0]
    extra = [{**row, "id": 5000 + i, "bbox": [i % 50, i // 50, 9, 9], "area": 81} for i in range(130)]
    crowd = [{**row, "id": 9000 + i, "iscrowd": 1} for i in range(50)]
    table["annotations"] += extra + crowd
    path.write_text(json.dumps(table))
    assert check(load(config)).code == 0
    told = re.search(r"warning\[L11\] .*val.json: .* \(1\d\d in one; 100 .*raise detector", capsys.readouterr().out)
    assert told
    ssod.train(load(config), out=tmp_path / "run")
    assert "warning[L11]" in capsys.readouterr().out
    check(load(config, ["detector.decode.detections=180"]))
    assert "L11" not in capsys.readouterr().out


def test_labels_of_yolo_are_a_data_set_that_ultralytics_opens(tmp_path: Path) -> None:
    """Its rules: `train` and `val` are needed, and without `path` folders are below that of the file."""
    photos(tmp_path / "im", ["a.jpg", "b.jpg"])
    label_files(model_file(tmp_path / "m.safetensors"), tmp_path / "im", tmp_path / "out", format="yolo")
    tree = yaml.safe_load((tmp_path / "out" / "data.yaml").read_text())
    assert "path" not in tree
    assert tree["names"] == {0: "cat", 1: "dog", 2: "bird"}
    for key in ("train", "val"):
        assert (tmp_path / "out" / tree[key]).is_dir()

"""tools/true_boxes.py: the file is the hidden truth, or a share of it, as ``method.teacher`` reads it."""

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ssod.config import load_recipe
from ssod.data import datasets
from ssod.data.datasets import DataSets
from ssod.data.stored import Stored, read_stored
from ssod.data.synthetic import write_shapes
from tools.true_boxes import kept, main, table


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes(tmp_path_factory.mktemp("shapes"), train=10, val=2, unlabeled=2, size=96)


def written(root: Path, out: Path, *options: str) -> dict:
    assert main(["--data", "shapes", f"data.root={root}", "-o", str(out), *options]) == 0
    return json.loads(out.read_text())


def hidden(root: Path) -> tuple[DataSets, datasets.DataConfig]:
    overrides = [f"data.root={root}", "data.split.percent=30"]
    cfg = load_recipe(method="mean_teacher", detector="fcos_tiny_fpn", data="shapes", overrides=overrides).data
    return datasets.load(cfg), cfg


def by_image(starts: np.ndarray, boxes: np.ndarray, labels: np.ndarray) -> list[list]:
    rows = [[*np.round(box, 2).tolist(), label] for box, label in zip(boxes, labels.tolist())]
    return [sorted(rows[a:b]) for a, b in itertools.pairwise(starts)]


def test_a_run_reads_all_hidden_boxes_from_it(root: Path, tmp_path: Path) -> None:
    written(root, tmp_path / "truth.json")
    data, cfg = hidden(root)
    found: Stored = read_stored(
        str(tmp_path / "truth.json"), data.unlabeled, data.classes, datasets.context(cfg)("unlabeled")
    )
    assert data.hidden is not None
    assert len(data.hidden.boxes) > 0
    truth = by_image(data.hidden.starts, data.hidden.boxes, data.hidden.labels)
    assert by_image(found.starts, found.boxes, found.labels) == truth
    assert found.scores.tolist() == [1.0] * len(data.hidden.boxes)


def test_a_share_is_left_out_and_every_image_stays(root: Path, tmp_path: Path) -> None:
    whole, part, again, other = (
        written(root, tmp_path / f"{i}.json", *options)
        for i, options in enumerate([(), ("--drop", "0.3"), ("--drop", "0.3"), ("--drop", "0.3", "--seed", "1")])
    )
    assert len(part["annotations"]) == len(whole["annotations"]) - round(0.3 * len(whole["annotations"]))
    assert part["images"] == whole["images"]
    assert part == again != other
    assert all(row in whole["annotations"] for row in part["annotations"])


def test_images_that_have_names_for_ids_are_numbered(root: Path) -> None:
    """As those of VOC and YOLO have; a COCO file with such ids would be refused by who reads it."""
    data, _ = hidden(root)
    named = replace(data.labeled, images=replace(data.labeled.images, ids=[f"im{i}" for i in range(len(data.labeled))]))
    found = table(named, 0.0, 0)
    assert [image["id"] for image in found["images"]] == list(range(1, len(named) + 1))
    assert {row["image_id"] for row in found["annotations"]} <= {image["id"] for image in found["images"]}
    assert found["annotations"]


def test_a_crowd_stays() -> None:
    crowd = np.arange(20) % 4 == 0
    stays = kept(crowd, 0.6, 0)
    assert stays[crowd].all()
    assert (~stays).sum() == 9


@pytest.mark.parametrize("share", ["1", "-0.1", "nan", "most"])
def test_what_is_no_share_is_refused(share: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--data", "shapes", "--drop", share, "-o", str(tmp_path / "x.json")])
    assert "no share of boxes" in capsys.readouterr().err


def test_data_that_is_not_there_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--data", "shapes", f"data.root={tmp_path / 'none'}", "-o", str(tmp_path / "x.json")]) != 0
    assert len(capsys.readouterr().err.splitlines()) == 1

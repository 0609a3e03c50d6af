"""One small recipe on three real data sets in two formats: it starts, steps before and after burn-in, and measures."""

import json
import math
import shutil
from pathlib import Path

import pytest

import ssod.run
from ssod.config import load_recipe
from tests.paths import shared_path

RECIPE = {"method": "mean_teacher", "detector": "retinanet_tiny_fpn", "data": "neu_det"}

NEU_DET: list[str] = []
BCCD = [
    "data.labeled={format: voc, root: bccd, split: trainval}",
    "data.val={format: voc, root: bccd, split: test}",
    "data.classes=[RBC, WBC, Platelets]",
]
# All labelled train images; the unlabelled ones are a plain folder.
COCO = [
    "data.labeled={format: coco, ann: coco-mini/annotations/instances_train2017.json, images: coco-mini/train2017}",
    "data.val={format: coco, ann: coco-mini/annotations/instances_val2017.json, images: coco-mini/val2017}",
    "data.split=null",
    "data.classes=null",
]


def unnamed_images(shared: Path, folder: Path) -> Path:
    """Copy the val images without annotation into a folder of their own."""
    table = json.loads((shared / "coco-mini/annotations/instances_val2017.json").read_text())
    named = {image["file_name"] for image in table["images"]}
    files = [file for file in (shared / "coco-mini/val2017").glob("*.jpg") if file.name not in named]
    assert len(files) == 80
    folder.mkdir()
    for file in files:
        shutil.copy(file, folder)
    return folder


@pytest.mark.parametrize("name", ["neu_det", "bccd", "coco_mini"])
def test_the_same_recipe_trains_on(name: str, tmp_path: Path) -> None:
    shared = shared_path("data")
    changes = {"neu_det": NEU_DET, "bccd": BCCD, "coco_mini": COCO}[name]
    if name == "coco_mini":
        changes = [*changes, f"data.unlabeled={{format: folder, path: {unnamed_images(shared, tmp_path / 'photos')}}}"]
    steps = ["train.steps=4", "method.burn_in=2", "method.score=0.01", "train.log_every=1", "train.eval_every=0"]
    cfg = load_recipe(**RECIPE, overrides=[f"data.root={shared}", *steps, *changes])
    found = ssod.run.train(cfg, out=tmp_path / "run")
    assert 0 <= found["AP"] <= 1
    lines = map(json.loads, (tmp_path / "run/metrics.jsonl").read_text().splitlines())
    rows = [row for row in lines if row["kind"] == "train"]
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert all(math.isfinite(row["loss/sup"]) for row in rows)
    assert ["loss/unsup" in row for row in rows] == [False, False, True, True]

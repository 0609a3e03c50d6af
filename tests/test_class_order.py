"""A class keeps its name everywhere, in whatever order and under whatever ids the files list it.

An oracle takes the place of what the detector finds: every disc, half of the bars, no arrow. Each then has an AP of its
own by name, whatever the ids of the files, their order, and the order of ``data.classes`` are.
"""

import json
import re
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import ssod
from ssod.commands.evaluate import evaluate
from ssod.config import load
from ssod.data.formats.coco import to_coco
from ssod.data.formats.registry import CocoSource, VocSource, YoloSource, read_labeled
from ssod.detectors.dense import Dense, DenseOutput
from ssod.engine.logging import trackers
from ssod.evaluation.coco import coco_metrics
from ssod.evaluation.matching import average_precision, match
from ssod.evaluation.voc import voc_metrics
from ssod.experiments.runs import read_run
from ssod.inference.export import metadata
from ssod.inference.label import label_files
from ssod.inference.model import load as load_model
from ssod.inference.predict import predict_files
from ssod.report.run_page import report
from ssod.structures import Targets, View
from ssod.structures.boxes import warp

COLORS = {"disc": (255, 0, 0), "bar": (0, 255, 0), "arrow": (0, 0, 255)}
NAMES = tuple(COLORS)
AP = {"disc": 1.0, "bar": 0.5, "arrow": 0.0}  # about: 50 of 101 points of recall for half of the boxes
SIZE = 64
PLACES = {"disc": (4, 6), "bar": (24, 30), "arrow": (44, 8)}
SIDE = 16


def close(value: float, name: str) -> bool:
    return abs(value - AP[name]) < 0.02


# ---- the evaluators alone ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("ids", [(1, 2, 3), (3, 1, 2), (90, 7, 8), (2, 0, 1)])
@pytest.mark.parametrize("order", list(permutations(NAMES)))
def test_evaluators_know_a_class_by_its_id(ids: tuple[int, ...], order: tuple[str, ...]) -> None:
    of = dict(zip(NAMES, ids))
    rows = [
        {"image_id": image, "category_id": of[name], "bbox": [*PLACES[name], SIDE, SIDE], "area": 256, "iscrowd": 0}
        for image in (1, 2)
        for name in NAMES
    ]
    truth = {
        "images": [{"id": image, "width": SIZE, "height": SIZE} for image in (1, 2)],
        "annotations": [{**row, "id": i} for i, row in enumerate(rows, 1)],
        "categories": [{"id": of[name], "name": name} for name in order],
    }
    found = [
        {key: row[key] for key in ("image_id", "category_id", "bbox")} | {"score": 0.9}
        for row in rows
        if row["category_id"] == of["disc"] or (row["category_id"] == of["bar"] and row["image_id"] == 1)
    ]
    for metrics in (coco_metrics, voc_metrics):
        result = metrics(truth, found)
        assert all(close(result[f"AP/{name}"], name) for name in NAMES), (metrics, result)
    table = match(truth, found, "coco")
    values = dict(zip(table.classes, average_precision(table)[0].mean(1).tolist()))
    assert all(close(values[name], name) for name in NAMES), values


# ---- a run, and all that is made of it ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Order:
    """Ids of the classes in the training file and in val, their order in both, and in ``data.classes``."""

    train: dict[str, int]
    val: dict[str, int]
    classes: tuple[str, ...] | None = None
    val_format: str = "coco"


ORDERS = {
    "alike": Order({"disc": 1, "bar": 2, "arrow": 3}, {"disc": 1, "bar": 2, "arrow": 3}),
    "other ids in val": Order({"disc": 1, "bar": 2, "arrow": 3}, {"arrow": 1, "bar": 3, "disc": 2}),
    "gaps": Order({"bar": 5, "disc": 90, "arrow": 7}, {"disc": 41, "bar": 40, "arrow": 2}),
    "declared": Order({"disc": 3, "bar": 1, "arrow": 2}, {"arrow": 1, "disc": 2, "bar": 3}, ("bar", "arrow", "disc")),
    "yolo": Order({"disc": 2, "bar": 1, "arrow": 9}, {"arrow": 0, "bar": 2, "disc": 1}, val_format="yolo"),
    "voc": Order({"disc": 2, "bar": 1, "arrow": 9}, {}, ("disc", "bar", "arrow"), val_format="voc"),
}


def picture(path: Path) -> None:
    pixels = np.zeros((SIZE, SIZE, 3), np.uint8)
    for name, (x, y) in PLACES.items():
        pixels[y : y + SIDE, x : x + SIDE] = COLORS[name]
    pixels[0, 0] = int(path.stem[-1]) + 1  # files differ, and the oracle knows every second one
    pixels[0, 1] = len(path.stem)  # those of train and val, too
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def write_coco(root: Path, part: str, ids: dict[str, int]) -> dict[str, str]:
    files = [f"{part}{i}.png" for i in range(4)]
    for file in files:
        picture(root / part / file)
    boxes = [(i, name) for i in range(4) for name in NAMES]
    table = {
        "images": [{"id": 10 + i, "file_name": file, "width": SIZE, "height": SIZE} for i, file in enumerate(files)],
        "annotations": [
            {"id": k, "image_id": 10 + i, "category_id": ids[name], "bbox": [*PLACES[name], SIDE, SIDE], "area": 256}
            for k, (i, name) in enumerate(boxes, 1)
        ],
        "categories": [{"id": id, "name": name} for name, id in ids.items()],
    }
    (root / f"{part}.json").write_text(json.dumps(table))
    return {"format": "coco", "ann": f"{part}.json", "images": part}


def write_yolo(root: Path, part: str, ids: dict[str, int]) -> dict[str, str]:
    listed = [name for name, _ in sorted(ids.items(), key=lambda item: item[1])]
    for i in range(4):
        picture(root / "yolo" / "images" / part / f"{part}{i}.png")
        label = root / "yolo" / "labels" / part / f"{part}{i}.txt"
        label.parent.mkdir(parents=True, exist_ok=True)
        rows = [(ids[n], (x + SIDE / 2) / SIZE, (y + SIDE / 2) / SIZE, 0.25, 0.25) for n, (x, y) in PLACES.items()]
        label.write_text("".join(" ".join(map(str, row)) + "\n" for row in rows))
    (root / "yolo" / "data.yaml").write_text(yaml.safe_dump({"names": listed}))
    return {"format": "yolo", "root": "yolo", "split": part}


def write_voc(root: Path, part: str, ids: dict[str, int]) -> dict[str, str]:
    base = root / "voc"
    for folder in ("Annotations", "ImageSets/Main"):
        (base / folder).mkdir(parents=True)
    for i in range(4):
        picture(base / "JPEGImages" / f"{part}{i}.png")
        objects = "".join(
            f"<object><name>{n}</name><bndbox><xmin>{x + 1}</xmin><ymin>{y + 1}</ymin><xmax>{x + SIDE}</xmax>"
            f"<ymax>{y + SIDE}</ymax></bndbox></object>"
            for n, (x, y) in PLACES.items()
        )
        size = f"<size><width>{SIZE}</width><height>{SIZE}</height></size>"
        (base / "Annotations" / f"{part}{i}.xml").write_text(f"<annotation>{size}{objects}</annotation>")
    (base / "ImageSets" / "Main" / f"{part}.txt").write_text("".join(f"{part}{i}\n" for i in range(4)))
    return {"format": "voc", "root": "voc", "split": part}


WRITE = {"coco": write_coco, "yolo": write_yolo, "voc": write_voc}


@pytest.fixture
def oracle(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Make every dense detector find what the page says; the list that is given holds its classes by label."""
    names: list[str] = []
    plain = Dense.predict

    def found(image: torch.Tensor, matrix: torch.Tensor) -> Targets:
        corner = int(image[0, 0, 0] * (255 if image.is_floating_point() else 1))
        seen = [name for name in ("disc", "bar") if name == "disc" or corner % 2]
        boxes = torch.tensor([[x, y, x + SIDE, y + SIDE] for x, y in (PLACES[name] for name in seen)]).float()
        labels = torch.tensor([names.index(name) for name in seen])
        return Targets(warp(boxes, matrix), labels, torch.full((len(seen),), 0.9))

    def predict(self: Dense, view: View) -> DenseOutput:
        out = plain(self, view)
        if names:
            out.detections = lambda score=None, rank=None: [found(i, m) for i, m in zip(view.images, view.matrix)]
        return out

    monkeypatch.setattr(Dense, "predict", predict)
    return names


class Told:
    """A tracker that remembers."""

    def __init__(self, folder: Path, step: int) -> None:
        TOLD.clear()

    def scalars(self, step: int, values: dict[str, float]) -> None:
        TOLD.update(values)

    def pictures(self, step: int, images: dict[str, np.ndarray]) -> None:
        return None

    def close(self) -> None:
        return None


TOLD: dict[str, float] = {}


def config(root: Path, order: Order) -> Path:
    tree: dict[str, Any] = {
        "data": {
            "root": str(root),
            "labeled": write_coco(root, "train", order.train),
            "val": WRITE[order.val_format](root, "val", order.val),
            **({} if order.classes is None else {"classes": list(order.classes)}),
        },
        "views": {"labeled": {"weak": ["flip"]}, "val": []},
        "detector": {"name": "fcos", "backbone": "tiny", "channels": 16, "levels": [3, 5]},
        "method": {"name": "supervised", "ema": {"decay": 0.5}},
        "train": {"steps": 1, "batch": {"labeled": 2, "unlabeled": 0}, "lr": 0.0001, "workers": 0, "tensorboard": True},
    }
    (root / "order.yaml").write_text(yaml.safe_dump(tree))
    return root / "order.yaml"


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
def test_a_name_means_one_class_from_training_to_label_files(
    order: Order, tmp_path: Path, oracle: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(trackers.KINDS, "tensorboard", (Told, ""))
    cfg, run = load(config(tmp_path, order)), tmp_path / "run"
    by_id = sorted(order.train, key=order.train.__getitem__)
    oracle[:] = order.classes or by_id
    said = {"training": ssod.train(cfg, out=run), "eval": evaluate(run)}
    file = json.loads((run / "eval" / "step_1.json").read_text())
    for where, values in (("eval/step_1.json", file), ("tracker", TOLD)):
        said[where] = {key.removeprefix("teacher/"): value for key, value in values.items()}
    assert {w: {n: close(v[f"AP/{n}"], n) for n in NAMES} for w, v in said.items()} == dict.fromkeys(
        said, dict.fromkeys(NAMES, True)
    )
    table = read_run(run).table
    assert list(table.classes) == oracle
    page = report(run).read_text()
    rows = [re.sub(r"<[^>]+>", " ", row).split() for row in re.findall(r"<tr>.*?</tr>", page, re.S)]
    shown = {row[0]: float(row[1]) / 100 for row in rows if row and row[0] in NAMES and len(row) == 6}
    assert set(shown) == set(NAMES)
    assert all(close(value, name) for name, value in shown.items()), shown

    model = load_model(run)
    assert json.loads(metadata(model)["names"]) == list(oracle) == list(model.classes.names)
    assert dict(zip(model.classes.names, model.classes.ids)) == order.train
    picture(tmp_path / "new" / "a0.png")
    corners = {name: [x, y, x + SIDE, y + SIDE] for name, (x, y) in PLACES.items() if name != "arrow"}
    found = model(tmp_path / "new" / "a0.png")
    assert dict(zip(found.names, found.boxes.tolist())) == corners
    rows = predict_files(run, tmp_path / "new", tmp_path / "pictures")
    assert {row["category_id"]: row["bbox"] for row in rows} == {
        order.train[name]: [*PLACES[name], SIDE, SIDE] for name in corners
    }
    for kind in ("coco", "yolo", "voc"):
        out = tmp_path / f"as_{kind}"
        label_files(run, tmp_path / "new", out, format=kind)
        read = {
            "coco": CocoSource(format="coco", ann=str(out / "instances.json"), images=str(tmp_path / "new")),
            "yolo": YoloSource(format="yolo", root=str(out), split="train"),
            "voc": VocSource(format="voc", root=str(out), split="train"),
        }[kind]
        labels = read_labeled(read)
        assert {labels.classes.names[k]: b for k, b in zip(labels.labels, labels.boxes.round(2).tolist())} == corners
        assert len(to_coco(labels)["annotations"]) == len(corners)

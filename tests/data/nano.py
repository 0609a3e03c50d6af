"""A good data set of a few tiny images, to be spoilt in one place by each case of the corpus."""

from __future__ import annotations

import copy
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ssod.data.datasets import DataConfig

WIDTH, HEIGHT = 64, 48
CATEGORIES = [{"id": 1, "name": "car"}, {"id": 2, "name": "van"}, {"id": 3, "name": "bus"}]


def picture(path: Path, seed: int, size: tuple[int, int] = (WIDTH, HEIGHT), **save: Any) -> None:
    """Write an image whose pixels depend on ``seed``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.RandomState(seed).randint(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **save)


def coco(prefix: str, images: int, first_id: int) -> dict[str, Any]:
    """Return ``images`` images with two boxes each; ids neither start at 0 nor are sorted."""
    order = np.random.RandomState(first_id).permutation(images)
    rows = [
        {"id": int(first_id + 7 * i), "file_name": f"{prefix}{i}.jpg", "width": WIDTH, "height": HEIGHT} for i in order
    ]
    boxes = [[4 + i % 3, 5, 20, 18.5] for i in range(2 * images)]
    annotations = [
        {
            "id": i + 1,
            "image_id": rows[i // 2]["id"],
            "category_id": 1 + i % 3,
            "bbox": box,
            "area": 300.0,
            "iscrowd": 0,
            "segmentation": [[1, 1, 5, 5, 5, 1]],
        }
        for i, box in enumerate(boxes)
    ]
    return {"info": {}, "images": rows, "annotations": annotations, "categories": copy.deepcopy(CATEGORIES)}


class Nano:
    """Ten labelled, four validation and six unlabelled images under ``root``; change what you like, then ``config()``.

    Attributes:
        train, val: COCO objects, written by ``config`` unless ``raw`` holds the bytes to write instead.
        section: the ``data`` section.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.train, self.val = coco("a", 10, 100), coco("v", 4, 900)
        self.raw: bytes | None = None
        self.section: dict[str, Any] = {
            "root": str(root),
            "labeled": {"format": "coco", "ann": "train.json", "images": "train"},
            "val": {"format": "coco", "ann": "val.json", "images": "val"},
            "unlabeled": {"format": "folder", "path": "more"},
        }
        for i in range(10):
            picture(root / "train" / f"a{i}.jpg", i)
        for i in range(4):
            picture(root / "val" / f"v{i}.jpg", 100 + i)
        for i in range(6):
            picture(root / "more" / f"u{i}.jpg", 200 + i)

    def config(self) -> DataConfig:
        """Write the annotation files and return the section."""
        train = self.root / "train.json"
        if self.raw is None:
            train.write_text(json.dumps(self.train))
        elif self.raw != b"absent":
            train.write_bytes(self.raw)
        (self.root / "val.json").write_text(json.dumps(self.val))
        return DataConfig.model_validate(self.section)


def xml(size: tuple[int, int] | None = (WIDTH, HEIGHT), objects: str = "", name: str | None = None) -> str:
    """Return a VOC annotation, without ``<filename>`` unless there is a name."""
    stated = f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>" if size else ""
    named = "" if name is None else f"<filename>{name}</filename>"
    return f"<annotation>{named}{stated}{objects}</annotation>"


def voc_object(name: str = "car", box: tuple[Any, Any, Any, Any] = (5, 6, 25, 30), difficult: str | None = "0") -> str:
    """Return one ``<object>``."""
    corners = "".join(f"<{k}>{v}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), box))
    flag = "" if difficult is None else f"<difficult>{difficult}</difficult>"
    return f"<object><name>{name}</name>{flag}<bndbox>{corners}</bndbox></object>"


def _first(root: Path) -> int:
    """Return a number of the folder: sets that lie in two folders have no picture in common."""
    return 1000 * (zlib.crc32(root.name.encode()) % 1000)


def voc(root: Path, images: int = 6) -> dict[str, Any]:
    """Write a VOC folder with ``images`` images, one car and one van each; return its source section."""
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for i in range(images):
        picture(root / "JPEGImages" / f"{i:03d}.jpg", 300 + i + _first(root))
        objects = voc_object() + voc_object("van")
        (root / "Annotations" / f"{i:03d}.xml").write_text(xml(objects=objects, name=f"{i:03d}.jpg"))
    (root / "ImageSets" / "Main" / "train.txt").write_text("".join(f"{i:03d}\n" for i in range(images)))
    return {"format": "voc", "root": str(root), "split": "train"}


def yolo(root: Path, images: int = 5) -> dict[str, Any]:
    """Write a YOLO folder with ``images`` images, one box each but the last, whose label file is empty."""
    (root / "labels" / "train").mkdir(parents=True)
    for i in range(images):
        picture(root / "images" / "train" / f"{i}.png", 400 + i + _first(root))
        line = "1 0.5 0.5 0.25 0.5\n" if i < images - 1 else ""
        (root / "labels" / "train" / f"{i}.txt").write_text(line)
    (root / "data.yaml").write_text("names: [car, van]\n")
    return {"format": "yolo", "root": str(root), "split": "train"}

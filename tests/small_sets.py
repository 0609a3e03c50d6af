"""Data sets of a few small pictures, written as COCO, VOC or YOLO would have them."""

import json
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("cat", "dog")


def pictures(folder: Path, names: Sequence[str], size: tuple[int, int] = (64, 48)) -> None:
    """Write one picture per name, (width, height); no two are alike, wherever they lie."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        seed = zlib.crc32(f"{folder.name}/{name}".encode())
        pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)


def coco(ann: Path, images: Path, names: Sequence[str], size: tuple[int, int] = (64, 48)) -> None:
    """Write pictures and a COCO JSON with one box in each."""
    pictures(images, names, size)
    ann.parent.mkdir(parents=True, exist_ok=True)
    table = {
        "images": [
            {"id": i, "file_name": name, "width": size[0], "height": size[1]} for i, name in enumerate(names, start=1)
        ],
        "annotations": [
            {"id": i, "image_id": i, "category_id": 1 + i % 2, "bbox": [4, 4, 30, 24], "area": 720, "iscrowd": 0}
            for i in range(1, len(names) + 1)
        ],
        "categories": [{"id": i, "name": name} for i, name in enumerate(CLASSES, start=1)],
    }
    ann.write_text(json.dumps(table))


def voc(root: Path, lists: dict[str, int], size: tuple[int, int] = (64, 48)) -> None:
    """Write a VOC folder with so many pictures in each list."""
    for folder in ("ImageSets/Main", "Annotations"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for split, count in lists.items():
        stems = [f"{split}{i}" for i in range(count)]
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(stems) + "\n")
        pictures(root / "JPEGImages", [f"{stem}.jpg" for stem in stems], size)
        for i, stem in enumerate(stems):
            box = "<xmin>5</xmin><ymin>5</ymin><xmax>34</xmax><ymax>28</ymax>"
            object = f"<object><name>{CLASSES[i % 2]}</name><bndbox>{box}</bndbox></object>"
            sides = f"<size><width>{size[0]}</width><height>{size[1]}</height></size>"
            (root / "Annotations" / f"{stem}.xml").write_text(f"<annotation>{sides}{object}</annotation>")


def yolo(root: Path, splits: dict[str, int], size: tuple[int, int] = (64, 48)) -> None:
    """Write a YOLO folder with so many pictures in each split."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "data.yaml").write_text(f"names: [{', '.join(CLASSES)}]\n")
    for split, count in splits.items():
        names = [f"{split}{i}.png" for i in range(count)]
        pictures(root / "images" / split, names, size)
        (root / "labels" / split).mkdir(parents=True)
        for i, name in enumerate(names):
            (root / "labels" / split / f"{Path(name).stem}.txt").write_text(f"{i % 2} 0.5 0.5 0.4 0.4\n")

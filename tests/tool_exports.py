"""Exports of labelling tools in small: each writes the same three images with the same boxes as its tool does."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.data.nano import picture

WIDTH, HEIGHT = 80, 60
CLASSES = ["bolt", "disc", "nut"]
Box = tuple[str, float, float, float, float]
TRUTH: dict[str, list[Box]] = {
    "a": [("disc", 4, 6, 24, 31), ("bolt", 40, 10, 79, 55)],
    "b": [("nut", 10, 12, 50, 44)],
    "c": [("bolt", 1, 2, 30, 59), ("disc", 33, 8, 47, 21), ("nut", 60, 30, 72, 50)],
}


def images(folder: Path, ending: str = "jpg") -> None:
    """Write the images into a folder."""
    for i, stem in enumerate(TRUTH):
        picture(folder / f"{stem}.{ending}", 900 + i, (WIDTH, HEIGHT))


def coco(prefix: str = "", first: int = 1, *, title: bool = False) -> dict[str, Any]:
    """Return a COCO object; ids of categories count from ``first``, with Roboflow's title before them if asked for."""
    categories = [{"id": first + i, "name": name, "supercategory": "parts"} for i, name in enumerate(CLASSES)]
    if title:
        categories.insert(0, {"id": first - 1, "name": "parts", "supercategory": "none"})
    tree: dict[str, Any] = {"images": [], "annotations": [], "categories": categories, "info": {"year": 2026}}
    for i, (stem, boxes) in enumerate(TRUTH.items()):
        tree["images"].append({"id": i, "file_name": f"{prefix}{stem}.jpg", "width": WIDTH, "height": HEIGHT})
        for name, x1, y1, x2, y2 in boxes:
            row = {"id": len(tree["annotations"]), "image_id": i, "category_id": first + CLASSES.index(name)}
            row |= {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1), "iscrowd": 0, "segmentation": []}
            tree["annotations"].append(row)
    return tree


def write(path: Path, value: Any) -> None:
    """Write text, or anything else as JSON, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value))


def lines(stem: str) -> str:
    """Return the lines of a YOLO label file."""
    text = ""
    for name, x1, y1, x2, y2 in TRUTH[stem]:
        shares = ((x1 + x2) / 2 / WIDTH, (y1 + y2) / 2 / HEIGHT, (x2 - x1) / WIDTH, (y2 - y1) / HEIGHT)
        text += f"{CLASSES.index(name)} {' '.join(map(repr, shares))}\n"
    return text


def yolo(pictures: Path, labels: Path) -> None:
    """Write the images and their label files."""
    images(pictures)
    for stem in TRUTH:
        write(labels / f"{stem}.txt", lines(stem))


def xmls(folder: Path) -> None:
    """Write an XML file for each image; VOC counts pixels from 1."""
    for stem, boxes in TRUTH.items():
        text = f"<annotation><filename>{stem}.jpg</filename>"
        text += f"<size><width>{WIDTH}</width><height>{HEIGHT}</height></size>"
        for name, x1, y1, x2, y2 in boxes:
            sides = f"<xmin>{x1 + 1}</xmin><ymin>{y1 + 1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax>"
            text += f"<object><name>{name}</name><bndbox>{sides}</bndbox></object>"
        write(folder / f"{stem}.xml", text + "</annotation>\n")


def tasks(prefix: str = "/data/upload/1/") -> list[dict[str, Any]]:
    """Return the tasks that Label Studio writes."""
    found = []
    for i, (stem, boxes) in enumerate(TRUTH.items()):
        result = []
        for name, x1, y1, x2, y2 in boxes:
            value: dict[str, Any] = {"x": x1 / WIDTH * 100, "y": y1 / HEIGHT * 100, "rotation": 0}
            value |= {"width": (x2 - x1) / WIDTH * 100, "height": (y2 - y1) / HEIGHT * 100, "rectanglelabels": [name]}
            result.append({"id": f"r{len(result)}", "type": "rectanglelabels", "value": value, "to_name": "image"})
        found.append({"id": 10 + i, "data": {"image": f"{prefix}{stem}.jpg"}, "annotations": [{"result": result}]})
    return found


def shapes(stem: str) -> dict[str, Any]:
    """Return what labelme writes for an image."""
    found = [
        {"label": name, "points": [[x1, y1], [x2, y2]], "shape_type": "rectangle", "flags": {}}
        for name, x1, y1, x2, y2 in TRUTH[stem]
    ]
    return {"version": "5.4.1", "shapes": found, "imagePath": f"{stem}.jpg", "imageData": None}


# ---- the exports -----------------------------------------------------------------------------------------------------


def _ls_coco(root: Path, prefix: str = "images/") -> None:
    images(root / "images")
    write(root / "result.json", coco(prefix, 0))


def _ls_yolo(root: Path) -> None:
    yolo(root / "images", root / "labels")
    write(root / "classes.txt", "\n".join(CLASSES))
    write(root / "notes.json", {"categories": [{"id": i, "name": name} for i, name in enumerate(CLASSES)], "info": {}})


def _labelimg_yolo(root: Path) -> None:
    yolo(root, root)
    write(root / "classes.txt", "\n".join(CLASSES) + "\n")


def _cvat_ultra(root: Path) -> None:
    yolo(root / "images/train", root / "labels/train")
    write(root / "train.txt", "".join(f"data/images/train/{stem}.jpg\n" for stem in TRUTH))
    names = "".join(f"  {i}: {name}\n" for i, name in enumerate(CLASSES))
    write(root / "data.yaml", f"names:\n{names}path: .\ntrain: train.txt\n")


def _cvat_yolo11(root: Path) -> None:
    yolo(root / "obj_train_data", root / "obj_train_data")
    write(root / "obj.names", "\n".join(CLASSES) + "\n")
    write(root / "obj.data", "classes = 3\ntrain = data/train.txt\nnames = data/obj.names\nbackup = backup/\n")
    write(root / "train.txt", "".join(f"data/obj_train_data/{stem}.jpg\n" for stem in TRUTH))


def _cvat_coco(root: Path) -> None:
    images(root / "images/default")
    write(root / "annotations/instances_default.json", coco())


def _rf_coco(root: Path) -> None:
    for part in ("train", "valid"):
        images(root / part)
        write(root / part / "_annotations.coco.json", coco(title=True))
    write(root / "README.roboflow.txt", "parts\n")


def _rf_yolo(root: Path) -> None:
    for part in ("train", "valid"):
        yolo(root / part / "images", root / part / "labels")
    parts = "train: ../train/images\nval: ../valid/images\ntest: ../test/images\n"
    write(root / "data.yaml", f"{parts}\nnc: 3\nnames: {CLASSES}\n\nroboflow:\n  workspace: x\n  version: 1\n")


def _rf_voc(root: Path) -> None:
    images(root / "train")
    xmls(root / "train")


def _ls_voc(root: Path) -> None:
    images(root / "images")
    xmls(root / "Annotations")


def _cvat_voc(root: Path) -> None:
    images(root / "JPEGImages")
    xmls(root / "Annotations")
    write(root / "ImageSets/Main/default.txt", "\n".join(TRUTH) + "\n")
    write(root / "labelmap.txt", "# label:color_rgb:parts:actions\nbolt:1,2,3::\n")


def _labelme(root: Path) -> None:
    images(root)
    for stem in TRUTH:
        write(root / f"{stem}.json", shapes(stem))


def _ls_json(root: Path) -> None:
    images(root / "images")
    write(root / "project-1.json", tasks())


EXPORTS: dict[str, Callable[[Path], None]] = {
    "ls_coco": _ls_coco,
    "ls_coco_media": lambda root: _ls_coco(root, "../../label-studio/label-studio/media/upload/1/"),
    "ls_coco_windows": lambda root: _ls_coco(root, "images\\"),
    "ls_yolo": _ls_yolo,
    "labelimg_yolo": _labelimg_yolo,
    "cvat_ultra": _cvat_ultra,
    "cvat_yolo11": _cvat_yolo11,
    "cvat_coco": _cvat_coco,
    "rf_coco": _rf_coco,
    "rf_yolo": _rf_yolo,
    "rf_voc": _rf_voc,
    "ls_voc": _ls_voc,
    "cvat_voc": _cvat_voc,
    "labelme": _labelme,
    "ls_json": _ls_json,
}


def yolo_of_any_name(root: Path) -> None:
    """Write a YOLO set whose YAML is called after the set, with parts that are called after a year."""
    yolo(root / "images/train2017", root / "labels/train2017")
    yolo(root / "images/val2017", root / "labels/val2017")
    shutil.rmtree(root / "labels/val2017")
    names = "".join(f"  {i}: {name}\n" for i, name in enumerate(CLASSES))
    write(root / "parts.yaml", f"path: .\ntrain: images/train2017\nval: images/val2017\nnames:\n{names}")

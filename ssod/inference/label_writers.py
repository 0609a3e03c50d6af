"""Detections as label files that other tools, and our own readers, can train on: COCO JSON, YOLO, PASCAL VOC.

YOLO and VOC want images and labels side by side, so the images are linked (hard links; copies where the file system
has none) into the new folder. Nothing is ever written over, and the files are all there or none of them is. What people
correct labels with is written by ``tool_writers``.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as xml

import numpy as np
import yaml

from ssod.data.formats.coco import coco_rows
from ssod.data.formats.paths import safe_join
from ssod.data.formats.records import Images, Labeled
from ssod.inference import output_dir, review_queue, tool_writers
from ssod.utils import atomic, json_pieces
from ssod.utils.errors import SsodError

SPLIT = "train"
# Without `path` the folders are below that of the file, wherever it is moved; Ultralytics reads no file without `val`.
YOLO_HEAD = f"""\
train: images/{SPLIT}
val: images/{SPLIT} # the same images: put those here that a person has labelled
"""

Writer = Callable[[Path, Labeled, np.ndarray], None]  # (target, data, scores [A])


def prepare(format: str, out: Path, images: str | os.PathLike, found: Images, parts: Sequence[str] = ()) -> Path:
    """Check, before any image is looked at, that labels can be written; return where they will go.

    Args:
        format: one of ``WRITERS``.
        out: a folder, or for COCO a ``.json`` file.
        images: what the user named.
        found: the images there, which will be labelled.
        parts: names of the parts of them that are written, too.

    Raises:
        SsodError: an unknown format, a target that exists or that a next run would search for images, images whose
            labels would share a file.
    """
    if format not in WRITERS:
        raise SsodError("command line", "--format", f"'{format}' is unknown", f"use {', '.join(WRITERS)}")
    if format in TOOLS:
        output_dir.refuse_taken(out)
        if format == "cvat":
            tool_writers.refuse_not_xml(found.paths, found.root)
        return out
    if format != "coco":
        output_dir.refuse_inside(out, images)
        output_dir.refuse_taken(out)
        stem = _stem if format == "yolo" else _flat
        output_dir.refuse_shared(found, stem, "label file", "rename one, or use --format coco")
        return out
    target = out if out.suffix == ".json" else out / "instances.json"
    if target.exists() or review_queue.place(target).exists() or (out != target and out.exists() and not out.is_dir()):
        raise SsodError(target, "", "exists; nothing is written over", "name another place with -o")
    for taken in (part(target, name).parent for name in parts):
        if taken.exists():
            raise SsodError(taken, "", "exists; nothing is written over", "name another place with -o")
    return target


def part(target: Path, name: str) -> Path:
    """Return where a part of the labels at ``target`` goes, in the same format: a folder, or for COCO a file in one."""
    if target.suffix != ".json":
        return target / name
    folder = target.parent / name if target.name == "instances.json" else target.with_name(f"{target.stem}-{name}")
    return folder / "instances.json"


@contextmanager
def staged(target: Path) -> Iterator[Path]:
    """Give a temporary place for the files of ``target``, which come to where they belong at the end or are removed."""
    home = target.parent if target.suffix == ".json" else target
    with output_dir.staged(home) as stage:
        yield stage / target.relative_to(home)


def write(format: str, target: Path, data: Labeled, scores: np.ndarray, doubts: review_queue.Doubts) -> None:
    """Write labels, and the ranking of the images.

    Args:
        format: as in ``prepare``.
        target: what ``prepare`` or ``staged`` returned.
        data: images with their sizes, and boxes.
        scores: [A], the confidence of each box. COCO keeps it as ``score`` of the annotation and VOC as ``<score>`` of
            the object; YOLO's five columns have no place for it.
        doubts: how unsure the labels of each image are.

    Raises:
        SsodError: with code 6 when the disk refuses.
    """
    try:
        WRITERS[format](target, data, scores)
        review_queue.write(review_queue.place(target), doubts)
    except OSError as error:
        raise atomic.refused(target, error) from None


def source(format: str, target: Path, images: Images) -> str:
    """Return what a config needs to train on the files at ``target``, on one line; of a tool's files, how to go on."""
    if format in TOOLS:
        return tool_writers.next_step(format, target, images)
    if format == "coco":
        keys = {"format": format, "ann": str(target.resolve()), "images": os.path.realpath(images.root)}
    else:
        keys = {"format": format, "root": str(target.resolve()), "split": SPLIT}
    dumped = yaml.safe_dump(keys, default_flow_style=True, sort_keys=False, allow_unicode=True, width=float("inf"))
    text = f"data.labeled: {dumped.strip()}"
    if format == "coco" and not _all_stay(images):
        text += " and data.allow_symlinks: true, since images are links that lead out of their folder"
    return text


def _all_stay(images: Images) -> bool:
    """Return whether no image is a link that leads out of the folder; a folder is followed once, not for each image."""
    folders: set[str] = set()
    for path in images.paths:
        folder = os.path.dirname(path)
        if folder not in folders or os.path.islink(os.path.join(images.root, path)):
            if not _stays(images.root, path):
                return False
            folders.add(folder)
    return True


def _stays(root: str, path: str) -> bool:
    try:
        safe_join(root, path)
    except SsodError:
        return False
    return True


def _coco(target: Path, data: Labeled, scores: np.ndarray) -> None:
    rows = coco_rows(data)
    scored = map(_scored, rows["annotations"], scores)
    info = {"images": os.path.realpath(data.images.root)}  # `ssod init` looks there
    json_pieces.write(target, {"info": info} | rows | {"annotations": scored})


def _scored(annotation: dict[str, Any], score: np.floating) -> dict[str, Any]:
    annotation["bbox"] = [round(value, 3) for value in annotation["bbox"]]
    annotation["area"] = round(annotation["area"], 3)
    return annotation | {"score": round(float(score), 5)}


def _yolo(target: Path, data: Labeled, scores: np.ndarray) -> None:
    sizes = data.images.sizes[:, ::-1].astype(np.float64)  # (width, height)
    for i, path in enumerate(data.images.paths):
        _link(data.images, path, target / "images" / SPLIT / path)
        rows = slice(data.starts[i], data.starts[i + 1])
        corners = data.boxes[rows].astype(np.float64) / np.tile(sizes[i], 2)
        centers, sides = (corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]
        lines = [
            f"{label} " + " ".join(f"{value:.7f}" for value in row) + "\n"
            for label, row in zip(data.labels[rows].tolist(), np.concatenate([centers, sides], 1).tolist())
        ]
        _text(target / "labels" / SPLIT / f"{_stem(path)}.txt", "".join(lines))
    names = yaml.safe_dump({"names": dict(enumerate(data.classes.names))}, sort_keys=False, allow_unicode=True)
    _text(target / "data.yaml", YOLO_HEAD + names)


def _voc(target: Path, data: Labeled, scores: np.ndarray) -> None:
    """VOC counts pixels from 1 and includes the last one: 1 is added to xmin and ymin only, as detectron2 reads it."""
    names = [_flat(path) for path in data.images.paths]
    for i, (name, path) in enumerate(zip(names, data.images.paths)):
        _link(data.images, path, target / "JPEGImages" / f"{name}{os.path.splitext(path)[1]}")
        height, width = data.images.sizes[i].tolist()
        tree = xml.Element("annotation")
        _leaf(tree, "filename", f"{name}{os.path.splitext(path)[1]}")
        size = xml.SubElement(tree, "size")
        for key, value in (("width", width), ("height", height), ("depth", 3)):
            _leaf(size, key, value)
        for row in range(data.starts[i], data.starts[i + 1]):
            item = xml.SubElement(tree, "object")
            _leaf(item, "name", data.classes.names[data.labels[row]])
            _leaf(item, "difficult", 0)
            _leaf(item, "score", round(float(scores[row]), 5))
            box = xml.SubElement(item, "bndbox")
            corners = data.boxes[row].astype(np.float64) + np.array([1, 1, 0, 0])
            for key, value in zip(("xmin", "ymin", "xmax", "ymax"), corners.tolist()):
                _leaf(box, key, round(value, 4))
        xml.indent(tree)
        _text(target / "Annotations" / f"{name}.xml", xml.tostring(tree, encoding="unicode") + "\n")
    _text(target / "ImageSets" / "Main" / f"{SPLIT}.txt", "".join(f"{name}\n" for name in names))


TOOLS: dict[str, Writer] = {"labelstudio": tool_writers.label_studio, "cvat": tool_writers.cvat}
WRITERS: dict[str, Writer] = {"coco": _coco, "yolo": _yolo, "voc": _voc, **TOOLS}


def _leaf(parent: xml.Element, key: str, value: object) -> None:
    xml.SubElement(parent, key).text = str(value)


def _stem(path: str) -> str:
    return os.path.splitext(path)[0]


def _flat(path: str) -> str:
    """Return a VOC name: JPEGImages has no sub-folders, a list line ends at a blank, XML has no control characters."""
    return re.sub(r"[\s/\x00-\x1f\ufffe\uffff]+", "_", _stem(path))


def _text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")


def _link(images: Images, path: str, target: Path) -> None:
    """Put an image into the new folder: a second name for the same file, or a copy across file systems."""
    target.parent.mkdir(parents=True, exist_ok=True)
    source = os.path.realpath(os.path.join(images.root, path))
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def summary(data: Labeled) -> str:
    """Return the counts that a user wants to see first."""
    counts = np.diff(data.starts)
    return f"{len(data)} images, {counts.sum()} boxes, {(counts == 0).sum()} images without a box"

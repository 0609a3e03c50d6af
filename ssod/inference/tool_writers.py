"""Detections as tasks of labelling tools, for a person to correct: Label Studio JSON, CVAT XML.

Neither holds an image: the tools get those from where they lie. The layouts are those of Label Studio's "predictions"
(https://labelstud.io/guide/predictions) and of "CVAT for images 1.1" (https://docs.cvat.ai/docs/other/xml_format). Both
count pixels from the upper left corner of the upright image, as we do.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree as xml

import numpy as np

from ssod.data.formats.findings import short
from ssod.data.formats.records import Images, Labeled
from ssod.utils import atomic, json_pieces
from ssod.utils.errors import Exit, SsodError

# What XML 1.0 has no way to write, https://www.w3.org/TR/xml/#charsets
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def refuse_not_xml(names: Iterable[str], file: object) -> None:
    """Refuse names of images or classes that no XML can hold.

    Raises:
        SsodError: naming the first.
    """
    for name in names:
        if _NOT_XML.search(name):
            problem = f"{short(name)} holds a character that XML cannot"
            raise SsodError(file, "", problem, "rename it, or use --format coco", code=Exit.DATA)


def label_studio(target: Path, data: Labeled, scores: np.ndarray) -> None:
    """Write ``tasks.json``, and ``labels.xml``, the labelling interface that the tasks need.

    Images are named as Label Studio's local storage does, below the folder that holds the images' own.
    """
    view = xml.Element("View")
    xml.SubElement(view, "Image", name="image", value="$image")
    labels = xml.SubElement(view, "RectangleLabels", name="label", toName="image")
    refuse_not_xml(data.classes.names, target)
    for name in data.classes.names:
        xml.SubElement(labels, "Label", value=name)
    json_pieces.write(target / "tasks.json", _tasks(data, scores))
    _write_xml(target / "labels.xml", view)


def _tasks(data: Labeled, scores: np.ndarray) -> Iterator[dict[str, Any]]:
    folder = os.path.basename(os.path.realpath(data.images.root))
    for i, path in enumerate(data.images.paths):
        height, width = data.images.sizes[i].tolist()
        results = []
        for row in range(data.starts[i], data.starts[i + 1]):
            x1, y1, x2, y2 = (data.boxes[row].astype(np.float64) / (width, height, width, height) * 100).tolist()
            value = {"x": x1, "y": y1, "width": x2 - x1, "height": y2 - y1, "rotation": 0}
            results.append(
                {
                    **{"id": f"{i + 1}-{row - data.starts[i] + 1}", "type": "rectanglelabels"},
                    **{"from_name": "label", "to_name": "image", "image_rotation": 0},
                    **{"original_width": width, "original_height": height, "score": round(float(scores[row]), 5)},
                    "value": {**value, "rectanglelabels": [data.classes.names[data.labels[row]]]},
                }
            )
        link = f"/data/local-files/?d={quote(os.fsencode(f'{folder}/{path}'))}"
        yield {"data": {"image": link}, "predictions": [{"model_version": "ssod", "result": results}]}


def cvat(target: Path, data: Labeled, scores: np.ndarray) -> None:
    """Write ``annotations.xml``, which has no place for a score, and ``labels.json`` for the tool's raw label list."""
    refuse_not_xml([*data.classes.names, *data.images.paths], target)
    root = xml.Element("annotations")
    xml.SubElement(root, "version").text = "1.1"
    task = xml.SubElement(xml.SubElement(root, "meta"), "task")
    xml.SubElement(task, "size").text = str(len(data))
    xml.SubElement(task, "mode").text = "annotation"
    labels = xml.SubElement(task, "labels")
    for name in data.classes.names:
        label = xml.SubElement(labels, "label")
        xml.SubElement(label, "name").text = name
        xml.SubElement(label, "type").text = "rectangle"
    raw = [{"name": name, "type": "rectangle", "attributes": []} for name in data.classes.names]
    _write_xml(target / "annotations.xml", root, _image_elements(data))
    atomic.write_text(target / "labels.json", json.dumps(raw))


def _image_elements(data: Labeled) -> Iterator[xml.Element]:
    for i, path in enumerate(data.images.paths):
        height, width = data.images.sizes[i].tolist()
        image = xml.Element("image", id=str(i), name=path, width=str(width), height=str(height))
        for row in range(data.starts[i], data.starts[i + 1]):
            sides = dict(zip(("xtl", "ytl", "xbr", "ybr"), (f"{value:.3f}" for value in data.boxes[row].tolist())))
            name = data.classes.names[data.labels[row]]
            xml.SubElement(image, "box", label=name, source="auto", occluded="0", z_order="0", **sides)
        yield image


def next_step(format: str, target: Path, images: Images) -> str:
    """Return what to do with the files of a tool, in one line."""
    root = os.path.realpath(images.root)
    if format == "cvat":
        return (
            f"in CVAT: make a task of the images in {root} with the labels of {target / 'labels.json'}, then "
            f"upload {target / 'annotations.xml'} as CVAT 1.1"
        )
    return (
        f"in Label Studio: start it with LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED=true and "
        f"LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT={os.path.dirname(root)}, add {root} as local storage, take "
        f"{target / 'labels.xml'} as the labelling interface, import {target / 'tasks.json'}"
    )


def _write_xml(path: Path, root: xml.Element, more: Iterable[xml.Element] = ()) -> None:
    """Write a tree, with ``more`` children at its end, which are made while they are written."""
    xml.indent(root)
    head, slash, end = xml.tostring(root, encoding="unicode").rpartition("\n</")

    def pieces() -> Iterator[str]:
        yield f'<?xml version="1.0" encoding="utf-8"?>\n{head}'
        for child in more:
            xml.indent(child, level=1)
            yield f"\n  {xml.tostring(child, encoding='unicode')}"
        yield f"{slash}{end}\n"

    atomic.write(path, lambda file: file.writelines(piece.encode() for piece in pieces()))

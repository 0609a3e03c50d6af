"""COCO images with an object of one of VOC's 20 classes: with VOC12 they are the unlabelled images of VOC 07+12+COCO20.

STAC (arXiv:2005.04757) takes them from train2017 and val2017 by the names of classes; so does this. Which class of COCO
is which of VOC's is said here and nowhere else.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ssod.data.formats.findings import Context
from ssod.data.formats.jsonfile import read_json
from ssod.data.formats.presence import check_files
from ssod.data.formats.voc import read_voc_images
from ssod.utils import atomic
from ssod.utils.errors import Exit, SsodError

# VOC's class -> COCO's.
COCO_NAME = {
    "aeroplane": "airplane",
    "bicycle": "bicycle",
    "bird": "bird",
    "boat": "boat",
    "bottle": "bottle",
    "bus": "bus",
    "car": "car",
    "cat": "cat",
    "chair": "chair",
    "cow": "cow",
    "diningtable": "dining table",
    "dog": "dog",
    "horse": "horse",
    "motorbike": "motorcycle",
    "person": "person",
    "pottedplant": "potted plant",
    "sheep": "sheep",
    "sofa": "couch",
    "train": "train",
    "tvmonitor": "tv",
}
LIST = "annotations/voc12_coco20.txt"  # below the target; configs/data/voc_coco20.yaml names it
VOC12 = "voc/VOCdevkit/VOC2012"  # beside the target


def with_voc_class(table: dict[str, Any]) -> list[str]:
    """Return the ``file_name`` of every image that has an annotation of one of the 20 classes, in the file's order.

    Args:
        table: a COCO JSON that was checked: ``images``, ``annotations``, ``categories``.
    """
    wanted = {row["id"] for row in table["categories"] if row["name"] in set(COCO_NAME.values())}
    shown = {row["image_id"] for row in table["annotations"] if row["category_id"] in wanted}
    return [row["file_name"] for row in table["images"] if row["id"] in shown]


def write_list(target: Path, parts: Sequence[str]) -> str:
    """Write the list of VOC12 trainval and of the COCO images, relative to the folder that holds ``target``.

    Args:
        target: the folder ``coco`` of the layout.
        parts: image folders in it, each with its ``annotations/instances_<part>.json``, which were checked.

    Returns:
        What was written, in words; or that VOC12 is not there.

    Raises:
        SsodError: code 3; VOC12 is damaged, or no image has such a class.
    """
    datasets = target.parent
    if not (datasets / VOC12).exists():
        return f"{datasets / VOC12}: not there, which only the protocol VOC 07+12+COCO20 needs"
    ctx = Context(root=str(datasets), section="VOC2012")
    voc = read_voc_images(VOC12, "trainval", ctx)
    check_files(voc, str(datasets / VOC12), ctx)
    ctx.findings.raise_first()
    folder = os.path.relpath(voc.root, datasets)
    names = [f"{folder}/{name}" for name in voc.paths]
    for part in parts:
        file = target / "annotations" / f"instances_{part}.json"
        found = with_voc_class(read_json(str(file), ctx, "annotations"))
        if not found:
            fix = "take COCO's own file, with its class names"
            raise SsodError(file, "categories", "no image has one of VOC's 20 classes", fix, code=Exit.DATA)
        names += [f"{target.name}/{part}/{name}" for name in found]
    out = target / LIST
    atomic.write_text(out, "".join(f"{name}\n" for name in names))
    return f"VOC2012: {len(voc)} images, COCO with one of VOC's classes: {len(names) - len(voc)}; wrote {out}"

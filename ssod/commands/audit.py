"""``ssod audit``: precision and recall of labels, from what a person made of a sample of them."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from rich.table import Table

from ssod.commands.sources import joined_classes, read_labels, same_images
from ssod.data.formats.coco import to_coco
from ssod.data.formats.records import Classes, Labeled
from ssod.evaluation.agreement import Agreement, agreement
from ssod.evaluation.columns import Found
from ssod.utils.errors import Exit, SsodError
from ssod.utils.printing import console, percent


@dataclass(frozen=True)
class Audited:
    """How right labels are.

    Attributes:
        labels, corrected: the files or folders.
        classes: the agreement of each class, and last that of all.
        images: how many were compared.
        left_out: images of ``corrected`` that ``labels`` has not.
    """

    labels: Path
    corrected: Path
    classes: tuple[Agreement, ...]
    images: int
    left_out: int


def audit(labels: str | os.PathLike, corrected: str | os.PathLike) -> Audited:
    """Hold labels against their corrections, print a table, and say which images were not compared.

    Args:
        labels: COCO JSON, VOC folder or YOLO folder: what ``ssod label`` wrote, or the sample of it.
        corrected: likewise: the truth. Images of ``labels`` that it has not are not compared.

    Returns:
        The agreement of each class, and of all, at IoU 0.5, and how many images it stands on.

    Raises:
        SsodError: one of them cannot be read, or they have no image in common.
    """
    # a sample may be without a label, or all of its labels wrong
    mine, truth = (
        read_labels(path, name, needs_objects=False) for path, name in ((labels, "LABELS"), (corrected, "CORRECTED"))
    )
    rows = same_images(mine.images, truth.images)
    common = [i for i, row in enumerate(rows) if row >= 0]
    if not common:
        problem = f"has none of the {len(mine)} images of {labels}"
        raise SsodError(corrected, "", problem, "name the corrected labels of the same images", code=Exit.DATA)
    chosen = [rows[i] for i in common]
    if len(set(chosen)) < len(chosen):
        problem = f"{len(chosen) - len(set(chosen))} of its images are others' by name"
        raise SsodError(corrected, "", problem, "leave each image in it once", code=Exit.DATA)
    mine, truth = mine.subset(chosen), truth.subset(common)
    names = joined_classes([truth, mine])
    found = agreement(_truth(truth, names), _found(mine, names))
    audited = Audited(Path(labels), Path(corrected), tuple(found), len(common), len(rows) - len(common))
    _show(audited)
    return audited


def _truth(data: Labeled, names: list[str]) -> dict:
    """Return the truth with images numbered from 0 and all classes; what is difficult need not be found.

    A label that matches no box is not wrong in an image of which the truth says that it is incomplete in the class.
    """
    label = np.array([names.index(name) for name in data.classes.names], np.int64)
    images, crowd = replace(data.images, ids=range(len(data))), data.crowd | data.difficult
    every = Classes(tuple(names), tuple(range(len(names))))
    return to_coco(replace(data, images=images, crowd=crowd).in_order(every, label))


def _found(data: Labeled, names: list[str]) -> Found:
    """Return labels as detections of equal score, for no file tells how sure they were in the end."""
    label = np.array([names.index(name) for name in data.classes.names], np.int64)
    sides = data.boxes.astype(float)
    sides[:, 2:] -= sides[:, :2]
    return Found(
        ids=list(range(len(data))),
        image=np.repeat(np.arange(len(data)), np.diff(data.starts)),
        label=label[data.labels],
        boxes=sides,
        scores=np.ones(len(sides)),
    )


def _show(found: Audited) -> None:
    title = f"{found.labels} against {found.corrected}, {found.images} images, IoU 0.5"
    table = Table(title=f"{title}; in brackets 95 % intervals (Wilson)", title_justify="left")
    for column in ("class", "labels", "right", "precision %", "true", "recall %"):
        table.add_column(column, justify="left" if column == "class" else "right")
    for row in found.classes:
        precision, recall = _share(row.precision, row.precision_interval), _share(row.recall, row.recall_interval)
        table.add_row(row.name, str(row.labels), str(row.right), precision, str(row.true), recall)
    console().print(table)
    if found.left_out:
        print(f"{found.left_out} images of {found.corrected} are not in {found.labels}: not compared")


def _share(share: float, interval: tuple[float, float]) -> str:
    low, high = interval
    return "-" if math.isnan(low) else f"{percent(share)} ({100 * low:.0f}-{100 * high:.0f})"

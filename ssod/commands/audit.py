"""``ssod audit``: precision and recall of labels, from what a person made of a sample of them."""

from __future__ import annotations

import math
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.table import Table

from ssod.commands.sources import joined_classes, read_labels, same_images
from ssod.data.formats.coco import to_coco
from ssod.data.formats.records import Classes, Labeled
from ssod.evaluation.agreement import Agreement, agreement, wilson
from ssod.evaluation.columns import Found
from ssod.utils.errors import Exit, SsodError
from ssod.utils.printing import console, percent


def audit(labels: str | os.PathLike, corrected: str | os.PathLike) -> list[Agreement]:
    """Hold labels against their corrections, print a table, and say which images were not compared.

    Args:
        labels: COCO JSON, VOC folder or YOLO folder: what ``ssod label`` wrote, or the sample of it.
        corrected: likewise: the truth. Images of ``labels`` that it has not are not compared.

    Returns:
        The agreement of each class, and of all, at IoU 0.5.

    Raises:
        SsodError: one of them cannot be read, or they have no image in common.
    """
    mine, truth = read_labels(labels, "LABELS"), read_labels(corrected, "CORRECTED")
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
    title = f"{Path(labels)} against {Path(corrected)}, {len(common)} images, IoU 0.5"
    _show(found, f"{title}; in brackets 95 % intervals (Wilson)")
    left = len(rows) - len(common)
    if left:
        print(f"{left} images of {corrected} are not in {labels}: not compared")
    return found


def _truth(data: Labeled, names: list[str]) -> dict:
    """Return the truth with images numbered from 0 and all classes; what is difficult need not be found."""
    label = np.array([names.index(name) for name in data.classes.names], np.int64)
    numbered = replace(
        data,
        images=replace(data.images, ids=range(len(data))),
        classes=Classes(tuple(names), tuple(range(len(names)))),
        labels=label[data.labels],
        crowd=data.crowd | data.difficult,
    )
    return to_coco(numbered)


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


def _show(found: list[Agreement], title: str) -> None:
    table = Table(title=title, title_justify="left")
    for column in ("class", "labels", "right", "precision %", "true", "recall %"):
        table.add_column(column, justify="left" if column == "class" else "right")
    for row in found:
        precision, recall = _share(row.precision, row.right, row.labels), _share(row.recall, row.right, row.true)
        table.add_row(row.name, str(row.labels), str(row.right), precision, str(row.true), recall)
    console().print(table)


def _share(share: float, right: int, total: int) -> str:
    low, high = wilson(right, total)
    return "-" if math.isnan(low) else f"{percent(share)} ({100 * low:.0f}-{100 * high:.0f})"

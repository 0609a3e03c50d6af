"""Labels that a trained model doubts: objects without a label, and labels of another class than it sees there.

The model learnt from such labels, perhaps from these: what it is sure of against them is worth a look, and no verdict.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
import torch

from ssod.data.formats.findings import Context
from ssod.data.formats.header import path_of
from ssod.data.formats.records import Classes, Labeled
from ssod.inference import label_limits
from ssod.inference.label_limits import Limits
from ssod.inference.model import BATCH, Detected, Model
from ssod.structures.boxes import area, iou
from ssod.utils.errors import Exit, SsodError

PRECISION = 0.9  # of the model's boxes above its limits, on the run's own val images
SURE = 0.7  # the limit where a model file has no val images to measure that on
APART = 0.3  # IoU below which no label explains a detection
SAME_PLACE = 0.5  # IoU from which a detection is about a label
INSIDE = 0.5  # share of a detection that lies in a crowd, which then explains it


@dataclass(frozen=True)
class Suspect:
    """One doubt.

    Attributes:
        image: row of the set.
        box: [4] corners of the detection, in pixels of the image.
        label: its class, in the order of the set.
        score: how sure the model is.
        row: the label that it doubts, a row of the set's boxes; -1 = no label explains the detection.
    """

    image: int
    box: tuple[float, ...]
    label: int
    score: float
    row: int


def limits_of(weights: str | os.PathLike, model: Model) -> Limits:
    """Return the scores from which a model is sure: those of ``PRECISION`` on its val images, or ``SURE``."""
    try:
        return label_limits.of_precision(weights, model.classes.names, PRECISION)
    except SsodError:  # a file without its run, or a run that no class of which is so precise
        return label_limits.of_score(SURE, len(model.classes))


def check_classes(model: Model, classes: Classes, weights: str | os.PathLike) -> list[int]:
    """Return the label in a set of each of the model's classes.

    Raises:
        SsodError: code 3, the set has no such class.
    """
    unknown = [name for name in model.classes.names if name not in classes.names]
    if unknown:
        problem = f"the model knows the class {unknown[0]!r}, and the data do not"
        raise SsodError(weights, "classes", problem, "name a run on these classes", code=Exit.DATA)
    return [classes.names.index(name) for name in model.classes.names]


def suspects(model: Model, data: Labeled, rows: list[int], limits: Limits, ctx: Context) -> list[Suspect]:
    """Look at images and return what the model doubts, the surest first.

    Args:
        model: ready to detect; its classes are among the set's.
        data: images and labels.
        rows: of the images to look at; one that cannot be read is left out.
        limits: see ``limits_of``.
        ctx: rules; for opening the images.
    """
    order, found = check_classes(model, data.classes, ctx.section), []
    for start in range(0, len(rows), BATCH):
        for row, detected in _detect(model, data, rows[start : start + BATCH], ctx):
            sure = detected.scores.numpy() > limits.above[detected.labels.numpy()]
            found += doubts(data, row, detected[torch.from_numpy(sure)], order)
    return sorted(found, key=lambda one: -one.score)


def _detect(model: Model, data: Labeled, rows: list[int], ctx: Context) -> list[tuple[int, Detected]]:
    """Return what is found in those images that can be read."""
    seen = []
    for row in rows:
        try:
            seen.append((row, model(path_of(data.images, row, ctx))))
        except SsodError:  # the check says what is wrong with it
            continue
    return seen


def doubts(data: Labeled, row: int, sure: Detected, order: list[int]) -> list[Suspect]:
    """Compare the sure detections of image ``row`` with its labels; ``order`` is from ``check_classes``."""
    own = np.arange(data.starts[row], data.starts[row + 1])
    boxes, crowd = torch.from_numpy(data.boxes[own]), torch.from_numpy(data.crowd[own])
    overlap = iou(sure.boxes, boxes[~crowd])
    objects, mine = own[~crowd.numpy()], np.array(order, np.int64)[sure.labels.numpy()]
    covered = _covered(sure.boxes, boxes[crowd])
    best = overlap.amax(1) if len(objects) else torch.zeros(len(sure))
    found = []
    for i in range(len(sure)):
        box, score = tuple(sure.boxes[i].tolist()), float(sure.scores[i])
        if best[i] < APART and not covered[i]:
            found.append(Suspect(row, box, int(mine[i]), score, -1))
        elif best[i] >= SAME_PLACE:
            at = int(overlap[i].argmax())
            agrees = (overlap[:, at] >= SAME_PLACE).numpy() & (mine == data.labels[objects[at]])
            there = (overlap[i] >= SAME_PLACE).numpy() & (data.labels[objects] == mine[i])
            if not agrees.any() and not there.any():
                found.append(Suspect(row, box, int(mine[i]), score, int(objects[at])))
    return found


def _covered(boxes: torch.Tensor, crowds: torch.Tensor) -> list[bool]:
    """Return for each box whether a crowd explains it."""
    if not len(crowds):
        return [False] * len(boxes)
    low = torch.maximum(boxes[:, None, :2], crowds[None, :, :2])
    high = torch.minimum(boxes[:, None, 2:], crowds[None, :, 2:])
    inner = area(torch.cat([low, high], -1))
    return (inner.amax(1) >= INSIDE * area(boxes)).tolist()

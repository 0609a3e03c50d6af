"""Labelled images with incomplete labels: a teacher's boxes of the classes that may have more objects there."""

from __future__ import annotations

import torch

from ssod.structures import Targets, join, open_classes
from ssod.structures.boxes import iou
from ssod.structures.ragged import image_index, select

NEAR = 0.5  # IoU from which a detection is of an object that is labelled


@torch.no_grad()
def fill_open(truth: list[Targets], found: list[Targets], score: float, num_classes: int) -> list[Targets]:
    """Return labels with those detections that may be objects nobody labelled, as if they were labels.

    A detection is taken where its class is open, its score is ``score`` or more and no labelled box of the image
    overlaps it by an IoU of 0.5 or more. What is found in no such box stays open.

    Args:
        truth: the labels of N images, some of them with ``open``.
        found: a teacher's detections in the same pixels.
        score: in 0..1.
        num_classes: K.
    """
    open = open_classes(truth, num_classes)
    if open is None:
        return truth
    labels, scores = torch.cat([t.labels for t in found]), torch.cat([t.confidence() for t in found])
    image = image_index([len(t) for t in found], labels.device)
    alone = [
        iou(t.boxes.float(), f.boxes.float()).amax(0) < NEAR if len(t) else torch.ones_like(f.labels, dtype=torch.bool)
        for t, f in zip(truth, found)
    ]
    taken = select(found, open[image, labels] & (scores >= score) & torch.cat(alone))
    more = [Targets(f.boxes.to(t.boxes), f.labels) for t, f in zip(truth, taken)]
    return [join(pair) for pair in zip(truth, more)]

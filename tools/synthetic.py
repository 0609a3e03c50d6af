"""Noise to train on, and thresholds that let an untrained detector find boxes in it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ssod.detectors.decode import rank
from ssod.methods.base import Method
from ssod.methods.teachers import FromFile
from ssod.pseudo_labels.threshold import FixedThreshold
from ssod.structures import Batch, Targets, View
from ssod.structures.boxes import LtrbCoder

CLASSES = 80


class Remember:
    """An iterator that keeps the last ``count`` items it gave."""

    def __init__(self, source: Iterator[Batch], count: int) -> None:
        self.source, self.count, self.last = source, count, []

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        self.last = [*self.last, next(self.source)][-self.count :]
        return self.last[-1]


def noise(images: int, side: int | tuple[int, int], unlabeled: bool) -> Batch:
    """Return a batch of noise with seven random boxes in each labelled image.

    Args:
        images: labelled images, and as many unlabelled ones in each of two views.
        side: of square images, or height and width; what they lack to a multiple of 32 is padding.
        unlabeled: whether there are unlabelled ones.
    """
    g = torch.Generator().manual_seed(0)
    height, width = (side, side) if isinstance(side, int) else side
    padded = [-(-length // 32) * 32 for length in (height, width)]
    targets = []
    for _ in range(images):
        extent = torch.tensor([width, height])
        corner = torch.rand(7, 2, generator=g) * extent * 0.7
        size = (0.05 + 0.25 * torch.rand(7, 2, generator=g)) * extent
        targets.append(Targets(torch.cat([corner, corner + size], 1), torch.randint(CLASSES, (7,), generator=g)))

    def view(seed: int, targets: list[Targets] | None = None) -> View:
        return View(
            images=torch.randint(0, 256, (images, 3, *padded), dtype=torch.uint8, generator=g),
            sizes=torch.tensor([[height, width]]).repeat(images, 1),
            matrix=torch.eye(3).repeat(images, 1, 1),
            keys=torch.arange(images) + 1000 * seed,
            ids=list(range(images)),
            targets=targets,
        )

    return Batch(view(0, targets), {"weak": view(1), "strong": view(2)} if unlabeled else {})


def learners(method: Method) -> list[Method]:
    """Return the methods that have a student and a teacher each: ``method``, and its peer where it has one."""
    peer = getattr(method, "peer", None)
    return [method] if peer is None else [method, peer]


def calibrate(method: Method, batches: list[Batch], candidates: int, boxes: float) -> None:
    """Set score thresholds such that an untrained detector has something to say about noise.

    Args:
        method: its detectors' and its own threshold are set; an FCOS, which untrained draws boxes without size, begins
            with distances of 4 strides.
        batches: to measure on.
        candidates: (row, class) pairs of an image that enter suppression, on average.
        boxes: pseudo-boxes of an image, on average.
    """
    for learner in learners(method):
        calibrate_one(learner, batches, candidates, boxes)


@torch.no_grad()
def calibrate_one(method: Method, batches: list[Batch], candidates: int, boxes: float) -> None:
    """``calibrate`` for one student and its teacher."""
    if isinstance(getattr(method.student, "coder", None), LtrbCoder):
        for name, module in method.named_modules():
            if name.endswith("bbox_reg"):
                torch.nn.init.constant_(module.bias, 4.0)
    labeler, images = method.labeler(method.cfg.unsup_start), sum(len(batch.weak) for batch in batches)
    for teacher in {method.teacher, labeler}:
        scores = [pair_scores(out) for b in batches if (out := teacher.predict(b.weak)).stages]  # a file has no maps
        for detector in teacher.children() if scores else ():
            score = kth(torch.cat(scores), candidates * images)
            detector.decode = detector.decode.model_copy(update={"score": score})
    method.student.decode = method.teacher.model.decode
    if "score" in type(method.cfg).model_fields and not isinstance(labeler, FromFile):
        found = [t.scores for b in batches for t in labeler.predict(b.weak).detections()]
        score = kth(torch.cat(found), round(boxes * images))
        method.cfg = method.cfg.model_copy(update={"score": score})
        if isinstance(getattr(method, "threshold", None), FixedThreshold):
            method.threshold.score = score


def pair_scores(out: Any) -> Tensor:
    """Return the scores of all (prior, class) pairs that an output would decode, flat."""
    if "dense" in out.stages:
        return rank(out.stages["dense"]).flatten()
    return out.score(list(out.found.boxes)).probs().flatten()


def kth(scores: Tensor, count: int) -> float:
    """Return the threshold above which ``count`` scores lie, or as many as there are."""
    values = scores.float().topk(min(count + 1, len(scores))).values
    return float(values[-1])

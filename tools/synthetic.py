"""Noise to train on, and thresholds that let an untrained detector find boxes in it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ssod.detectors.decode import rank
from ssod.methods.base import Config, Method
from ssod.methods.teachers import FromFile
from ssod.structures import Batch, Targets, View
from ssod.structures.boxes import LtrbCoder

CLASSES = 80
UNSURE = ("unsure", "unsure_score")  # what methods call the score from which on a box is in doubt
DETECTORS = {"student", "teacher", "peer", "given", "model"}


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
        boxes: pseudo-boxes of an image, on average; of a method with boxes in doubt as many are.
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
    labeler, images = method.labeler(first_step(method)), sum(len(batch.weak) for batch in batches)
    for teacher in {method.teacher, labeler}:
        if isinstance(teacher, FromFile):  # it has no maps
            continue
        scores = torch.cat([pair_scores(teacher.model.predict(b.weak)) for b in batches])
        decode = teacher.model.decode.model_copy(update={"score": kth(scores, candidates * images)})
        teacher.model.decode = decode
    method.student.decode = method.teacher.model.decode
    if "score" in type(method.cfg).model_fields and not isinstance(labeler, FromFile):
        found = torch.cat([t.scores for b in batches for t in labeler.model.predict(b.weak).detections()])
        limits = {"score": kth(found, round(boxes * images))}
        limits |= {key: kth(found, 2 * round(boxes * images)) for key in UNSURE if hasattr(method.cfg, key)}
        tell(method, method.cfg.model_copy(update=limits))


def tell(method: Method, cfg: Config) -> None:
    """Change a method's config, and in its parts all fractions and buffers that a new method would have by it."""
    fresh, mine = type(method)(method.student, cfg), dict(method.named_modules())
    for path, module in fresh.named_modules():
        if DETECTORS.isdisjoint(path.split(".")):
            mine[path].__dict__.update({name: value for name, value in vars(module).items() if type(value) is float})
            for name, buffer in module.named_buffers(recurse=False):
                if buffer.shape == mine[path].get_buffer(name).shape:  # else `see_batch` made room
                    mine[path].get_buffer(name).copy_(buffer)
    method.cfg = cfg


def first_step(method: Method) -> int:
    """Return the first step whose losses on unlabelled images count, but no step in which the student starts afresh."""
    start = method.cfg.unsup_start if method.uses_unlabeled else 0
    return start + (start == method.restart_at)


def pair_scores(out: Any) -> Tensor:
    """Return the scores of all (prior, class) pairs that an output would decode, flat."""
    if "dense" in out.stages:
        return rank(out.stages["dense"]).flatten()
    return out.score(list(out.found.boxes)).probs().flatten()


def kth(scores: Tensor, count: int) -> float:
    """Return the threshold above which ``count`` scores lie, or as many as there are."""
    values = scores.float().topk(min(count + 1, len(scores))).values
    return float(values[-1])

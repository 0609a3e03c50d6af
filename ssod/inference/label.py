"""Pseudo-labels of a trained teacher to files, in a form that can be trained on."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch

from ssod.data.formats.image import MAX_PIXELS, Alpha
from ssod.data.formats.records import Images, Labeled
from ssod.inference import label_limits, predict, review_queue
from ssod.inference import label_writers as writers
from ssod.inference.label_limits import Limits
from ssod.inference.model import Model, check_score
from ssod.transforms.transform import MIN_SIDE
from ssod.utils.errors import SsodError


def label_files(
    weights: str | os.PathLike,
    images: str | os.PathLike,
    out: str | os.PathLike,
    format: str = "coco",
    score: float | None = None,
    *,
    precision: float | None = None,
    levels: tuple[float, float] | None = None,
    alpha: Alpha | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Labeled:
    """Write detections as labels, in a form that can be trained on or corrected; print a line.

    An image in which nothing was found is among them, without boxes. ``review.csv`` beside the labels ranks the images
    by how unsure they are (``ssod.inference.review_queue``). Boxes with a side of one pixel or less are left
    out, as they are in training.

    Args:
        weights: model file or run folder.
        images: an image, a folder (searched recursively), a glob or a .txt list.
        out: a new folder; for COCO also a ``.json`` file, and the folder may hold other files.
        format: one of ``ssod.inference.label_writers.WRITERS``.
        score: keep boxes above this score, 0..1; None = 0.5, or as ``precision`` asks.
        precision: keep the boxes of a class from the score on from which this share of them was right on the run's
            own val images; a class without such a score is left out, and told (``ssod.evaluation.cutoffs``).
        levels, alpha, max_pixels: as in ``predict.predict_files``.

    Returns:
        What was written.

    Raises:
        SsodError: weights or images that cannot be read, an ``out`` that exists or, where images are linked there,
            lies among them, a disk that refuses; a precision that no class reaches, or that nothing tells of.
    """
    check_score(score)
    if score is not None and precision is not None:
        raise SsodError("command line", "--precision", "stands beside --score", "give one of the two")
    found = predict.find_images(images)
    target = writers.prepare(format, Path(out), images, found)
    model = predict.model_for(weights, found, levels, alpha)
    limits = label_limits.of_score(label_limits.SCORE if score is None else score, len(model.classes))
    if precision is not None:
        limits = label_limits.of_precision(weights, model.classes.names, precision)
    for line in limits.lines:
        print(line)
    bad: list[SsodError] = []
    with writers.staged(target) as stage:
        data, scores, doubts = _look_for_labels(model, found, limits, bad, max_pixels)
        writers.write(format, stage, data, scores, doubts)
    message = f"{writers.summary(data)} {limits.words}{predict.unreadable(bad)}"
    first = f"to look at first: {review_queue.place(target)}"
    print(f"{message}; {first}; {writers.source(format, target, data.images)}")
    if not len(data.boxes):
        print(_advice(doubts, limits))
    return data


def _advice(doubts: list[review_queue.Doubt], limits: Limits) -> str:
    if limits.option == "--precision":
        return "no label: no box scores as high as its class must; lower --precision, or train the model longer"
    return review_queue.advice(doubts, float(limits.near[0]))


def _look_for_labels(
    model: Model, found: Images, limits: Limits, bad: list[SsodError], max_pixels: int
) -> tuple[Labeled, np.ndarray, list[review_queue.Doubt]]:
    """Return the detections above their limits as labels, their scores [A], and how unsure those of each image are."""
    ids = range(1, len(found) + 1)  # the file that is written lists the images beside them
    kept, sizes, parts, doubts = [], [], [], []
    lowest = review_queue.SHARE * float(limits.near.min())
    for i, picture, detected in predict.look_through(model, found, lowest, bad, max_pixels):
        labels, scores = detected.labels.numpy(), detected.scores.numpy()
        chosen = scores > limits.above[labels]
        doubts.append(review_queue.doubt(found.paths[i], scores, limits.near[labels], chosen))
        detected = detected[torch.from_numpy(chosen)]
        side = (detected.boxes[:, 2:] - detected.boxes[:, :2]).amin(1)
        kept.append(i)
        sizes.append(picture.size[::-1])
        parts.append(detected[side > MIN_SIDE + 0.01])
    data = Labeled(
        images=Images(found.root, [found.paths[i] for i in kept], [ids[i] for i in kept], np.array(sizes, np.int32)),
        classes=model.classes,
        boxes=torch.cat([t.boxes for t in parts]).numpy(),
        labels=torch.cat([t.labels for t in parts]).numpy(),
        crowd=np.zeros(sum(map(len, parts)), bool),
        difficult=np.zeros(sum(map(len, parts)), bool),
        starts=np.cumsum([0, *map(len, parts)]).astype(np.int64),
    )
    return data, torch.cat([t.scores for t in parts]).numpy(), doubts

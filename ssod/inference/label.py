"""Pseudo-labels of a trained teacher to files, in a form that can be trained on."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch

from ssod.data.formats.image import MAX_PIXELS, Alpha
from ssod.data.formats.records import Images, Labeled
from ssod.inference import label_writers as writers
from ssod.inference import predict, review_queue
from ssod.inference.model import Model, check_score
from ssod.transforms.transform import MIN_SIDE
from ssod.utils.errors import SsodError


def label_files(
    weights: str | os.PathLike,
    images: str | os.PathLike,
    out: str | os.PathLike,
    format: str = "coco",
    score: float = 0.5,
    *,
    levels: tuple[float, float] | None = None,
    alpha: Alpha | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Labeled:
    """Write the detections above ``score`` as labels, in a form that can be trained on; print one line.

    An image in which nothing was found is among them, without boxes. ``review.csv`` beside the labels ranks the images
    by how unsure they are (``ssod.inference.review_queue``). Boxes with a side of one pixel or less are left
    out, as they are in training.

    Args:
        weights: model file or run folder.
        images: an image, a folder (searched recursively), a glob or a .txt list.
        out: a new folder; for COCO also a ``.json`` file, and the folder may hold other files.
        format: ``coco``, ``yolo`` or ``voc``; see ``ssod.inference.label_writers``.
        score: keep boxes above this score, 0..1.
        levels, alpha, max_pixels: as in ``predict.predict_files``.

    Returns:
        What was written.

    Raises:
        SsodError: weights or images that cannot be read, an ``out`` that exists or, where images are linked there,
            lies among them, a disk that refuses.
    """
    check_score(score)
    found = predict.find_images(images)
    target = writers.prepare(format, Path(out), images, found)
    model = predict.model_for(weights, found, levels, alpha)
    bad: list[SsodError] = []
    with writers.staged(target) as stage:
        data, scores, doubts = _look_for_labels(model, found, score, bad, max_pixels)
        writers.write(format, stage, data, scores, doubts)
    message = f"{writers.summary(data)} above {score:g}{predict.unreadable(bad)}"
    first = f"to look at first: {review_queue.place(target)}"
    print(f"{message}; {first}; {writers.source(format, target, data.images)}")
    if not len(data.boxes):
        print(review_queue.advice(doubts, score))
    return data


def _look_for_labels(
    model: Model, found: Images, score: float, bad: list[SsodError], max_pixels: int
) -> tuple[Labeled, np.ndarray, list[review_queue.Doubt]]:
    """Return the detections above ``score`` as labels, their scores [A], and how unsure those of each image are."""
    ids = range(1, len(found) + 1)  # the file that is written lists the images beside them
    kept, sizes, parts, doubts = [], [], [], []
    for i, picture, detected in predict.look_through(model, found, review_queue.SHARE * score, bad, max_pixels):
        doubts.append(review_queue.doubt(found.paths[i], detected.scores.numpy(), score))
        detected = detected[detected.scores > score]
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

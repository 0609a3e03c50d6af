"""A detector is run on images, and what it finds is measured in the pixels and ids of the annotation file."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch

from ssod.evaluation.coco import Metrics, coco_metrics
from ssod.evaluation.columns import Found, Truth
from ssod.evaluation.merge_tiles import Merging
from ssod.structures import Detector, Targets, View, boxes
from ssod.utils import collective, distributed, progress, signals
from ssod.utils.device import Precision, autocast
from ssod.utils.given import given


def evaluate(
    detector: Detector,
    views: Iterable[View],
    truth: Truth,
    merging: Merging | None = None,
    *,
    device: torch.device | str,
    precision: Precision = "fp32",
    score: float | None = None,
    metrics: Callable[[Truth, Found], Metrics] | None = None,
) -> Metrics:
    """Run ``detector`` on ``views`` and compare what it finds with ``truth``.

    Args:
        detector: in whatever mode it is; a teacher is always in eval mode.
        views: this rank's share; every image exactly once over all ranks, or each of its tiles (``View.tiles``).
            ``View.ids`` are the images' ids.
        truth: COCO layout with ``images`` (``id``; ``width`` and ``height`` if known), ``annotations`` and
            ``categories``; label ``k`` of the detector is the ``k``-th category.
        merging: of what is found in tiles; None where there are none.
        device: where the detector lies.
        precision: of the forward pass.
        score: lowest score of a detection; None = the detector's own. It moves AP by about a point.
        metrics: what to compute; ``coco_metrics`` unless given.

    Returns:
        Fractions in 0..1, the same on every rank; NaN = undefined, because nothing to find.

    Raises:
        signals.Stopped: on every rank, when any was asked to stop before it was done.
    """
    parts: list[tuple[Hashable, np.ndarray, np.ndarray, np.ndarray]] = []
    sizes = _sizes(truth)
    with progress.bar("evaluation", -(-len(truth["images"]) // collective.world_size())) as reach:
        for view in views:
            if signals.requested():
                break
            parts += detect(detector, view, sizes, merging, device=device, precision=precision, score=score)
            reach(len(parts))  # an image counts with its last tile
    found = Found.of_images(parts)
    shares = distributed.gather((signals.requested(), found if collective.active() else None))
    stop = max(code for code, _ in shares)
    if stop:
        raise signals.Stopped(stop)
    all_ = Found.joined([share for _, share in shares if share is not None]) if collective.active() else found
    return distributed.on_rank_zero(lambda: (metrics or coco_metrics)(truth, all_))


@torch.no_grad()
def detect(
    detector: Detector,
    view: View,
    sizes: Mapping[Any, tuple[int, int]],
    merging: Merging | None = None,
    *,
    device: torch.device | str,
    precision: Precision = "fp32",
    score: float | None = None,
) -> Iterator[tuple[Hashable, np.ndarray, np.ndarray, np.ndarray]]:
    """Yield what ``detector`` finds in each image of ``view``: its id, boxes [n, 4] (xywh), labels [n] and scores [n].

    Args:
        detector: in whatever mode it is.
        view: the images.
        sizes: (height, width) of the originals by image id, where known.
        merging: of what is found in tiles; an image is yielded with its last one. None where there are none.
        device: where the detector lies.
        precision: of the forward pass.
        score: lowest score of a detection; None = the detector's own.
    """
    device = torch.device(device)
    with autocast(device, precision):
        found = detector.predict(view.to(device)).detections(score)
    back = torch.linalg.inv(view.matrix.cpu().double())
    tiles = [1] * len(view) if view.tiles is None else view.tiles
    for image, targets, matrix, size, count in zip(view.ids, found, back, view.sizes.cpu(), tiles):
        there = to_original(targets, matrix, sizes.get(image) or _original_size(size, matrix))
        if count > 1:
            merging = given(merging, "tiles are there to be merged")
            there = merging.add(image, count, there, shown(size, matrix).numpy())
            if there is None:
                continue
        xywh = torch.cat([there.boxes[:, :2], there.boxes[:, 2:] - there.boxes[:, :2]], 1)
        yield image, xywh.numpy(), there.labels.numpy(), there.confidence().double().numpy()


def to_original(targets: Targets, matrix: torch.Tensor, size: tuple[float, float]) -> Targets:
    """Map detections by ``matrix`` [3, 3], view -> original image, and clip them to its (height, width).

    Returns:
        Targets on the CPU, boxes in float64.
    """
    targets = targets.to("cpu")
    moved = boxes.clip(boxes.warp(targets.boxes.double(), matrix), torch.tensor(size))
    return Targets(moved, targets.labels, targets.scores)


def _sizes(truth: Truth) -> dict[Any, tuple[int, int]]:
    """Return (height, width) by image id, of those images whose entry states it."""
    return {image["id"]: (image["height"], image["width"]) for image in truth["images"] if "height" in image}


def _original_size(size: torch.Tensor, matrix: torch.Tensor) -> tuple[float, float]:
    """Return the (height, width) that ``matrix`` maps a whole view of ``size`` [2] back to."""
    corner = shown(size, matrix)
    return float(corner[3].round()), float(corner[2].round())


def shown(size: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """Return [4], the part of the original image that a whole view of ``size`` [2] shows, by its ``matrix`` back."""
    height, width = size.tolist()
    return boxes.warp(torch.tensor([[0.0, 0.0, width, height]], dtype=matrix.dtype), matrix)[0]

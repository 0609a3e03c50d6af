"""COCO average precision of a detector, in the pixels and ids of the annotation file."""

import contextlib
import io
import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch

from ssod.evaluation.matching import MOST
from ssod.structures import Detector, Targets, View, boxes
from ssod.utils import collective, distributed, signals
from ssod.utils.device import Precision, autocast

NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")

Truth = dict[str, Any]
Metrics = dict[str, float]


def evaluate(
    detector: Detector,
    views: Iterable[View],
    truth: Truth,
    *,
    device: torch.device | str,
    precision: Precision = "fp32",
    score: float | None = None,
    metrics: Callable[[Truth, list[dict]], Metrics] | None = None,
) -> Metrics:
    """Run ``detector`` on ``views`` and compare what it finds with ``truth``.

    Args:
        detector: in whatever mode it is; a teacher is always in eval mode.
        views: this rank's share; every image exactly once over all ranks. ``View.ids`` are the images' ids.
        truth: COCO layout with ``images`` (``id``; ``width`` and ``height`` if known), ``annotations`` and
            ``categories``; label ``k`` of the detector is the ``k``-th category.
        device: where the detector lies.
        precision: of the forward pass.
        score: lowest score of a detection; None = the detector's own. It moves AP by about a point.
        metrics: what to compute; ``coco_metrics`` unless given.

    Returns:
        Fractions in 0..1, the same on every rank; NaN = undefined, because nothing to find.

    Raises:
        signals.Stopped: on every rank, when any was asked to stop before it was done.
    """
    found = []
    for view in views:
        if signals.requested():
            break
        found += detect(detector, view, truth, device=device, precision=precision, score=score)
    shares = distributed.gather((signals.requested(), found if collective.active() else []))
    stop = max(code for code, _ in shares)
    if stop:
        raise signals.Stopped(stop)
    detections = [d for _, share in shares for d in share] if collective.active() else found
    return distributed.on_rank_zero(lambda: (metrics or coco_metrics)(truth, detections))


@torch.no_grad()
def detect(
    detector: Detector,
    view: View,
    truth: Truth,
    *,
    device: torch.device | str,
    precision: Precision = "fp32",
    score: float | None = None,
) -> list[dict]:
    """Return what ``detector`` finds in ``view`` as COCO results: ``image_id, category_id, bbox (xywh), score``."""
    device = torch.device(device)
    categories = [category["id"] for category in truth["categories"]]
    sizes = _sizes(truth)
    with autocast(device, precision):
        found = detector.predict(view.to(device)).detections(score)
    back = torch.linalg.inv(view.matrix.cpu().double())
    results = []
    for image, targets, matrix, size in zip(view.ids, found, back, view.sizes.cpu()):
        original = to_original(targets, matrix, sizes.get(image) or _original_size(size, matrix))
        results += _rows(image, original, categories)
    return results


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
    height, width = size.tolist()
    corner = boxes.warp(torch.tensor([[0.0, 0.0, width, height]], dtype=matrix.dtype), matrix)[0]
    return float(corner[3].round()), float(corner[2].round())


def _rows(image: Any, targets: Targets, categories: list[int]) -> list[dict]:
    xywh = torch.cat([targets.boxes[:, :2], targets.boxes[:, 2:] - targets.boxes[:, :2]], 1).tolist()
    return [
        {"image_id": image, "category_id": categories[label], "bbox": box, "score": score}
        for box, label, score in zip(xywh, targets.labels.tolist(), targets.confidence().tolist())
    ]


def coco_metrics(truth: Truth, detections: list[dict], most: int = MOST) -> Metrics:
    """Return COCO's twelve numbers, and AP and AP50 of each class.

    The evaluation is faster-coco-eval's where it is installed, pycocotools' otherwise; their results are the same.

    Args:
        truth: COCO layout; ``iscrowd`` and ``area`` default to 0 and the box's area.
        detections: COCO results.
        most: detections of an image and class that count, the best ones: COCO's 100, or more where images have more
            objects.

    Returns:
        ``AP`` (.50:.95), ``AP50``, ``AP75``, ``APs``, ``APm``, ``APl``, ``AR1``, ``AR10``, ``AR100`` (of ``most``),
        ``ARs``, ``ARm``, ``ARl``, and ``AP/<class>``, ``AP50/<class>``, all fractions; NaN where nothing is to be
        found.
    """
    tool, evaluator = _backend()
    # Both want numbers for images; scores that tie are ordered as the ids are.
    ids = sorted((image["id"] for image in truth["images"]), key=lambda i: (isinstance(i, str), i))
    number = {image: n for n, image in enumerate(ids, 1)}
    # Both sort the ids of categories, too: by their places the results come in the order of the list.
    place = {category["id"]: k for k, category in enumerate(truth["categories"], 1)}
    with contextlib.redirect_stdout(io.StringIO()):  # both print their progress
        wanted = _index(tool, truth, number, place, truth["annotations"])
        run = evaluator(wanted, _index(tool, truth, number, place, detections), iouType="bbox")
        run.params.imgIds = list(number.values())
        run.params.catIds = list(place.values())
        run.params.maxDets = [1, 10, most]
        run.evaluate()
        run.accumulate()
    result = _numbers(np.asarray(run.eval["precision"]), np.asarray(run.eval["recall"]))
    precision = np.asarray(run.eval["precision"])[:, :, :, 0, -1]
    for k, category in enumerate(truth["categories"]):
        result[f"AP/{category['name']}"] = _mean(precision[:, :, k])
        result[f"AP50/{category['name']}"] = _mean(precision[0, :, k])
    return result


def _numbers(precision: np.ndarray, recall: np.ndarray) -> Metrics:
    """Return COCO's twelve numbers.

    Args:
        precision: [T, R, K, A, M]: thresholds, recalls, classes, areas (all, small, medium, large), most detections.
        recall: [T, K, A, M].
    """
    ap = [precision[..., 0, -1], precision[0, ..., 0, -1], precision[5, ..., 0, -1]]
    ap += [precision[..., area, -1] for area in (1, 2, 3)]
    ar = [recall[..., 0, m] for m in range(3)] + [recall[..., area, -1] for area in (1, 2, 3)]
    return dict(zip(NAMES, map(_mean, (*ap, *ar))))


def _mean(values: np.ndarray) -> float:
    values = values[values > -1]
    return float(values.mean()) if values.size else math.nan


def _backend() -> tuple[type, type]:
    """Return the classes that index annotations and evaluate them."""
    try:
        import faster_coco_eval as tool
    except ImportError:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

        return COCO, COCOeval
    return tool.COCO, tool.COCOeval_faster


def _index(tool: type, truth: Truth, number: dict[Any, int], place: dict[int, int], rows: list[dict]) -> Any:
    """Return ``rows`` (annotations or results) as the evaluator's own table; works for no rows at all.

    Args:
        tool: the class of the table.
        truth: COCO layout.
        number: of each image's id.
        place: of each category's id; rows of another category are left out.
        rows: with the ids of ``truth``.
    """
    annotations = []
    for i, row in enumerate((row for row in rows if row["category_id"] in place), 1):
        x, y, w, h = row["bbox"]
        known = {"id": i, "image_id": number[row["image_id"]], "bbox": [x, y, w, h]}
        known["category_id"] = place[row["category_id"]]
        annotations.append({"iscrowd": 0, "area": w * h, **row, **known})
    table = tool()
    table.dataset = {
        "info": {},
        "images": [{**image, "id": number[image["id"]]} for image in truth["images"]],
        "categories": [{**category, "id": place[category["id"]]} for category in truth["categories"]],
        "annotations": annotations,
    }
    table.createIndex()
    return table

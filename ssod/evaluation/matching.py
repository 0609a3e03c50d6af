"""Which detections are right: a small table from which AP of any resample of the images follows at once.

``match`` decides, by the rules of COCO's or VOC's evaluator, which detections are right at each IoU.
``average_precision`` then weights images: all 1 gives the evaluator's own AP, the counts of a bootstrap draw give the
AP of that draw. Matching never crosses images, so this is exact.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ssod.evaluation.columns import Found, Truth, Wanted, as_columns
from ssod.evaluation.greedy import IOUS, coco_rule, in_cells, voc_rule
from ssod.utils import atomic, npz
from ssod.utils.untrusted import Source, checked

MOST = 100  # detections of an image and class that COCO counts
_ELEMENTS = 4_000_000  # of a temporary array: resamples are done in parts that stay below


@dataclass(frozen=True)
class Matches:
    """I images, K classes, D detections sorted by falling score, T IoU thresholds (.50, .55, ..., .95).

    Attributes:
        ids: I image ids.
        classes: K names.
        image, label: [D] which image and class a detection is of.
        score: [D].
        iou: [D] highest IoU with a box of its class that counts.
        right: [D, T] whether it found a box.
        counted: [D, T] False where it matched what is neither to be found nor wrong to find, or no box in an image
            whose labels of its class are incomplete.
        wanted: [I, K] boxes to find.
        points: recall points that AP is averaged over; 0 = the area under the curve.
        about: ``metric``, ``score`` (the detections' lowest possible score) and ``val`` (a hash of the truth).
    """

    ids: list[Any]
    classes: tuple[str, ...]
    image: np.ndarray
    label: np.ndarray
    score: np.ndarray
    iou: np.ndarray
    right: np.ndarray
    counted: np.ndarray
    wanted: np.ndarray
    points: int = 101
    about: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)


# ---- matching ------------------------------------------------------------------------------------------------------


def match(
    truth: Truth, detections: Found | Sequence[dict], metric: str, score: float | None = None, most: int = MOST
) -> Matches:
    """Match detections with the truth by the rules of ``metric``.

    Args:
        truth: COCO layout.
        detections: columns, or COCO results.
        metric: ``coco``, ``voc`` or ``voc07``, as in the config.
        score: the lowest score that the detector was asked for; kept in ``about``.
        most: detections of an image and class that ``coco`` counts.

    Returns:
        The table; ``average_precision`` of it is what ``coco_metrics`` or ``voc_metrics`` return.
    """
    coco = metric == "coco"
    wanted = Wanted.of(truth, sort=coco)
    cells = in_cells(as_columns(detections, truth), wanted, most if coco else None)
    skip = cells.wanted.crowd if coco else cells.wanted.crowd | cells.wanted.difficult
    if coco:
        taken = coco_rule(cells, skip[None])
        best, right = taken.best, np.zeros((len(cells), len(IOUS)), bool)
        counted = np.ones_like(right)
        right[taken.rows], counted[taken.rows] = taken.right[:, 0], ~taken.ignored[:, 0]
    else:
        right, counted, best = voc_rule(cells, skip)
    counted &= right | ~cells.open()[:, None]
    to_find = np.zeros((len(wanted.ids), len(wanted.classes)), np.int32)
    np.add.at(to_find, (cells.wanted.image[~skip], cells.wanted.label[~skip]), 1)
    order = np.argsort(-cells.scores, kind="stable")
    image, label = cells.image[order].astype(np.int32), cells.label[order].astype(np.int32)
    columns = (image, label, cells.scores[order], best[order], right[order], counted[order])
    about = {"metric": metric, "score": score, "val": fingerprint(truth)}
    points = {"coco": 101, "voc": 0, "voc07": 11}[metric]
    return Matches(wanted.ids, wanted.classes, *columns, to_find, points, about)


def fingerprint(truth: dict[str, Any]) -> str:
    """Return a hash of the images and boxes that AP is measured on; two runs with one hash had the same val set.

    Boxes that are not to be found, ``iscrowd`` or ``difficult``, are marked so; so are images with incomplete labels.
    """
    marks = ("iscrowd", "difficult")
    categories = {category["id"]: category["name"] for category in truth["categories"]}
    rows = sorted(
        [
            str(row["image_id"]),
            categories[row["category_id"]],
            *(round(float(x), 2) for x in row["bbox"]),
            *(m for m in marks if row.get(m)),
        ]
        for row in truth["annotations"]
        if row["category_id"] in categories
    )
    told: list[Any] = [sorted(str(image["id"]) for image in truth["images"]), rows]
    open = [[str(image["id"]), image["incomplete"]] for image in truth["images"] if image.get("incomplete")]
    if open:
        told.append(sorted([id, True if said is True else _digest(sorted(said))] for id, said in open))
    return _digest(told)


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


# ---- average precision ---------------------------------------------------------------------------------------------


def average_precision(matches: Matches, weights: np.ndarray | None = None) -> np.ndarray:
    """Return AP of each class at each IoU, for each weighting of the images.

    Args:
        matches: I images, K classes.
        weights: [B, I], how often each image counts; None = once, B = 1.

    Returns:
        [B, K, T] in 0..1; NaN where a weighting leaves nothing to find.
    """
    weights = np.ones((1, len(matches))) if weights is None else np.asarray(weights, float)
    wanted = weights @ matches.wanted  # [B, K]
    out = np.full((*wanted.shape, matches.right.shape[1]), np.nan)
    for k in range(wanted.shape[1]):
        rows = np.flatnonzero(matches.label == k)
        part = max(1, _ELEMENTS // max(len(rows), 1))
        for start in range(0, len(weights), part):
            chosen = slice(start, start + part)
            out[chosen, k] = _class_ap(matches, rows, weights[chosen], wanted[chosen, k])
    out[wanted == 0] = np.nan
    return out


def mean_ap(matches: Matches, weights: np.ndarray | None = None, iou: float | None = None) -> np.ndarray:
    """Return [B] AP, the mean over classes that have boxes and over all thresholds, or at one ``iou``."""
    table = average_precision(matches, weights)
    table = table if iou is None else table[:, :, [IOUS.index(iou)]]
    known = ~np.isnan(table[:, :, 0])
    sums = np.where(known[:, :, None], table, 0.0).mean(2).sum(1)
    return np.where(known.any(1), sums / np.maximum(known.sum(1), 1), np.nan)


def _class_ap(matches: Matches, rows: np.ndarray, weights: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return [B, T]; precision and recall change what AP sees only where a detection is right."""
    counts = weights[:, matches.image[rows]]  # [B, D]
    right, counted = matches.right[rows], matches.counted[rows]
    seen = counts.cumsum(1) if counted.all() else None
    out = np.zeros((len(weights), right.shape[1]))
    for t in range(right.shape[1]):
        hits = np.flatnonzero(right[:, t])
        if not len(hits):
            continue
        total = (seen if seen is not None else (counts * counted[:, t]).cumsum(1))[:, hits]
        found = counts[:, hits].cumsum(1)
        precision = found / np.maximum(total, np.finfo(float).eps)
        envelope = np.maximum.accumulate(precision[:, ::-1], 1)[:, ::-1]
        recall = found / np.maximum(wanted, 1)[:, None]
        out[:, t] = (envelope * _shares(recall, matches.points)).sum(1)
    return out


def _shares(recall: np.ndarray, points: int) -> np.ndarray:
    """Return [B, H], how much of AP's average lies between each recall [B, H] and the one before it."""
    if not points:
        return np.diff(recall, prepend=0.0)
    at = np.linspace(0, 1, 101) if points == 101 else np.arange(0, 1.1, 0.1)  # bit for bit the evaluators' own
    return np.diff(np.searchsorted(at, recall, side="right"), prepend=0) / points


# ---- files ---------------------------------------------------------------------------------------------------------


def save(path: Path, matches: Matches) -> None:
    """Write a table as ``.npz``: about 10 bytes a detection, less after compression."""
    buffer = io.BytesIO()
    text = {"ids": matches.ids, "classes": matches.classes, "points": matches.points, "about": matches.about}
    np.savez_compressed(
        buffer,
        text=np.array(json.dumps(text)),
        image=matches.image.astype(np.int32),
        label=matches.label.astype(np.int16),
        score=matches.score.astype(np.float32),
        iou=matches.iou.astype(np.float16),
        right=np.packbits(matches.right, axis=1),
        counted=np.packbits(matches.counted, axis=1),
        wanted=matches.wanted.astype(np.int32),
    )
    atomic.write(path, lambda file: file.write(buffer.getvalue()))


_LAYOUT = {
    **{"image": npz.Array("iu", ("D",), below="I"), "label": npz.Array("iu", ("D",), below="K")},
    **{name: npz.Array("f", ("D",)) for name in ("score", "iou")},
    **{name: npz.Array("u", ("D", 2)) for name in ("right", "counted")},  # a bit for each of 10 IoUs
    "wanted": npz.Array("iu", ("I", "K")),
}
_TEXT = {"ids": list[int | str], "classes": list[str], "points": Literal[0, 11, 101], "about": dict[str, Any]}
_ABOUT = {"metric": str | None, "score": float | None, "val": str | None}


def read(path: Path) -> Matches:
    """Read what ``save`` wrote.

    Raises:
        SsodError: code 3, the file is absent, damaged, or its parts do not fit each other.
    """
    source = Source(path, "remove it; the run is then compared without intervals")
    text, found = npz.read(source, _LAYOUT, _TEXT, {"I": "ids", "K": "classes"})
    checked(source, "about", text["about"], _ABOUT)
    for name in ("right", "counted"):
        found[name] = np.unpackbits(found[name], axis=1, count=len(IOUS)).astype(bool)
    return Matches(text["ids"], tuple(text["classes"]), points=text["points"], about=text["about"], **found)

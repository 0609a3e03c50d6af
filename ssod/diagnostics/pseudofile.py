"""``eval/step_N.pseudo.npz``: a teacher's output on the fixed set of unlabelled images."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ssod.utils import atomic, npz
from ssod.utils.untrusted import Source


@dataclass(frozen=True)
class Pseudo:
    """One look at I images.

    Attributes:
        ids: of the images.
        classes: names.
        known: whether the hidden truth was there; without it ``iou`` and ``right`` mean nothing.
        boxes: the pseudo-labels that the method kept, as COCO results with labels as category ids, in original pixels.
        rows: [F, 2] row number and label of the rows that the assigner made foreground.
        score, iou: [D] of every detection, kept or not: confidence, highest IoU with a true box of its class.
        right, counted: [D] bool, at IoU 0.5; see ``matching.Matches``.
    """

    ids: list[Any]
    classes: list[str]
    known: bool
    boxes: list[dict]
    rows: np.ndarray
    score: np.ndarray
    iou: np.ndarray
    right: np.ndarray
    counted: np.ndarray


def save_pseudo(path: Path, look: Pseudo) -> None:
    """Write a look."""
    number = {image: i for i, image in enumerate(look.ids)}
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        text=np.array(json.dumps({"ids": look.ids, "classes": look.classes, "known": look.known})),
        box=np.array([row["bbox"] for row in look.boxes], np.float32).reshape(-1, 4),
        image=np.array([number[row["image_id"]] for row in look.boxes], np.int32),
        label=np.array([row["category_id"] for row in look.boxes], np.int16),
        confidence=np.array([row["score"] for row in look.boxes], np.float32),
        rows=look.rows.astype(np.int32),
        score=look.score.astype(np.float16),
        iou=look.iou.astype(np.float16),
        right=look.right,
        counted=look.counted,
    )
    atomic.write(path, lambda file: file.write(buffer.getvalue()))


_LAYOUT = {
    **{"image": npz.Array("iu", ("B",), below="I"), "label": npz.Array("iu", ("B",), below="K")},
    **{"box": npz.Array("f", ("B", 4)), "confidence": npz.Array("f", ("B",)), "rows": npz.Array("iu", ("F", 2))},
    **{name: npz.Array("f", ("D",)) for name in ("score", "iou")},
    **{name: npz.Array("b", ("D",)) for name in ("right", "counted")},
}
_TEXT = {"ids": list[int | str], "classes": list[str], "known": bool}


def read_pseudo(path: Path) -> Pseudo:
    """Read a look.

    Raises:
        SsodError: code 3, the file is damaged, or its parts do not fit each other.
    """
    text, found = npz.read(Source(path, "remove it"), _LAYOUT, _TEXT, {"I": "ids", "K": "classes"})
    columns = zip(*(found[name].tolist() for name in ("image", "label", "box", "confidence")))
    boxes = [
        {"image_id": text["ids"][image], "category_id": label, "bbox": box, "score": score}
        for image, label, box, score in columns
    ]
    arrays = [found[name] for name in ("rows", "score", "iou", "right", "counted")]
    return Pseudo(text["ids"], text["classes"], text["known"], boxes, *arrays)

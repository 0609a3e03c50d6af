"""Boxes as columns: one array for each property, from the device to the metric, with no object for each box."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Truth = dict[str, Any]  # COCO layout: images, annotations, categories


@dataclass(frozen=True)
class Found:
    """D detections, in any order; those of one image and class with equal scores rank as they stand here.

    Attributes:
        ids: of images, each once; those without detections may be left out.
        image: [D] int, the place in ``ids``.
        label: [D] int, the place of the category in the truth's ``categories``.
        boxes: [D, 4] float64, ``x, y, w, h`` in pixels of the original image.
        scores: [D] float64.
    """

    ids: list[Hashable]
    image: np.ndarray
    label: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray

    def __len__(self) -> int:
        return len(self.scores)

    @classmethod
    def of_images(cls, parts: Iterable[tuple[Hashable, np.ndarray, np.ndarray, np.ndarray]]) -> Found:
        """Join (id, boxes [n, 4], labels [n], scores [n]) of images; no id twice."""
        ids, boxes, labels, scores = [list(column) for column in zip(*parts)] or [[], [], [], []]
        return cls(
            ids=ids,
            image=np.repeat(np.arange(len(ids)), [len(part) for part in scores]),
            label=np.concatenate([np.zeros(0, np.int64), *labels]),
            boxes=np.concatenate([np.zeros((0, 4)), *boxes]),
            scores=np.concatenate([np.zeros(0), *scores]),
        )

    @classmethod
    def joined(cls, shares: Sequence[Found]) -> Found:
        """Join the detections of ranks that looked at different images."""
        starts = np.cumsum([0, *(len(share.ids) for share in shares)])
        return cls(
            ids=[image for share in shares for image in share.ids],
            image=np.concatenate([share.image + start for share, start in zip(shares, starts)]),
            label=np.concatenate([share.label for share in shares]),
            boxes=np.concatenate([share.boxes for share in shares]),
            scores=np.concatenate([share.scores for share in shares]),
        )

    @classmethod
    def of_results(cls, rows: Iterable[dict], truth: Truth) -> Found:
        """Read COCO results; those of a category that ``truth`` has not are left out."""
        place = _places(category["id"] for category in truth["categories"])
        rows = [row for row in rows if row["category_id"] in place]
        number = _places(dict.fromkeys(row["image_id"] for row in rows))
        return cls(
            ids=list(number),
            image=np.array([number[row["image_id"]] for row in rows], np.int64),
            label=np.array([place[row["category_id"]] for row in rows], np.int64),
            boxes=_boxes(rows),
            scores=np.array([row["score"] for row in rows], float),
        )


@dataclass(frozen=True)
class Wanted:
    """G boxes of I images, in the order of the file.

    Attributes:
        ids: I image ids, in the order in which detections of equal score are ranked.
        classes: K names.
        image, label: [G] int, places in ``ids`` and ``classes``.
        boxes: [G, 4] float64, ``x, y, w, h``.
        areas: [G] as the file says; of the box where it says nothing.
        crowd, difficult: [G] bool.
        open: [I, K] bool, where there may be more objects than boxes: what is found there and takes no box is neither
            right nor wrong. None = nowhere.
    """

    ids: list[Hashable]
    classes: tuple[str, ...]
    image: np.ndarray
    label: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray
    crowd: np.ndarray
    difficult: np.ndarray
    open: np.ndarray | None = None

    @classmethod
    def of(cls, truth: Truth, *, sort: bool) -> Wanted:
        """Read the COCO layout.

        Args:
            truth: boxes of a category that is not listed are left out. An image may be ``incomplete``: true, or a list
                of classes.
            sort: order images by their ids, numbers before words, as pycocotools does; else as they are listed.
        """
        images = [image["id"] for image in truth["images"]]
        ids = sorted(images, key=lambda i: (isinstance(i, str), i)) if sort else images
        number, place = _places(ids), _places(category["id"] for category in truth["categories"])
        rows = [row for row in truth["annotations"] if row["category_id"] in place]
        boxes = _boxes(rows)
        areas = [row.get("area") for row in rows]
        own = (boxes[:, 2] * boxes[:, 3]).tolist()
        return cls(
            ids=ids,
            classes=tuple(category["name"] for category in truth["categories"]),
            image=np.array([number[row["image_id"]] for row in rows], np.int64),
            label=np.array([place[row["category_id"]] for row in rows], np.int64),
            boxes=boxes,
            areas=np.array([mine if area is None else area for area, mine in zip(areas, own)], float),
            crowd=np.array([bool(row.get("iscrowd", 0)) for row in rows], bool),
            difficult=np.array([bool(row.get("difficult", 0)) for row in rows], bool),
            open=_open(truth, number),
        )


def as_columns(detections: Found | Sequence[dict], truth: Truth) -> Found:
    """Return detections as columns, whether they are so already or COCO results."""
    return detections if isinstance(detections, Found) else Found.of_results(detections, truth)


def _open(truth: Truth, number: dict[Hashable, int]) -> np.ndarray | None:
    """Return ``open`` of ``Wanted``, of images that have these numbers."""
    said = {number[image["id"]]: image["incomplete"] for image in truth["images"] if image.get("incomplete")}
    if not said:
        return None
    place = _places(category["name"] for category in truth["categories"])
    found = np.zeros((len(number), len(place)), bool)
    for i, classes in said.items():
        found[i, slice(None) if classes is True else [place[name] for name in classes]] = True
    return found


def _places(values: Iterable[Hashable]) -> dict[Hashable, int]:
    return {value: i for i, value in enumerate(values)}


def _boxes(rows: Sequence[dict]) -> np.ndarray:
    return np.array([row["bbox"] for row in rows], float).reshape(-1, 4)

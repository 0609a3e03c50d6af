"""What is found in the tiles of an image becomes what is found in the image.

A detection is *cut* where one of its sides comes within ``NEAR`` of its length, or a pixel, of an edge of its tile that
lies inside the image; others are whole. Class by class:

1. Of whole ones that overlap by more than the detector's IoU of suppression the one with the highest score stays.
2. Cut ones follow, the highest score first. Two detections show the same object where, in the part of the image that
   both tiles show, they overlap by more than that IoU. Of a cut and a whole one the whole one stays, whatever their
   scores. Two cut ones are joined: an object that no tile shows whole gets the hull of its parts, and their highest
   score.

The best of all classes stay, as many as the detector keeps of an image. An image of one tile is left as it is.
(The rule is ours; SAHI, arXiv:2202.06934, joins what overlaps, without asking which side of a tile a box ends at.)
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torchvision.ops import nms

from ssod.structures import Targets

NEAR = 0.1  # of the length of a box; a detector places a side about so well


class Suppression(Protocol):
    """What a detector's ``decode`` section says of suppression; see ``detectors.decode.DecodeConfig``."""

    nms: float
    detections: int


@dataclass
class Merging:
    """Keeps what is found in tiles until all tiles of their image are there.

    Attributes:
        overlap: IoU above which two boxes show one object.
        most: detections kept per image.
        waiting: by image, what was found so far and the tiles that it was found in.
    """

    overlap: float
    most: int
    waiting: dict[Hashable, list[tuple[Targets, np.ndarray]]] = field(default_factory=dict)

    @classmethod
    def of(cls, decode: Suppression) -> Merging:
        """Return what merges as a detector suppresses and keeps its own detections."""
        return cls(decode.nms, decode.detections)

    def add(self, image: Hashable, tiles: int, found: Targets, rect: np.ndarray) -> Targets | None:
        """Return what is found in an image with its last tile, and None before.

        Args:
            image: its id.
            tiles: how many it has.
            found: detections in one of them, on the CPU, in pixels of the image.
            rect: [4], what that one shows: ``x1, y1, x2, y2`` in pixels of the image.
        """
        if tiles == 1:
            return found
        parts = self.waiting.setdefault(image, [])
        parts.append((found, rect))
        if len(parts) < tiles:
            return None
        del self.waiting[image]
        return merge(parts, self.overlap, self.most)


def merge(parts: Sequence[tuple[Targets, np.ndarray]], overlap: float, most: int) -> Targets:
    """Return what is found in an image, the best first; see the head of this file.

    Args:
        parts: of each tile, detections on the CPU in pixels of the image, and what it shows, [4].
        overlap: IoU.
        most: detections to keep.
    """
    boxes = torch.cat([found.boxes for found, _ in parts])
    labels = torch.cat([found.labels for found, _ in parts])
    scores = torch.cat([found.confidence() for found, _ in parts])
    rects = np.stack([rect for _, rect in parts]).astype(np.float64)
    rects = np.repeat(rects, [len(found) for found, _ in parts], 0)
    cut = is_cut(boxes.double().numpy(), rects, np.stack([rect for _, rect in parts]))
    chosen, hulls = [], boxes.double().numpy()
    for label in labels.unique().tolist():
        rows = np.flatnonzero(labels.numpy() == label)
        rows = rows[np.argsort(-scores.numpy()[rows], kind="stable")]
        chosen.append(_of_a_class(hulls, rects, rows, cut[rows], overlap))
    order = np.concatenate([np.zeros(0, np.int64), *chosen])
    order = order[np.argsort(-scores.numpy()[order], kind="stable")][:most]
    kept = torch.from_numpy(order)
    return Targets(torch.from_numpy(hulls[order]).to(boxes), labels[kept], scores[kept])


def is_cut(boxes: np.ndarray, rects: np.ndarray, all_: np.ndarray) -> np.ndarray:
    """Return [D] bool: which detections end where their tile does, and the image does not.

    Args:
        boxes: [D, 4].
        rects: [D, 4], their tiles.
        all_: [T, 4], all tiles of the image, which cover it.
    """
    border = np.concatenate([all_[:, :2].min(0), all_[:, 2:].max(0)])
    near = np.maximum(NEAR * (boxes[:, 2:] - boxes[:, :2]), 1.0)
    inner = np.abs(rects - border) > 0.5
    return ((np.abs(boxes - rects) <= np.tile(near, 2)) & inner).max(1)


def _of_a_class(hulls: np.ndarray, rects: np.ndarray, rows: np.ndarray, cut: np.ndarray, overlap: float) -> np.ndarray:
    """Return which ``rows`` stay, the best first; boxes that are joined grow in ``hulls``, their tiles in ``rects``.

    Args:
        hulls, rects: [D, 4].
        rows: [R] int64, of one class.
        cut: [R] bool.
        overlap: IoU.
    """
    whole, pieces = rows[~cut], rows[cut]
    ranks = torch.arange(len(whole), 0, -1).double()
    kept = whole[nms(torch.from_numpy(hulls[whole]), ranks, overlap).numpy()]
    first_piece = len(kept)
    for row in pieces:
        same = shared_iou(hulls[row], rects[row], hulls[kept], rects[kept])
        if (same[:first_piece] > overlap).any():
            continue
        best = first_piece + int(same[first_piece:].argmax()) if len(kept) > first_piece else 0
        if len(kept) > first_piece and same[best] > overlap:
            for of in (hulls, rects):
                of[kept[best], :2] = np.minimum(of[kept[best], :2], of[row, :2])
                of[kept[best], 2:] = np.maximum(of[kept[best], 2:], of[row, 2:])
        else:
            kept = np.append(kept, row)
    return kept


def shared_iou(box: np.ndarray, rect: np.ndarray, boxes: np.ndarray, rects: np.ndarray) -> np.ndarray:
    """Return [K]: the IoU of a box [4] with others [K, 4] in the part of the image that both their tiles show.

    Never below their plain IoU: what two boxes share lies in both tiles.

    Args:
        box, boxes: detections.
        rect, rects: what their tiles show.
    """
    low, high = np.maximum(boxes[:, :2], rect[:2]), np.minimum(boxes[:, 2:], rect[2:])
    own_low, own_high = np.maximum(box[:2], rects[:, :2]), np.minimum(box[2:], rects[:, 2:])
    inner = (np.minimum(high, own_high) - np.maximum(low, own_low)).clip(0).prod(1)
    both = (high - low).clip(0).prod(1) + (own_high - own_low).clip(0).prod(1)
    return inner / np.maximum(both - inner, 1e-9)

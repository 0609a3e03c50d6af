"""The hidden truth of what the teacher was shown, where that is one tile of an image."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace

import numpy as np
import torch

from ssod.data.formats.records import Labeled
from ssod.evaluation.measure import shown
from ssod.structures import View
from ssod.structures.tiles import SHOWN, shown_share


def parts_shown(view: View) -> dict[Hashable, np.ndarray]:
    """Return [4], which part of each image a view shows, in pixels of the image."""
    back = torch.linalg.inv(view.matrix.cpu().double())
    return {image: shown(size, matrix).numpy() for image, size, matrix in zip(view.ids, view.sizes.cpu(), back)}


def within(truth: Labeled, parts: dict[Hashable, np.ndarray]) -> Labeled:
    """Return the truth of parts of images, by the rule of ``transforms.tile``, in pixels of the images.

    Boxes are cut to their part; one of which the part shows less than half is a crowd, which costs nobody anything,
    and one of which it shows nothing is no more there.
    """
    owner = np.repeat(np.arange(len(truth)), np.diff(truth.starts))
    rects = np.stack([parts.get(image, np.zeros(4)) for image in truth.images.ids])[owner]  # 0: nobody could read it
    share = shown_share(truth.boxes[:, None], rects)[:, 0]
    low, high = np.maximum(truth.boxes[:, :2], rects[:, :2]), np.minimum(truth.boxes[:, 2:], rects[:, 2:])
    kept = share > 0
    return replace(
        truth,
        boxes=np.concatenate([low, high], 1)[kept].astype(np.float32),
        labels=truth.labels[kept],
        crowd=(truth.crowd | (share < SHOWN))[kept],
        difficult=truth.difficult[kept],
        starts=np.searchsorted(owner[kept], np.arange(len(truth) + 1)).astype(np.int64),
        area=None,
    )

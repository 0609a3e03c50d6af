"""MixPL: pseudo-mixup with, and a pseudo-mosaic of, earlier unlabelled views. (arXiv:2312.07006)

A mean teacher with hard labels, whose student never sees an unlabelled image alone: blended with another one, what the
teacher missed matters less; in a mosaic large objects become small.

Order of a step, as released:

1. Labelled images, weight 1.
2. The teacher on the weak view; detections above `score` become boxes of the student's view. The release filters when
   losses are computed, and keeps the others with the views; for one score that is the same.
3. Each student view is erased: 1 to 19 patches of the mean colour. A box hidden by `erase.hidden` is dropped.
4. Pseudo-mixup. Each view meets one of the batch before the last, a random one of its group of four, scaled to fit the
   canvas, always mirrored, and erased anew. Both are pasted at random places and averaged; boxes are united. This
   replaces the plain view; its losses weigh `weight`.
5. Pseudo-mosaic. The views of the last batch, four by four, are scaled into one random target, mirrored and erased, and
   meet at the middle of one picture; its losses weigh `mosaic_weight` as much.
6. All or nothing. The losses of step 4 count for a group whose images all have a box, and those of step 5 for a mosaic
   that has one. No burn-in is needed: until the teacher finds something everywhere, labels alone teach.
7. The student's views, before erasing, and their boxes enter the cache. Until it is full, views are erased and no more,
   and there is no mosaic.

The teacher moves every three steps, by max(0.0002, 4 / (4 + i)): `ema`.

Groups. A process of the release has four unlabelled images and asks itself alone whether they all have a box. A group
of four (``ssod.transforms.pseudo_mix``) is here what a process is there, and nothing else is asked of other ranks. A
process, or a part of its step, with several groups counts by the share of them that are whole.

What is not as released: the cache is part of a checkpoint, where there it starts empty; it keeps a view that is larger
than `cache.side` scaled down, and the best `cache.boxes` boxes; the canvas of a batch is that of the group; a mosaic's
target is drawn for the images of the step, so that its canvas is known without waiting for the device; and the buffers
of the teacher follow, which differ with live batch norm alone.

Published on RetinaNet, FCOS and Faster R-CNN, each with a score of its own, and on detectors that are not here.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor

from ssod.methods import base
from ssod.methods.base import EmaConfig, Task, above, quantiles
from ssod.structures import Batch, Detector, Output, Pseudo, Targets, View
from ssod.structures.padded import PaddedBoxes, unpadded
from ssod.transforms.erase_patches import PatchesConfig
from ssod.transforms.geometry import IntSpan
from ssod.transforms.mix import MixConfig
from ssod.transforms.pseudo_mix import GROUP, mixup, mosaic, partners
from ssod.transforms.view_cache import CacheConfig, ViewCache
from ssod.utils import collective, seeding
from ssod.utils.given import given

_ROWS = -(2**43)  # of an image's key; see seeding.uniform
_MOSAIC = 2**39  # what the key of a mosaic differs by from that of an image
MIN_SIDE = 0.01  # pixels; a box with a smaller side has left the view


class Config(base.Config):
    """The released constants for RetinaNet and 10 % of COCO."""

    weight: float = Field(2.0, ge=0)
    "Factor of every loss on mixed images."
    score: float = Field(0.4, ge=0, le=1)
    "A detection becomes a pseudo-label when its score is above this."
    mosaic_weight: float = Field(0.5, ge=0)
    "Further factor of every loss on mosaics; 0 makes none."
    mosaic_size: IntSpan = (400, 799)
    "Each side in pixels, drawn anew, of what a view of a mosaic is scaled to fit; a mosaic is twice as large."
    interpolation: Literal["nearest", "bilinear"] = "nearest"
    "How an earlier view is scaled; `nearest` as released."
    erase: PatchesConfig = PatchesConfig()
    "How each view is erased, and which boxes go."
    cache: CacheConfig = CacheConfig()
    "How much of an earlier view is kept."
    ema: EmaConfig = EmaConfig(decay=0.9998, every=3, gamma=4)
    "How the teacher follows the student."

    @field_validator("mosaic_size")
    @classmethod
    def _positive(cls, size: tuple[int, int]) -> tuple[int, int]:
        if size[0] < 1:
            raise ValueError(f"must be above 0, got {list(size)}")
        return size

    @field_validator("mix")
    @classmethod
    def _mixes_by_itself(cls, mix: MixConfig | None) -> MixConfig | None:
        if mix is not None:
            raise ValueError("blends with labelled images, and this method blends with unlabelled ones; remove it")
        return mix

    @field_validator("damping")
    @classmethod
    def _counts_or_not(cls, damping: float) -> float:
        if damping != 1:
            raise ValueError("weakens batches of few labels, and here a group counts whole or not at all; remove it")
        return damping

    @property
    def mixes(self) -> bool:
        """See ``base.Config``."""
        return True

    @property
    def blends_unlabeled(self) -> bool:
        """See ``base.Config``."""
        return True


class MixPL(base.Method, burn_in_reads=()):
    """A cache of views, and two pictures of each batch that are made with it."""

    Config = Config
    cfg: Config

    def __init__(self, student: Detector, cfg: Config) -> None:
        super().__init__(student, cfg)
        self.cache = ViewCache(needed(GROUP), side=cfg.cache.side, boxes=cfg.cache.boxes)

    def see_batch(self, unlabeled: int) -> None:
        """Make room for two batches of this process."""
        self.cache.resize(needed(unlabeled))

    def label(self, teacher: Output, batch: Batch) -> Pseudo:
        """Keep detections by their score."""
        found = teacher.detections()
        self.stats["pseudo/score_quantiles"] = quantiles(found)
        return Pseudo(above(found, self.cfg.score))

    @torch.no_grad()
    def tasks(self, batch: Batch, step: int, pseudo: Pseudo | None) -> list[Task]:
        """Make mixed images and mosaics of what came before, and keep this batch for those that come."""
        view, labels = batch.strong, given(pseudo, "this method learns from boxes")
        labels = labels.move(batch.weak, view, MIN_SIDE)
        self.count(labels)
        own, n = PaddedBoxes.of(labels.cls), len(view)
        size = n * collective.shares() // collective.world_size()  # of this process's batch
        first = collective.part() * n  # the place in it of this part's first image
        full, patch = self.cache.has(needed(size)), self.cfg.erase.draws
        u = seeding.uniform(view.keys[:, None], _ROWS + torch.arange(9 + 6 * patch, device=view.keys.device))
        order, of_mixup, of_mosaic = u.split([1, 4 + 2 * patch, 4 + 4 * patch], 1)
        earlier = self.cache.take(2 * size - first - partners(order[:, 0]))
        smooth = self.cfg.interpolation == "bilinear"
        made = [mixup(view, own, earlier, full, of_mixup, self.cfg.erase, smooth=smooth)]
        if self.cfg.mosaic_weight > 0:
            made.append(self.mosaic(view, step, of_mosaic, size - first, full))
        self.cache.push(view, own)
        boxes = unpadded([padded for _, padded in made])
        weight = self.unsup_weight(step, labels)
        weights = [weight * self.whole("mixup", boxes[0], GROUP)]
        weights += [weight * self.cfg.mosaic_weight * self.whole("mosaic", of, 1) for of in boxes[1:]]
        return [(seen, Pseudo(of), weight) for (seen, _), of, weight in zip(made, boxes, weights)]

    def mosaic(self, view: View, step: int, u: Tensor, ago: int, full: Tensor) -> tuple[View, PaddedBoxes]:
        """Return one mosaic for each four images of this part, at least one, and their boxes.

        Args:
            view: this part's images, whose keys and ids say what is drawn.
            step: the number of optimiser steps made so far.
            u: [N, 4 + 4 ``erase.draws``] in [0, 1): an order of four, and how each is erased.
            ago: how long ago the image came in that had the place of this part's first one.
            full: [] bool, whether the cache is.
        """
        n, device = len(view), u.device
        count = max(1, n // GROUP)
        start = n - GROUP * count  # below 0, where views of the batch before are needed
        some = slice(max(0, start), None, GROUP)
        of_each = torch.arange(start, n, device=device).view(count, GROUP)
        order, patches = u[some].split([GROUP, u.shape[1] - GROUP], 1)
        views = self.cache.take(ago - of_each.gather(1, order.argsort(1)).flatten())
        target, (low, high) = [], self.cfg.mosaic_size
        for i in range(*some.indices(n)):
            rng = seeding.generator("mosaic", step, *map(str, view.ids[i : i + GROUP]))
            target.append((int(rng.integers(low, high + 1)), int(rng.integers(low, high + 1))))
        smooth, keys, ids = self.cfg.interpolation == "bilinear", view.keys[some] ^ _MOSAIC, view.ids[some]
        return mosaic(views, full, target, patches, self.cfg.erase, smooth=smooth, keys=keys, ids=ids)

    def whole(self, name: str, boxes: list[Targets], group: int) -> Tensor:
        """Return [], the share of groups of images that all have a box; logged as ``pseudo/whole_<name>``."""
        some = [all(len(t) for t in boxes[i : i + group]) for i in range(0, len(boxes), group)]
        share = torch.full((), sum(some) / len(some), device=boxes[0].boxes.device)
        self.stats[f"pseudo/whole_{name}"] = share
        return share


def needed(size: int) -> int:
    """Return how many views have to be kept for a process with batches of ``size``: two, and four behind each image."""
    return max(2 * size, size + GROUP - 1)


METHOD = MixPL

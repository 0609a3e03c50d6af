"""From data sets to batches: which images a step sees, reading them, and padding them together.

Step ``s`` always means the same images, drawn the same way, whatever the number of workers or ranks and wherever the
run started: every choice is a function of (seed, stream, position). There is no loader state to save.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from ssod.data.image import MAX_PIXELS
from ssod.data.reader import Reader, check_stated_size, count_bad
from ssod.data.records import Images, Labeled
from ssod.data.sampler import Grouped, Shuffled
from ssod.data.views import Pipeline, Sample, ViewsConfig, look, to_tensor
from ssod.data.workers import run
from ssod.errors import Exit, SsodError
from ssod.structures import Batch, View


def train_batches(
    labeled: Labeled,
    unlabeled: Images | None,
    views: ViewsConfig,
    *,
    labeled_batch: int,
    unlabeled_batch: int,
    seed: int,
    start: int,
    steps: int,
    unlabeled_from: int,
    accumulate: int = 1,
    workers: int = 2,
    rank: int = 0,
    world: int = 1,
    group_by_aspect: bool = False,
    divisor: int = 32,
    timeout: float = 120,
    max_pixels: int = MAX_PIXELS,
    allow_symlinks: bool = False,
    on_bad: Callable[[SsodError], None] | None = None,
) -> Iterator[Batch]:
    """Yield ``accumulate`` micro-batches for each of the steps ``start..steps-1``.

    Args:
        labeled: images with boxes. One that cannot be read, or is not of its stated size, is an error.
        unlabeled: images without. One that cannot be read is replaced by the next; more than 0.1 % of them (at least
            3 are allowed) is an error.
        views: the views of each.
        labeled_batch: labelled images of one optimiser step, over all ranks and micro-batches.
        unlabeled_batch: the same for unlabelled ones; 0 = none.
        seed: the run's seed.
        start: first step.
        steps: one past the last step.
        unlabeled_from: before this step no unlabelled image is opened and ``batch.views`` is empty.
        accumulate: micro-batches of one step.
        workers: processes that read; 0 = this one.
        rank: this process's number; micro-batch ``m`` of all ranks, in rank order, is that of one process.
        world: number of processes.
        group_by_aspect: batches of either wide images or the others, to waste less on padding. Needs sizes.
        divisor: padded sides are multiples of it.
        timeout: seconds to wait for a batch before a worker counts as hung.
        max_pixels: refuse larger images.
        allow_symlinks: let links below an image folder lead out of it.
        on_bad: called in this process once for each unreadable unlabelled image, with what is wrong with it.

    Returns:
        An iterator; ``batch.labeled`` holds each image once per labelled view, its views side by side.

    Raises:
        SsodError: settings that cannot work (code 2), at once; from the iterator, what is wrong with an image
            (code 3 or 7) or with a worker (code 6).
    """
    if unlabeled_from >= steps:
        unlabeled_batch = 0
    _check_shares(labeled_batch, unlabeled_batch, accumulate, world)
    if unlabeled_batch and (unlabeled is None or not views.unlabeled):
        what = "data.unlabeled" if unlabeled is None else "views.unlabeled"
        raise SsodError("config", what, f"missing, but train.batch.unlabeled is {unlabeled_batch}", "add it")
    dataset = _Steps(
        labeled=labeled,
        unlabeled=unlabeled if unlabeled_batch else None,
        views=views,
        labeled_stream=_stream(labeled.images, "labeled", seed, group_by_aspect),
        unlabeled_stream=_stream(unlabeled, "unlabeled", seed, group_by_aspect) if unlabeled_batch else None,
        labeled_batch=labeled_batch,
        unlabeled_batch=unlabeled_batch,
        unlabeled_from=unlabeled_from,
        share=(accumulate, rank, world),
        seed=seed,
        divisor=divisor,
        read=Reader(max_pixels, allow_symlinks),
    )
    numbers = range(start * accumulate, steps * accumulate)
    return count_bad(run(dataset, numbers, dataset.describe, workers, timeout), unlabeled, on_bad)


def eval_views(
    images: Images,
    pipeline: Pipeline,
    *,
    batch: int,
    workers: int,
    rank: int = 0,
    world: int = 1,
    divisor: int = 32,
    timeout: float = 120,
    max_pixels: int = MAX_PIXELS,
    allow_symlinks: bool = False,
) -> Iterator[View]:
    """Yield every image once; the ranks' parts are the whole.

    Only images of one padded size share a view: with more padding than it needs, an image would look different to the
    detector near its border and in its normalisation, and what is found in it would depend on its neighbours.

    Args:
        images: what to look at. One that cannot be read, or is not of the size that ``images`` states, is an error.
        pipeline: the view; what it draws, if anything, depends on the image's number alone.
        batch: consecutive images that are read together, and looked at together as far as their padded sizes agree.
        workers: processes that read; 0 = this one.
        rank: this process's number.
        world: number of processes.
        divisor: padded sides are multiples of it.
        timeout: seconds to wait for a batch before a worker counts as hung.
        max_pixels: refuse larger images.
        allow_symlinks: let links below the image folder lead out of it.

    Returns:
        An iterator over views with ``ids`` and without targets; with ``batch=1`` in the order of ``images``.
    """
    mine = range(rank * len(images) // world, (rank + 1) * len(images) // world)
    chunks = [mine[i : i + batch] for i in range(0, len(mine), batch)]
    dataset = _Chunks(images, pipeline, chunks, divisor, Reader(max_pixels, allow_symlinks))
    return chain.from_iterable(run(dataset, range(len(chunks)), dataset.describe, workers, timeout))


def _check_shares(labeled: int, unlabeled: int, accumulate: int, world: int) -> None:
    parts = accumulate * world
    for name, size in (("labeled", labeled), ("unlabeled", unlabeled)):
        if size % parts:
            raise SsodError(
                "config",
                f"train.batch.{name}",
                f"{size} cannot be shared by {world} processes x {accumulate} micro-batches",
                f"use a multiple of {parts}",
            )
    if labeled < 1:
        raise SsodError("config", "train.batch.labeled", f"{labeled} is below 1", "use at least 1")


def _stream(images: Images, name: str, seed: int, grouped: bool) -> Shuffled | Grouped:
    if len(images) == 0:
        raise SsodError("config", f"data.{name}", "0 images", "check the path and the split", code=Exit.DATA)
    if not grouped:
        return Shuffled(len(images), seed, name)
    if images.sizes is None:
        problem = "grouping by aspect ratio needs image sizes, which this source does not state"
        raise SsodError("config", f"data.{name}", problem, "set views.group_by_aspect to false")
    return Grouped.from_sizes(images.sizes, seed, name)


# ---- reading -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Steps(Dataset):
    """Micro-batch ``k`` as (batch, unreadable images); an ``SsodError`` is returned, for torch would rename it."""

    labeled: Labeled
    unlabeled: Images | None
    views: ViewsConfig
    labeled_stream: Shuffled | Grouped
    unlabeled_stream: Shuffled | Grouped | None
    labeled_batch: int
    unlabeled_batch: int
    unlabeled_from: int
    share: tuple[int, int, int]
    seed: int
    divisor: int
    read: Reader

    def __getitem__(self, k: int) -> tuple[Batch, list[SsodError]] | SsodError:
        step, micro = divmod(k, self.share[0])
        bad: list[SsodError] = []
        try:
            labeled = self._labeled(step, micro)
            views = {}
            if self.unlabeled is not None and step >= self.unlabeled_from:
                views = self._unlabeled(step, micro, bad)
        except SsodError as error:
            return error
        return Batch(labeled, views), bad

    def describe(self, k: int) -> str:
        """Say what item ``k`` is, for a message."""
        step, micro = divmod(k, self.share[0])
        mine = self._mine(self.labeled_stream, step, micro, self.labeled_batch)
        return f"step {step} ('{self.labeled.images.paths[mine[0][1]]}' and the images after it)"

    def _mine(self, stream: Shuffled | Grouped, step: int, micro: int, size: int) -> list[tuple[int, int]]:
        """Return (position, image) of this rank's share of a micro-batch."""
        accumulate, rank, world = self.share
        part = size // (accumulate * world)
        first = (micro * world + rank) * part
        picked = list(enumerate(stream.batch(step, size), step * size))
        return picked[first : first + part]

    def _labeled(self, step: int, micro: int) -> View:
        samples: list[Sample] = []
        ids: list[Any] = []
        for position, i in self._mine(self.labeled_stream, step, micro, self.labeled_batch):
            image = self.read(self.labeled.images, i)
            check_stated_size(self.labeled.images, i, image)
            seen = look(image, self.labeled.targets(i), self.views.labeled, self.seed, "labeled", i, position)
            samples.extend(seen.values())
            ids.extend([self.labeled.images.ids[i]] * len(seen))
        return collate(samples, ids, self.divisor)

    def _unlabeled(self, step: int, micro: int, bad: list[SsodError]) -> dict[str, View]:
        samples: dict[str, list[Sample]] = {name: [] for name, p in self.views.unlabeled.items() if not p.hidden}
        ids: list[Any] = []
        for position, wanted in self._mine(self.unlabeled_stream, step, micro, self.unlabeled_batch):
            i, image = self.read.or_next(self.unlabeled, wanted, bad)
            seen = look(image, None, self.views.unlabeled, self.seed, "unlabeled", i, position)
            for name, sample in seen.items():
                samples[name].append(sample)
            ids.append(self.unlabeled.ids[i])
        return {name: collate(items, list(ids), self.divisor) for name, items in samples.items()}


@dataclass(frozen=True)
class _Chunks(Dataset):
    """Chunk ``k`` of the images as views, one for each padded size in it."""

    images: Images
    pipeline: Pipeline
    chunks: Sequence[range]
    divisor: int
    read: Reader

    def __getitem__(self, k: int) -> list[View] | SsodError:
        samples = []
        try:
            for i in self.chunks[k]:
                image = self.read(self.images, i)
                check_stated_size(self.images, i, image)
                samples.append(look(image, None, {"val": self.pipeline}, 0, "val", i, 0)["val"])
        except SsodError as error:
            return error
        ids = [self.images.ids[i] for i in self.chunks[k]]
        groups = by_canvas(samples, self.divisor)
        return [collate([samples[i] for i in rows], [ids[i] for i in rows], self.divisor) for rows in groups]

    def describe(self, k: int) -> str:
        """Say what item ``k`` is, for a message."""
        return f"images '{self.images.paths[self.chunks[k][0]]}' and after"


def by_canvas(samples: Sequence[Sample], divisor: int) -> list[list[int]]:
    """Return the numbers of the samples in groups of one padded size, each in order of appearance."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for i, sample in enumerate(samples):
        groups.setdefault(tuple(-(-side // divisor) for side in sample.image.size), []).append(i)
    return list(groups.values())


def collate(samples: Sequence[Sample], ids: list[Any], divisor: int) -> View:
    """Pad pictures with 0 at the bottom and right to the smallest common multiple-of-``divisor`` size.

    Args:
        samples: N views, at least one; all with targets or all without.
        ids: N image ids.
        divisor: the sides of the result are multiples of it.
    """
    sizes = torch.tensor([s.image.size[::-1] for s in samples])
    height, width = (-(-int(side) // divisor) * divisor for side in sizes.amax(0))
    images = torch.zeros(len(samples), 3, height, width, dtype=torch.uint8)
    for row, sample in zip(images, samples):
        pixels = to_tensor(sample.image)
        row[:, : pixels.shape[1], : pixels.shape[2]] = pixels
    return View(
        images=images,
        sizes=sizes,
        matrix=torch.from_numpy(np.stack([s.matrix for s in samples])).float(),
        keys=torch.tensor([s.key for s in samples]),
        ids=ids,
        targets=None if samples[0].targets is None else [s.targets for s in samples],
    )

"""From data sets to batches: which images a step sees, reading them, and padding them together.

Step ``s`` always means the same images, drawn the same way, whatever the number of workers or ranks and wherever the
run started: every choice is a function of (seed, stream, position), and an operation with a ramp reads the step's share
of the run. There is no loader state to save.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from ssod.data.formats.records import Images, Labeled
from ssod.data.loading.reader import Reader, check_stated_size, count_bad
from ssod.data.loading.sampling import Place, Sampling, Stream
from ssod.data.loading.workers import run
from ssod.structures import Batch, Pieces, Targets, View
from ssod.transforms import raster
from ssod.transforms.transform import ALONE, Setting
from ssod.transforms.views import Pipeline, Sample, ViewsConfig, check_others, make_views
from ssod.utils.errors import SsodError


@dataclass(frozen=True)
class Loading:
    """How images come from the disk into batches; it changes nothing about what is in them but padding.

    Attributes:
        workers: processes that read; 0 = this one.
        read: opens an image, within its limits.
        divisor: padded sides are multiples of it.
        timeout: seconds to wait for a batch before a worker counts as hung.
    """

    workers: int
    read: Reader
    divisor: int = 32
    timeout: float = 120


def train_batches(
    labeled: Labeled,
    unlabeled: Images | None,
    views: ViewsConfig,
    sampling: Sampling,
    steps: range,
    loading: Loading,
    place: Place,
    on_bad: Callable[[SsodError], None] | None = None,
    *,
    others: bool = True,
) -> Generator[Batch, None, None]:
    """Yield ``sampling.accumulate`` micro-batches for each of ``steps``.

    Args:
        labeled: images with boxes. One that cannot be read, or is not of its stated size, is an error. Operations of
            its views may take parts of all of them.
        unlabeled: images without. One that cannot be read is replaced by the next; more than 0.1 % of them (at least
            3 are allowed) is an error.
        views: the views of each.
        sampling: which images a step sees. Before ``sampling.unlabeled_from`` ``batch.views`` is empty.
        steps: consecutive steps, up to the last of the run, by which operations know how far it is.
        loading: how they are read.
        place: whose share of each micro-batch is yielded.
        on_bad: called in this process once for each unreadable unlabelled image, with what is wrong with it.
        others: whether operations of unlabelled views may take parts of other unlabelled images; without, a mosaic has
            its own picture alone.

    Returns:
        A generator, to be closed (``workers.reading``); ``batch.labeled`` holds each image once per labelled view, its
        views side by side.

    Raises:
        SsodError: settings that cannot work (code 2), at once; from the iterator, what is wrong with an image
            (code 3 or 7) or with a worker (code 6).
    """
    if sampling.unlabeled_from >= steps.stop:
        sampling = replace(sampling, unlabeled=0)
    sampling.check(place)
    if sampling.unlabeled and (unlabeled is None or not views.unlabeled):
        what = "data.unlabeled" if unlabeled is None else "views.unlabeled"
        raise SsodError("config", what, f"missing, but train.batch.unlabeled is {sampling.unlabeled}", "add it")
    check_others(views.labeled, len(labeled))
    if sampling.unlabeled and others:
        check_others(views.unlabeled, len(unlabeled or ()), "unlabeled")
    sizes = loading.read.sizes if views.tiles is None else lambda images: views.tiles.fit(loading.read.sizes(images))
    dataset = _Steps(
        labeled=labeled,
        unlabeled=unlabeled if sampling.unlabeled else None,
        views=views,
        labeled_stream=sampling.stream(labeled.images, "labeled", sizes),
        unlabeled_stream=sampling.stream(unlabeled, "unlabeled", sizes) if sampling.unlabeled else None,
        sampling=sampling,
        place=place,
        divisor=loading.divisor,
        read=loading.read,
        total=steps.stop,
        others=others,
    )
    numbers = range(steps.start * sampling.accumulate, steps.stop * sampling.accumulate)
    batches = run(dataset, numbers, dataset.describe, loading.workers, loading.timeout)
    return count_bad(batches, unlabeled, on_bad)


def eval_views(
    images: Images, pipeline: Pipeline, batch: int, loading: Loading, place: Place
) -> Generator[View, None, None]:
    """Yield every image once; the ranks' parts are the whole.

    Only images of one padded size share a view: with more padding than it needs, an image would look different to the
    detector near its border and in its normalisation, and what is found in it would depend on its neighbours.

    Args:
        images: what to look at. One that cannot be read, or is not of the size that ``images`` states, is an error.
        pipeline: the view; what it draws, if anything, depends on the image's number alone.
        batch: consecutive images that are read together, and looked at together as far as their padded sizes agree.
        loading: how they are read.
        place: whose part of the images is yielded.

    Returns:
        A generator, to be closed (``workers.reading``), of views with ``ids`` and without targets; with ``batch=1`` in
        the order of ``images``.
    """
    mine = place.part(len(images))
    chunks = [mine[i : i + batch] for i in range(0, len(mine), batch)]
    dataset = _Chunks(images, pipeline, chunks, loading.divisor, loading.read)
    return _one_by_one(run(dataset, range(len(chunks)), dataset.describe, loading.workers, loading.timeout))


def _one_by_one(groups: Generator[Sequence[View], None, None]) -> Generator[View, None, None]:
    with closing(groups):
        for group in groups:
            yield from group


# ---- reading -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Steps(Dataset):
    """Micro-batch ``k`` as (batch, unreadable images); an ``SsodError`` is returned, for torch would rename it."""

    labeled: Labeled
    unlabeled: Images | None
    views: ViewsConfig
    labeled_stream: Stream
    unlabeled_stream: Stream | None
    sampling: Sampling
    place: Place
    divisor: int
    read: Reader
    total: int
    others: bool

    def __getitem__(self, k: int) -> tuple[Batch, list[SsodError]] | SsodError:
        step, micro = divmod(k, self.sampling.accumulate)
        bad: list[SsodError] = []
        try:
            labeled = self._labeled(step, micro)
            views = {}
            if self.unlabeled is not None and step >= self.sampling.unlabeled_from:
                views = self._unlabeled(step, micro, bad)
        except SsodError as error:
            return error
        return Batch(labeled, views), bad

    def describe(self, k: int) -> str:
        """Say what item ``k`` is, for a message."""
        step, micro = divmod(k, self.sampling.accumulate)
        _, first = self._mine(self.labeled_stream, self.sampling.labeled, step, micro)[0]
        return f"step {step} ('{self.labeled.images.paths[first]}' and the images after it)"

    def _mine(self, stream: Stream, size: int, step: int, micro: int) -> list[tuple[int, int]]:
        return self.sampling.share(stream, size, step, micro, self.place)

    def _labeled(self, step: int, micro: int) -> View:
        samples: list[Sample] = []
        ids: list[Any] = []
        setting = Setting(step / self.total, len(self.labeled), self._opened)
        mine = self._mine(self.labeled_stream, self.sampling.labeled, step, micro)
        for position, i in mine:
            draw = self.sampling.seed, "labeled", i, position
            seen = make_views(*self._opened(i), self.views.labeled, *draw, setting=setting, tiles=self.views.tiles)
            samples.extend(seen.values())
            ids.extend([self.labeled.images.ids[i]] * len(seen))
        return collate(samples, ids, self.divisor, per_image=len(samples) // len(mine))

    def _opened(self, i: int) -> tuple[Image.Image, Targets]:
        image = self.read(self.labeled.images, i)
        check_stated_size(self.labeled.images, i, image)
        return image, self.labeled.targets(i)

    def _unlabeled(self, step: int, micro: int, bad: list[SsodError]) -> dict[str, View]:
        samples: dict[str, list[Sample]] = {name: [] for name, p in self.views.unlabeled.items() if not p.hidden}
        ids: list[Any] = []
        images = self.unlabeled

        def other(i: int) -> tuple[Image.Image, None]:
            return self.read.or_next(images, i, bad)[1], None

        setting = Setting(count=len(images), read=other) if self.others else ALONE
        for position, wanted in self._mine(self.unlabeled_stream, self.sampling.unlabeled, step, micro):
            i, image = self.read.or_next(images, wanted, bad)
            draw = self.sampling.seed, "unlabeled", i, position
            seen = make_views(image, None, self.views.unlabeled, *draw, setting=setting, tiles=self.views.tiles)
            for name, sample in seen.items():
                samples[name].append(sample)
            ids.append(images.ids[i])
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
                samples.append(make_views(image, None, {"val": self.pipeline}, 0, "val", i, 0)["val"])
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


def collate(samples: Sequence[Sample], ids: list[Any], divisor: int, per_image: int = 1) -> View:
    """Pad pictures with 0 at the bottom and right to the smallest common multiple-of-``divisor`` size.

    Args:
        samples: N views, at least one; all with targets or all without.
        ids: N image ids.
        divisor: the sides of the result are multiples of it.
        per_image: see ``View``.
    """
    sizes = torch.tensor([s.image.size[::-1] for s in samples])
    height, width = (-(-int(side) // divisor) * divisor for side in sizes.amax(0))
    images = torch.zeros(len(samples), 3, height, width, dtype=torch.uint8)
    for row, sample in zip(images, samples):
        width, high = sample.image.size
        raster.ops.split_into(row[:, :high, :width].numpy(), sample.image.array())
    matrix = torch.from_numpy(np.stack([s.matrix for s in samples])).float()
    return View(
        images=images,
        sizes=sizes,
        matrix=matrix,
        keys=torch.tensor([s.key for s in samples]),
        ids=ids,
        targets=None if samples[0].targets is None else [s.targets for s in samples],
        per_image=per_image,
        pieces=Pieces.batch([s.pieces for s in samples], matrix),
    )

"""The views of evaluation: whole images, or the tiles of each, read as batches of tiles."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace

import numpy as np
from PIL import Image
from torch.utils.data import Dataset

from ssod.data.formats.records import Images
from ssod.data.loading.loader import Loading, by_canvas, collate, eval_views
from ssod.data.loading.reader import Reader, check_stated_size
from ssod.data.loading.sampling import Place
from ssod.data.loading.workers import run
from ssod.structures import Tiles, View
from ssod.transforms.tile_view import view_tile
from ssod.transforms.views import Pipeline, ViewsConfig
from ssod.utils.errors import SsodError


def val_views(
    images: Images, views: ViewsConfig, batch: int, loading: Loading, place: Place
) -> Generator[View, None, None]:
    """Yield what a detector is measured on: ``loader.eval_views`` of whole images, or of their tiles.

    Args:
        images: see ``loader.eval_views``. Their sizes are read from headers where nobody states them.
        views: the view, and the size of tiles.
        batch: whole images, or tiles, that are looked at together.
        loading: how images are read.
        place: whose part of the images is yielded, each with all its tiles.

    Returns:
        A generator, to be closed. Views of tiles say in ``tiles`` of how many their images consist; an image's tiles
        have its id, and come in the order of the grid.
    """
    if views.tiles is None:
        return eval_views(images, views.val, batch, loading, place)
    return _joined(images, views.val, views.tiles, batch, loading, place)


def _joined(
    images: Images, pipeline: Pipeline, tiles: Tiles, batch: int, loading: Loading, place: Place
) -> Generator[View, None, None]:
    mine = place.part(len(images))
    counts = tiles.count(loading.read.sizes(images)[mine.start : mine.stop])
    starts = np.concatenate([[0], counts.cumsum()]).astype(np.int64)
    dataset = _Tiles(images, pipeline, tiles, batch, mine.start, starts, loading.divisor, loading.read)
    with closing(run(dataset, range(len(dataset)), dataset.describe, loading.workers, loading.timeout)) as groups:
        for group in groups:
            yield from group


@dataclass(frozen=True)
class _Tiles(Dataset):
    """Chunk ``k`` of the tiles of some images as views, one for each padded size in it.

    Attributes:
        images, pipeline, tiles, divisor, read: see ``val_views``.
        batch: tiles of a chunk.
        first: number of the first image.
        starts: [n + 1], the first tile of each image from there on, and how many there are.
        last: the image that was opened last, by its number: an image with more tiles than a chunk is decoded once.
    """

    images: Images
    pipeline: Pipeline
    tiles: Tiles
    batch: int
    first: int
    starts: np.ndarray
    divisor: int
    read: Reader
    last: dict[int, Image.Image] = field(default_factory=dict)

    def __len__(self) -> int:
        return -(-int(self.starts[-1]) // self.batch)

    def _part(self, k: int) -> Sequence[tuple[int, int, int]]:
        """Return (image, tile of it, how many it has) of the tiles of a chunk."""
        number = np.arange(k * self.batch, min((k + 1) * self.batch, self.starts[-1]))
        row = np.searchsorted(self.starts, number, side="right") - 1
        columns = row + self.first, number - self.starts[row], self.starts[row + 1] - self.starts[row]
        return list(zip(*(column.tolist() for column in columns)))

    def _open(self, i: int) -> Image.Image:
        if i not in self.last:
            self.last.clear()
            image = self.read(self.images, i)
            check_stated_size(self.images, i, image)
            self.last[i] = image
        return self.last[i]

    def __getitem__(self, k: int) -> list[View] | SsodError:
        part, samples, views = self._part(k), [], []
        try:
            for i, number, _ in part:
                image = self._open(i)
                samples.append(view_tile(image, self.tiles.nth(number, image.size), self.pipeline, i))
        except SsodError as error:
            return error
        for rows in by_canvas(samples, self.divisor):
            ids = [self.images.ids[part[row][0]] for row in rows]
            view = collate([samples[row] for row in rows], ids, self.divisor)
            views.append(replace(view, tiles=[part[row][2] for row in rows]))
        return views

    def describe(self, k: int) -> str:
        """Say what item ``k`` is, for a message."""
        return f"tiles of '{self.images.paths[self._part(k)[0][0]]}' and after"

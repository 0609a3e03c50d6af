"""Small data sets built by hand."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from ssod.data.formats.image import MAX_PIXELS
from ssod.data.formats.records import Classes, Images, Labeled
from ssod.data.loading.loader import Loading, eval_views, train_batches
from ssod.data.loading.reader import Reader
from ssod.data.loading.sampling import Place, Sampling
from ssod.structures import Batch, View
from ssod.transforms.views import Pipeline, ViewsConfig

RESIZE = {"resize": {"short": [48, 80], "long": 120}}


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8))
    return coarse.resize((width, height), Image.Resampling.BICUBIC)


def make_images(folder: Path, n: int, *, sizes: bool = True, name: str = "im") -> Images:
    folder.mkdir(parents=True, exist_ok=True)
    shapes = [(60 + 4 * (i % 5), 90 - 6 * (i % 7)) for i in range(n)]  # (height, width), wide and tall
    paths = [f"{name}{i}.png" for i in range(n)]
    for i, (path, (h, w)) in enumerate(zip(paths, shapes)):
        picture(w, h, i).save(folder / path)
    return Images(str(folder), paths, [f"{name}{i}" for i in range(n)], np.array(shapes, np.int32) if sizes else None)


def make_labeled(folder: Path, n: int, *, name: str = "im") -> Labeled:
    images = make_images(folder, n, name=name)
    counts = [i % 3 for i in range(n)]
    rng = np.random.default_rng(5)
    low = rng.uniform(0, 30, (sum(counts), 2))
    boxes = np.concatenate([low, low + rng.uniform(10, 25, low.shape)], 1).astype(np.float32)
    a = len(boxes)
    return Labeled(
        images=images,
        classes=Classes(("a", "b", "c"), (1, 2, 5)),
        boxes=boxes,
        labels=(np.arange(a) % 3).astype(np.int64),
        crowd=np.arange(a) % 4 == 3,
        difficult=np.zeros(a, bool),
        starts=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
    )


def loaded(
    labeled: Labeled,
    unlabeled: Images | None,
    views: ViewsConfig,
    *,
    labeled_batch: int = 4,
    unlabeled_batch: int = 4,
    seed: int = 3,
    start: int = 0,
    steps: int = 5,
    unlabeled_from: int = 0,
    accumulate: int = 1,
    group_by_aspect: bool = False,
    rank: int = 0,
    world: int = 1,
    on_bad: Callable | None = None,
    **reading: int,
) -> Iterator[Batch]:
    """``train_batches`` of small batches, read by this process; ``reading`` as in ``reads``."""
    sampling = Sampling(labeled_batch, unlabeled_batch, seed, unlabeled_from, accumulate, group_by_aspect)
    steps, place = range(start, steps), Place(rank, world)
    return train_batches(labeled, unlabeled, views, sampling, steps, reads(**reading), place, on_bad)


def viewed(
    images: Images, pipeline: Pipeline, *, batch: int, rank: int = 0, world: int = 1, **reading: int
) -> Iterator[View]:
    """``eval_views`` of images read by this process; ``reading`` as in ``reads``."""
    return eval_views(images, pipeline, batch, reads(**reading), Place(rank, world))


def reads(
    workers: int = 0,
    divisor: int = 32,
    timeout: float = 120,
    max_pixels: int = MAX_PIXELS,
    allow_symlinks: bool = False,
) -> Loading:
    """Return how images are read."""
    return Loading(workers, Reader(max_pixels, allow_symlinks), divisor, timeout)

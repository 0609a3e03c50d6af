"""Opening the images of a data set, and how many unreadable ones among the unlabelled are borne."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image

from ssod.data.formats.header import read_header
from ssod.data.formats.image import AS_THEY_ARE, MAX_PIXELS, Pixels, open_image
from ssod.data.formats.paths import safe_join
from ssod.data.formats.records import Images
from ssod.structures import Batch
from ssod.utils.errors import Exit, SsodError

BAD_SHARE = 0.001  # of the unlabelled images may be unreadable ...
BAD_FLOOR = 3  # ... or this many, where that is more


@dataclass(frozen=True)
class Reader:
    """Opens the images of a data set, within limits."""

    max_pixels: int = MAX_PIXELS
    allow_symlinks: bool = False
    pixels: Pixels = AS_THEY_ARE

    def __call__(self, images: Images, i: int) -> Image.Image:
        """Return image ``i``, upright RGB; raise what is wrong with it."""
        return open_image(self._path(images, i), max_pixels=self.max_pixels, pixels=self.pixels)

    def _path(self, images: Images, i: int) -> str:
        return safe_join(images.root, images.paths[i], allow_symlinks=self.allow_symlinks)

    def or_next(self, images: Images, i: int, bad: list[SsodError]) -> tuple[int, Image.Image]:
        """Return image ``i`` or the first readable one after it, with its number; note the others in ``bad``.

        A path that leaves its folder, or leads to a device, is no accident: it is raised, never skipped.
        """
        failed: list[SsodError] = []
        for step in range(allowed_bad(len(images)) + 1):
            candidate = (i + step) % len(images)
            try:
                path = self._path(images, candidate)
            except SsodError as error:
                if error.code == Exit.UNSAFE:
                    raise
                failed.append(error)
                continue
            try:
                image = open_image(path, max_pixels=self.max_pixels, pixels=self.pixels)
            except SsodError as error:
                failed.append(error)
                continue
            bad.extend(failed)
            return candidate, image
        raise too_many(failed, len(images))

    def sizes(self, images: Images) -> np.ndarray:
        """Return [N, 2] (height, width) of the upright images: as their source states them, or from their headers.

        Headers are read once in a process, a tenth of a millisecond each. An image that cannot be read has size 0.

        Raises:
            SsodError: more cannot be read than training would bear (code 3), or one is unsafe to open (code 7).
        """
        if images.sizes is not None:
            return images.sizes
        return _header_sizes(images.root, tuple(images.paths), self.allow_symlinks)


@lru_cache(maxsize=4)
def _header_sizes(root: str, paths: tuple[str, ...], allow_symlinks: bool) -> np.ndarray:
    sizes, failed = np.zeros((len(paths), 2), dtype=np.int32), []
    for row, path in enumerate(paths):
        try:
            height, width, turn = read_header(safe_join(root, path, allow_symlinks=allow_symlinks))
        except SsodError as error:
            if error.code == Exit.UNSAFE:
                raise
            failed.append(error)
        else:
            sizes[row] = (width, height) if turn >= 5 else (height, width)
    if failed and len(failed) > allowed_bad(len(paths)):
        raise too_many(failed, len(paths))
    return sizes


def allowed_bad(n: int) -> int:
    """Return how many of ``n`` unlabelled images may be unreadable."""
    return min(n - 1, max(BAD_FLOOR, int(n * BAD_SHARE)))


def too_many(failed: Sequence[SsodError], n: int) -> SsodError:
    """Return the error that ends a run when too many of ``n`` unlabelled images cannot be read."""
    first = failed[0]
    problem = f"{len(failed)} of {n} unlabelled images cannot be read; this one: {first.problem}"
    return SsodError(
        first.file, first.field, problem, "remove or replace them; `ssod check` lists all", code=first.code
    )


def check_stated_size(images: Images, i: int, image: Image.Image) -> None:
    """Refuse an image whose annotations were made for another size."""
    if images.sizes is None or tuple(images.sizes[i]) == image.size[::-1]:
        return
    (height, width), found = images.sizes[i], image.size
    problem = f"the annotations say {width}x{height}, the upright image is {found[0]}x{found[1]}"
    fix = "mend the annotations or use the image they were made for"
    if (height, width) == found:
        fix = f"if EXIF turns it, set data.exif=ignore or =apply by what boxes refer to; else {fix}"
    raise SsodError(os.path.join(images.root, images.paths[i]), "size", problem, fix, code=Exit.DATA)


def count_bad(
    items: Generator[tuple[Batch, list[SsodError]], None, None],
    unlabeled: Images | None,
    on_bad: Callable[[SsodError], None] | None,
) -> Generator[Batch, None, None]:
    """Unpack batches; report each unreadable image once and give up when there are too many. It closes ``items``."""
    seen: dict[tuple[str, str], SsodError] = {}
    with closing(items):
        for batch, bad in items:
            for error in bad:
                if (error.file, error.field) not in seen:
                    seen[error.file, error.field] = error
                    if on_bad is not None:
                        on_bad(error)
            if seen and len(seen) > allowed_bad(len(unlabeled)):
                raise too_many(list(seen.values()), len(unlabeled))
            yield batch

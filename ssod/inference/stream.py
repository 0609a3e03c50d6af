"""Images through a detector, in their order: threads read some images ahead, and no more than those are in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import islice

from PIL import Image

from ssod.data.formats.image import MAX_PIXELS
from ssod.data.formats.records import Images
from ssod.data.loading.reader import Reader, allowed_bad
from ssod.inference.model import BATCH, Detected, Model
from ssod.transforms.views import Sample
from ssod.utils.errors import SsodError
from ssod.utils.progress import bar
from ssod.utils.threads import in_order

WORKERS = 4


def look_through(
    model: Model,
    images: Images,
    score: float | None,
    bad: list[SsodError],
    max_pixels: int = MAX_PIXELS,
    workers: int = WORKERS,
    batch: int = BATCH,
) -> Iterator[tuple[int, Image.Image, Detected]]:
    """Yield (number, picture, detections) of every readable image, in order; reading goes on while the device works.

    A bar moves meanwhile where whoever asks has opened a ``progress.screen``.

    Unreadable files among many are noted in ``bad``; when they are as many as training would not bear, or the only
    one, the first is raised. Links may lead out of the folder: it was named on the command line.

    Args:
        model: what looks.
        images: N of them.
        score: of detections, as in ``Model.detect``.
        bad: where errors are noted.
        max_pixels: an image with more is refused.
        workers: threads that read; 0 = this one does. What is found does not depend on it.
        batch: images that the detector looks at together, if their padded sizes are the same.

    Raises:
        SsodError: too many images cannot be read.
    """
    read = Reader(max_pixels, allow_symlinks=True, pixels=model.pixels)

    def prepare(i: int) -> tuple[Image.Image, Sample | None] | SsodError:
        try:
            picture = read(images, i)
        except SsodError as error:
            return _as_options(error)
        return picture, model.prepare(picture)

    ahead = max(2 * batch, workers)
    with closing(in_order(prepare, len(images), workers, ahead)) as coming, bar("images", len(images)) as reach:
        for first in range(0, len(images), batch):
            ready = list(islice(coming, batch))
            bad += [item for item in ready if isinstance(item, SsodError)]
            if len(bad) > allowed_bad(len(images)):
                raise _too_many(bad, len(images)) if len(images) > 1 else bad[0]
            good = [(i, item) for i, item in enumerate(ready, first) if not isinstance(item, SsodError)]
            detected = model.look([p for _, (p, _) in good], [s for _, (_, s) in good], score)
            yield from ((i, picture, d) for (i, (picture, _)), d in zip(good, detected))
            reach(first + len(ready))


def _as_options(error: SsodError) -> SsodError:
    """Return an error about an image with the options of a command in the place of a config's keys."""
    fix = error.fix.replace("data.levels=[low,high]", "--levels LOW HIGH")
    fix = fix.replace("data.max_pixels=", "--max-pixels ")
    return SsodError(error.file, error.field, error.problem, fix, code=error.code)


def _too_many(bad: Sequence[SsodError], n: int) -> SsodError:
    problem = f"{len(bad)} of {n} images cannot be read; this one: {bad[0].problem}"
    return SsodError(bad[0].file, bad[0].field, problem, "remove or replace them", code=bad[0].code)

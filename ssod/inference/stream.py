"""Images through a detector, in their order: threads read some images ahead, and no more than those are in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice

from PIL import Image

from ssod.data.formats.image import MAX_PIXELS
from ssod.data.formats.records import Images
from ssod.data.loading.reader import Reader, allowed_bad
from ssod.inference.model import BATCH, Detected, Model
from ssod.inference.shown import Shown
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
        workers: threads that read, and one that lays what they read into batches; 0 = this one does. What is found
            does not depend on it.
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

    with closing(in_order(prepare, len(images), workers, max(2 * batch, workers))) as coming:

        def gather(number: int) -> _Gathered:
            ready = dict(enumerate(islice(coming, batch), number * batch))
            good = {i: item for i, item in ready.items() if not isinstance(item, SsodError)}
            pictures = [picture for picture, _ in good.values()]
            shown = model.batch(pictures, [sample for _, sample in good.values()])
            return _Gathered(list(good), pictures, shown, [e for e in ready.values() if isinstance(e, SsodError)])

        count = -(-len(images) // batch)
        with closing(in_order(gather, count, min(workers, 1), 2)) as batches, bar("images", len(images)) as reach:
            for number, one in enumerate(batches, 1):
                bad += one.errors
                if len(bad) > allowed_bad(len(images)):
                    raise _too_many(bad, len(images)) if len(images) > 1 else bad[0]
                detected = model.look(one.pictures, one.shown, score, workers)
                yield from zip(one.numbers, one.pictures, detected)
                reach(min(number * batch, len(images)))


@dataclass(frozen=True)
class _Gathered:
    """Images that are looked at together, and what was wrong with those that were to be among them."""

    numbers: list[int]
    pictures: list[Image.Image]
    shown: list[Shown]
    errors: list[SsodError]


def _as_options(error: SsodError) -> SsodError:
    """Return an error about an image with the options of a command in the place of a config's keys."""
    fix = error.fix.replace("data.levels=[low,high]", "--levels LOW HIGH")
    fix = fix.replace("data.max_pixels=", "--max-pixels ")
    return SsodError(error.file, error.field, error.problem, fix, code=error.code)


def _too_many(bad: Sequence[SsodError], n: int) -> SsodError:
    problem = f"{len(bad)} of {n} images cannot be read; this one: {bad[0].problem}"
    return SsodError(bad[0].file, bad[0].field, problem, "remove or replace them", code=bad[0].code)

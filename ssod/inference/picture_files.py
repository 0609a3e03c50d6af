"""Pictures with boxes as files: threads draw and write them while the detector looks at the next images."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import ParamSpec

from PIL import Image

from ssod.inference.draw_boxes import draw
from ssod.structures import Targets
from ssod.utils.lettering import lettering

AHEAD = 2  # pictures for each thread that are being drawn or wait for it

P = ParamSpec("P")


@contextmanager
def drawing(
    folder: Path, classes: Sequence[str], workers: int
) -> Generator[Callable[[str, Image.Image, Targets], None], None, None]:
    """Give what draws boxes on the picture of an image and writes it; at the end of the block all are written.

    It takes the image's path, the picture and the boxes. However many pictures there are, ``AHEAD`` for each thread are
    in memory.

    Args:
        folder: where the pictures go, by ``picture_name``.
        classes: name of each label.
        workers: threads that draw; 0 = whoever calls does. What is written does not depend on it.

    Raises:
        OSError: the disk refused a picture. The next call raises it, or the end of the block.
    """

    def work(path: str, picture: Image.Image, found: Targets) -> None:
        save(draw(picture, found, classes), folder / picture_name(path))

    lettering(classes)  # what it says is said once, before there are threads
    with beside(work, workers, AHEAD * workers) as write:
        yield write


@contextmanager
def beside(work: Callable[P, None], workers: int, ahead: int) -> Generator[Callable[P, None], None, None]:
    """Give what calls ``work`` in threads; at the end of the block all calls are over.

    Args:
        work: its calls may overtake each other.
        workers: threads; 0 = whoever calls does the work.
        ahead: calls that may be open; whoever wants one more waits until one of them is over.

    Raises:
        Exception: what ``work`` raised, at the next call or at the end; calls that had not begun are given up.
    """
    if not workers:
        yield work
        return
    pool, pending = ThreadPoolExecutor(workers), set[Future[None]]()

    def settle(most: int) -> None:
        while True:
            over = {call for call in pending if call.done()}
            pending.difference_update(over)
            for call in over:
                call.result()
            if len(pending) <= most:
                return
            wait(pending, return_when=FIRST_COMPLETED)

    def submit(*args: P.args, **named: P.kwargs) -> None:
        settle(ahead - 1)
        pending.add(pool.submit(work, *args, **named))

    try:
        yield submit
        settle(0)
    finally:  # also when something else went wrong in the block
        pool.shutdown(cancel_futures=True)


def picture_name(path: str) -> str:
    """Return the file of the picture that belongs to an image's path."""
    return path if path.lower().endswith((".jpg", ".jpeg", ".png")) else f"{path}.png"


def save(picture: Image.Image, target: Path) -> None:
    """Write a picture; its folder is made if there is none."""
    target.parent.mkdir(parents=True, exist_ok=True)
    picture.save(target, quality=92) if target.suffix.lower() != ".png" else picture.save(target)

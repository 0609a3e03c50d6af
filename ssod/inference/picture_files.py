"""Pictures with boxes as files: threads draw and write them while the detector looks at the next images."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from ssod.inference.draw_boxes import draw
from ssod.structures import Targets
from ssod.utils.lettering import lettering
from ssod.utils.threads import beside

AHEAD = 2  # pictures for each thread that are being drawn or wait for it


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


def picture_name(path: str) -> str:
    """Return the file of the picture that belongs to an image's path."""
    return path if path.lower().endswith((".jpg", ".jpeg", ".png")) else f"{path}.png"


def save(picture: Image.Image, target: Path) -> None:
    """Write a picture; its folder is made if there is none."""
    target.parent.mkdir(parents=True, exist_ok=True)
    picture.save(target, quality=92) if target.suffix.lower() != ".png" else picture.save(target)

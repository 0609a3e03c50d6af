"""Whether images can be read, and have the size that their annotations state; read from their headers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from PIL import Image

from ssod.data.formats.findings import Context, Finding, short
from ssod.data.formats.header import path_of, read_header
from ssod.data.formats.image import MIN_SIDE, open_image
from ssod.data.formats.records import Images
from ssod.utils.errors import Exit, SsodError

_THREADS = 4  # that decode; Pillow lets others work meanwhile
# What opening an image complains of -> the row of the project's table of bad inputs.
_ROWS = {
    "not found": "I01",
    "empty file": "I02",
    "truncated": "I03",
    "not an image": "I04",
    "max_pixels": "S18",
    "format": "S19",
    "not a regular": "S06",
    "resolves outside": "S03",
    "a side is below": "I11",
    "permission": "I13",
}


def check_images(
    images: Images,
    rows: Iterable[int],
    file: str,
    ctx: Context,
    *,
    decoded: Collection[int] = (),
    needed: bool = True,
    take: Callable[[int, Image.Image], None] | None = None,
) -> int:
    """Open images, record what is wrong with them, and return how many cannot be read.

    An image takes a tenth of a millisecond, a large PNG a few, and what the disk takes to find it. A truncated image
    only shows when it is decoded, which takes some ten milliseconds.

    Args:
        images: all images; those of ``rows`` are there.
        rows: which of them to open.
        file: the file that names them; for messages.
        ctx: rules and findings.
        decoded: which of ``rows`` to decode, instead of reading their headers.
        needed: the images have annotations: one that cannot be read is an error, and the sizes that the annotations
            state are compared with the files'. False = it would be skipped, and is recorded as that.
        take: gets the row and the upright RGB picture of each image that is decoded, from several threads.
    """
    rows, decoded, bad = list(rows), set(decoded), 0

    def look(row: int) -> tuple[int, int, int] | SsodError | None:
        try:
            path = path_of(images, row, ctx)
        except SsodError:
            return None  # check_files has reported it
        try:
            return _open(path, ctx, partial(take or _nothing, row) if row in decoded else None)
        except SsodError as error:
            return error

    with ThreadPoolExecutor(_THREADS if decoded else 1) as pool:
        found = pool.map(look, rows) if decoded else map(look, rows)
        for row, seen in zip(rows, found):
            place = f"images[{row}] {short(images.paths[row])}"
            if isinstance(seen, SsodError):
                bad += 1
                id = next((id for text, id in _ROWS.items() if text in seen.problem), "I04")
                level, code = ("error", seen.code) if needed else ("skipped", Exit.OK)
                ctx.findings.add(Finding(level, id, file, place, seen.problem, seen.fix, code))
            elif seen is not None and needed:
                _compare_size(images, row, seen[:2], seen[2], place, file, ctx)
    return bad


def _open(path: str, ctx: Context, take: Callable[[Image.Image], None] | None) -> tuple[int, int, int]:
    """Return what ``read_header`` does, and raise whatever opening the image for training would.

    Args:
        path: the file.
        ctx: rules.
        take: gets the decoded picture; None = the header is enough.
    """
    height, width, turn = read_header(path)
    if take is not None or height * width > ctx.rules.max_pixels or min(height, width) < MIN_SIDE:
        picture = open_image(path, max_pixels=ctx.rules.max_pixels, pixels=ctx.rules.pixels)
        if take is not None:
            take(picture)
    return height, width, turn


def _nothing(row: int, picture: Image.Image) -> None:
    """Take nothing of a picture."""


def _compare_size(
    images: Images, row: int, stored: tuple[int, int], turn: int, place: str, file: str, ctx: Context
) -> None:
    """Boxes are moved to the upright image when they are read, so sizes must be those of the upright image here."""
    says = tuple(images.sizes[row].tolist())
    upright = stored[::-1] if turn >= 5 else stored
    if says == upright:
        return
    if says == stored:
        problem = f"says {says[1]}×{says[0]}, file is {upright[1]}×{upright[0]} (EXIF orientation {turn})"
        fix = "set data.exif=ignore if boxes refer to the stored pixels; if not, leave width and height out"
        if ctx.rules.exif == "ignore":
            fix = "set data.exif=apply if boxes refer to the upright image"
    else:
        problem = f"says {says[1]}×{says[0]}, file is {upright[1]}×{upright[0]}"
        fix = "mend the annotations or use the image they were made for"
    ctx.findings.error("D30", file, place, problem, fix)

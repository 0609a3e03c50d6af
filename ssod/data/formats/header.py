"""Image sizes and EXIF orientations from headers, without decoding a pixel."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
from PIL import ExifTags, Image

from ssod.data.formats.findings import Context, short
from ssod.data.formats.image import FORMATS, open_image, orientation
from ssod.data.formats.paths import safe_join
from ssod.data.formats.presence import check_files
from ssod.data.formats.records import Images, Labeled
from ssod.utils.errors import SsodError

_ORIENTED = (b"eXIf", b"iTXt", b"tEXt", b"zTXt")  # PNG chunks that may hold an orientation, as EXIF or as XMP
_NO_PIXELS = bytes.fromhex("00000000 49444154 35af061e")  # an empty PNG chunk of pixels


def read_header(path: str) -> tuple[int, int, int]:
    """Return (height, width, EXIF orientation 1..8) of the stored, unrotated pixels.

    Raises:
        SsodError: what ``open_image`` says about a file that is no image.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as image:
                turn = _png_orientation(path) if image.format == "PNG" else orientation(image)
                if image.format == "TIFF":  # Pillow states its upright size
                    return image.tag_v2[ExifTags.Base.ImageLength], image.tag_v2[ExifTags.Base.ImageWidth], turn
                return image.height, image.width, turn
    except Exception:
        open_image(path)  # says what is wrong
        raise


def _png_orientation(path: str) -> int:
    """Return the EXIF orientation of a PNG file, in which it may stand behind the pixels.

    Pillow decodes all pixels to get there, so it is given the file without them.
    """
    kept, seen = [], set()
    with open(path, "rb") as file:
        signature = file.read(8)
        while len(head := file.read(8)) == 8:
            length, kind = int.from_bytes(head[:4], "big"), head[4:]
            if kind == b"IEND" or (kind == b"fcTL" and b"IDAT" in seen):  # the second picture of an animation
                break
            if kind == b"IHDR" or kind in _ORIENTED:
                kept.append(head + file.read(length + 4))
            else:
                file.seek(length + 4, os.SEEK_CUR)
            seen.add(kind)
    if seen.isdisjoint(_ORIENTED):
        return 1
    with Image.open(io.BytesIO(b"".join([signature, *kept, _NO_PIXELS])), formats=("PNG",)) as image:
        return orientation(image)


def fill_sizes(images: Images, rows: Iterable[int], file: str, ctx: Context, id: str | None = "D29") -> Images:
    """Read the sizes of ``rows`` from the image files and record an error per file that is missing or unreadable.

    Args:
        images: all images.
        rows: those whose size is not known.
        file: the file that names them; for messages.
        ctx: rules and findings.
        id: of the repair that this is; None = it is none, as the format states no sizes.

    Returns:
        Images whose ``sizes`` are complete, but for rows with an error, where they are 0. They are those of the upright
        image, or of the stored pixels if the rules ignore EXIF.
    """
    rows = list(rows)
    if rows:
        check_files(images, file, ctx)
        ctx.findings.raise_first()
    sizes = np.zeros((len(images), 2), dtype=np.int32) if images.sizes is None else images.sizes.copy()
    for row in rows:
        try:
            height, width, turn = read_header(path_of(images, row, ctx))
        except SsodError as error:
            name = f"images[{row}] {short(images.paths[row])}"
            ctx.findings.error("I01", file, name, error.problem, error.fix, code=error.code)
            continue
        sizes[row] = (width, height) if turn >= 5 and ctx.rules.exif == "apply" else (height, width)
    if rows and id:
        ctx.findings.repaired(id, file, ctx.section, f"{len(rows)} image sizes read from the files", count=len(rows))
    return replace(images, sizes=sizes)


def path_of(images: Images, row: int, ctx: Context) -> str:
    """Return the checked path of an image; raises as ``safe_join``."""
    return safe_join(images.root, images.paths[row], allow_symlinks=ctx.rules.allow_symlinks)


def turn_upright(data: Labeled, ctx: Context) -> Labeled:
    """Turn boxes and sizes that refer to stored pixels with their images, which are always opened upright.

    Every header is read, which takes some ten seconds for 100 000 images. An image that cannot be read is left as it
    is: opening it says what is wrong.
    """
    boxes, sizes = data.boxes.copy(), data.images.sizes.copy()
    turned = 0
    for row in range(len(data)):
        try:
            turn = read_header(path_of(data.images, row, ctx))[2]
        except SsodError:
            continue
        if turn != 1:
            own = slice(data.starts[row], data.starts[row + 1])
            height, width = sizes[row].tolist()
            boxes[own] = turn_boxes(boxes[own], height, width, turn)
            sizes[row] = (width, height) if turn >= 5 else (height, width)
            turned += 1
    if turned:
        problem = f"boxes of {turned} images turned with their EXIF orientation"
        ctx.findings.repaired("D30", data.images.root, ctx.section, problem, count=turned)
    return replace(data, boxes=boxes, images=replace(data.images, sizes=sizes))


def turn_boxes(boxes: np.ndarray, height: int, width: int, turn: int) -> np.ndarray:
    """Carry boxes [M, 4] from the stored pixels (``height`` x ``width``) to the upright image of orientation ``turn``.

    EXIF 2.32, tag 0x0112: 2 to 4 mirror or rotate by half, 5 to 8 also swap the axes.
    """
    x1, y1, x2, y2 = boxes.T
    if turn in (2, 3, 7, 8):
        x1, x2 = width - x2, width - x1
    if turn in (3, 4, 6, 7):
        y1, y2 = height - y2, height - y1
    corners = (y1, x1, y2, x2) if turn >= 5 else (x1, y1, x2, y2)
    return np.stack(corners, axis=1).astype(boxes.dtype)

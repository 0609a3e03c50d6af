"""Image sizes and EXIF orientations from headers, without decoding a pixel."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
from PIL import Image

from ssod.data.findings import Context, short
from ssod.data.image import FORMATS, open_image, orientation
from ssod.data.paths import safe_join
from ssod.data.records import Images
from ssod.errors import SsodError


def read_header(path: str) -> tuple[int, int, int]:
    """Return (height, width, EXIF orientation 1..8) of the stored, unrotated pixels.

    Raises:
        SsodError: what ``open_image`` says about a file that is no image.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as image:
                return image.height, image.width, orientation(image)
    except Exception:
        open_image(path)  # says what is wrong
        raise


def upright_size(path: str) -> tuple[int, int]:
    """Return (height, width) after the camera's rotation is undone; raises as ``read_header``."""
    height, width, turn = read_header(path)
    return (width, height) if turn >= 5 else (height, width)


def fill_sizes(images: Images, rows: Iterable[int], file: str, ctx: Context, id: str = "D29") -> Images:
    """Read the sizes of ``rows`` from the image files, count them as repaired, and record an error per unreadable one.

    Returns:
        Images whose ``sizes`` are complete, but for rows with an error, where they are 0.
    """
    rows = list(rows)
    sizes = np.zeros((len(images), 2), dtype=np.int32) if images.sizes is None else images.sizes.copy()
    for row in rows:
        try:
            path = safe_join(images.root, images.paths[row], allow_symlinks=images.allow_symlinks)
            sizes[row] = upright_size(path)
        except SsodError as error:
            name = f"images[{row}] {short(images.paths[row])}"
            ctx.findings.error("I01", file, name, error.problem, error.fix, code=error.code)
    if rows:
        ctx.findings.repaired(id, file, ctx.section, f"{len(rows)} image sizes read from the files", count=len(rows))
    return replace(images, sizes=sizes)

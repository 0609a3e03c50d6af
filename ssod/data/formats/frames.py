"""Boxes and sizes of images that a camera turned: whether they are of the stored pixels or of the upright image."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ssod.data.formats.findings import Context
from ssod.data.formats.header import path_of, read_header
from ssod.data.formats.readings import SLACK
from ssod.data.formats.records import Images
from ssod.utils.errors import SsodError

LOOKED_AT = 50  # images with a box outside whose headers are read


def check_frames(boxes: np.ndarray, image: np.ndarray, images: Images, file: str, ctx: Context) -> bool:
    """Return whether the boxes can be of the frame that they are read in; record an error where only the other fits.

    That is so where a box leaves an image that is turned by a quarter, and all boxes of such images lie in the frame
    with width and height changed over.

    Args:
        boxes: [A, 4] corners, not clipped yet.
        image: [A] index into ``images``.
        images: with their sizes, in the frame that boxes are read in.
        file: where the boxes come from.
        ctx: rules and findings.
    """
    limit = images.sizes[image][:, ::-1]
    out = _outside(boxes, limit)
    suspects = np.unique(image[out])[:LOOKED_AT].tolist()
    turned = {row: turn for row in suspects for turn in [_quarter(images, row, ctx)] if turn is not None}
    rows = np.isin(image, list(turned))
    if not turned or _outside(boxes[rows], limit[rows][:, ::-1]).any():
        return True
    row, (turn, stored) = next(iter(turned.items()))
    says_stored = tuple(images.sizes[row].tolist()) == stored
    what = f"boxes of {len(turned)} images with an EXIF rotation (orientation {turn}) fit"
    if not says_stored:
        problem, fix = f"{what} the stored pixels alone, not the upright image", "set data.exif=ignore"
    elif ctx.rules.exif == "ignore":
        problem, fix = f"{what} the upright image alone, not the stored pixels", "set data.exif=apply"
    else:
        problem = f"{what} the upright image, and their sizes are of the stored pixels"
        fix = "leave width and height out, which are then read from the images"
    ctx.findings.error("D30", file, f"images[{row}]", problem, fix, count=len(turned))
    return False


def stored_sizes(images: Images, file: str, ctx: Context) -> Images:
    """Return images whose sizes are those of the stored pixels, where a file states those of the upright image.

    For ``data.exif=ignore``: boxes refer to the stored pixels then, whichever of the two sizes stands beside them.
    """
    if images.sizes is None:
        return images
    sizes, changed = images.sizes.copy(), 0
    for row in range(len(images)):
        quarter = _quarter(images, row, ctx)
        if quarter is not None and tuple(sizes[row, ::-1].tolist()) == quarter[1]:
            sizes[row], changed = quarter[1], changed + 1
    if changed:
        problem = f"sizes of {changed} images are of the upright image, boxes of the stored pixels"
        ctx.findings.repaired("D30", file, ctx.section, problem, "the stored size is used", count=changed)
    return replace(images, sizes=sizes)


def _outside(boxes: np.ndarray, limit: np.ndarray) -> np.ndarray:
    """Return [A] bool, which boxes leave their frame of (width, height) [A, 2] at the right or the bottom."""
    return (boxes[:, 2:] > limit + SLACK).any(1)


def _quarter(images: Images, row: int, ctx: Context) -> tuple[int, tuple[int, int]] | None:
    """Return orientation and stored (height, width) of an image that is turned by a quarter and no square."""
    try:
        height, width, turn = read_header(path_of(images, row, ctx))
    except SsodError:  # opening the image says what is wrong with it
        return None
    return (turn, (height, width)) if turn >= 5 and height != width else None

"""What the four numbers of a box can mean, and which meaning the boxes of a file speak for.

A majority says little: where objects are small and lie left, most boxes fit their images in a wrong reading, too. What
decides is a box that leaves its image as it is read, when another reading has room for it and for every other box.
"""

from __future__ import annotations

import numpy as np

from ssod.data.formats.findings import Context

SLACK = 2.0  # pixels by which any reading may leave an image: rounding, and tools that count pixels from 1
SHARES = 1.05  # what all numbers are below where they are shares of the image: some are rounded up
SMALL = 3  # an image with a side below can have such numbers as pixels
LEANS = 0.1  # of a box's own side that is no rounding
SEVERAL = 3  # boxes that must lean out to speak for centres, which most small boxes have room for
MANY = 50  # boxes that say something by where none of them is
PER_CENT, WIDE = 100.5, 200  # no number is above it, though every image is this wide and high

FORMATS = ("xywh", "xyxy", "cxcywh")


def corners(raw: np.ndarray, box_format: str) -> np.ndarray:
    """Return [A, 4] ``x1, y1, x2, y2`` of boxes in ``box_format``, one of ``FORMATS``."""
    first, second = raw[:, :2], raw[:, 2:]
    if box_format == "xyxy":
        return raw.copy()
    if box_format == "cxcywh":
        return np.concatenate([first - second / 2, first + second / 2], 1)
    return np.concatenate([first, first + second], 1)


def in_pixels(raw: np.ndarray, box_format: str, image: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Return [A, 4] with shares of the image, as a ``_norm`` format has them, turned into pixels."""
    return raw * np.tile(sizes[image][:, ::-1], 2) if box_format.endswith("_norm") else raw


def check_format(
    raw: np.ndarray,
    box_format: str | None,
    image: np.ndarray,
    sizes: np.ndarray,
    file: str,
    ctx: Context,
    *,
    keyed: bool = True,
) -> bool:
    """Return whether the boxes can be what they are read as; record an error, or a warning where it is doubtful.

    Args:
        raw: [A, 4] float64 as the file has them.
        box_format: one of ``FORMATS``, with ``_norm`` or without; None = nobody said, and it is read as ``xywh``.
        image: [A] index into ``sizes``.
        sizes: [N, 2] (height, width).
        file: where they come from.
        ctx: rules and findings.
        keyed: the format has a key ``box_format``, which messages can name.
    """
    if len(raw) == 0 or not ctx.rules.judge_boxes:
        return True
    key = f"{ctx.section}.box_format"
    problem = _wrong_scale(raw, box_format or "xywh", image, sizes, key if keyed else "")
    other = None if problem or box_format is not None else _other(raw, image, sizes)
    if other is not None:
        out, name, more = other
        problem = f"{out} of {len(raw)} boxes leave the image as xywh and all have room as {name}: {more}"
        problem = problem, f"set {key}={name}, or =xywh if boxes do reach beyond their images"
    if problem:
        ctx.findings.error("D26" if "0..1" in problem[0] else "D25", file, "annotations[].bbox", *problem)
        return False
    if box_format is None:
        _doubt(raw, image, sizes, file, ctx)
    return True


def _wrong_scale(
    raw: np.ndarray, box_format: str, image: np.ndarray, sizes: np.ndarray, key: str
) -> tuple[str, str] | None:
    """Return problem and fix of boxes in shares that are read as pixels, and of the opposite."""
    plain = box_format.removesuffix("_norm")
    if box_format != plain:
        if (raw > SHARES).any(1).mean() > 0.5 and raw.max() > SMALL:
            return f"numbers up to {raw.max():g} are no shares 0..1 of an image", f"set {key}={plain}"
        return None
    shares = (raw <= SHARES).all(1) & (raw > 1 - SHARES).all(1) & (raw[:, 2:] > 0).all(1) & (raw % 1 > 0).any(1)
    shares &= sizes[image].min(1, initial=1 << 30) >= SMALL
    if not shares.any():
        return None
    if shares.all():
        return (
            "boxes look normalised to 0..1",
            f"set {key}={plain}_norm, or scale them" if key else "scale them to pixels",
        )
    return f"{shares.sum()} of {len(raw)} boxes look normalised to 0..1, the others not", "scale those to pixels"


def _other(raw: np.ndarray, image: np.ndarray, sizes: np.ndarray) -> tuple[int, str, str] | None:
    """Return how many boxes speak against xywh, the reading that has room for all, and the worst of them in words."""
    limit = sizes[image][:, ::-1].astype(np.float64)
    beyond = raw[:, :2] + raw[:, 2:] - limit  # [A, 2] pixels
    out = (beyond > SLACK).any(1)
    if not out.any():
        return None
    worst = f"up to {beyond[out].max():.0f} px"
    if _all_fit(corners(raw, "xyxy"), limit):
        return int(out.sum()), "xyxy", worst
    leans = (beyond > np.maximum(LEANS * raw[:, 2:], SLACK)).any(1)
    if leans.sum() >= SEVERAL and _all_fit(corners(raw, "cxcywh"), limit):
        return int(leans.sum()), "cxcywh", worst
    return None


def _all_fit(boxes: np.ndarray, limit: np.ndarray) -> bool:
    """Return whether every box has its corners in order and lies in its image."""
    inside = (boxes[:, :2] >= -SLACK).all(1) & (boxes[:, 2:] <= limit + SLACK).all(1)
    return bool((inside & (boxes[:, 2:] >= boxes[:, :2]).all(1)).all())


def _doubt(raw: np.ndarray, image: np.ndarray, sizes: np.ndarray, file: str, ctx: Context) -> None:
    """Warn of many boxes that all have room in another reading as well."""
    if len(np.unique(raw, axis=0)) < MANY:
        return
    limit = sizes[image][:, ::-1].astype(np.float64)
    key = f"{ctx.section}.box_format"
    if _all_fit(corners(raw, "xyxy"), limit):
        problem = f"all {len(raw)} boxes have room as xyxy, too; they are read as xywh"
        ctx.findings.warning("D25", file, "annotations[].bbox", problem, f"set {key}=xyxy, or =xywh to confirm")
    elif (raw[:, :2] + raw[:, 2:]).max() <= PER_CENT and sizes[image].min() >= WIDE:
        problem = f"no box reaches beyond {(raw[:, :2] + raw[:, 2:]).max():g} pixels; are they per cent of the image?"
        ctx.findings.warning("D26", file, "annotations[].bbox", problem, f"scale them, or set {key}=xywh to confirm")

"""What a box may be, whatever file it came from: inside its image, with an area, and not one of a million."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from ssod.data.formats.findings import KEPT, Context
from ssod.data.formats.frames import check_frames
from ssod.data.formats.leftout import report_left_out
from ssod.data.formats.records import Images

# Boxes that stick out by less than this many pixels are rounding, clipped without a word.
ROUNDING = 0.01
# Beyond this many pixels a number is no coordinate of any image.
ABSURD = 1e7
_ODD = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9], dtype=np.uint64)  # factors of a hash


def settle(
    boxes: np.ndarray, image: np.ndarray, images: Images, place: Callable[[int], str], file: str, ctx: Context
) -> tuple[np.ndarray, np.ndarray]:
    """Clip boxes to their images and drop those without area; both are counted.

    A box that leaves its image by more than ``data.max_clip`` is an error: it is read wrongly, or of another image.

    Args:
        boxes: [A, 4] float64 ``x1, y1, x2, y2`` with ``x1 <= x2`` and ``y1 <= y2``.
        image: [A] index into ``images``.
        images: with their sizes.
        place: names box ``row`` in a message.
        file: where they come from.
        ctx: rules and findings; ``strict`` makes a box without area an error.

    Returns:
        float32 [A, 4] clipped boxes, and bool [A] which of them to keep.
    """
    limit = np.tile(images.sizes[image][:, ::-1], 2).astype(np.float64)
    if not check_frames(boxes, image, images, file, ctx):
        ctx.findings.raise_first()  # every box would be wrong
    flat = (boxes[:, 2:] <= boxes[:, :2]).any(1)
    outside = (boxes[:, 2:] <= 0).any(1) | (boxes[:, :2] >= limit[:, :2]).any(1) | (np.abs(boxes) > ABSURD).any(1)
    outside &= ~flat | (np.abs(boxes) > ABSURD).any(1)

    def describe(row: int) -> tuple[str, str, str]:
        width, height = limit[row, :2].astype(int)
        return place(row), f"outside image {width}×{height}", "remove the box"

    ctx.findings.rows("D28", file, np.flatnonzero(outside), describe)
    _report_flat(np.flatnonzero(flat & ~outside), place, file, ctx)
    clipped = boxes.clip(0, limit)
    moved = np.abs(clipped - boxes)
    moved[outside | flat] = 0
    moved[_refuse_far(moved, limit, place, file, ctx)] = 0
    moved = moved.max(1, initial=0)
    count = int((moved > ROUNDING).sum())
    if count:
        first = place(int((moved > ROUNDING).argmax()))
        problem = f"clipped {count} boxes to their images (max {moved.max():.1f} px), first {first}"
        ctx.findings.repaired("D27", file, ctx.section, problem, count=count)
        far = np.argsort(-moved, kind="stable")[: min(count, KEPT)].tolist()
        ctx.findings.clipped += [(images.paths[image[row]], tuple(boxes[row].tolist())) for row in far]
    narrow = clipped.astype(np.float32)
    return narrow, ~(flat | outside) & (narrow[:, 2:] > narrow[:, :2]).all(1)


def _refuse_far(
    moved: np.ndarray, limit: np.ndarray, place: Callable[[int], str], file: str, ctx: Context
) -> np.ndarray:
    """Return the rows that clipping would move by more than the rules allow, after recording an error for each.

    Args:
        moved: [A, 4] pixels.
        limit: [A, 4] width, height, width, height of its image.
        place: names box ``row`` in a message.
        file: where the boxes come from.
        ctx: rules and findings.
    """
    share = (moved / limit.clip(min=1)).max(1, initial=0)

    def describe(row: int) -> tuple[str, str, str]:
        width, height = limit[row, :2].astype(int)
        enough = math.ceil(10 * share.max()) / 10
        fix = f"mend box or size, or set data.max_clip={enough:g} if boxes do reach beyond their images"
        return place(row), f"leaves image {width}×{height} by {moved[row].max():.0f} px", fix

    far = np.flatnonzero(share > ctx.rules.max_clip)
    ctx.findings.rows("D27", file, far, describe)
    return far


def _report_flat(rows: np.ndarray, place: Callable[[int], str], file: str, ctx: Context) -> None:
    if not len(rows):
        return
    problem, first = f"{len(rows)} zero-area boxes", place(int(rows[0]))
    if ctx.rules.strict:
        ctx.findings.error(
            "D23", file, first, problem, "remove them, or set data.strict=false to drop them", count=len(rows)
        )
    else:
        ctx.findings.repaired("D23", file, first, f"dropped {problem}, first {first}", count=len(rows))


def check_counts(
    starts: np.ndarray, name: Callable[[int], str], file: str, ctx: Context, crowd: np.ndarray | None = None
) -> None:
    """Record an error for images with too many boxes, and for a labelled set that has no object at all.

    Args:
        starts: [N + 1], as in ``Labeled``.
        name: names image ``row`` in a message.
        file: where the boxes come from.
        ctx: rules and findings.
        crowd: [A] bool, which boxes are regions to ignore; None = none.
    """
    counts = np.diff(starts)
    most = ctx.rules.max_boxes_per_image

    def describe(row: int) -> tuple[str, str, str]:
        problem = f"{counts[row]:,} boxes > max_boxes_per_image {most}"
        return name(row), problem, f"set data.max_boxes_per_image={counts.max()}, or fix the file"

    ctx.findings.rows("D42", file, np.flatnonzero(counts > most), describe)
    if not ctx.rules.needs_objects:
        return
    if not counts.sum() and not ctx.findings.errors():  # errors may be why there is none
        problem = "no boxes at all; is this an unlabelled set?"
        ctx.findings.error("D35", file, ctx.section, problem, "give it as data.unlabeled")
    elif crowd is not None and len(crowd) and crowd.all():
        use = "measure on" if ctx.section == "data.val" else "learn from"
        problem = f"no object to {use}: all {len(crowd)} boxes are crowds, regions that are ignored"
        ctx.findings.error("D35", file, ctx.section, problem, 'write "iscrowd": 0 for what is an object')


def report_twins(
    image: np.ndarray, label: np.ndarray, boxes: np.ndarray, place: Callable[[int], str], file: str, ctx: Context
) -> None:
    """Record boxes that are there more than once: in one image, of one class, with the same corners.

    Args:
        image: [A] the image of each box.
        label: [A] its class.
        boxes: [A, 4] float32.
        place: names box ``row`` in a message.
        file: where they come from.
        ctx: section and findings; where there are errors, they are mended first.
    """
    if ctx.findings.errors():
        return
    corners = np.ascontiguousarray(boxes, dtype=np.float32).view(np.uint64).reshape(-1, 2)
    owner = image.astype(np.uint64) * np.uint64(1 << 20) + label.astype(np.uint64)
    mixed = (owner * _ODD[0]) ^ (corners[:, 0] * _ODD[1]) ^ (corners[:, 1] * _ODD[2])  # equal rows are equal, at least
    _, which, counts = np.unique(mixed, return_inverse=True, return_counts=True)
    seen: set[tuple[float, ...]] = set()
    twins = []
    for row in np.flatnonzero(counts[which] > 1).tolist():
        exact = (int(image[row]), int(label[row]), *boxes[row].tolist())
        if exact in seen:
            twins.append(row)
        seen.add(exact)
    report_left_out("L12", [place(row) for row in twins[:1]], file, ctx, count=len(twins))


def check_classes(
    strange: Sequence[tuple[str, str]], describe: Callable[[str], tuple[str, str]], file: str, id: str, ctx: Context
) -> None:
    """Record one error for each unknown class, however many boxes it has.

    Args:
        strange: (class, annotation file) of every box whose class is unknown.
        describe: gives problem and fix of a class.
        file: for messages.
        id: the row of the table of bad inputs.
        ctx: section and findings.
    """
    files: dict[str, list[str]] = {}
    for name, place in strange:
        files.setdefault(name, []).append(place)
    for name, places in files.items():
        problem, fix = describe(name)
        problem += f": {len(places)} boxes in {len(set(places))} files, first {places[0]}"
        ctx.findings.error(id, file, ctx.section, problem, fix, count=len(places))

"""Boxes that someone stored for images without labels: a detector's results, or an annotation file.

Results are COCO's list, ``[{image_id, category_id, bbox, score}, ...]``. Their ``image_id`` is the image's id in the
unlabelled set, its file name, or that without its ending; classes go by the ids of the run's. An annotation file is
COCO's object. There images go by ``file_name``, for whoever writes such a file numbers them anew, and classes by name.

An image that an annotation file lists has an entry, with boxes or without. A list of results has an entry for those
images that it has a box of: it cannot say that there is nothing in one.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ssod.data.formats.boxrules import ABSURD
from ssod.data.formats.classlists import differences, read_categories
from ssod.data.formats.coco import look_up, read_table
from ssod.data.formats.columns import Rows
from ssod.data.formats.findings import Context, Findings, short
from ssod.data.formats.jsonfile import kind, read_any_json
from ssod.data.formats.leftout import report_left_out
from ssod.data.formats.paths import plain_name, refuse_unsafe, same_text
from ssod.data.formats.readings import check_format
from ssod.data.formats.records import Classes, Images

UNKNOWN, AMBIGUOUS = -1, -2  # places of an image that is not in the set, and of a name that several have
_ANY_SIZE = 1 << 30
ENOUGH = 4  # boxes that say something about how they are written: a detector may find a few that are large


@dataclass(frozen=True)
class Stored:
    """The boxes of one file for I images; image ``i`` owns rows ``starts[i]:starts[i + 1]``, the best first.

    Attributes:
        file: where they come from.
        ids: I ids of the images with an entry, as the unlabelled set has them.
        boxes: [A, 4] float32 ``x1, y1, x2, y2`` in pixels of the upright image.
        labels: [A] int64 in ``0..K-1``.
        scores: [A] float32 in 0..1; 1 where the file has none.
        crowd: [A] bool, COCO's ``iscrowd`` (a region to ignore, not an object).
        starts: [I + 1] int64.
    """

    file: str
    ids: list[int | str]
    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    crowd: np.ndarray
    starts: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def fingerprint(self) -> str:
        """Changes when an entry does, and not when the file moves."""
        digest = hashlib.blake2b("\n".join(map(repr, self.ids)).encode(), digest_size=16)
        for column in (self.boxes, self.labels, self.scores, self.crowd, self.starts):
            digest.update(np.ascontiguousarray(column).tobytes())
        return digest.hexdigest()


def read_stored(path: str, images: Images, classes: Classes, ctx: Context) -> Stored:
    """Read the boxes that a file has for ``images``; what it says about other images is left out.

    Args:
        path: relative to ``ctx.root``, or absolute.
        images: the unlabelled set.
        classes: the run's.
        ctx: root, section, rules and findings.

    Raises:
        SsodError: the first error found, code 3; all of them are in ``ctx.findings``.
    """
    file = ctx.path(path)
    data = read_any_json(file, ctx, ctx.section)
    if isinstance(data, list):
        rows = Rows("results", data, file, ctx.findings)
        image, entries = _of_results(rows, images, ctx)
        label = look_up(rows, "category_id", np.array(classes.ids, dtype=np.int64), "D19")
    elif isinstance(data, dict):
        rows = read_table(data, "annotations", file, ctx)
        names, ids = _classes(data, classes, file, ctx)
        image, entries = _of_annotations(data, rows, images, file, ctx)
        label = look_up(rows, "category_id", np.array(ids, dtype=np.int64), "D19")
        own = {name: i for i, name in enumerate(classes.names)}
        label = np.array([own[name] for name in names], dtype=np.int64)[label]
    else:
        problem = f"top level is {kind(data)}, expected COCO results or a COCO file"
        raise ctx.findings.fatal("D06", file, ctx.section, problem, "give one of these")
    boxes, scores, crowd = _boxes(rows, image, images, ctx), _scores(rows), rows.flags("iscrowd")
    ctx.findings.raise_first()
    outside = np.flatnonzero(image < 0)
    report_left_out("L09", [rows.place(int(row), "bbox") for row in outside[:1]], file, ctx, count=len(outside))
    stored = _by_image(file, images, entries, (image, boxes, label, scores, crowd))
    _check_counts(stored, ctx)
    return stored


def places(images: Images) -> dict[Hashable, int]:
    """Return the place of each image by its id, its path, its name, and both without ending, in this order.

    Names are in the form of ``_key``. What several images are called is ``AMBIGUOUS``.
    """
    names = [os.path.basename(path) for path in images.paths]
    kinds: list[Iterable[Hashable]] = [images.ids, images.paths, names]
    kinds += [[os.path.splitext(name)[0] for name in of] for of in (images.paths, names)]
    found: dict[Hashable, int] = {}
    for called in kinds:
        mine: dict[Hashable, int] = {}
        for place, name in enumerate(map(_key, called)):
            mine[name] = place if mine.get(name, place) == place else AMBIGUOUS
        found = mine | found
    return found


def _key(name: Hashable) -> Hashable:
    """Return a name in the one form in which names are compared: no ``./``, one Unicode form."""
    return same_text(plain_name(name)) if isinstance(name, str) else name


# ---- which image -------------------------------------------------------------------------------------------------


def _of_results(rows: Rows, images: Images, ctx: Context) -> tuple[np.ndarray, np.ndarray]:
    """Return the place of each row's image [rows], and of every image with an entry."""
    values = rows.values("image_id")
    for i, value in enumerate(values):
        if type(value) not in (int, str):
            problem = "missing" if value is None else f"{kind(value)} {short(value)}, expected an id or a file name"
            rows.error("D18", i, "image_id", problem, "write that of the unlabelled image")
    ctx.findings.raise_first()
    image = _located(rows, "image_id", values, images, ctx)
    return image, np.unique(image[image >= 0])


def _of_annotations(
    data: dict[str, Any], rows: Rows, images: Images, file: str, ctx: Context
) -> tuple[np.ndarray, np.ndarray]:
    """Return the place of each row's image [rows], and of every image with an entry."""
    table = read_table(data, "images", file, ctx)
    ids, names = table.integers("id"), table.strings("file_name", "D43")
    ctx.findings.raise_first()
    refuse_unsafe(names, images.root, file, "images[{}].file_name", ctx)
    place = _located(table, "file_name", names, images, ctx)
    _refuse_twice("D14", table, "id", ids.tolist(), ids)
    _refuse_twice("D36", table, "file_name", names, place)
    owner = look_up(rows, "image_id", ids, "D20")
    ctx.findings.raise_first()
    return place[owner], np.unique(place[place >= 0])


def _located(rows: Rows, key: str, values: list[Any], images: Images, ctx: Context) -> np.ndarray:
    """Return the place of each row's image; record an error where that is not one image, or none of all."""
    known = places(images)
    place = np.array([known.get(_key(value), UNKNOWN) for value in values], dtype=np.int64)

    def describe(row: int) -> tuple[str, str, str]:
        return rows.place(row, key), f"{short(values[row])} is the name of several images", "write their paths"

    ctx.findings.rows("D36", rows.file, np.flatnonzero(place == AMBIGUOUS), describe)
    if len(images) and not (place >= 0).any():
        problem = f"none of the {len(images)} unlabelled images is in it; "
        problem += f"it begins with {short(values[0])}, they with " if values else "it is empty, they begin with "
        problem += f"{short(images.ids[0])}, {short(images.paths[0])}"
        ctx.findings.error("D20", rows.file, f"{rows.name}[].{key}", problem, "give the file of these images")
    ctx.findings.raise_first()
    return place


def _refuse_twice(id: str, table: Rows, key: str, values: list[Any], place: np.ndarray) -> None:
    """Record an error for each row about an image that an earlier row is about; those of other images may repeat."""
    first: dict[int, int] = {}
    for row, at in enumerate(place.tolist()):
        earlier = first.setdefault(at, row)
        if earlier != row and (at >= 0 or key == "id"):
            table.error(id, row, key, f"{short(values[row])} is in images[{earlier}], too", "keep one entry an image")


# ---- what is in it -----------------------------------------------------------------------------------------------


def _classes(data: dict[str, Any], classes: Classes, file: str, ctx: Context) -> tuple[list[str], list[int]]:
    """Return names and ids of the file's classes, which must be the run's."""
    known = read_categories(read_table(data, "categories", file, ctx), ctx)
    ctx.findings.raise_first()
    problem = differences("file", known[0], "the run", classes.names)
    if problem:
        raise ctx.findings.fatal("D40", file, "categories", problem, "make the class lists equal")
    return known


def _boxes(rows: Rows, image: np.ndarray, images: Images, ctx: Context) -> np.ndarray:
    """Return float32 [rows, 4] corners; record an error for every box that is none."""
    raw = rows.boxes()
    sound = np.isfinite(raw).all(1)
    flat = sound & (raw[:, 2:] <= 0).any(1)

    def describe(row: int) -> tuple[str, str, str]:
        width, height = raw[row, 2:]
        return rows.place(row, "bbox"), f"no area: width {width:g}, height {height:g}", "write [x, y, width, height]"

    def absurd(row: int) -> tuple[str, str, str]:
        return rows.place(row, "bbox"), f"{short(np.abs(raw[row]).max().item())} is in no image", "mend or drop the box"

    ctx.findings.rows("D23", rows.file, np.flatnonzero(flat), describe)
    ctx.findings.rows("D28", rows.file, np.flatnonzero(sound & (np.abs(raw) > ABSURD).any(1)), absurd)
    of = np.flatnonzero(sound & (image >= 0))
    sizes = np.full((len(images), 2), _ANY_SIZE) if images.sizes is None else images.sizes
    seen = Context(ctx.root, ctx.section, ctx.rules, Findings())
    if not check_format(raw[of], None if len(of) >= ENOUGH else "xywh", image[of], sizes, rows.file, seen):
        problem = seen.findings.errors()[0].problem
        fix = "write [x, y, width, height] in pixels of the unlabelled image"
        ctx.findings.error("D25", rows.file, f"{rows.name}[].bbox", problem, fix)
    ctx.findings.raise_first()  # what follows would overflow
    return np.concatenate([raw[:, :2], raw[:, :2] + raw[:, 2:]], 1).astype(np.float32)


def _scores(rows: Rows) -> np.ndarray:
    """Return float32 [rows], 1 where there is no score; record an error for every one outside 0..1."""
    values = rows.values("score", 1.0)
    for i, value in enumerate(values):
        if type(value) not in (int, float):
            rows.error("D18", i, "score", f"{kind(value)} {short(value)}, expected a number", "write 0..1")
        elif math.isnan(value) or not 0 <= value <= 1:
            rows.error("D18", i, "score", f"{short(value)} is outside 0..1", "write a probability, or leave it out")
        else:
            continue
        values[i] = 0.0
    return np.array(values, dtype=np.float32)


def _by_image(file: str, images: Images, entries: np.ndarray, columns: tuple[np.ndarray, ...]) -> Stored:
    """Put the rows of images with an entry in the order of the images, the best first."""
    image, _, _, scores, _ = columns
    order = np.lexsort((-scores, image))
    order = order[image[order] >= 0]
    image, boxes, labels, scores, crowd = (column[order] for column in columns)
    counts = np.bincount(image, minlength=len(images))[entries]
    starts = np.concatenate([[0], counts.cumsum()]).astype(np.int64)
    return Stored(file, [images.ids[i] for i in entries.tolist()], boxes, labels, scores, crowd, starts)


def _check_counts(stored: Stored, ctx: Context) -> None:
    """Refuse a file without a box of the unlabelled images, and an image with too many."""
    if not len(stored.boxes):
        raise ctx.findings.fatal("D35", stored.file, ctx.section, "no box of an unlabelled image", "give another file")
    counts, most = np.diff(stored.starts), ctx.rules.max_boxes_per_image

    def describe(row: int) -> tuple[str, str, str]:
        problem = f"{counts[row]:,} boxes of {short(stored.ids[row])} > max_boxes_per_image {most}"
        return ctx.section, problem, f"set data.max_boxes_per_image={counts.max()}, or keep the best"

    ctx.findings.rows("D42", stored.file, np.flatnonzero(counts > most), describe)
    ctx.findings.raise_first()

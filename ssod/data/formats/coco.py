"""COCO JSON: read into columns with every check, and written back.

Category ids become contiguous labels in ascending order of id; the file's ids stay in ``Classes.ids``. 118 287 images
with 860 001 boxes are read and checked in a few seconds, because nothing here loops over objects in Python but the
parser's own callback.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ssod.data.formats.areas import areas
from ssod.data.formats.boxrules import check_counts, report_twins, settle
from ssod.data.formats.classlists import in_order, read_categories, used_ids
from ssod.data.formats.cocoimages import Names, read_image_table
from ssod.data.formats.columns import Rows
from ssod.data.formats.federated import read_federated
from ssod.data.formats.findings import Context
from ssod.data.formats.frames import stored_sizes
from ssod.data.formats.header import fill_sizes
from ssod.data.formats.hulls import fill_boxes
from ssod.data.formats.incomplete import either, read_incomplete
from ssod.data.formats.jsonfile import kind, read_json
from ssod.data.formats.marked import Which, keep_labeled, keep_marked
from ssod.data.formats.misspelt import warn_of_misspelt
from ssod.data.formats.readings import check_format, corners, in_pixels
from ssod.data.formats.records import Classes, Images, Labeled

AT_ONCE = 1024  # boxes that are made rows together


def read_coco(
    ann: str,
    images: str,
    ctx: Context,
    *,
    box_format: str | None = None,
    classes: Sequence[str] | None = None,
    names: Names = "path",
    which: Which | None = None,
) -> Labeled:
    """Read annotated images.

    Args:
        ann: annotation file, relative to the data root or absolute.
        images: folder of the images, likewise.
        ctx: root, rules and findings.
        box_format: ``xywh``, ``xyxy`` or ``cxcywh`` in pixels, with ``_norm`` in shares of the image; None = ``xywh``,
            unless the boxes speak against it.
        classes: the names in the order that labels are to have; None = ascending category id.
        names: what of a ``file_name`` counts, as of ``read_image_table``.
        which: which of the images, as of ``keep_labeled``.

    Raises:
        SsodError: the first error found; all of them are in ``ctx.findings``.
    """
    file = ctx.path(ann)
    data = read_json(file, ctx, f"{ctx.section}.ann")
    tables = {name: read_table(data, name, file, ctx) for name in ("images", "categories", "annotations")}
    for table in tables.values():
        warn_of_misspelt(table, ctx)
    used = used_ids(tables["annotations"])
    known = read_categories(tables["categories"], ctx, used)
    found = read_image_table(tables["images"], ctx.path(images), ctx, needed=True, names=names)
    ctx.findings.raise_first()  # what follows refers to ids
    order = in_order(known, classes, file, ctx, used)
    unknown = range(len(found)) if found.sizes is None else np.flatnonzero(~found.sizes.all(1)).tolist()
    found = fill_sizes(found, unknown, file, ctx)
    ctx.findings.raise_first()
    if ctx.rules.exif == "ignore":
        found = stored_sizes(found, file, ctx)
    data = _annotations(tables["annotations"], found, Classes(*order), box_format, ctx)
    said = read_incomplete(tables["images"], known[0], data.classes)
    data = replace(data, incomplete=either(said, read_federated(tables["images"], set(known[1]), data)))
    return keep_labeled(data, None, which, file, ctx)


def read_coco_images(
    ann: str, images: str, ctx: Context, *, names: Names = "path", which: Which | None = None
) -> Images:
    """Read the images of a COCO JSON and nothing else: no box and no category leaves this function.

    Args:
        ann, images, ctx, names: as of ``read_coco``.
        which: which of the images, as of ``keep_marked``; for it, images are told by the ``image_id`` of annotations.
    """
    file = ctx.path(ann)
    data = read_json(file, ctx, f"{ctx.section}.ann")
    table = read_table(data, "images", file, ctx)
    warn_of_misspelt(table, ctx)
    found = read_image_table(table, ctx.path(images), ctx, needed=False, names=names)
    ctx.findings.raise_first()
    if which in ("labeled", "bare"):
        seen = set(map(str, read_table(data, "annotations", file, ctx).values("image_id")))
        found = keep_marked(found, None, [str(id) in seen for id in found.ids], which, file, ctx)
    return found if found.sizes is None or found.sizes.all() else replace(found, sizes=None)


def read_table(data: dict[str, Any], name: str, file: str, ctx: Context) -> Rows:
    """Return one of the file's lists; an empty one without which the others say nothing is refused."""
    if name not in data:
        fix = "labelled sets need it" if name != "images" else "every set needs it"
        raise ctx.findings.fatal("D07", file, name, f"key '{name}' missing", fix)
    if not isinstance(data[name], list):
        raise ctx.findings.fatal("D07", file, name, f"{kind(data[name])}, expected a list", "give a COCO file")
    if not data[name] and name == "images":
        raise ctx.findings.fatal("D08", file, name, "0 images", "check the file and any filter that made it")
    if not data[name] and name == "categories":
        raise ctx.findings.fatal("D09", file, name, "0 categories", "add at least one")
    return Rows(name, data[name], file, ctx.findings)


def _annotations(table: Rows, images: Images, classes: Classes, box_format: str | None, ctx: Context) -> Labeled:
    file, findings = table.file, ctx.findings
    _check_ids(table)
    image = look_up(table, "image_id", np.array(images.ids, dtype=np.int64), "D20")
    label = look_up(table, "category_id", np.array(classes.ids, dtype=np.int64), "D19")
    fill_boxes(table, box_format, ctx)
    raw = table.boxes()
    crowd = table.flags("iscrowd")
    sound = np.isfinite(raw).all(1) & (image >= 0) & (label >= 0)
    rows = np.flatnonzero(sound)
    raw, image, label, crowd = (column[rows] for column in (raw, image, label, crowd))
    boxes = _corners(raw, box_format, image, images.sizes, file, ctx)
    positive = _positive(boxes, rows, box_format, table, ctx.section)
    rows, boxes, image, label, crowd = (column[positive] for column in (rows, boxes, image, label, crowd))
    whole = boxes
    boxes, keep = settle(boxes, image, images, lambda i: table.place(int(rows[i]), "bbox"), file, ctx)
    keep = np.flatnonzero(keep)
    keep = keep[np.argsort(image[keep], kind="stable")]
    area = areas(table, rows[keep], whole[keep], boxes[keep], ctx)
    starts = np.concatenate([[0], np.bincount(image[keep], minlength=len(images)).cumsum()]).astype(np.int64)
    check_counts(starts, lambda i: f"images[{i}]", file, ctx, crowd[keep])
    report_twins(image[keep], label[keep], boxes[keep], lambda i: table.place(int(rows[keep[i]]), "bbox"), file, ctx)
    _report_crowd_only(crowd[keep], image[keep], len(images), file, ctx)
    findings.raise_first()
    return Labeled(
        images=images,
        classes=classes,
        boxes=boxes[keep],
        labels=label[keep],
        crowd=crowd[keep],
        difficult=np.zeros(len(keep), dtype=bool),
        starts=starts,
        area=area,
    )


def _check_ids(table: Rows) -> None:
    if not any("id" in row for row in table.rows):
        return
    ids = table.integers("id")
    if ids is None:
        return
    values, counts = np.unique(ids, return_counts=True)
    if (counts > 1).any():
        problem = f"{int((counts > 1).sum())} ids repeated, first {values[counts > 1][0]}"
        table.findings.error("D15", table.file, "annotations", problem, "renumber them")


def look_up(table: Rows, key: str, known: np.ndarray, id: str) -> np.ndarray:
    """Return [rows] the place of each row's ``key`` in ``known``; -1 where it is absent, which is recorded."""
    wanted = table.integers(key)
    if wanted is None:
        return np.full(len(table), -1)
    order = np.argsort(known, kind="stable")
    at = np.searchsorted(known[order], wanted).clip(max=len(known) - 1)
    position = order[at]
    lost = np.flatnonzero(known[position] != wanted)
    if len(lost):
        first = int(lost[0])
        what = "has no image" if key == "image_id" else f"not in categories {{{known.min()}..{known.max()}}}"
        problem = f"{wanted[first]} {what}; {len(lost)} such rows"
        table.findings.error(
            id, table.file, table.place(first, key), problem, "remove them or fix the id", count=len(lost)
        )
        position = np.where(known[position] == wanted, position, -1)
    return position


def _corners(
    raw: np.ndarray, box_format: str | None, image: np.ndarray, sizes: np.ndarray, file: str, ctx: Context
) -> np.ndarray:
    """Return float64 [A, 4] ``x1, y1, x2, y2`` in pixels."""
    if not check_format(raw, box_format, image, sizes, file, ctx):
        ctx.findings.raise_first()  # every single box would be wrong
    read_as = box_format or "xywh"
    return corners(in_pixels(raw, read_as, image, sizes), read_as.removesuffix("_norm"))


def _positive(boxes: np.ndarray, rows: np.ndarray, box_format: str | None, table: Rows, section: str) -> np.ndarray:
    """Return [A] bool; a box with a negative side is an error."""
    negative = (boxes[:, 2:] < boxes[:, :2]).any(1)
    plain = (box_format or "xywh").removesuffix("_norm")
    other, name = ("[x,y,w,h]", "xywh") if plain == "xyxy" else ("[x1,y1,x2,y2]", "xyxy")
    name += (box_format or "")[len(plain) :]

    def describe(i: int) -> tuple[str, str, str]:
        width, height = boxes[i, 2:] - boxes[i, :2]
        side = f"width {width:g}" if width < 0 else f"height {height:g}"
        problem = f"{side}; is this {other}? set {section}.box_format={name}"
        return table.place(int(rows[i]), "bbox"), problem, "or remove the box"

    table.findings.rows("D24", table.file, np.flatnonzero(negative), describe)
    return ~negative


def _report_crowd_only(crowd: np.ndarray, image: np.ndarray, images: int, file: str, ctx: Context) -> None:
    total = np.bincount(image, minlength=images)
    only = int(((total > 0) & (np.bincount(image[crowd], minlength=images) == total)).sum())
    if only:
        problem = f"{only} images have crowd boxes only: ignore regions, images kept"
        ctx.findings.repaired("D31", file, ctx.section, problem, count=only)


def to_coco(data: Labeled) -> dict[str, Any]:
    """Return the data as a COCO object with the file's image and category ids, for pycocotools or a file.

    Annotation ids count from 1: pycocotools takes an id of 0 for "not matched". ``area`` is the file's if it had one.
    An image whose labels are incomplete has a key ``incomplete``. A ``difficult`` key is there only if some box is; to
    leave such boxes out of AP, as VOC does, set their ``iscrowd``.
    """
    return {key: list(rows) for key, rows in coco_rows(data).items()}


def coco_rows(data: Labeled) -> dict[str, Iterator[dict[str, Any]]]:
    """Return what ``to_coco`` does, row by row: of many images nobody may want all in memory."""
    categories = ({"id": id, "name": name} for id, name in zip(data.classes.ids, data.classes.names))
    return {"images": _image_rows(data), "annotations": _annotation_rows(data), "categories": categories}


def _image_rows(data: Labeled) -> Iterator[dict[str, Any]]:
    images, names = data.images, data.classes.names
    for i, (id, name) in enumerate(zip(images.ids, images.paths)):
        row: dict[str, Any] = {"id": id, "file_name": name}
        if images.sizes is not None:
            row["height"], row["width"] = images.sizes[i].tolist()
        if data.incomplete is not None and data.incomplete[i].any():
            open = data.incomplete[i]
            row["incomplete"] = True if open.all() else [names[k] for k in np.flatnonzero(open)]
        yield row


def _annotation_rows(data: Labeled) -> Iterator[dict[str, Any]]:
    difficult = bool(data.difficult.any())
    for first in range(0, len(data.labels), AT_ONCE):
        part = slice(first, first + AT_ONCE)
        boxes = data.boxes[part].astype(np.float64)
        boxes[:, 2:] -= boxes[:, :2]
        numbers = np.arange(first, first + len(boxes))
        owner = np.searchsorted(data.starts, numbers, side="right") - 1
        area = boxes[:, 2:].prod(1) if data.area is None else data.area[part]
        columns = (owner, data.labels[part], boxes, area, data.crowd[part], data.difficult[part], numbers + 1)
        for image, label, box, size, crowd, hard, number in zip(*(column.tolist() for column in columns)):
            known = {"id": number, "image_id": data.images.ids[image], "category_id": data.classes.ids[label]}
            yield (
                known
                | {"bbox": box, "area": size, "iscrowd": int(crowd)}
                | ({"difficult": int(hard)} if difficult else {})
            )

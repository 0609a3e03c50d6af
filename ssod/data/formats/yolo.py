"""YOLO sets: data.yaml says which images a part has (``yoloparts``), and each image has a text file (``yololabels``).

A line is ``class cx cy width height`` in shares of the image, or ``class x y x y x y ...``, a polygon, of which the box
around it is taken. The sizes of all annotated images are read from their headers. An empty text file says that there
is no object; an image without one is unlabelled (``marked``).
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from ssod.data.formats.boxrules import check_classes, check_counts, report_twins, settle
from ssod.data.formats.classlists import in_order
from ssod.data.formats.findings import Context, short
from ssod.data.formats.header import fill_sizes
from ssod.data.formats.hulls import around_points
from ssod.data.formats.jsonfile import read_text
from ssod.data.formats.marked import Which, keep_labeled, keep_marked
from ssod.data.formats.paths import safe_join
from ssod.data.formats.records import Classes, Images, Labeled
from ssod.data.formats.yolofile import check_nc, class_names, read_data_yaml
from ssod.data.formats.yololabels import Labels, find_labels
from ssod.data.formats.yoloparts import find_part
from ssod.utils.errors import SsodError

# Shares may leave 0..1 by rounding; beyond this they are pixels.
SLACK = 0.01


def read_yolo(
    root: str, split: str, ctx: Context, *, classes: Sequence[str] | None = None, which: Which | None = None
) -> Labeled:
    """Read the annotated images of a split, sorted by path; those of a list in its order.

    Args:
        root: the folder of data.yaml or the file itself, relative to the data root or absolute.
        split: a part that data.yaml names (``train``, ``val``, ``test``), or a folder of that name.
        ctx: root, rules and findings.
        classes: the names in the order that labels are to have; None = that of data.yaml. Where data.yaml lists no
            names, they name its classes.
        which: which of the images, as of ``keep_labeled``.

    Returns:
        Labeled; ids are the images' paths without suffix, class ids the numbers in the text files.

    Raises:
        SsodError: the first error found; all of them are in ``ctx.findings``.
    """
    data = read_data_yaml(ctx.path(root), ctx, needed=classes is None)
    declared = class_names(data, ctx, needed=classes is None)
    names = list(classes) if declared is None else declared
    check_nc(data, names, ctx)
    part = find_part(data, split, ctx)
    images = part.images
    _refuse_twins(images, ctx)
    labels = find_labels(part, ctx)
    images = fill_sizes(images, range(len(images)), data.file, ctx, id=None)
    ctx.findings.raise_first()
    rows: list[list[float]] = []
    places: list[tuple[str, int]] = []
    strange: list[tuple[str, str]] = []
    for i, name in enumerate(labels.names):
        for number, row in _boxes(labels.root, name, len(names), strange, ctx) if name is not None else ():
            rows.append([i, *row])
            places.append((name, number))
    known = names, list(range(len(names)))
    order = Classes(*in_order(known, classes, data.file, ctx, {int(row[1]) for row in rows}))
    listed = "data.classes" if declared is None else os.path.basename(data.file)
    problem, fix = f"is not in 0..{len(names) - 1}", f"add its name to {listed}, or mend the lines"
    check_classes(strange, lambda label: (f"class {short(label, 30)} {problem}", fix), labels.root, "D19", ctx)
    ctx.findings.raise_first()
    found = _labeled(images, order, rows, places, labels.root, ctx)
    return keep_labeled(found, [name is not None for name in labels.names], which, labels.root, ctx)


def read_yolo_images(root: str, split: str, ctx: Context, *, which: Which | None = None) -> Images:
    """Read the images of a split and nothing else: no label file is opened, but to see for ``which`` that it is empty.

    Args:
        root, split, ctx: as of ``read_yolo``.
        which: which of the images, as of ``keep_marked``.
    """
    part = find_part(read_data_yaml(ctx.path(root), ctx, needed=False), split, ctx)
    if which not in ("labeled", "bare"):
        return part.images
    labels = find_labels(part, ctx)
    boxes = [name is not None and _says_something(labels, name, ctx) for name in labels.names]
    return keep_marked(part.images, [name is not None for name in labels.names], boxes, which, labels.root, ctx)


def _says_something(labels: Labels, name: str, ctx: Context) -> bool:
    path = safe_join(labels.root, name, allow_symlinks=ctx.rules.allow_symlinks)
    return os.path.getsize(path) > 0 and bool(read_text(path, ctx, "labels").strip())


def _refuse_twins(images: Images, ctx: Context) -> None:
    """Refuse images such as ``a.jpg`` and ``a.png``: they would share a text file and an id."""
    first: dict[str, str] = {}
    twins = [(first[id], path) for id, path in zip(images.ids, images.paths) if first.setdefault(id, path) != path]
    if twins:
        a, b = map(short, twins[0])
        problem = f"{a} and {b} share one label file; {len(twins)} such images"
        ctx.findings.error("D14", images.root, f"{ctx.section}.split", problem, "rename one", count=len(twins))


def _boxes(
    labels: str, name: str, num_classes: int, strange: list[tuple[str, str]], ctx: Context
) -> list[tuple[int, list[float]]]:
    """Return (line number, [class, cx, cy, w, h]) of every box of a file; those of unknown classes go to ``strange``.

    What goes there is the class as it is written, and the name of the text file.
    """
    try:
        path = safe_join(labels, name, allow_symlinks=ctx.rules.allow_symlinks)
    except SsodError as error:
        ctx.findings.error("S03", labels, name, error.problem, error.fix, code=error.code)
        return []
    if os.path.getsize(path) == 0:
        return []
    found = []
    for number, line in enumerate(read_text(path, ctx, "labels").split("\n"), start=1):
        if line.strip():
            problem = _line_problem(line.split())
            if problem is None and float(line.split()[0]) not in range(num_classes):
                strange.append((line.split()[0], name))
            elif problem is None:
                found.append((number, _row(line.split())))
            else:
                id, text, fix = problem
                ctx.findings.error(id, path, f"line {number}", text, fix)
    return found


def _row(values: list[str]) -> list[float]:
    """Return class, cx, cy, width, height of a sound line."""
    label, *numbers = map(float, values)
    corners = around_points(numbers) if len(numbers) > 4 else None
    if corners is None:
        return [label, *numbers]
    x1, y1, x2, y2 = corners
    return [label, (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1]


def _line_problem(values: list[str]) -> tuple[str, str, str] | None:
    polygon = len(values) >= 7 and len(values) % 2 == 1
    if len(values) != 5 and not polygon:
        problem = f"{len(values)} values, expected 5: class cx cy width height (or a polygon: class x y x y x y ...)"
        return "D22", problem, "mend or drop the line"
    try:
        _, *box = map(float, values)
    except ValueError:
        return "D22", f"{short(' '.join(values))}, expected 5 numbers", "mend or drop the line"
    if not all(-SLACK <= value <= 1 + SLACK for value in box):
        wrong = next(value for value in values[1:] if not -SLACK <= float(value) <= 1 + SLACK)
        id = "D12" if wrong.lower().lstrip("+-") in ("nan", "inf", "infinity") else "D26"
        return id, f"{short(wrong, 30)} is not in 0..1; are these pixels?", "divide by the image's width and height"
    if not polygon and (box[2] < 0 or box[3] < 0):
        return "D24", f"size {box[2]:g} {box[3]:g} is negative", "mend or drop the line"
    return None


def _labeled(
    images: Images, classes: Classes, rows: list[list[float]], places: list[tuple[str, int]], labels: str, ctx: Context
) -> Labeled:
    table = np.array(rows, dtype=np.float64).reshape(-1, 6)
    image, label = table[:, 0].astype(np.int64), table[:, 1].astype(np.int64)
    centers, sides = table[:, 2:4], table[:, 4:6]
    size = np.tile(images.sizes[image][:, ::-1], 2)
    boxes = np.concatenate([centers - sides / 2, centers + sides / 2], axis=1) * size

    def place(i: int) -> str:
        return "{} line {}".format(*places[i])

    boxes, keep = settle(boxes, image, images, place, labels, ctx)
    starts = np.concatenate([[0], np.bincount(image[keep], minlength=len(images)).cumsum()]).astype(np.int64)
    check_counts(starts, lambda i: images.paths[i], labels, ctx)
    kept = np.flatnonzero(keep)
    report_twins(image[keep], label[keep], boxes[keep], lambda i: place(int(kept[i])), labels, ctx)
    ctx.findings.raise_first()
    none = np.zeros(int(keep.sum()), dtype=bool)
    in_place = np.full(max(classes.ids) + 1, -1)  # the file's numbers -> labels
    in_place[list(classes.ids)] = np.arange(len(classes))
    return Labeled(images, classes, boxes[keep], in_place[label[keep]], none, none, starts)

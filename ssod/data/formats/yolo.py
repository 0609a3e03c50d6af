"""YOLO folders: ``images/<split>`` and ``labels/<split>`` (or ``<split>/images``), one text file per image, data.yaml.

A line is ``class cx cy width height`` in shares of the image, so the sizes of all annotated images are read from their
headers. An image without a text file, or with an empty one, has no boxes.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import yaml

from ssod.data.formats.boxrules import check_classes, check_counts, settle
from ssod.data.formats.coco import in_order
from ssod.data.formats.findings import Context, short
from ssod.data.formats.folder import image_names
from ssod.data.formats.header import fill_sizes
from ssod.data.formats.jsonfile import kind, nearest, read_text
from ssod.data.formats.paths import refuse_unsafe, safe_join
from ssod.data.formats.records import Classes, Images, Labeled
from ssod.utils.errors import Exit, SsodError

# Shares may leave 0..1 by rounding; beyond this they are pixels.
SLACK = 0.01


def read_yolo(root: str, split: str, ctx: Context, *, classes: Sequence[str] | None = None) -> Labeled:
    """Read the annotated images of a split, sorted by path.

    Args:
        root: the folder, relative to the data root or absolute.
        split: ``train``, ``val`` or ``test``.
        ctx: root, rules and findings.
        classes: the names in the order that labels are to have; None = that of data.yaml. Where data.yaml lists no
            names, they name its classes.

    Returns:
        Labeled; ids are the images' paths without suffix, class ids the numbers in the text files.

    Raises:
        SsodError: the first error found; all of them are in ``ctx.findings``.
    """
    base = ctx.path(root)
    declared = _class_names(base, ctx, needed=classes is None)
    names = list(classes) if declared is None else declared
    order = Classes(*in_order((names, list(range(len(names)))), classes, os.path.join(base, "data.yaml"), ctx))
    images, labels = _find(base, split, ctx)
    _refuse_twins(images, ctx)
    images = fill_sizes(images, range(len(images)), base, ctx, id=None)
    ctx.findings.raise_first()
    rows: list[list[float]] = []
    places: list[tuple[str, int]] = []
    strange: list[tuple[str, str]] = []
    for i, path in enumerate(images.paths):
        for number, row in _boxes(labels, path, len(names), strange, ctx):
            rows.append([i, *row])
            places.append((f"{os.path.splitext(path)[0]}.txt", number))
    listed = "data.classes" if declared is None else "data.yaml"
    problem, fix = f"is not in 0..{len(names) - 1}", f"add its name to {listed}, or mend the lines"
    check_classes(strange, lambda label: (f"class {short(label, 30)} {problem}", fix), labels, "D19", ctx)
    ctx.findings.raise_first()
    return _labeled(images, order, rows, places, labels, ctx)


def read_yolo_images(root: str, split: str, ctx: Context) -> Images:
    """Read the images of a split and nothing else: no label file is opened."""
    return _find(ctx.path(root), split, ctx)[0]


def _class_names(base: str, ctx: Context, *, needed: bool) -> list[str] | None:
    """Return the names that data.yaml lists; None if it lists none and they are not ``needed``."""
    path = os.path.join(base, "data.yaml")
    if not needed and not os.path.lexists(path):
        return None
    field = f"{ctx.section}.root"
    try:
        data: Any = yaml.safe_load(read_text(path, ctx, field))
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        tag = isinstance(error, yaml.constructor.ConstructorError)
        problem = f"not plain YAML ({str(error).splitlines()[-1].strip()})"
        code = Exit.UNSAFE if tag else Exit.DATA
        raise ctx.findings.fatal("S10", path, field, problem, "only plain values are allowed", code=code) from None
    names = data.get("names") if isinstance(data, dict) else None
    if names is None and not needed:
        return None
    if isinstance(names, dict) and sorted(map(str, names)) == sorted(map(str, range(len(names)))):
        names = [value for _, value in sorted(names.items(), key=lambda item: int(item[0]))]
    if not isinstance(names, list) or not names:
        raise ctx.findings.fatal("D09", path, "names", "0 classes", "list the class names")
    for i, name in enumerate(names):
        if not isinstance(name, str):
            ctx.findings.error(
                "C03", path, f"names[{i}]", f"{kind(name)} {short(name)}, expected string", "put it in quotes"
            )
    ctx.findings.raise_first()
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ctx.findings.fatal("D16", path, "names", f"name {short(twice)} is listed twice", "merge them")
    return names


def _find(base: str, split: str, ctx: Context) -> tuple[Images, str]:
    """Return the images of a split and the folder of its label files."""
    field = f"{ctx.section}.root"
    if not os.path.isdir(base):
        raise ctx.findings.fatal("D01", base, field, f"not found{nearest(base)}", f"fix {field}")
    pairs = [(("images", split), ("labels", split)), ((split, "images"), (split, "labels"))]
    for images, labels in pairs:
        folder = os.path.join(base, *images)
        if os.path.isdir(folder):
            names = image_names(folder)
            refuse_unsafe(names, folder, folder, "name {}", ctx)
            if not names:
                raise ctx.findings.fatal("D08", folder, f"{ctx.section}.split", "0 images", "check the folder")
            ids = [os.path.splitext(name)[0] for name in names]
            ctx.findings.raise_first()
            return Images(folder, names, ids), os.path.join(base, *labels)
    problem = f"neither images/{split} nor {split}/images is there"
    raise ctx.findings.fatal("D01", base, f"{ctx.section}.split", problem, "fix the split or the folder")


def _refuse_twins(images: Images, ctx: Context) -> None:
    """Refuse images such as ``a.jpg`` and ``a.png``: they would share a text file and an id."""
    first: dict[str, str] = {}
    twins = [(first[id], path) for id, path in zip(images.ids, images.paths) if first.setdefault(id, path) != path]
    if twins:
        a, b = map(short, twins[0])
        problem = f"{a} and {b} share one label file; {len(twins)} such images"
        ctx.findings.error("D14", images.root, f"{ctx.section}.split", problem, "rename one", count=len(twins))


def _boxes(
    labels: str, image: str, num_classes: int, strange: list[tuple[str, str]], ctx: Context
) -> list[tuple[int, list[float]]]:
    """Return (line number, [class, cx, cy, w, h]) of every box of an image; boxes of unknown classes go to ``strange``.

    What goes there is the class as it is written, and the name of the text file.
    """
    name = f"{os.path.splitext(image)[0]}.txt"
    if not os.path.lexists(os.path.join(labels, name)):
        return []
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
                found.append((number, [float(value) for value in line.split()]))
            else:
                id, text, fix = problem
                ctx.findings.error(id, path, f"line {number}", text, fix)
    return found


def _line_problem(values: list[str]) -> tuple[str, str, str] | None:
    if len(values) != 5:
        return "D22", f"{len(values)} values, expected 5: class cx cy width height", "mend or drop the line"
    try:
        _, *box = map(float, values)
    except ValueError:
        return "D22", f"{short(' '.join(values))}, expected 5 numbers", "mend or drop the line"
    if not all(-SLACK <= value <= 1 + SLACK for value in box):
        wrong = next(value for value in values[1:] if not -SLACK <= float(value) <= 1 + SLACK)
        id = "D12" if wrong.lower().lstrip("+-") in ("nan", "inf", "infinity") else "D26"
        return id, f"{short(wrong, 30)} is not in 0..1; are these pixels?", "divide by the image's width and height"
    if box[2] < 0 or box[3] < 0:
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
    ctx.findings.raise_first()
    none = np.zeros(int(keep.sum()), dtype=bool)
    in_place = np.argsort(classes.ids)  # the file's numbers -> labels
    return Labeled(images, classes, boxes[keep], in_place[label[keep]], none, none, starts)

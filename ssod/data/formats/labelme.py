"""labelme's files: a JSON beside each image, with ``shapes`` of which the box around each is taken."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ssod.data.formats.findings import Context, short
from ssod.data.formats.header import fill_sizes
from ssod.data.formats.hulls import Corners, around_points
from ssod.data.formats.jsonfile import kind, nearest, read_any_json
from ssod.data.formats.leftout import report_left_out
from ssod.data.formats.listing import files_below, image_names
from ssod.data.formats.marked import Which, keep_labeled, keep_marked
from ssod.data.formats.named import Named, assemble
from ssod.data.formats.paths import name_problem, safe_join
from ssod.data.formats.records import Images, Labeled
from ssod.data.formats.vocnames import Folder

CORNERS = {"rectangle": 2, "polygon": 3, "mask": 2}  # shapes whose points span their box, and how many they need


@dataclass(frozen=True)
class _File:
    """A JSON, its image, both relative to the set's folder, and its shapes."""

    name: str
    image: str
    shapes: list[Any]


def read_labelme(
    root: str, ctx: Context, *, classes: Sequence[str] | None = None, which: Which | None = None
) -> Labeled:
    """Read the images of a folder that have a JSON, and those that have none behind them.

    Args:
        root: the folder, relative to the data root or absolute; it is searched recursively.
        ctx: root, rules and findings.
        classes: the class names in order; a shape of another class is an error. None = the names found, sorted.
        which: which of the images, as of ``keep_labeled``.

    Returns:
        Labeled; ids are the images' paths, class ids count from 0.

    Raises:
        SsodError: the first error found; all of them are in ``ctx.findings``.
    """
    base = ctx.path(root)
    files = _files(base, ctx)
    images = _images(base, files, ctx)
    images = fill_sizes(images, range(len(images)), base, ctx, id=None)
    ctx.findings.raise_first()
    boxes: list[Corners] = []
    names: list[str] = []
    image: list[int] = []
    places: list[tuple[str, str]] = []
    for row, file in enumerate(files):
        for i, shape in enumerate(file.shapes):
            box = _box(shape, os.path.join(base, file.name), f"shapes[{i}]", ctx)
            if box is not None:
                boxes.append(box)
                names.append(shape["label"])
                image.append(row)
                places.append((file.name, f"shapes[{i}]"))
    corners = np.array(boxes, dtype=np.float64).reshape(-1, 4)
    found = Named(names, np.array(image, dtype=np.int64), corners, places)
    data = assemble(images, found, classes, base, ctx)
    return keep_labeled(data, _marked(images, files), which, base, ctx)


def read_labelme_images(root: str, ctx: Context, *, which: Which | None = None) -> Images:
    """Read the images of a folder, and of its JSONs which image they are about and whether they have a shape."""
    base = ctx.path(root)
    files = _files(base, ctx)
    images = _images(base, files, ctx)
    boxes = [bool(file.shapes) for file in files] + [False] * (len(images) - len(files))
    return keep_marked(images, _marked(images, files), boxes, which, base, ctx)


def _marked(images: Images, files: list[_File]) -> list[bool]:
    return [row < len(files) for row in range(len(images))]


def _images(base: str, files: list[_File], ctx: Context) -> Images:
    """Return the images of the files, and behind them those of the folder that have none."""
    first: dict[str, str] = {}
    for file in files:
        other = first.setdefault(file.image, file.name)
        if other != file.name:
            problem = f"belongs to {short(file.image)}, as {short(other)} does"
            ctx.findings.error("D14", os.path.join(base, file.name), "imagePath", problem, "mend imagePath")
    ctx.findings.raise_first()
    paths = [file.image for file in files] + [name for name in image_names(base, ctx) if name not in first]
    return Images(base, paths, paths)


def _files(base: str, ctx: Context) -> list[_File]:
    place = f"{ctx.section}.root"
    if not os.path.isdir(base):
        raise ctx.findings.fatal("D01", base, place, f"not found{nearest(base)}", "fix the path")
    images, files, others = Folder(base), [], []
    for name in sorted(files_below(base)):
        if name.lower().endswith(".json"):
            safe = safe_join(base, name, allow_symlinks=ctx.rules.allow_symlinks)
            tree = read_any_json(safe, ctx, place)
            if isinstance(tree, dict) and isinstance(tree.get("shapes"), list):
                files.append(_File(name, _image(base, name, tree.get("imagePath"), images), tree["shapes"]))
            elif images.of_stem(name[:-5]):
                problem = "no list 'shapes', so no object would be found"
                ctx.findings.error("D07", safe, "shapes", problem, "save it with labelme, or move it elsewhere")
            else:
                others.append(name)
    report_left_out("L20", others, base, ctx)
    ctx.findings.raise_first()
    if not files:
        raise ctx.findings.fatal("D08", base, place, "0 JSON files with shapes", "fix the path")
    return files


def _image(base: str, name: str, said: Any, images: Folder) -> str:
    """Return the image of a JSON: where it says, under that name beside it, or under its own name."""
    folder = os.path.dirname(name)
    said = said.replace("\\", "/") if isinstance(said, str) and said else f"{os.path.basename(name)[:-5]}.jpg"
    beside = os.path.join(folder, os.path.basename(said))
    for path in (os.path.normpath(os.path.join(folder, said)), beside):
        if name_problem(path, base) is None and os.path.isfile(os.path.join(base, path)):
            return path
    own = images.of_stem(name[:-5])
    return own[0] if own else beside


def _box(shape: Any, file: str, place: str, ctx: Context) -> Corners | None:
    """Return the box around a shape, or None after recording why it has none."""
    fix = "mend or drop the shape"
    if not isinstance(shape, dict) or not isinstance(shape.get("label"), str) or not shape["label"]:
        ctx.findings.error("V05", file, place, "label missing", fix)
        return None
    sort, points = shape.get("shape_type") or "polygon", shape.get("points")
    if sort not in (*CORNERS, "circle"):
        problem = f"{short(sort)} has no box; read are rectangle, polygon, circle and mask"
        ctx.findings.error("D22", file, f"{place}.shape_type", problem, "draw one of these, or drop the shape")
        return None
    pairs = isinstance(points, list) and all(isinstance(point, list) and len(point) == 2 for point in points)
    box = around_points([number for point in points for number in point]) if pairs else None
    if box is None or len(points) < CORNERS.get(sort, 2):
        said = f"list of {len(points)}" if isinstance(points, list) else kind(points)
        ctx.findings.error("D22", file, f"{place}.points", f"{said}, expected pairs of numbers", fix)
        return None
    if sort == "circle":  # its centre, and a point of its rim
        (x, y), (u, v) = points[0], points[1]
        radius = float(np.hypot(u - x, v - y))
        return x - radius, y - radius, x + radius, y + radius
    return box

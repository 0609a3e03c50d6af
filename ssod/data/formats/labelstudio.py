"""Label Studio's own JSON: a list of tasks, each an image with regions in per cent of its sides."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np

from ssod.data.formats.findings import Context, short
from ssod.data.formats.header import fill_sizes
from ssod.data.formats.hulls import Corners, around_points, turned
from ssod.data.formats.jsonfile import read_any_json
from ssod.data.formats.leftout import report_left_out
from ssod.data.formats.listing import is_image
from ssod.data.formats.marked import Which, keep_labeled, keep_marked
from ssod.data.formats.named import Named, assemble
from ssod.data.formats.paths import refuse_unsafe
from ssod.data.formats.records import Images, Labeled
from ssod.data.formats.tails import tails

_PREFIX = re.compile(r"^[0-9a-f]{8}-")  # that the server gives uploaded files, so that no two have one name
_NO_BOX = {"keypoint", "keypointlabels", "brush", "brushlabels", "vector", "vectorlabels", "magicwand", "bitmask"}


def is_tasks(tree: Any) -> bool:
    """Return whether what a JSON holds is an export of Label Studio."""
    return isinstance(tree, list) and bool(tree) and all(map(_is_task, tree))


def _is_task(task: Any) -> bool:
    return isinstance(task, dict) and isinstance(task.get("data"), dict) and isinstance(task.get("annotations"), list)


def read_labelstudio(
    ann: str, images: str, ctx: Context, *, classes: Sequence[str] | None = None, which: Which | None = None
) -> Labeled:
    """Read the images of all tasks, and the regions of those that somebody finished.

    Args:
        ann: the JSON, relative to the data root or absolute.
        images: folder of the images, likewise; see ``image_paths``.
        ctx: root, rules and findings.
        classes: the class names in order; a region of another class is an error. None = the names found, sorted.
        which: which of the images, as of ``keep_labeled``.

    Returns:
        Labeled; ids are the tasks' own, class ids count from 0.

    Raises:
        SsodError: the first error found; all of them are in ``ctx.findings``.
    """
    file = ctx.path(ann)
    tasks = _tasks(file, ctx)
    found = _images(tasks, file, ctx.path(images), ctx)
    found = fill_sizes(found, range(len(found)), file, ctx, id=None)
    ctx.findings.raise_first()
    results = _results(tasks, file, ctx)
    boxes: list[Corners] = []
    names: list[str] = []
    image: list[int] = []
    places: list[tuple[str, str]] = []
    for row, regions in enumerate(results):
        height, width = found.sizes[row].tolist()
        elsewhere = _with_labels(regions or ())
        for i, region in enumerate(regions or ()):
            place = f"[{row}].result[{i}]"
            sound = _region(region, elsewhere, width, height, file, place, ctx)
            if sound is not None:
                names.append(sound[0])
                boxes.append(sound[1])
                image.append(row)
                places.append((file, place))
    corners = np.array(boxes, dtype=np.float64).reshape(-1, 4)
    data = assemble(found, Named(names, np.array(image, dtype=np.int64), corners, places), classes, file, ctx)
    return keep_labeled(data, [regions is not None for regions in results], which, file, ctx)


def read_labelstudio_images(ann: str, images: str, ctx: Context, *, which: Which | None = None) -> Images:
    """Read the images of all tasks, and of their regions whether there is one."""
    file = ctx.path(ann)
    tasks = _tasks(file, ctx)
    found = _images(tasks, file, ctx.path(images), ctx)
    results = _results(tasks, file, ctx)
    return keep_marked(found, [r is not None for r in results], [bool(r) for r in results], which, file, ctx)


def _tasks(file: str, ctx: Context) -> list[dict[str, Any]]:
    tree = read_any_json(file, ctx, f"{ctx.section}.ann")
    if not is_tasks(tree):
        problem = "no list of tasks with 'data' and 'annotations'"
        raise ctx.findings.fatal("D06", file, f"{ctx.section}.ann", problem, "export it from Label Studio as JSON")
    return tree


def _images(tasks: list[dict[str, Any]], file: str, root: str, ctx: Context) -> Images:
    paths = image_paths(tasks, root)
    if paths is None:
        raise ctx.findings.fatal("D43", file, "[0].data", "names no image", "export tasks of images")
    paths = tails(paths, root, file, ctx)
    refuse_unsafe(paths, root, file, "[{}].data", ctx)
    ids = [task["id"] if type(task.get("id")) is int else row for row, task in enumerate(tasks)]
    if len(set(ids)) < len(ids):
        ctx.findings.error("D14", file, "[].id", "ids of tasks repeat", "ids must be unique")
    ctx.findings.raise_first()
    return Images(root, paths, ids)


def image_paths(tasks: Sequence[dict[str, Any]], root: str) -> list[str] | None:
    """Return the path that each task names, without server and query; None if the tasks name no image.

    Where the file is not in ``root`` under its name on the server, the prefix that the server gave it is left out;
    with ``root`` "" nobody looks.
    """
    keys = ("image", *tasks[0]["data"])
    named = [[task["data"].get(key) for task in tasks] for key in keys]
    values = next((v for v in named if all(isinstance(x, str) and is_image(_path(x)) for x in v)), None)
    if values is None:
        return None
    return [_unprefixed(_path(value), root) for value in values]


def _path(value: str) -> str:
    """Return the path of a task's image: ``/data/local-files/?d=x/a.jpg`` is ``x/a.jpg``."""
    try:
        parts = urlsplit(value)
    except ValueError:
        return value
    inner = parse_qs(parts.query).get("d") if parts.path.endswith("local-files/") else None
    return inner[0] if inner else unquote(parts.path)


def _unprefixed(path: str, root: str) -> str:
    folder, _, name = path.rpartition("/")
    short_name = _PREFIX.sub("", name)
    if not root or short_name == name or os.path.isfile(os.path.join(root, name)):
        return path
    there = os.path.isfile(os.path.join(root, short_name))
    return f"{folder}/{short_name}" if there and folder else short_name if there else path


def _results(tasks: list[dict[str, Any]], file: str, ctx: Context) -> list[list[Any] | None]:
    """Return the regions of each task; None where nobody finished it. Of several annotations one is taken."""
    results: list[list[Any] | None] = []
    several = []
    for row, task in enumerate(tasks):
        done = [a for a in task["annotations"] if isinstance(a, dict) and isinstance(a.get("result"), list)]
        done = [a for a in done if not a.get("was_cancelled")]
        best = [a for a in done if a.get("ground_truth") is True] or done
        if len(best) > 1:
            several.append(f"[{row}].annotations")
        results.append(best[-1]["result"] if best else None)
    report_left_out("L21", several, file, ctx)
    return results


def _with_labels(regions: Sequence[Any]) -> set[str]:
    """Return the ids of the entries that have a class, of a region that may stand in another entry, too."""
    entries = [region for region in regions if isinstance(region, dict) and isinstance(region.get("value"), dict)]
    return {r["id"] for r in entries if isinstance(r.get("id"), str) and "labels" in r["value"]}


def _region(
    region: Any, elsewhere: set[str], width: int, height: int, file: str, place: str, ctx: Context
) -> tuple[str, Corners] | None:
    """Return class and box of a region; None of an answer about the image as a whole, or after recording an error.

    None, too, of a region whose class another entry has, under an id of ``elsewhere``.
    """
    if not isinstance(region, dict) or not isinstance(region.get("value"), dict):
        return None
    sort, value = region.get("type"), region["value"]
    if sort in _NO_BOX:
        problem = f"{short(sort)} has no box; read are rectangles, ellipses and polygons"
        ctx.findings.error("D22", file, place, problem, "export as COCO, or drop the region")
        return None
    if not {"points", "radiusX", "width"} & value.keys():
        return None
    labels = value.get(sort) if isinstance(sort, str) else None
    if labels is None and str(region.get("id")) in elsewhere:
        return None
    if not isinstance(labels, list) or len(labels) != 1 or not isinstance(labels[0], str) or not labels[0]:
        said = f"{len(labels)} labels" if isinstance(labels, list) else "no label"
        ctx.findings.error("V05", file, place, f"{said}, expected one", "label the region, or drop it")
        return None
    box = _box(value, width / 100, height / 100)
    if box is None:
        ctx.findings.error("D22", file, f"{place}.value", "no finite numbers in per cent", "mend or drop the region")
        return None
    return labels[0], box


def _box(value: dict[str, Any], across: float, down: float) -> Corners | None:
    """Return the box around a region, in pixels; ``across`` and ``down`` are those of a per cent."""
    if "points" in value:
        points = value["points"]
        if not isinstance(points, list) or not all(isinstance(p, list) and len(p) == 2 for p in points):
            return None
        box = around_points([number for point in points for number in point])
        return None if box is None else (box[0] * across, box[1] * down, box[2] * across, box[3] * down)
    keys = ("x", "y", "radiusX", "radiusY") if "radiusX" in value else ("x", "y", "width", "height")
    numbers = [value.get(key) for key in keys] + [value.get("rotation") or 0]
    if around_points([*numbers, 0]) is None:
        return None
    x, y, first, second = (number * side for number, side in zip(numbers, (across, down, across, down)))
    degrees = numbers[4]
    if "radiusX" in value:
        cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        half, tall = math.hypot(first * cos, second * sin), math.hypot(first * sin, second * cos)
        return x - half, y - tall, x + half, y + tall
    return turned(x, y, first, second, degrees) if degrees else (x, y, x + first, y + second)

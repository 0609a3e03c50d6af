"""PASCAL VOC folders: ``ImageSets/Main/<split>.txt``, ``Annotations/*.xml``, ``JPEGImages``, or less (``voclayout``).

VOC counts pixels from 1 and includes the last one, so 1 is subtracted from xmin and ymin and nothing from xmax and
ymax, as detectron2 does: a box from 1 to 200 is then 0..200, the whole of a 200-pixel image. ``difficult`` objects are
kept and flagged. Which image a line means is said in ``vocnames``.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from xml.etree.ElementTree import Element

import numpy as np

from ssod.data.formats.findings import Context, short
from ssod.data.formats.frames import stored_sizes
from ssod.data.formats.header import fill_sizes
from ssod.data.formats.listing import image_names
from ssod.data.formats.marked import Which, keep_labeled, keep_marked
from ssod.data.formats.named import Named, assemble
from ssod.data.formats.paths import safe_join
from ssod.data.formats.presence import spelled
from ssod.data.formats.readings import check_format
from ssod.data.formats.records import Images, Labeled
from ssod.data.formats.voclayout import ALL, Layout, find_layout
from ssod.data.formats.vocnames import Chooser, Folder, Line, read_list
from ssod.data.formats.xmlfile import XmlProblem, parse_xml
from ssod.utils.errors import Exit, SsodError


@dataclass
class _Box:
    """One object of one file: its image's row, its number in the file, and what it says."""

    image: int
    file: str
    number: int
    name: str
    corners: tuple[float, ...]
    difficult: bool


def read_voc(
    root: str, split: str, ctx: Context, *, classes: Sequence[str] | None = None, which: Which | None = None
) -> Labeled:
    """Read the annotated images of a split, in the order of its list.

    Args:
        root: folder that holds ``ImageSets``, relative to the data root or absolute; or one of annotations and images.
        split: name of a list in ``ImageSets/Main``, e.g. ``trainval``; ".": all annotations, sorted by name.
        ctx: root, rules and findings.
        classes: the class names in order; an object of another class is an error. None = the names found, sorted.
        which: which of the images, as of ``keep_labeled``. Images without an annotation are there for "." alone.

    Returns:
        Labeled; ids are the list's entries, class ids count from 0.

    Raises:
        SsodError: the first error found; all of them are in ``ctx.findings``.
    """
    layout = find_layout(ctx.path(root))
    base = layout.base
    lines = read_list(layout, split, ctx)
    chooser = _chooser(layout, split, ctx)
    objects: list[_Box] = []
    paths: list[str] = []
    sizes = np.zeros((len(lines), 2), dtype=np.int32)
    for row, line in enumerate(lines):
        tree = _open(layout, line.stem, _where(split, line), ctx)
        if tree is not None:
            sizes[row] = _size(tree)
            objects += _objects(tree, row, layout.file(line.stem), ctx)
            paths.append(chooser.choose(line, (tree.findtext("filename") or "").strip()))
    chooser.report()
    ctx.findings.raise_first()
    images = Images(layout.image_folder(), paths, [line.stem for line in lines], sizes)
    if split == ALL:
        images = _with_bare(images, ctx)
    unknown = np.flatnonzero((images.sizes <= 0).any(1)).tolist()
    images = fill_sizes(images, unknown, base, ctx, id="V03")
    ctx.findings.raise_first()
    if ctx.rules.exif == "ignore":
        images = stored_sizes(images, base, ctx)
    data = _labeled(images, objects, classes, layout, ctx)
    return keep_labeled(data, _have_files(images, lines, split), which, base, ctx)


def read_voc_images(root: str, split: str, ctx: Context, *, which: Which | None = None) -> Images:
    """Read the list of a split and no label: an annotation is opened only for its ``<filename>``, and only where there
    is no image with the annotation's name. For ``which`` (as of ``keep_marked``) it is seen whether it has an object.
    """
    layout = find_layout(ctx.path(root))
    lines = read_list(layout, split, ctx)
    chooser = _chooser(layout, split, ctx)
    paths, boxes = [], []
    for line in lines:
        file, tree = None, None
        if which in ("labeled", "bare") or (line.file is None and not chooser.images.of_stem(line.stem)):
            tree = _open(layout, line.stem, _where(split, line), Context(rules=ctx.rules))
            file = None if tree is None else (tree.findtext("filename") or "").strip()
        paths.append(chooser.choose(line, file))
        boxes.append(tree is not None and tree.find("object") is not None)
    chooser.report()
    ctx.findings.raise_first()
    images = Images(chooser.images.root, paths, [line.stem for line in lines])
    if split == ALL:
        images = _with_bare(images, ctx)
    boxes += [False] * (len(images) - len(lines))
    return keep_marked(images, _have_files(images, lines, split), boxes, which, layout.base, ctx)


def _with_bare(images: Images, ctx: Context) -> Images:
    """Return the images with those of their folder behind them that no annotation is about."""
    taken, stems = set(images.paths), set(images.ids)
    more = [path for path in image_names(images.root, ctx) if path not in taken]
    stem = [os.path.splitext(path)[0] for path in more]
    ids = [id if id not in stems else path for id, path in zip(stem, more)]
    sizes = None if images.sizes is None else np.concatenate([images.sizes, np.zeros((len(more), 2), np.int32)])
    return replace(images, paths=[*images.paths, *more], ids=[*images.ids, *ids], sizes=sizes)


def _have_files(images: Images, lines: Sequence[Line], split: str) -> list[bool] | None:
    """Return which images have an annotation; None where a list names the images, each of which must have one."""
    return [row < len(lines) for row in range(len(images))] if split == ALL else None


def _chooser(layout: Layout, split: str, ctx: Context) -> Chooser:
    folder = layout.image_folder()
    if not os.path.isdir(folder):
        raise ctx.findings.fatal("D01", folder, f"{ctx.section}.root", "image folder not found", "fix the path")
    return Chooser(Folder(folder), layout.folder(), _listed(split), ctx)


def _where(split: str, line: Line) -> str:
    return f"{_listed(split)} line {line.number}"


def _listed(split: str) -> str:
    return "all annotations" if split == ALL else f"ImageSets/Main/{split}.txt"


def _open(layout: Layout, stem: str, listed: str, ctx: Context) -> Element | None:
    """Return the tree of one annotation file, or None after recording why not."""
    base = layout.base
    name = spelled(base, layout.file(stem))
    path = os.path.join(base, name)
    if not os.path.lexists(path):
        ctx.findings.error("V01", path, stem, f"not found ({listed})", "add it or drop the line")
        return None
    try:
        safe = safe_join(base, name, allow_symlinks=ctx.rules.allow_symlinks)
        with open(safe, "rb") as file:
            tree = parse_xml(file.read())
        if tree.tag == "annotation":
            return tree
        problem = f"the document is <{short(tree.tag)[1:-1]}>, so no object would be found"
        ctx.findings.error("V02", path, stem, problem, "make <annotation> the outermost element")
    except SsodError as error:
        ctx.findings.error("S03", path, stem, error.problem, error.fix, code=error.code)
    except OSError as error:
        ctx.findings.error("V01", path, stem, f"cannot be read ({error})", "check it")
    except XmlProblem as problem:
        id, place, text, fix = problem.args
        code = Exit.UNSAFE if id.startswith("S") else Exit.DATA
        ctx.findings.error(id, path, place, text, fix, code=code)
    return None


def _size(tree: Element) -> tuple[int, int]:
    """Return (height, width) as stated; 0 where it is absent or no positive number."""
    sides = []
    for key in ("height", "width"):
        value = _number(tree.findtext(f"size/{key}"))
        sides.append(int(value) if 0 < value < 1 << 30 else 0)
    return sides[0], sides[1]


def _number(text: str | None) -> float:
    """Return a number, NaN for anything else; ``12``, ``12.0`` and `` 12 `` are numbers."""
    try:
        return float(text)
    except (TypeError, ValueError):
        return math.nan


def _objects(tree: Element, row: int, file: str, ctx: Context) -> list[_Box]:
    found = []
    for number, item in enumerate(tree.findall("object")):
        place = f"object[{number}]"
        name = (item.findtext("name") or "").strip()
        box = item.find("bndbox")
        if not name or box is None:
            ctx.findings.error(
                "V05", file, place, f"{'bndbox' if name else 'name'} missing", "add it or drop the object"
            )
            continue
        corners = tuple(_number(box.findtext(key)) for key in ("xmin", "ymin", "xmax", "ymax"))
        if not all(map(math.isfinite, corners)):
            key = ("xmin", "ymin", "xmax", "ymax")[[math.isfinite(c) for c in corners].index(False)]
            problem = f"{short(box.findtext(key))}, expected a number"
            ctx.findings.error("D22", file, f"{place}.bndbox.{key}", problem, "mend or drop the object")
            continue
        for low, high, axis in ((0, 2, "x"), (1, 3, "y")):
            if corners[low] > corners[high]:
                problem = f"{axis}min {corners[low]:g} ≥ {axis}max {corners[high]:g}"
                ctx.findings.error("V04", file, f"{place}.bndbox", problem, "swap them?")
                break
        else:
            difficult = (item.findtext("difficult") or "0").strip() or "0"
            if difficult not in ("0", "1"):
                ctx.findings.error("D32", file, f"{place}.difficult", f"{short(difficult)}, expected 0 or 1", "mend it")
            found.append(_Box(row, file, number, name, corners, difficult == "1"))
    return found


def _labeled(
    images: Images, objects: list[_Box], classes: Sequence[str] | None, layout: Layout, ctx: Context
) -> Labeled:
    corners = np.array([o.corners for o in objects], dtype=np.float64).reshape(-1, 4)
    # xmin = xmax would be one pixel wide; in practice it is a slip of the mouse, dropped like any box without area.
    point = (corners[:, :2] == corners[:, 2:]).any(1, keepdims=True)
    boxes = corners - np.where(point, 0, (1, 1, 0, 0))
    image = np.array([o.image for o in objects], dtype=np.int64)
    places = [(o.file, f"object[{o.number}].bndbox") for o in objects]
    named = Named([o.name for o in objects], image, boxes, places, np.array([o.difficult for o in objects], dtype=bool))
    if not ctx.findings.errors() and not check_format(
        corners, "xyxy", image, images.sizes, layout.base, ctx, keyed=False
    ):
        ctx.findings.raise_first()
    return assemble(images, named, classes, layout.base, ctx, name_of=lambda i: layout.file(images.ids[i]))

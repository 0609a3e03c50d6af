"""PASCAL VOC folders: ``ImageSets/Main/<split>.txt``, ``Annotations/*.xml``, ``JPEGImages``.

VOC counts pixels from 1 and includes the last one, so 1 is subtracted from xmin and ymin and nothing from xmax and
ymax, as detectron2 does: a box from 1 to 200 is then 0..200, the whole of a 200-pixel image. ``difficult`` objects are
kept and flagged. Which image a line means is said in ``vocnames``.
"""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element

import numpy as np

from ssod.data.formats.boxrules import check_classes, check_counts, report_twins, settle
from ssod.data.formats.findings import Context, short
from ssod.data.formats.frames import stored_sizes
from ssod.data.formats.header import fill_sizes
from ssod.data.formats.paths import safe_join
from ssod.data.formats.presence import spelled
from ssod.data.formats.readings import check_format
from ssod.data.formats.records import Classes, Images, Labeled
from ssod.data.formats.vocnames import IMAGES, Chooser, Folder, read_list
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


def read_voc(root: str, split: str, ctx: Context, *, classes: Sequence[str] | None = None) -> Labeled:
    """Read the annotated images of a split, in the order of its list.

    Args:
        root: folder that holds ``ImageSets``, relative to the data root or absolute.
        split: name of a list in ``ImageSets/Main``, e.g. ``trainval``.
        ctx: root, rules and findings.
        classes: the class names in order; an object of another class is an error. None = the names found, sorted.

    Returns:
        Labeled; ids are the list's entries, class ids count from 0.

    Raises:
        SsodError: the first error found; all of them are in ``ctx.findings``.
    """
    base = ctx.path(root)
    lines = read_list(base, split, ctx)
    chooser = _chooser(base, split, ctx)
    objects: list[_Box] = []
    paths: list[str] = []
    sizes = np.zeros((len(lines), 2), dtype=np.int32)
    for row, line in enumerate(lines):
        tree = _open(base, line.stem, f"{_listed(split)} line {line.number}", ctx)
        if tree is not None:
            sizes[row] = _size(tree)
            objects += _objects(tree, row, f"Annotations/{line.stem}.xml", ctx)
            paths.append(chooser.choose(line, (tree.findtext("filename") or "").strip()))
    chooser.report()
    ctx.findings.raise_first()
    unknown = np.flatnonzero((sizes <= 0).any(1)).tolist()
    images = Images(os.path.join(base, IMAGES), paths, [line.stem for line in lines], sizes)
    images = fill_sizes(images, unknown, base, ctx, id="V03")
    ctx.findings.raise_first()
    if ctx.rules.exif == "ignore":
        images = stored_sizes(images, base, ctx)
    names = tuple(sorted({o.name for o in objects})) if classes is None else tuple(classes)
    return _labeled(images, objects, Classes(names, tuple(range(len(names)))), base, ctx)


def read_voc_images(root: str, split: str, ctx: Context) -> Images:
    """Read the list of a split and no label: an annotation is opened only for its ``<filename>``, and only where there
    is no image with the annotation's name.
    """
    base = ctx.path(root)
    lines = read_list(base, split, ctx)
    chooser = _chooser(base, split, ctx)
    paths = []
    for line in lines:
        file = None
        if line.file is None and not chooser.images.of_stem(line.stem):
            tree = _open(base, line.stem, f"{_listed(split)} line {line.number}", Context(rules=ctx.rules))
            file = None if tree is None else (tree.findtext("filename") or "").strip()
        paths.append(chooser.choose(line, file))
    chooser.report()
    ctx.findings.raise_first()
    return Images(chooser.images.root, paths, [line.stem for line in lines])


def _chooser(base: str, split: str, ctx: Context) -> Chooser:
    folder = os.path.join(base, IMAGES)
    if not os.path.isdir(folder):
        raise ctx.findings.fatal("D01", folder, f"{ctx.section}.root", "image folder not found", "fix the path")
    return Chooser(Folder(folder), base, _listed(split), ctx)


def _listed(split: str) -> str:
    return f"ImageSets/Main/{split}.txt"


def _open(base: str, stem: str, listed: str, ctx: Context) -> Element | None:
    """Return the tree of one annotation file, or None after recording why not."""
    name = spelled(base, f"Annotations/{stem}.xml")
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


def _labeled(images: Images, objects: list[_Box], classes: Classes, base: str, ctx: Context) -> Labeled:
    label = {name: i for i, name in enumerate(classes.names)}
    strange = [(o.name, o.file) for o in objects if o.name not in label]
    check_classes(strange, lambda name: _unknown_class(name, classes.names), base, "V06", ctx)
    ctx.findings.raise_first()
    image = np.array([o.image for o in objects], dtype=np.int64)
    corners = np.array([o.corners for o in objects], dtype=np.float64).reshape(-1, 4)
    # xmin = xmax would be one pixel wide; in practice it is a slip of the mouse, dropped like any box without area.
    point = (corners[:, :2] == corners[:, 2:]).any(1, keepdims=True)
    boxes = corners - np.where(point, 0, (1, 1, 0, 0))

    def place(i: int) -> str:
        return f"{objects[i].file} object[{objects[i].number}].bndbox"

    if not check_format(corners, "xyxy", image, images.sizes, base, ctx, keyed=False):
        ctx.findings.raise_first()
    boxes, keep = settle(boxes, image, images, place, base, ctx)
    starts = np.concatenate([[0], np.bincount(image[keep], minlength=len(images)).cumsum()]).astype(np.int64)
    check_counts(starts, lambda i: f"Annotations/{images.ids[i]}.xml", base, ctx)
    labels, kept = np.array([label[o.name] for o in objects], dtype=np.int64)[keep], np.flatnonzero(keep)
    report_twins(image[keep], labels, boxes[keep], lambda i: place(int(kept[i])), base, ctx)
    ctx.findings.raise_first()
    return Labeled(
        images=images,
        classes=classes,
        boxes=boxes[keep],
        labels=labels,
        crowd=np.zeros(int(keep.sum()), dtype=bool),
        difficult=np.array([o.difficult for o in objects], dtype=bool)[keep],
        starts=starts,
    )


def _unknown_class(name: str, known: Sequence[str]) -> tuple[str, str]:
    """Return problem and fix of a class that is not declared.

    A slip of the pen leaves four fifths of a name, and case or separators do not count; names that merely rhyme, such
    as scratches and patches, have less in common.
    """
    plain = {_plain(other): other for other in known}
    close = difflib.get_close_matches(_plain(name), plain, n=1, cutoff=0.8)
    fix = f"did you mean {short(plain[close[0]])}? if not, add it" if close else "add it, or remove these objects"
    return f"{short(name)} is not in data.classes", fix


def _plain(name: str) -> str:
    return name.casefold().replace("_", " ").replace("-", " ")

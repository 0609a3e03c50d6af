"""PASCAL VOC folders: ``ImageSets/Main/<split>.txt``, ``Annotations/*.xml``, ``JPEGImages``.

VOC counts pixels from 1 and includes the last one, so 1 is subtracted from xmin and ymin and nothing from xmax and
ymax, as detectron2 does: a box from 1 to 200 is then 0..200, the whole of a 200-pixel image. ``difficult`` objects are
kept and flagged. An image is found by its annotation's stem; ``<filename>`` is not believed.
"""

from __future__ import annotations

import difflib
import math
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from xml.etree.ElementTree import Element

import numpy as np

from ssod.data.formats.boxrules import check_classes, check_counts, settle
from ssod.data.formats.findings import Context, short
from ssod.data.formats.frames import stored_sizes
from ssod.data.formats.header import fill_sizes
from ssod.data.formats.jsonfile import nearest, read_text
from ssod.data.formats.paths import IMAGE_SUFFIXES, refuse_unsafe, safe_join
from ssod.data.formats.readings import check_format
from ssod.data.formats.records import Classes, Images, Labeled
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
    lines = _read_list(base, split, ctx)
    images = _find_images(base, lines, ctx)
    objects: list[_Box] = []
    sizes = np.zeros((len(images), 2), dtype=np.int32)
    for row, (number, stem) in enumerate(lines):
        tree = _open(base, stem, f"ImageSets/Main/{split}.txt line {number}", ctx)
        if tree is not None:
            sizes[row] = _size(tree)
            objects += _objects(tree, row, f"Annotations/{stem}.xml", ctx)
    ctx.findings.raise_first()
    unknown = np.flatnonzero((sizes <= 0).any(1)).tolist()
    images = fill_sizes(replace(images, sizes=sizes), unknown, base, ctx, id="V03")
    ctx.findings.raise_first()
    if ctx.rules.exif == "ignore":
        images = stored_sizes(images, base, ctx)
    names = tuple(sorted({o.name for o in objects})) if classes is None else tuple(classes)
    return _labeled(images, objects, Classes(names, tuple(range(len(names)))), base, ctx)


def read_voc_images(root: str, split: str, ctx: Context) -> Images:
    """Read the list of a split and nothing else: no annotation file is opened."""
    base = ctx.path(root)
    return _find_images(base, _read_list(base, split, ctx), ctx)


def _read_list(base: str, split: str, ctx: Context) -> list[tuple[int, str]]:
    """Return (line number, name) of every line that has a name."""
    if not os.path.isdir(base):
        raise ctx.findings.fatal("D01", base, f"{ctx.section}.root", f"not found{nearest(base)}", "fix the path")
    file, field = os.path.join(base, "ImageSets", "Main", f"{split}.txt"), f"{ctx.section}.split"
    text = read_text(file, ctx, field).split("\n")
    lines = [(number, name) for number, line in enumerate(text, start=1) if (name := _name(line))]
    names = [name for _, name in lines]
    if not names:
        raise ctx.findings.fatal("D08", file, field, "0 images", "check the list")
    refuse_unsafe(names, os.path.join(base, "JPEGImages"), file, "name {}", ctx)
    if len(set(names)) < len(names):
        twice = Counter(names).most_common(1)[0][0]
        problem = f"{len(names) - len(set(names))} repeated lines, first {short(twice)}"
        ctx.findings.error("D14", file, field, problem, "names must be unique")
    ctx.findings.raise_first()
    return lines


def _name(line: str) -> str:
    """Return the name of a line; the second column of VOC's per-class lists (1, 0 or -1) is left out."""
    parts = line.split()
    if len(parts) > 1 and parts[-1] in ("1", "0", "-1"):
        return line.strip()[: -len(parts[-1])].strip()
    return line.strip()


def _find_images(base: str, lines: list[tuple[int, str]], ctx: Context) -> Images:
    folder = os.path.join(base, "JPEGImages")
    if not os.path.isdir(folder):
        raise ctx.findings.fatal("D01", folder, f"{ctx.section}.root", "image folder not found", "fix the path")
    present: dict[str, str] = {}
    for name in sorted(os.listdir(folder)):
        stem, suffix = os.path.splitext(name)
        if suffix.lower() in IMAGE_SUFFIXES:
            present.setdefault(stem, name)
    stems = [stem for _, stem in lines]
    paths = [present.get(stem, f"{stem}.jpg") for stem in stems]
    return Images(folder, paths, stems)


def _open(base: str, stem: str, listed: str, ctx: Context) -> Element | None:
    """Return the tree of one annotation file, or None after recording why not."""
    name = f"Annotations/{stem}.xml"
    path = os.path.join(base, name)
    if not os.path.lexists(path):
        ctx.findings.error("V01", path, stem, f"not found ({listed})", "add it or drop the line")
        return None
    try:
        safe = safe_join(base, name, allow_symlinks=ctx.rules.allow_symlinks)
        with open(safe, "rb") as file:
            return parse_xml(file.read())
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
            difficult = _number(item.findtext("difficult")) == 1
            found.append(_Box(row, file, number, name, corners, difficult))
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
    ctx.findings.raise_first()
    return Labeled(
        images=images,
        classes=classes,
        boxes=boxes[keep],
        labels=np.array([label[o.name] for o in objects], dtype=np.int64)[keep],
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

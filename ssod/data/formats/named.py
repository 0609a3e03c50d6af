"""From boxes with the names of their classes to a labelled set: formats that have no list of classes."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ssod.data.formats.boxrules import check_classes, check_counts, report_twins, settle
from ssod.data.formats.findings import Context, short
from ssod.data.formats.records import Classes, Images, Labeled


@dataclass(frozen=True)
class Named:
    """A boxes and their names.

    Attributes:
        names: A class names.
        image: [A] int64 rows of their images.
        boxes: [A, 4] float64 ``x1, y1, x2, y2`` in pixels.
        places: for each its file, and what it is called inside it.
        difficult: [A] bool; None = none.
    """

    names: list[str]
    image: np.ndarray
    boxes: np.ndarray
    places: list[tuple[str, str]]
    difficult: np.ndarray | None = None


def assemble(
    images: Images,
    found: Named,
    classes: Sequence[str] | None,
    base: str,
    ctx: Context,
    *,
    name_of: Callable[[int], str] | None = None,
) -> Labeled:
    """Check the boxes of a set, and put them in the order of its images.

    Args:
        images: with their sizes.
        found: the boxes.
        classes: the class names in order; a box of another class is an error. None = the names found, sorted.
        base: the file or folder that messages name.
        ctx: rules and findings.
        name_of: names image ``row`` in a message; None = by its path.

    Raises:
        SsodError: the first error found; all of them are in ``ctx.findings``.
    """
    names = tuple(sorted(set(found.names))) if classes is None else tuple(classes)
    label = {name: i for i, name in enumerate(names)}
    strange = [(name, file) for name, (file, _) in zip(found.names, found.places) if name not in label]
    check_classes(strange, lambda name: _unknown_class(name, names), base, "V06", ctx)
    ctx.findings.raise_first()
    boxes, keep = settle(found.boxes, found.image, images, lambda i: " ".join(found.places[i]), base, ctx)
    kept = np.flatnonzero(keep)
    kept = kept[np.argsort(found.image[kept], kind="stable")]
    image, boxes = found.image[kept], boxes[kept]
    starts = np.concatenate([[0], np.bincount(image, minlength=len(images)).cumsum()]).astype(np.int64)
    check_counts(starts, name_of or (lambda i: images.paths[i]), base, ctx)
    labels = np.array([label[name] for name in found.names], dtype=np.int64)[kept]
    report_twins(image, labels, boxes, lambda i: " ".join(found.places[int(kept[i])]), base, ctx)
    ctx.findings.raise_first()
    none = np.zeros(len(kept), dtype=bool)
    return Labeled(
        images=images,
        classes=Classes(names, tuple(range(len(names)))),
        boxes=boxes,
        labels=labels,
        crowd=none,
        difficult=none if found.difficult is None else found.difficult[kept],
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

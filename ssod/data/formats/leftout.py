"""What is left out of a data set, and what is said of it: a table of all filters, each with a finding and a count.

A filter that drops something calls ``report_left_out`` with the names of what it dropped.
``tests/data/test_left_out.py`` has a case for each row of this table, ``tests/data/test_filters.py`` finds filters in
the code: one that says nothing fails it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ssod.data.formats.findings import Context, Finding, Level, short
from ssod.utils.errors import Exit


class Left(NamedTuple):
    """How a finding about what was left out reads.

    Attributes:
        level: of the finding.
        what: what was left out; follows the number.
        fix: what to do if it was meant.
    """

    level: Level
    what: str
    fix: str


LEFT_OUT: dict[str, Left] = {
    "L01": Left("skipped", "images in hidden or system folders and files", "move them if they were meant"),
    "L02": Left("skipped", "linked folders", "links to folders are not followed: name their targets, or copy them"),
    "L03": Left("skipped", "files with other endings", "convert them to one of {jpg, png, webp, bmp, tif}"),
    "L04": Left("skipped", "lines that begin with # and name an image", "write ./# where a file's name begins so"),
    "L05": Left("warning", "label files without an image", "give them the names of their images"),
    "L06": Left(
        "warning",
        "images without a label file",
        "taken as unlabelled; or, with `which: all`, as images without objects",
    ),
    "L08": Left("skipped", "images without an object", "in neither part of an index file's split"),
    "L09": Left("skipped", "boxes of images outside the unlabelled set", "give the file of these images"),
    "L10": Left("warning", "boxes of at most a pixel once their images are resized", "raise the size in views"),
    "L11": Left(
        "warning", "images with more objects than are looked for", "raise detector.decode.detections: AP counts as many"
    ),
    "L12": Left("warning", "boxes that repeat another of their class", "remove all but one of each"),
    "L13": Left("warning", "<filename>s that name no image", "images are found by their annotations' names; mend them"),
    "L14": Left(
        "warning", "<filename>s that name another image than their own", "taken as they say; mend or remove them"
    ),
    "L15": Left("repaired", "paths that lie elsewhere than they say", "mend them in the file"),
    "L16": Left("repaired", "names in another Unicode form than the disk's", "files of the same letters are taken"),
    "L17": Left("skipped", "titles among the categories", "no box has it, so it is no class; remove it from the file"),
    "L18": Left("skipped", "classes without a box", "data.classes does not name them; add them if they are meant"),
    "L19": Left("skipped", "images without labels", "`which: labeled` leaves them out"),
    "L20": Left("skipped", "JSON files without shapes", "no labels of an image; move them elsewhere"),
    "L21": Left("warning", "other annotations of one task", "the last is taken, or the ground truth; keep one"),
}


def report_left_out(
    id: str, names: Sequence[str], file: str, ctx: Context, detail: str = "", *, count: int | None = None
) -> None:
    """Record what one filter left out; nothing where it left out nothing.

    Args:
        id: the row of ``LEFT_OUT``.
        names: what was left out; the first is named.
        file: the file or folder that messages name.
        ctx: section and findings.
        detail: more about it, at the end of the problem.
        count: how many they are, where ``names`` are but the first of them.
    """
    if not names:
        return
    left, number = LEFT_OUT[id], len(names) if count is None else count
    problem = f"{number} {left.what}, first {short(names[0])}{f' ({detail})' if detail else ''}"
    ctx.findings.add(Finding(left.level, id, file, ctx.section, problem, left.fix, Exit.OK, number))

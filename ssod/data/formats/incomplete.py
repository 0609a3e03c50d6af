"""Images whose labels are incomplete: an object of some class may be there, and nobody labelled it.

A COCO entry says it, ``"incomplete": true`` or a list of classes, or as LVIS does (``federated``), or a config says it
of a source. What is not labelled there is no background then: losses leave it out (``structures.Assignment.open``).
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal, cast

import numpy as np
from pydantic import BeforeValidator

from ssod.data.formats.columns import Rows
from ssod.data.formats.findings import Context, short
from ssod.data.formats.folder import in_list
from ssod.data.formats.jsonfile import kind
from ssod.data.formats.records import Classes, Labeled
from ssod.utils.given import given
from ssod.utils.schema import Section


class IncompleteImages(Section):
    """Images of a source whose labels are incomplete."""

    images: str
    "A .txt list of them, one a line, by their paths below the image folder."
    classes: list[str] | None = None
    "Classes of which objects may be missing there. None = any."


def _silent(value: object) -> object:
    return None if value is False else value


# What a config says of a source: true, classes, or some of its images.
Incomplete = Annotated[
    Literal[True] | list[str] | IncompleteImages | None,
    BeforeValidator(_silent, json_schema_input_type=bool | list[str] | IncompleteImages | None),
]


def read_incomplete(table: Rows, known: Collection[str], classes: Classes) -> np.ndarray | None:
    """Return [N, K] bool: which classes may be missing in each image of a COCO file; None where it speaks of none.

    Args:
        table: the file's ``images``.
        known: names of its categories; one that is none of ``classes`` is passed over.
        classes: the K classes that labels have.

    Raises:
        SsodError: a value that is neither true, false, null nor a list of the file's classes.
    """
    values = table.values("incomplete")
    if all(value is None or value is False or value == [] for value in values):
        return None
    label = {name: k for k, name in enumerate(classes.names)}
    found = np.zeros((len(values), len(classes)), dtype=bool)
    for i, value in enumerate(values):
        if value is True:
            found[i] = True
        elif isinstance(value, list):
            own = [label[name] for name in value if _is_known(table, i, name, known) and name in label]
            found[i, own] = True
        elif value is not None and value is not False:
            problem = f"{kind(value)} {short(value)}, expected true, false or a list of classes"
            table.error("D44", i, "incomplete", problem, 'write true, or ["class", ...]')
    table.findings.raise_first()
    return found


def _is_known(table: Rows, row: int, name: object, known: Collection[str]) -> bool:
    if isinstance(name, str) and name in known:
        return True
    what = f"unknown class {short(name)}" if isinstance(name, str) else f"{kind(name)} {short(name)}, expected a class"
    table.error("D44", row, "incomplete", what, _fix(name, known))
    return False


def _fix(name: object, known: Collection[str]) -> str:
    near = difflib.get_close_matches(str(name), list(known), 1)
    return f"did you mean {short(near[0])}?" if near else f"name some of {', '.join(sorted(known)[:8])}"


def mark(
    data: Labeled,
    said: Literal[True] | list[str] | IncompleteImages | None,
    file: str,
    ctx: Context,
    every: Collection[str] = (),
) -> Labeled:
    """Return a source with what its config says about incomplete labels, besides what its file does.

    Args:
        data: what was read.
        said: the source's ``incomplete``.
        file: what messages name.
        ctx: section and findings.
        every: the classes of all sources, where there are several.

    Raises:
        SsodError: a class that the source has not, a list that is not there or names no image of the source.
    """
    if said is None:
        return data
    rows, names = np.ones(len(data), dtype=bool), said
    if isinstance(said, IncompleteImages):
        rows, names = in_list(said.images, data.images.paths, f"{ctx.section}.incomplete.images", ctx), said.classes
    columns = np.ones(len(data.classes), dtype=bool)
    if isinstance(names, list):
        odd = next((name for name in names if name not in data.classes.names), None)
        if odd is not None:
            problem, fix = f"unknown class {short(odd)}", _fix(odd, every or data.classes.names)
            raise ctx.findings.fatal("D44", file, f"{ctx.section}.incomplete", problem, fix)
        columns = np.isin(data.classes.names, names)
    table = rows[:, None] & columns
    return replace(data, incomplete=either(table, data.incomplete))


def with_classes(data: Labeled, said: object, every: Collection[str]) -> Labeled:
    """Return a source of several with those classes of the others, ``every``, that may be missing in its images."""
    named = said.classes if isinstance(said, IncompleteImages) else said
    named = list(every) if named is None or named is True else cast(list[str], named)
    new = [name for name in every if name in named and name not in data.classes.names] if said is not None else []
    if not new:
        return data
    names, ids = data.classes.names, data.classes.ids
    more = tuple(range(max(ids, default=0) + 1, max(ids, default=0) + 1 + len(new)))
    own = data.incomplete
    own = None if own is None else np.pad(own, ((0, 0), (0, len(new))))
    return replace(data, classes=Classes((*names, *new), (*ids, *more)), incomplete=own)


def either(first: np.ndarray | None, second: np.ndarray | None) -> np.ndarray | None:
    """Return what one or the other says is incomplete, [N, K] bool or None."""
    if first is None or second is None:
        return second if first is None else first
    return first | second


def judge_measured(data: Labeled, file: str, ctx: Context) -> None:
    """Tell of images to measure on whose labels are incomplete: what is found there and not labelled may be right.

    As in LVIS's evaluator it is neither right nor wrong then, in the classes that may be missing.

    Raises:
        SsodError: a class with boxes may be missing in all images, so that nothing that is found of it is ever wrong.
    """
    rows = np.setdiff1d(np.arange(len(data)), data.complete()).tolist()
    if not rows:
        return
    nowhere = np.intersect1d(np.flatnonzero(given(data.incomplete, "rows were found").all(0)), data.labels).tolist()
    if nowhere:
        more = f" and {len(nowhere) - 1} more classes" if len(nowhere) > 1 else ""
        problem = f"labels of {short(data.classes.names[nowhere[0]])}{more} are complete in no image to measure on"
        fix = "complete those of some: as it is, nothing that is found of it could be wrong"
        raise ctx.findings.fatal("D46", file, f"{ctx.section}.incomplete", problem, fix)
    first = short(data.images.paths[rows[0]])
    problem = f"{len(rows)} images have incomplete labels, first {first}: what is found there may be right"
    fix = "it is not counted in the classes that may be missing; complete the labels to count it"
    ctx.findings.warning("D46", file, f"{ctx.section}.incomplete", problem, fix, count=len(rows))


def warn_of_lacking(sets: Sequence[Labeled], files: Sequence[str], said: Sequence[Any], ctx: Context) -> None:
    """Say which sources of a set lack a class of the others, and do not say that it may be missing there."""
    every = dict.fromkeys(name for one in sets for name in one.classes.names)
    for i, (one, file) in enumerate(zip(sets, files)):
        lacking = [name for name in every if name not in one.classes.names]
        if lacking and said[i] is None:
            first = f"{short(lacking[0])}{' and others' if len(lacking) > 1 else ''}"
            problem = f"has no class {first}, so that its images teach that there is no such object"
            fix = f"if there may be some, add incomplete: [{', '.join(lacking[:5])}]"
            ctx.findings.warning("D45", file, f"{ctx.section}.sources[{i}]", problem, fix, count=len(lacking))

"""The classes of a file: which it lists, which it uses, and in which order labels are to have them."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from ssod.data.formats.cocoimages import repeated
from ssod.data.formats.columns import Rows
from ssod.data.formats.findings import Context, short
from ssod.data.formats.leftout import report_left_out


def read_categories(
    table: Rows, ctx: Context, used: Collection[int] | None = None
) -> tuple[list[str], list[int]] | None:
    """Return names and ids of a COCO file's categories by ascending id; None after recording an error.

    Args:
        table: the file's ``categories``.
        ctx: section and findings.
        used: ids that some box has. A first category that is no class, but the name of the project above all others
            (its ``supercategory`` is "none" and it is theirs), is dropped where no box has it. None = it stays.
    """
    ids, names = table.integers("id"), table.strings("name", "D16")
    if ids is None or names is None:
        return None
    if used is not None and int(ids[0]) not in used and _is_title(table):
        report_left_out("L17", names[:1], table.file, ctx)
        ids, names = ids[1:], names[1:]
    for id, rows in repeated(ids):
        names_of = " and ".join(short(names[row]) for row in rows[:5])
        table.findings.error("D16", table.file, "categories", f"id {id} is {names_of}", "ids must be unique")
    by_name: dict[str, list[int]] = {}
    for name, id in zip(names, ids.tolist()):
        by_name.setdefault(name, []).append(id)
    for name, same in by_name.items():
        if len(same) > 1:
            problem = f"name {short(name)} has ids {' and '.join(map(str, same[:5]))}"
            table.findings.error("D16", table.file, "categories", problem, "merge them")
    if len(by_name) < len(ids) or len(set(ids.tolist())) < len(ids):
        return None
    order = np.argsort(ids, kind="stable")
    ids, names = ids[order].tolist(), [names[i] for i in order]
    if ids != list(range(ids[0], ids[0] + len(ids))) or ids[0] not in (0, 1):
        problem = f"ids {ids[0]}..{ids[-1]} mapped to labels 0..{len(ids) - 1}"
        table.findings.repaired("D17", table.file, "categories", problem, "results carry the file's ids")
    return names, ids


def _is_title(table: Rows) -> bool:
    """Return whether the first category is the one that the others lie under, as Roboflow writes it."""
    name, above = table.rows[0].get("name"), table.values("supercategory")
    return len(above) > 1 and above[0] == "none" and all(other == name for other in above[1:])


def used_ids(table: Rows) -> set[int]:
    """Return the category ids that some annotation has."""
    return {id for id in table.values("category_id") if type(id) is int}


def in_order(
    known: tuple[list[str], list[int]],
    classes: Sequence[str] | None,
    file: str,
    ctx: Context,
    used: Collection[int] | None = None,
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Put names and ids in the order of ``classes``, which must name the same set.

    Args:
        known: names and ids of the file.
        classes: the names in the order that labels are to have; None = the file's.
        file: for messages.
        ctx: section and findings.
        used: ids that some box has. A class that ``classes`` does not name is left out where no box has it.
    """
    names, ids = known
    if classes is None:
        return tuple(names), tuple(ids)
    by_name = dict(zip(names, ids))
    idle = [] if used is None else [name for name in names if name not in classes and by_name[name] not in used]
    problem = differences("file", [name for name in names if name not in idle], "data.classes", classes)
    if problem:
        raise ctx.findings.fatal("D40", file, "categories", problem, "make the class lists equal")
    report_left_out("L18", idle, file, ctx)
    return tuple(classes), tuple(by_name[name] for name in classes)


def differences(here: str, mine: Sequence[str], there: str, theirs: Sequence[str]) -> str:
    """Say which names are in one list only; nothing if the lists hold the same."""
    parts = []
    for text, odd in ((here, set(mine) - set(theirs)), (there, set(theirs) - set(mine))):
        if odd:
            parts.append(f"only in {text}: {', '.join(map(short, sorted(odd)[:5]))}")
    return f"categories differ: {'; '.join(parts)}" if parts else ""

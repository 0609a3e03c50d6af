"""Which classes somebody looked for in an image, as LVIS says it (arXiv:1908.03195).

An image of a COCO JSON may have ``neg_category_ids``: of these classes no object is there. A class that has a box
there is labelled completely, unless ``not_exhaustive_category_ids`` has it. For any other class nobody looked: it is
``incomplete`` there.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from ssod.data.formats.columns import Rows
from ssod.data.formats.findings import short
from ssod.data.formats.jsonfile import kind
from ssod.data.formats.records import Labeled


def read_federated(table: Rows, known: Collection[int], data: Labeled) -> np.ndarray | None:
    """Return [N, K] bool: which classes may be missing in each image; None where the file has neither of the keys.

    In an entry that has ``not_exhaustive_category_ids`` alone all other classes are complete.

    Args:
        table: the file's ``images``.
        known: ids of its categories; one that is none of the classes of ``data`` is passed over.
        data: what was read, boxes and all.

    Raises:
        SsodError: a value that is no list of the file's ids.
    """
    absent, partly = (_lists(table, key, known) for key in ("neg_category_ids", "not_exhaustive_category_ids"))
    table.findings.raise_first()
    if all(ids is None for ids in (*absent, *partly)):
        return None
    label = {id: k for k, id in enumerate(data.classes.ids)}
    found = np.zeros((len(data), len(data.classes)), dtype=bool)
    found[[ids is not None for ids in absent]] = True
    found[np.repeat(np.arange(len(data)), np.diff(data.starts)), data.labels] = False
    for lists, open in ((absent, False), (partly, True)):
        for i, ids in enumerate(lists):
            found[i, [label[id] for id in ids or () if id in label]] = open
    return found


def _lists(table: Rows, key: str, known: Collection[int]) -> list[list[int] | None]:
    """Return the ids of each image, None where it has no such key; what is no list of ids is recorded as an error."""
    values = table.values(key)
    for i, value in enumerate(values):
        odd = [value] if value is not None and type(value) is not list else []
        odd = odd or [id for id in value or () if type(id) is not int or id not in known]
        if odd:
            problem = f"{kind(odd[0])} {short(odd[0])}, expected a list of ids of categories"
            table.error("D44", i, key, problem, "write [id, ...], or remove the key")
    return values

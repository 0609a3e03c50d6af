"""Several annotated sets as one: classes go by name, images have new ids, and of an image the last labels count."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from ssod.data.formats.classlists import differences
from ssod.data.formats.findings import Context, short
from ssod.data.formats.records import Classes, Images, Labeled
from ssod.utils.errors import Exit, SsodError


@dataclass(frozen=True)
class Twice:
    """An image that two of the sets have.

    Attributes:
        path: the image, as the joined set has it.
        before, after: places of the sets; the labels of the second count.
        same: whether both have the same boxes of the same classes.
    """

    path: str
    before: int
    after: int
    same: bool


def places(images: Images) -> list[str]:
    """Return where each image lies, links resolved: what tells that two sets have the same one."""
    return [os.path.realpath(os.path.join(images.root, path)) for path in images.paths]


def join(
    sets: Sequence[Labeled], keys: Sequence[Sequence[Hashable]] | None = None, *, lacking_is_open: bool = False
) -> tuple[Labeled, list[Twice]]:
    """Return one set with all images, in the order in which they first come, and the images that came again.

    Ids of images count from 1. Ids of classes are the first set's where it has them all, else they count from 1.

    Args:
        sets: at least one. Their images must lie below one folder.
        keys: for each set what its images are known by; None = their places.
        lacking_is_open: whether images of a set without some class are incomplete in it: nobody could label it there.

    Raises:
        SsodError: the sets' folders have nothing in common.
    """
    keys = [places(one.images) for one in sets] if keys is None else keys
    owner: dict[Hashable, tuple[int, int]] = {}
    again: list[tuple[tuple[int, int], tuple[int, int]]] = []
    for s, names in enumerate(keys):
        for i, key in enumerate(names):
            if owner.get(key, (-1, 0))[0] == s:  # a file that one set has twice keeps both entries
                key = (key, i)
            if key in owner:
                again.append((owner[key], (s, i)))
            owner[key] = s, i
    base = _base(sets)
    chosen = list(owner.values())
    classes = _classes(sets)
    parts = [sets[s].subset([i]) for s, i in chosen]
    number = {name: k for k, name in enumerate(classes.names)}
    labels = [np.array([number[name] for name in one.classes.names], np.int64) for one in sets]
    known = all(one.images.sizes is not None for one in sets)
    counts = [len(part.boxes) for part in parts]
    images = Images(
        root=base,
        paths=[_below(base, sets[s].images, i) for s, i in chosen],
        ids=list(range(1, len(chosen) + 1)),
        sizes=np.concatenate([part.images.sizes for part in parts]) if known and parts else None,
    )
    joined = Labeled(
        images=images,
        classes=classes,
        boxes=np.concatenate([part.boxes for part in parts]),
        labels=np.concatenate([labels[s][part.labels] for (s, _), part in zip(chosen, parts)]),
        crowd=np.concatenate([part.crowd for part in parts]),
        difficult=np.concatenate([part.difficult for part in parts]),
        starts=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        area=np.concatenate([_area(part) for part in parts]) if any(one.area is not None for one in sets) else None,
        incomplete=_incomplete(sets, chosen, labels, len(classes), lacking_is_open),
    )
    twice = [
        Twice(_below(base, sets[s].images, i), r, s, _alike(sets[r].subset([j]), sets[s].subset([i])))
        for (r, j), (s, i) in again
    ]
    return joined, twice


def as_one(sets: Sequence[Labeled], ctx: Context, *, classes: Sequence[str] | None, fewer: bool) -> Labeled:
    """Join the sets of a config, and record the images that several of them have.

    Args:
        sets: at least one.
        ctx: section and findings.
        classes: the names in the order that labels are to have; None = those of the first set first.
        fewer: whether the sets may lack some of ``classes``, as a VOC folder may.

    Raises:
        SsodError: no common folder, or the classes are not those of the sets.
    """
    data, twice = join(sets)
    for (before, after), many in Counter((one.before, one.after) for one in twice).items():
        other = [one.path for one in twice if (one.before, one.after) == (before, after) and not one.same]
        problem = f"{many} images of sources[{before}] are in sources[{after}], too"
        if other:
            problem += f", {len(other)} of them with other boxes, first {short(other[0])}: the later labels count"
        ctx.findings.warning("D36", sets[after].images.root, ctx.section, problem, count=many)
    if classes is None:
        return data
    known = {*data.classes.names, *classes} if fewer else data.classes.names
    problem = differences("file", list(known), "data.classes", classes)
    if problem:
        raise ctx.findings.fatal("D40", data.images.root, "categories", problem, "make the class lists equal")
    ids = dict(zip(data.classes.names, data.classes.ids))
    free = max(ids.values(), default=0)
    for name in classes:
        if name not in ids:
            free += 1
            ids[name] = free
    order = np.array([list(classes).index(name) for name in data.classes.names], np.int64)
    in_order = Classes(tuple(classes), tuple(ids[name] for name in classes))
    return data.in_order(in_order, order)


def _base(sets: Sequence[Labeled]) -> str:
    roots = [os.path.realpath(one.images.root) for one in sets]
    base = os.path.commonpath(roots)
    if base == os.path.dirname(base) and base not in roots:
        first = next(root for root in roots if os.path.commonpath([root, roots[0]]) == base)
        problem = f"'{first}' and '{roots[0]}' have no folder in common"
        raise SsodError(first, "", problem, "put the images below one folder", code=Exit.DATA)
    return base


def _below(base: str, images: Images, i: int) -> str:
    return os.path.relpath(os.path.join(os.path.realpath(images.root), images.paths[i]), base)


def _classes(sets: Sequence[Labeled]) -> Classes:
    names = tuple(dict.fromkeys(name for one in sets for name in one.classes.names))
    first = sets[0].classes
    return first if names == first.names else Classes(names, tuple(range(1, len(names) + 1)))


def _area(part: Labeled) -> np.ndarray:
    sides = part.boxes[:, 2:].astype(np.float64) - part.boxes[:, :2]
    return sides.prod(1) if part.area is None else part.area


def _incomplete(
    sets: Sequence[Labeled], chosen: Sequence[tuple[int, int]], labels: Sequence[np.ndarray], k: int, lacking: bool
) -> np.ndarray | None:
    """Return [N, K] bool, which classes may be missing in each image; None where that is none.

    Args:
        sets: the sets.
        chosen: the set and the row of each image.
        labels: of each set the joined labels of its classes.
        k: K, the number of all classes.
        lacking: whether a class that a set lacks may be missing in its images.
    """
    table, places = np.zeros((len(chosen), k), dtype=bool), np.array(chosen, dtype=np.int64).reshape(-1, 2)
    for s, (one, own) in enumerate(zip(sets, labels)):
        mine = np.flatnonzero(places[:, 0] == s)
        if one.incomplete is not None:
            table[np.ix_(mine, own)] = one.incomplete[places[mine, 1]]
        if lacking:
            table[np.ix_(mine, np.setdiff1d(np.arange(k), own))] = True
    return table if table.any() else None


def _alike(one: Labeled, other: Labeled) -> bool:
    """Return whether two images have the same boxes, to a hundredth of a pixel, of the same classes."""

    def rows(data: Labeled) -> list[tuple]:
        names = [data.classes.names[label] for label in data.labels.tolist()]
        return sorted(zip(names, data.boxes.round(2).tolist(), data.crowd.tolist()))

    mine, theirs = rows(one), rows(other)
    if len(mine) != len(theirs):
        return False
    return all(a == b and c == d and np.allclose(p, q, atol=0.011) for (a, p, c), (b, q, d) in zip(mine, theirs))

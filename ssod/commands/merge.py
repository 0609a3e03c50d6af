"""``ssod merge``: several labelled sets, and their corrections, to one COCO JSON."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ssod.commands.sources import is_json, joined_classes, json_folder, read_labels, same_images
from ssod.data.checks.samefile import common_content
from ssod.data.formats import joined
from ssod.data.formats.coco import to_coco
from ssod.data.formats.findings import Context, short
from ssod.data.formats.image_folder import absolute
from ssod.data.formats.joined import Twice
from ssod.data.formats.presence import check_files
from ssod.data.formats.records import Labeled
from ssod.utils import atomic
from ssod.utils.address import refuse_url
from ssod.utils.errors import Exit, SsodError


@dataclass(frozen=True)
class Amount:
    """How much a labelled set holds.

    Attributes:
        name: as it was named.
        images, boxes, classes: how many there are.
    """

    name: str
    images: int
    boxes: int
    classes: int

    def counts(self) -> str:
        """Return the counts for people."""
        return f"{self.images} images, {self.boxes} boxes, {self.classes} classes"

    def __str__(self) -> str:
        return f"{self.name}: {self.counts()}"


@dataclass(frozen=True)
class Merged:
    """One set that was made of several.

    Attributes:
        out: the file.
        sources: what each of them holds, in their order.
        whole: what was written.
        remarks: sentences for people: whose labels count, which sets have no box, which lack a class.
        labels: the labels themselves.
    """

    out: Path
    sources: tuple[Amount, ...]
    whole: Amount
    remarks: tuple[str, ...]
    labels: Labeled = field(repr=False)


def merge(
    sources: Sequence[str | os.PathLike], out: str | os.PathLike, *, images: Sequence[str | os.PathLike] = ()
) -> Merged:
    """Write all images and labels of several sets to one COCO JSON, and say which images several of them have.

    Images and annotations are numbered anew, classes go by name. The same image is one that lies in the same place, has
    the same bytes, or, of a JSON whose images lie nowhere (a labelling tool's export), the same name. Of such an image
    the labels of the last set count, all of them.

    A set that lacks a class of another one says nothing about it: its images are written as ``incomplete`` in that
    class, and what may be such an object there is ignored in training instead of background. Where no set has a box,
    as parts in which a detector found nothing, their images and classes are written.

    Args:
        sources: two or more COCO JSONs, VOC folders or YOLO folders, corrections after what they correct.
        out: the file; never written over. Names in it are relative to the folder that all images lie below, which
            stands in it as ``info.images``: ``ssod init`` looks there.
        images: image folders, where a JSON's are in no usual one.

    Returns:
        What was written, and what it was made of.

    Raises:
        SsodError: a set that cannot be read, images that are nowhere, an ``out`` that is there; of ``images``, a folder
            that no set takes, or two that have different ones by a set's names.
    """
    out = Path(out)
    if len(sources) < 2:
        raise SsodError("command line", "SOURCES", "one set alone", "name two or more")
    if out.suffix.lower() != ".json":
        raise SsodError("command line", "--out", f"'{out}' is no .json", "name a COCO JSON to write")
    refuse_url(out)
    if out.exists():
        raise SsodError(out, "", "exists; nothing is written over", "name another file with -o")
    sets: list[Labeled] = []
    folders = [json_folder(path, images) for path in sources]
    _refuse_idle(images, folders)
    for path, folder in zip(sources, folders):
        data = read_labels(path, "SOURCES", folder, needs_objects=False)  # nothing is found in some part of a folder
        sets.append(_located(data, sets, path) if folder is None and is_json(path) else _checked(data, path))
    if not any(len(one.classes) for one in sets):
        problem = "none of the sets has a box or names a class"
        raise SsodError(sources[0], "", problem, "name one that does", code=Exit.DATA)
    data, twice = joined.join(sets, _keys(sets), lacking_is_open=True)
    table = {"info": {"images": os.path.relpath(data.images.root, os.path.realpath(out.parent))}, **to_coco(data)}
    atomic.write_text(out, json.dumps(table), new=True)
    remarks = (*told(twice, sources), *empty(sets, sources), *lacking(sets, sources))
    amounts = tuple(_amount(os.fspath(path), one) for path, one in zip(sources, sets))
    merged = Merged(out, amounts, _amount(os.fspath(out), data), remarks, data)
    print("\n".join([*map(str, merged.sources), *remarks, f"{merged.whole.counts()} -> {out}"]))
    return merged


def _refuse_idle(named: Sequence[str | os.PathLike], found: Sequence[str | None]) -> None:
    """Refuse an image folder that no set takes: a mistyped one would leave its place to another in silence."""
    for folder in named:
        if str(absolute(os.fspath(folder))) not in found:
            problem = f"'{folder}' has the images of none of these JSONs, or another folder has more of them"
            raise SsodError("command line", "--images", problem, "fix it, or leave it out")


def _amount(name: str, data: Labeled) -> Amount:
    return Amount(name, len(data), len(data.boxes), len(data.classes))


def _checked(data: Labeled, path: str | os.PathLike) -> Labeled:
    """Return a set whose images are there.

    Raises:
        SsodError: the first that is not, or leads out of its folder.
    """
    ctx = Context("", "SOURCES")
    check_files(data.images, os.fspath(path), ctx)
    ctx.findings.raise_first()
    return data


def _located(data: Labeled, before: Sequence[Labeled], path: str | os.PathLike) -> Labeled:
    """Return a set whose images are those of earlier sets by name.

    Raises:
        SsodError: naming the first that no earlier set has.
    """
    found: dict[int, str] = {}
    for one in before:
        lie = joined.places(one.images)
        found |= {i: lie[row] for i, row in enumerate(same_images(one.images, data.images)) if row >= 0}
    lost = [name for i, name in enumerate(data.images.paths) if i not in found]
    if lost:
        problem = f"{len(lost)} images are nowhere, first {short(lost[0])}"
        fix = "name their folder with --images, or name the set that has them before this one"
        raise SsodError(path, "images[].file_name", problem, fix, code=Exit.DATA)
    root = os.path.commonpath([os.path.dirname(place) for place in found.values()])
    paths = [os.path.relpath(found[i], root) for i in range(len(data))]
    return replace(data, images=replace(data.images, root=root, paths=paths))


def _keys(sets: Sequence[Labeled]) -> list[list[Hashable]]:
    """Return what tells images apart: their places; of one with the bytes of an earlier one that one's."""
    keys: list[list[Hashable]] = []
    for s, one in enumerate(sets):
        mine: list[Hashable] = list(joined.places(one.images))
        at = {path: i for i, path in enumerate(one.images.paths)}
        for before, known in zip(sets[:s], keys):
            first = {path: i for i, path in enumerate(before.images.paths)}
            for a, b in common_content(before.images, one.images):
                mine[at[b]] = known[first[a]]
        keys.append(mine)
    return keys


def told(twice: Sequence[Twice], sources: Sequence[str | os.PathLike]) -> list[str]:
    """Say whose labels count of the images that several sets have, a line for each pair of sets."""
    lines = []
    for (before, after), many in Counter((one.before, one.after) for one in twice).items():
        other = [one.path for one in twice if (one.before, one.after) == (before, after) and not one.same]
        text = f"{many} images of {sources[before]} are in {sources[after]}, too"
        if other:
            text += f"; {len(other)} have other boxes there, and those count, first {other[0]}"
        lines.append(text)
    return lines


def empty(sets: Sequence[Labeled], sources: Sequence[str | os.PathLike]) -> list[str]:
    """Say which sets have no box, a line each: that may be so, or nobody has labelled them."""
    return [
        f"{path} has no box: its images are written as images without objects; unlabelled ones are to be left out"
        for path, one in zip(sources, sets)
        if not len(one.boxes)
    ]


def lacking(sets: Sequence[Labeled], sources: Sequence[str | os.PathLike]) -> list[str]:
    """Say which sets lack a class of another one, a line each."""
    every = joined_classes(sets)
    lines = []
    for path, one in zip(sources, sets):
        names = [name for name in every if name not in one.classes.names]
        if names:
            first = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
            lines.append(f"{path} has no class {first}: its images are written as incomplete there, not as background")
    return lines

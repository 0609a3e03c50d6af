"""Sets of labels that are named on a command line, and the images that two of them share."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from pydantic import TypeAdapter

from ssod.data.formats.coco import read_coco
from ssod.data.formats.findings import Context, Rules
from ssod.data.formats.image_folder import absolute, image_folder, likeliest, stated_folder
from ssod.data.formats.infer import labeled_source
from ssod.data.formats.jsonfile import read_json
from ssod.data.formats.records import Images, Labeled
from ssod.data.formats.registry import LabeledSource, read_labeled
from ssod.data.stored import places
from ssod.utils.errors import SsodError

PARTS = ("train", "trainval")


def read_labels(
    path: str | os.PathLike, name: str, images: str | None = None, *, needs_objects: bool = True
) -> Labeled:
    """Read a COCO JSON, a VOC folder or a YOLO folder, and print what was repaired or left out in it.

    Of a COCO JSON that states sizes no image has to be there.

    Args:
        path: the file or folder.
        name: what messages call it.
        images: image folder of a COCO JSON; None = the file's own.
        needs_objects: whether a set without a box is an error.

    Raises:
        SsodError: the first error in it.
    """
    where = Path(os.path.abspath(os.path.expanduser(path)))
    ctx = Context("", name, Rules(needs_objects=needs_objects))
    if where.is_file() and where.suffix.lower() == ".json":
        data = read_coco(str(where), os.path.abspath(images or where.parent), ctx)
    else:
        source = TypeAdapter(LabeledSource).validate_python(labeled_source(os.fspath(path), name, PARTS))
        data = read_labeled(source, ctx)
    ctx.findings.raise_first()
    for line in ctx.findings.kinds():
        print(line)
    return data


def is_json(path: str | os.PathLike) -> bool:
    """Whether a set is a COCO JSON, whose images may lie anywhere."""
    return os.fspath(path).lower().endswith(".json") and os.path.isfile(path)


def json_folder(path: str | os.PathLike, named: Sequence[str | os.PathLike]) -> str | None:
    """Return the folder of a COCO JSON's images: the likeliest of ``named``, or a usual one; None where there is none.

    Raises:
        SsodError: no COCO JSON, or two folders have different images by its names.
    """
    if not is_json(path):
        return None
    where = Path(os.path.abspath(path))
    table = read_json(str(where), Context(), "SOURCES")
    if not isinstance(table.get("images"), list):
        return None
    found = likeliest(where, table["images"], [absolute(os.fspath(folder)) for folder in named], "--labeled")
    try:
        found = found or image_folder(where, table["images"], "--labeled", None, None, stated_folder(table))
    except SsodError as error:
        if "different images" in error.problem:
            raise
    return None if found is None else str(found)


def same_images(known: Images, others: Images) -> list[int]:
    """Return for each of ``others`` its place in ``known``; -1 for one that is not there, or may be several.

    Images are known by their path, by their name, or by that without its ending: tools change folders and endings.
    """
    found = {name: place for name, place in places(known).items() if isinstance(name, str)}
    rows = []
    for path in others.paths:
        name = os.path.basename(path)
        keys = (path, name, os.path.splitext(path)[0], os.path.splitext(name)[0])
        rows.append(next((found[key] for key in keys if found.get(key, -1) >= 0), -1))
    return rows


def joined_classes(sets: Sequence[Labeled]) -> list[str]:
    """Return the names of all classes, those of the first set first."""
    return list(dict.fromkeys(name for one in sets for name in one.classes.names))

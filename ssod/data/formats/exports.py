"""Which export of a labelling tool a folder or a JSON is, where neither VOC's lists nor a data.yaml say so."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ssod.data.formats.findings import Context, short
from ssod.data.formats.image_folder import image_folder, stated_folder
from ssod.data.formats.jsonfile import read_any_json, read_json
from ssod.data.formats.labelstudio import image_paths, is_tasks
from ssod.data.formats.listing import hidden, is_image
from ssod.data.formats.paths import Opener
from ssod.data.formats.voclayout import ALL, ANNOTATIONS
from ssod.utils.errors import SsodError

Source = dict[str, str]  # a source of the config's `data` section, with absolute paths

READ = "JSON of COCO or Label Studio, or a folder of VOC (XML), YOLO (data.yaml or classes.txt) or labelme"
_HEAD = 2000  # bytes of a file that say which tool wrote it
# What the beginning of a file says, where the tool has an export that is read, and what to choose.
_TOOLS = {
    ".xml": ((b"<annotations", "CVAT's own XML: export it from CVAT as COCO 1.0"),),
    ".csv": ((b"", "a table: export it as COCO JSON"),),
    ".tfrecord": ((b"", "a TFRecord: export it as COCO JSON"),),
    ".json": (
        (b'"_via_', "a VIA project: export its annotations as COCO"),
        (b'"coordinates"', "CreateML: export it as COCO JSON"),
    ),
}


def found_in(folder: Path, option: str, splits: Sequence[str], images: str | None, also: str | None) -> Source | None:
    """Return the source that a folder is: one part of it, or all; None if it is none that is read.

    Args:
        folder: a folder without ImageSets/Main, data.yaml and what stands in its place.
        option: the command's option that it came from, for messages.
        splits: names of a part, the likeliest first.
        images: image folder of a COCO JSON, if the user named it.
        also: where to look besides.

    Raises:
        SsodError: there are several sets, and no way to choose; or one that does not hold what it says.
    """
    source = _flat(folder, option, splits, images, also)
    if source is not None:
        return source
    parts = {part.name: part for part in _folders(folder)}
    for name in [name for split in splits for name in parts if like(name, split)]:
        source = _flat(parts[name], option, splits, images, also)
        if source is not None:
            return source
    return None


def like(name: str, split: str) -> bool:
    """Return whether a part is called ``split``, or that and a year: ``train2017``."""
    return name == split or name.rstrip("0123456789").rstrip("_-") == split


def _flat(folder: Path, option: str, splits: Sequence[str], images: str | None, also: str | None) -> Source | None:
    files = _files(folder)
    stems = {os.path.splitext(name)[0] for name in files if is_image(name)}
    beside = [name for name in files if name.lower().endswith(".json") and name[:-5] in stems]
    if beside and _has_shapes(folder / beside[0], option):
        return {"format": "labelme", "root": str(folder)}
    if _is_voc(folder / ANNOTATIONS) or _is_voc(folder):
        return {"format": "voc", "root": str(folder), "split": ALL}
    names = [*files, *(f"annotations/{name}" for name in _files(folder / "annotations"))]
    json = [folder / name for name in names if name.lower().endswith(".json") and name not in beside]
    sets = [file for file in json if _is_set(file, option)]
    if len(sets) > 1:
        sets = [file for file in sets if file.name.startswith("instances_")] or sets
        sets = _of_split(sets, splits)
    if not sets:
        return None
    if len(sets) > 1:
        said = ", ".join(str(file.relative_to(folder)) for file in sets[:6])
        raise SsodError("command line", option, f"'{folder}' holds several sets: {said}", "name one of them")
    return read_set(sets[0], option, images, also)


def _of_split(sets: list[Path], splits: Sequence[str]) -> list[Path]:
    """Return the files of the likeliest part, by the last word of their names; all of them if none says."""
    for split in splits:
        named = [file for file in sets if like(file.stem, split) or like(file.stem.rpartition("_")[2], split)]
        if named:
            return named
    return sets


def read_set(ann: Path, option: str, images: str | None, also: str | None, *, boxes: bool = True) -> Source:
    """Return the source of a COCO JSON or of Label Studio's, with the folder of its images.

    Args:
        ann: the JSON.
        option, images, also: as of ``found_in``.
        boxes: it must have some.

    Raises:
        SsodError: it is neither, or its images are not found.
    """
    tree = read_any_json(str(ann), Context(), option)
    if is_tasks(tree):
        return _labelstudio(ann, tree, option, images, also)
    if isinstance(tree, dict) and isinstance(tree.get("shapes"), list):
        problem = f"'{ann}' is labelme's, of one image"
        raise SsodError("command line", option, problem, f"name its folder: {ann.parent}")
    if isinstance(tree, list) and tree and isinstance(tree[0], dict) and "score" not in tree[0]:
        problem = f"'{ann}' is a list of objects with {', '.join(map(short, list(tree[0])[:5]))}"
        raise SsodError(
            "command line", option, problem, f"choose JSON, not JSON-MIN, in Label Studio; or give a {READ}"
        )
    if not isinstance(tree, dict):
        tree = read_json(str(ann), Context(), option)  # says what is wrong
    for key in ("images", "annotations", "categories") if boxes else ("images",):
        if not isinstance(tree.get(key), list):
            has = f" (it has {', '.join(map(short, list(tree)[:4]))})" if tree else ""
            problem = f"'{ann}' is JSON, but has no list '{key}'{has}, so it is no COCO file"
            raise SsodError("command line", option, problem, f"give a {READ}")
    return _coco(ann, tree, option, images, also)


def _coco(ann: Path, tree: dict[str, Any], option: str, images: str | None, also: str | None) -> Source:
    source, entries, stated = {"format": "coco", "ann": str(ann)}, tree["images"], stated_folder(tree)
    try:
        folder = image_folder(ann, entries, option, images, also, stated)
    except SsodError as error:
        last = [entry | {"file_name": _last(entry["file_name"])} for entry in entries if _names_file(entry)]
        try:
            folder = image_folder(ann, last, option, images, also, stated)
        except SsodError:
            raise error from None
        source["names"] = "last"
    if folder is None:
        raise SsodError("command line", option, f"'{ann}' names no image file", f"give a {READ}")
    return source | {"images": str(folder)}


def _last(path: str) -> str:
    return path.replace("\\", "/").rpartition("/")[2]


def _names_file(entry: Any) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("file_name"), str)


def _labelstudio(ann: Path, tasks: list[Any], option: str, images: str | None, also: str | None) -> Source:
    paths = image_paths(tasks, "")
    if paths is None:
        raise SsodError("command line", option, f"'{ann}' names no image file", "export tasks of images")
    last = [_last(path) for path in paths]
    bare = [name[9:] if name[8:9] == "-" else name for name in last]  # without the server's prefix
    first: SsodError | None = None
    for names in (last, bare, [path.lstrip("/") for path in paths]):
        try:
            folder = image_folder(ann, [{"file_name": name} for name in names], option, images, also)
            return {"format": "labelstudio", "ann": str(ann), "images": str(folder)}
        except SsodError as error:
            first = first or error
    raise first or AssertionError("one try at least")


def what_is_in(folder: Path) -> tuple[str, str]:
    """Return what a folder that is not read holds, in words, and what to do."""
    names = [name for place in (folder, folder / "annotations") for name in _files(place)]
    ends = Counter("images" if is_image(name) else os.path.splitext(name)[1].lower() or "others" for name in names)
    said = [f"{count} {end if end in ('images', 'others') else f'{end} files'}" for end, count in ends.most_common(4)]
    said += [f"the folders {', '.join(sorted(part.name for part in _folders(folder))[:5])}"] if _folders(folder) else []
    for place in (folder, folder / "annotations"):
        for name in _files(place):
            for mark, fix in _TOOLS.get(os.path.splitext(name)[1].lower(), ()):
                if mark in _head(place, name):
                    return f"holds {', '.join(said)}; '{name}' is {fix.partition(':')[0]}", fix.partition(": ")[2]
    return f"holds {', '.join(said) or 'nothing'}, and no labels that are read", f"give a {READ}"


def _files(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    return sorted(entry.name for entry in os.scandir(folder) if not hidden(entry.name) and not entry.is_dir())


def _folders(folder: Path) -> list[Path]:
    return sorted(Path(entry.path) for entry in os.scandir(folder) if entry.is_dir() and not hidden(entry.name))


def _head(folder: Path, name: str) -> bytes:
    path = Opener(str(folder), allow_symlinks=False).path(name)
    if path is None:
        return b""
    with open(path, "rb") as file:
        return file.read(_HEAD)


def _is_voc(folder: Path) -> bool:
    """Return whether a folder holds VOC's XML files; the first of them decides."""
    xml = [name for name in _files(folder) if name.lower().endswith(".xml")]
    return bool(xml) and re.search(rb"<annotation[\s>]", _head(folder, xml[0])) is not None


def _has_shapes(file: Path, option: str) -> bool:
    tree = read_any_json(str(file), Context(), option)
    return isinstance(tree, dict) and isinstance(tree.get("shapes"), list)


def _is_set(file: Path, option: str) -> bool:
    """Return whether a JSON is a labelled set; one that is broken may be, and is told when it is read."""
    try:
        tree = read_any_json(str(file), Context(), option)
    except SsodError:
        return True
    needed = ("images", "annotations", "categories")
    return is_tasks(tree) or (isinstance(tree, dict) and all(isinstance(tree.get(key), list) for key in needed))

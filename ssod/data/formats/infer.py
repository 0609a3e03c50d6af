"""What is at a path that a user gave: a set of one of the formats, an export of a labelling tool, or images alone."""

from __future__ import annotations

import difflib
import glob
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ssod.data.formats.exports import READ, Source, found_in, like, read_set, what_is_in
from ssod.data.formats.findings import Context
from ssod.data.formats.folder import before_wildcard
from ssod.data.formats.listing import hidden
from ssod.data.formats.yolofile import NAME, VAL, is_yaml, read_data_yaml, which
from ssod.data.formats.yoloparts import named_parts
from ssod.utils.address import is_url, plain_url
from ssod.utils.errors import SsodError

_PATHS = ("ann", "images", "root", "path")
REST = "rest"  # in the place of unlabelled images: those of the labelled set that nobody labelled
_UNLABELED = ("unlabeled", "unlabelled")
MEASURED = (*VAL, "test")  # what a run is measured on while it trains; the best model is chosen by it


def labeled_source(
    path: str, option: str, splits: Sequence[str], images: str | None = None, also: str | None = None
) -> Source:
    """Say what annotated set is at ``path``.

    Args:
        path: a JSON of COCO or Label Studio, a folder of VOC, YOLO or labelme, a data.yaml, whatever that is called,
            or the folder of such an export.
        option: the command's option that the path came from, for messages.
        splits: names of a part of a VOC or YOLO folder, the likeliest first.
        images: image folder of a COCO JSON; None = look where they usually lie.
        also: where to look besides.

    Raises:
        SsodError: nothing there, or nothing that is known.
    """
    where = Path(os.path.abspath(os.path.expanduser(path)))
    if not where.exists():
        raise _unknown(option, path, f"not found{_nearest(where)}")
    if is_yaml(str(where)) or which(str(where)):
        return _yolo(where, option, splits)
    if where.is_file():
        if where.suffix.lower() != ".json":
            raise _unknown(option, path, "is a file, but no COCO JSON")
        return read_set(where, option, images, also)
    if (where / "ImageSets" / "Main").is_dir():
        return {"format": "voc", "root": str(where), "split": _voc_split(where, option, splits)}
    source = found_in(where, option, splits, images, also)
    if source is None:
        problem, fix = what_is_in(where)
        raise SsodError("command line", option, f"'{path}' {problem}", fix)
    return source


def unlabeled_source(path: str, option: str, labeled: Source, also: str | None = None) -> Source:
    """Say what images are at ``path``: whatever ``labeled_source`` knows, a folder, glob, .txt list or address.

    Args:
        path: what the user gave.
        option: the command's option that the path came from, for messages.
        labeled: the labelled set, which this must not be.
        also: as in ``labeled_source``.

    Raises:
        SsodError: nothing there, or the labelled images themselves.
    """
    if is_url(path):
        return {"format": "folder", "path": plain_url(path)}
    where = Path(os.path.abspath(os.path.expanduser(path)))
    if not where.exists():
        if glob.has_magic(path):
            return {"format": "folder", "path": str(where)}
        raise _unknown(option, path, f"not found{_nearest(where)}")
    if is_yaml(str(where)) or which(str(where)):
        source = _yolo(where, option, (*_UNLABELED, "train"))
    elif where.is_file() and where.suffix.lower() == ".json":
        source = read_set(where, option, None, also, boxes=False)
    elif where.is_file() and where.suffix.lower() != ".txt":
        raise _unknown(option, path, "is neither a COCO JSON nor a .txt list")
    elif (where / "ImageSets" / "Main").is_dir():
        split = _voc_split(where, option, (*_UNLABELED, "trainval", "train"))
        source = {"format": "voc", "root": str(where), "split": split}
    else:
        source = {"format": "folder", "path": str(where)}
    if source == labeled or (source["format"] == "folder" and source["path"] == labeled.get("root")):
        fix = "name other images, or rest for those without labels; or drop --unlabeled and give --percent 10"
        raise SsodError("command line", option, f"'{path}' holds the labelled images themselves", fix)
    return source


def below_one_root(sources: Sequence[Source]) -> tuple[str | None, list[Source]]:
    """Return the folder that all paths share, and the sources with paths relative to it; None = they share none.

    An address stays as it is.
    """
    paths = [source[key] for source in sources for key in _PATHS if key in source and not is_url(source[key])]
    fixed = [before_wildcard(path)[0] for path in paths]
    root = os.path.commonpath(fixed)
    if root in fixed:
        root = os.path.dirname(root)
    if root == os.path.dirname(root):
        return None, list(sources)
    relative = [
        {
            key: os.path.relpath(value, root) if key in _PATHS and not is_url(value) else value
            for key, value in source.items()
        }
        for source in sources
    ]
    return root, relative


def _voc_split(root: Path, option: str, wanted: Sequence[str]) -> str:
    files = sorted((root / "ImageSets" / "Main").glob("*.txt"))
    lists = [file.stem for file in files if not hidden(file.name)]
    if wanted == MEASURED and "trainval" in lists:  # as published: trainval is learnt from, and val is part of it
        wanted = ("test", *wanted)
    return _pick(lists, wanted, option, f"{root}/ImageSets/Main")


def _yolo(where: Path, option: str, wanted: Sequence[str]) -> Source:
    data = read_data_yaml(str(where), Context(root="", section=option), needed=True)
    root = where.parent if where.name == NAME else where
    split = _pick(named_parts(data, data.base), wanted, option, str(where))
    return {"format": "yolo", "root": str(root), "split": split}


def _pick(found: Sequence[str], wanted: Sequence[str], option: str, where: str) -> str:
    for name in wanted:
        alike = [name] if name in found else [other for other in found if like(other, name)]
        if len(alike) == 1:
            return alike[0]
    if len(found) == 1:
        return found[0]
    there = f"it has {', '.join(found[:8])}" if found else "it is empty"
    raise _unknown(option, where, f"has none of the parts {', '.join(wanted)}; {there}")


def _nearest(where: Path) -> str:
    names = os.listdir(where.parent) if where.parent.is_dir() else []
    near = difflib.get_close_matches(where.name, names, 1)
    return f"; nearest match '{near[0]}'" if near else ""


def _unknown(option: str, path: str, problem: str) -> SsodError:
    known = READ
    if option == "--unlabeled":
        known = "folder, glob or .txt list of images, or one of the labelled formats"
    return SsodError("command line", option, f"'{path}' {problem}", f"give a {known}")


def data_section(
    labeled: str,
    unlabeled: str | None,
    val: str | None,
    percent: float | None = None,
    images: str | None = None,
    val_images: str | None = None,
    *,
    fold: int = 1,
) -> dict[str, Any]:
    """Return the ``data`` section for what the user named, with paths below one root; ``val`` may be cut later."""
    if unlabeled is None and percent is None:
        fix = (
            "name images without boxes, or 'rest' for those of --labeled that nobody labelled, or give --percent 10 to "
            "hide the labels of all but 10 % of it"
        )
        raise SsodError("command line", "--unlabeled", "missing", fix)
    if percent is not None and not 0 < percent < 100:
        fix = "give the share of the images that keep their labels, in per cent"
        raise SsodError("command line", "--percent", f"{percent:g} is not between 0 and 100", fix)
    measured = None if val is None else labeled_source(val, "--val", MEASURED, val_images, also=images)
    # Where the labels end with `val`, trainval would hold the very images to measure on.
    first = ("train", "trainval") if measured and measured.get("split") in VAL else ("trainval", "train")
    taught = labeled_source(labeled, "--labeled", first, images)
    if taught == measured:
        raise SsodError("command line", "--val", f"'{val}' is the labelled set itself", "name images to measure on")
    sources = {"labeled": taught} | ({"val": measured} if measured else {})
    if unlabeled is not None:
        if unlabeled == REST:
            free, taught = taught | {"which": "bare"}, taught | {"which": "labeled"}
        else:
            free = unlabeled_source(unlabeled, "--unlabeled", taught, also=images)
        sources = {"labeled": taught, "unlabeled": free} | ({"val": measured} if measured else {})
    _refuse_idle("--images", images, list(sources.values()))
    _refuse_idle("--val-images", val_images, [measured] if measured else [])
    root, below = below_one_root(list(sources.values()))
    section: dict[str, Any] = {} if root is None else {"root": root}
    section |= dict(zip(sources, below))
    if percent is not None:
        share = int(percent) if percent == int(percent) else percent
        section["split"] = {"percent": share, "fold": fold, "family": "without_replacement"}
    return section


def _refuse_idle(option: str, folder: str | None, sources: list[dict[str, str]]) -> None:
    """Refuse an image folder that belongs to no JSON."""
    if folder is not None and not {"coco", "labelstudio"} & {source["format"] for source in sources}:
        raise SsodError("command line", option, f"'{folder}' is for a COCO JSON, and there is none", "leave it out")

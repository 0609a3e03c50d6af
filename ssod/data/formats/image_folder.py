"""In which folder the images of a COCO JSON lie, where nobody says so: the one that has most by name and size."""

from __future__ import annotations

import filecmp
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ssod.data.formats.header import read_header
from ssod.data.formats.paths import Opener, name_problem, safe_join
from ssod.utils.errors import SsodError

SAMPLE = 20  # images that are looked for in each folder
# What decides about the images of the set that an option names; unlabelled ones need no JSON.
DECIDES = {
    "--labeled": ("--images", "name the folder that its file names are relative to"),
    "--val": ("--val-images", "name the folder that its file names are relative to"),
    "--unlabeled": ("--unlabeled", "name the folder of its images instead of the JSON"),
}


class _Wanted(NamedTuple):
    """An image of the JSON; ``size`` is its stated (height, width), None where none is stated."""

    name: str
    size: tuple[int, int] | None


def image_folder(
    ann: Path, images: Sequence[Any], option: str, named: str | None, also: str | None, stated: str | None = None
) -> Path | None:
    """Return the folder of a COCO JSON's images; None if it names no image.

    Args:
        ann: the JSON.
        images: its ``images``.
        option: the command's option that the JSON came from.
        named: the folder that the user named for this JSON; no other is looked at.
        also: a folder that was named for another JSON and may hold these images, too.
        stated: what the JSON says itself; it counts where it lies below the current folder or beside the JSON's, all
            images are there by name, and nobody named another. A stranger's file says nothing of other folders.

    Raises:
        SsodError: no folder has any of the images, or two have different ones under the same names.
    """
    wanted = _sample(images)
    if not wanted:
        return None
    if stated is not None and not named:
        own = absolute(os.path.join(ann.parent, stated))
        if any(own.is_relative_to(near) for near in (Path.cwd(), absolute(str(ann.parent)).parent)) and (
            _fit(own, wanted)[1] == len(wanted)
        ):
            return own
    decides, fix = decision(option)
    folders = [absolute(named)] if named else [*_usual(ann), *([absolute(also)] if also else [])]
    found = likeliest(ann, images, folders, option)
    if found is None:
        first = wanted[0].name
        problem = f"'{first}' of {ann.name} is not there" if named else f"cannot find '{first}' of {ann.name}"
        raise SsodError("command line", decides, problem, fix)
    return found


def decision(option: str) -> tuple[str, str]:
    """Return what of a command decides about the images of the set that an option or an argument names, and a fix."""
    return DECIDES.get(option, (option, "name the JSON itself, and put it beside its images"))


def likeliest(ann: Path, images: Sequence[Any], folders: Sequence[Path], option: str) -> Path | None:
    """Return the one of some folders that has most of a COCO JSON's images by name and size; None if none has any.

    Args:
        ann, images, option: as of ``image_folder``.
        folders: absolute ones.

    Raises:
        SsodError: two have different images under the same names.
    """
    wanted, (decides, fix) = _sample(images), decision(option)
    fits = {folder: _fit(folder, wanted) for folder in folders}
    best = max(fits.values(), default=(0, 0))
    if best == (0, 0):
        return None
    first, *others = (folder for folder, fit in fits.items() if fit == best)
    for other in others:
        if not _same(first, other, wanted):
            problem = f"'{first}' and '{other}' hold different images by the names in {ann.name}"
            raise SsodError("command line", decides, problem, fix)
    return first


def stated_folder(table: dict[str, Any]) -> str | None:
    """Return the folder that a COCO JSON of ours names as ``info.images``, relative to the file or absolute."""
    info = table.get("info")
    folder = info.get("images") if isinstance(info, dict) else None
    return folder if isinstance(folder, str) else None


def _sample(images: Sequence[Any]) -> list[_Wanted]:
    """Return up to ``SAMPLE`` images, evenly spread over the file."""
    entries = [image for image in images if isinstance(image, dict) and isinstance(image.get("file_name"), str)]
    chosen = entries[:: max(1, -(-len(entries) // SAMPLE))]
    return [_Wanted(image["file_name"], _size(image)) for image in chosen]


def _size(image: dict[str, Any]) -> tuple[int, int] | None:
    size = image.get("height"), image.get("width")
    return size if all(isinstance(side, int) and side > 0 for side in size) else None


def absolute(folder: str) -> Path:
    """Return a folder that a user named."""
    return Path(os.path.abspath(os.path.expanduser(folder)))


def _usual(ann: Path) -> list[Path]:
    """Return where the images of a COCO JSON may lie, the likeliest first."""
    word = ann.stem.rpartition("_")[2]  # instances_train2017 -> train2017
    return [base / name for base in (ann.parent, ann.parent.parent) for name in ("", "images", word, f"images/{word}")]


def _fit(folder: Path, wanted: Sequence[_Wanted]) -> tuple[int, int]:
    """Return how many images are there by name and size, and how many by name."""
    there = [image for image in wanted if _is_there(folder, image.name)]
    return sum(image.size is None or _has_size(folder, image.name, image.size) for image in there), len(there)


def _is_there(folder: Path, name: str) -> bool:
    """Return whether a name of the JSON is a file's below ``folder``; a link to elsewhere is, and is not opened."""
    return name_problem(name, str(folder)) is None and os.path.isfile(folder / name)


def _has_size(folder: Path, name: str, size: tuple[int, int]) -> bool:
    try:
        height, width, turn = read_header(safe_join(str(folder), name))
    except SsodError:  # reading the data says what is wrong with it
        return False
    return size == (height, width) or (turn >= 5 and size == (width, height))


def _same(one: Path, other: Path, wanted: Sequence[_Wanted]) -> bool:
    """Return whether two folders hold the same files by the names that are wanted; either will do then."""
    openers = [Opener(str(folder), allow_symlinks=False) for folder in (one, other)]
    for image in wanted:
        there = [_is_there(folder, image.name) for folder in (one, other)]
        if there[0] != there[1]:
            return False
        a, b = (opener.path(image.name) for opener in openers)
        if a is not None and b is not None:
            if not filecmp.cmp(a, b, shallow=False):
                return False
        elif all(there) and os.path.realpath(one / image.name) != os.path.realpath(other / image.name):
            return False  # links that lead out of their folder are not opened
    return True

"""Which text file belongs to which image of a YOLO part, and which belong to none."""

from __future__ import annotations

import os
from collections import defaultdict
from dataclasses import dataclass

from ssod.data.formats.findings import Context, short
from ssod.data.formats.leftout import report_left_out
from ssod.data.formats.listing import files_below, hidden, is_image
from ssod.data.formats.paths import same_text
from ssod.data.formats.yoloparts import Part

MANY = 0.1  # of the label files may belong to no image
NO_LABELS = {"classes.txt", "labels.txt", "notes.txt", "readme.txt", "readme.roboflow.txt", "readme.dataset.txt"}


@dataclass(frozen=True)
class Labels:
    """Where the label files lie.

    Attributes:
        root: folder that all of them stay inside.
        names: for each image the path of its label file relative to ``root``; None = it has none.
    """

    root: str
    names: list[str | None]


def find_labels(part: Part, ctx: Context) -> Labels:
    """Find the label file of each image of ``part``; record label files without an image, of which many are wrong."""
    images = part.images
    homes: dict[str, str] = {}
    paths: list[str | None] = []
    there: dict[str, dict[str, str]] = {}
    for name in images.paths:
        folder, base = os.path.split(os.path.join(images.root, name))
        if folder not in homes:
            homes[folder] = home(folder)
        if homes[folder] not in there:
            there[homes[folder]] = _text_files(homes[folder])
        text = there[homes[folder]].get(same_text(os.path.splitext(base)[0]))
        paths.append(None if text is None else os.path.join(homes[folder], text))
    root = os.path.commonpath([home(folder) for folder in part.folders] or list(homes.values()))
    root = os.path.commonpath([root, *homes.values()])
    _report_orphans(part, homes, there, paths, ctx)
    return Labels(root, [None if path is None else os.path.relpath(path, root) for path in paths])


def home(folder: str) -> str:
    """Return the folder of the label files of the images in ``folder``: its mirror, or ``folder`` itself.

    The mirror of ``a/images/x`` is ``a/labels/x``. It is the answer, too, where neither has a text file.
    """
    parts = folder.split(os.sep)
    if "images" not in parts:
        return folder
    last = len(parts) - 1 - parts[::-1].index("images")
    mirror = os.sep.join([*parts[:last], "labels", *parts[last + 1 :]])
    return mirror if os.path.isdir(mirror) or not _text_files(folder) else folder


def _text_files(folder: str) -> dict[str, str]:
    """Return {stem: name} of the text files in a folder; one with its ending in capitals is nobody's: {name: name}."""
    if not os.path.isdir(folder):
        return {}
    names = [name for name in sorted(os.listdir(folder)) if not hidden(name) and name.lower().endswith(".txt")]
    names = [name for name in names if name.casefold() not in NO_LABELS]
    return {same_text(name[:-4]) if name.endswith(".txt") else name: name for name in names}


def _report_orphans(
    part: Part, homes: dict[str, str], there: dict[str, dict[str, str]], paths: list[str | None], ctx: Context
) -> None:
    """Record text files that belong to no image: beside the mirror's, in other folders, under other names."""
    stems = {home: set[str]() for home in homes.values()}
    for folder, place in homes.items():  # of all images that are there: a list may leave some to another part
        stems[place] |= {same_text(os.path.splitext(name)[0]) for name in _listed(folder) if is_image(name)}
    lost = {os.path.join(place, there[place][stem]) for place in stems for stem in there[place].keys() - stems[place]}
    beside = [os.path.join(f, name) for f, place in homes.items() if f != place for name in _text_files(f).values()]
    for folder in part.folders:
        top = home(folder)
        texts = (os.path.join(top, name) for name in files_below(top) if name.lower().endswith(".txt"))
        lost |= {path for path in texts if os.path.dirname(path) not in stems and not _no_label(path)}
    count, used = len(lost) + len(beside), sum(path is not None for path in paths)
    if not count:
        return
    bare = [name for name, path in zip(part.images.paths, paths) if path is None]
    first = os.path.relpath(min([*sorted(lost)[:1], *sorted(beside)[:1]]), part.base)
    detail = [f"of {count + used}"]
    if beside:
        detail.append(f"{len(beside)} lie beside their images, the others in 'labels'")
    near = _near(lost, bare)
    if near:
        detail.append(f"{len(near)} have nearly the name of one: {short(near[0][0], 30)}, {short(near[0][1], 30)}")
    if count > 1 and count > MANY * (count + used):
        problem = f"{count} label files have no image ({'; '.join(detail)}), first {short(first)}"
        fix = "move them all into 'labels'" if beside else "give each the name of its image"
        ctx.findings.error("L05", part.base, ctx.section, problem, fix, count=count)
    else:
        report_left_out("L05", [first], part.base, ctx, "; ".join(detail), count=count)


def _no_label(path: str) -> bool:
    return os.path.basename(path).casefold() in NO_LABELS


def _listed(folder: str) -> list[str]:
    return [name for name in os.listdir(folder) if not hidden(name)] if os.path.isdir(folder) else []


def _near(lost: set[str], bare: list[str]) -> list[tuple[str, str]]:
    """Return (label file, image) whose names are alike but for case, blanks, separators and a doubled ending."""
    images: dict[str, str] = defaultdict(str)
    for name in sorted(bare):
        images[_plain(os.path.basename(name))] = os.path.basename(name)
    texts = [os.path.basename(path) for path in sorted(lost)]
    pairs = [(text, images.get(_plain(text[:-4]), "")) for text in texts]
    return [(text, image) for text, image in pairs if image]


def _plain(name: str) -> str:
    stem = os.path.splitext(name)[0] if is_image(name) else name
    return "".join(letter for letter in same_text(stem).casefold() if letter.isalnum())

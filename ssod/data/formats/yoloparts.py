"""Which images a part of a YOLO set has, and where the label file of each is.

The label file of ``.../images/x/a.jpg`` is ``.../labels/x/a.txt``, with the last ``images`` of the path; where there is
no such folder it lies beside the image. What ``data.yaml`` names as a part is that part; only a part that it does not
name is looked for in ``images/<part>`` and ``<part>/images``.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from ssod.data.formats.findings import Context, short
from ssod.data.formats.folder import list_lines, once
from ssod.data.formats.jsonfile import nearest
from ssod.data.formats.leftout import report_left_out
from ssod.data.formats.listing import hidden, image_names, is_image, warn_of_hidden
from ssod.data.formats.paths import plain_name, refuse_unsafe
from ssod.data.formats.presence import as_spelled
from ssod.data.formats.records import Images
from ssod.data.formats.yolofile import PARTS, DataYaml, check_base, place_of

ALL = "."  # the part of a set that has no parts
SAMPLE = 20  # lines of a list that are looked up to learn what they are relative to


@dataclass(frozen=True)
class Part:
    """The images of a part.

    Attributes:
        images: the images; ids are their paths without ending.
        base: folder that the set lies in.
        folders: the folders that were named as the part; empty where lists were.
    """

    images: Images
    base: str
    folders: list[str] = field(default_factory=list)


def find_part(data: DataYaml, split: str, ctx: Context) -> Part:
    """Return the images of ``split``.

    Raises:
        SsodError: the part is not there, or has no image.
    """
    place, folder = f"{ctx.section}.root", os.path.dirname(data.file)
    if not os.path.isdir(folder):
        raise ctx.findings.fatal("D01", folder, place, f"not found{nearest(folder)}", f"fix {place}")
    check_base(data, ctx)
    named = data.names_of(split)
    places = _usual(data, split, ctx) if named is None else [place_of(data, split, name, ctx) for name in named]
    if any(map(os.path.isabs, places)):
        places, data = list(map(os.path.abspath, places)), replace(data, base=os.path.abspath(data.base))
    folders = [path for path in places if os.path.isdir(path)]
    lists = [path for path in places if path not in folders]
    found = [os.path.join(path, name) for path in folders for name in image_names(path, ctx)]
    for path in lists:
        found += _from_list(path, data, split, ctx)
    roots = [*folders, *([data.base] if lists else [])]
    root = os.path.commonpath(roots)
    names = [os.path.relpath(path, root) if path.startswith(os.path.join(root, "")) else path for path in found]
    if len(places) > 1:
        names = once(names, data.file, ctx)
    if not names:
        raise ctx.findings.fatal("D08", places[0], f"{ctx.section}.split", "0 images", "check the folder")
    refuse_unsafe(names, root, places[0], "name {}", ctx)
    if lists:
        warn_of_hidden(names, lists[0], ctx)
    ctx.findings.raise_first()
    images = Images(root, names, names)
    images = as_spelled(images, lists[0], ctx) if lists else images
    ids = [os.path.splitext(name)[0] for name in images.paths]
    return Part(replace(images, ids=ids), data.base, folders if not lists else [])


def _usual(data: DataYaml, split: str, ctx: Context) -> list[str]:
    for names in (("images", split), (split, "images")):
        folder = os.path.normpath(os.path.join(data.base, *names))
        if os.path.isdir(folder):
            return [folder]
    if split == ALL:
        return [data.base]
    problem = f"neither images/{split} nor {split}/images is there"
    if data.parts:
        problem = f"{os.path.basename(data.file)} does not name '{split}' (only {', '.join(data.parts)}), and {problem}"
    raise ctx.findings.fatal("D01", data.base, f"{ctx.section}.split", problem, "fix the split or the folder")


def _from_list(path: str, data: DataYaml, split: str, ctx: Context) -> list[str]:
    """Return the paths that the lines of a list name; a line that is no image's name is an error."""
    if not path.lower().endswith(".txt"):
        problem = f"{short(os.path.basename(path))} is neither a folder nor a .txt list"
        raise ctx.findings.fatal("Y01", data.file, split, problem, "name a folder or a list")
    root = data.base if path.startswith(os.path.join(data.base, "")) else None  # elsewhere only by a name
    lines = list_lines(path, split, ctx, root)
    for number, line in lines:
        if not is_image(line):
            ctx.findings.error("Y03", path, f"line {number}", f"{short(line)} is no image", "name images, one a line")
    ctx.findings.raise_first()
    here = os.path.dirname(path)
    base, cut = _relative_to([line for _, line in lines if not line.startswith(("./", "/"))], [here, data.base])
    if cut:
        report_left_out(
            "L15", [line for _, line in lines if line.startswith(cut)], path, ctx, f"read without {short(cut)}"
        )
    found = []
    for _, line in lines:
        start = here if line.startswith("./") else base
        found.append(os.path.join(start, plain_name(line.removeprefix(cut))))
    return once(found, path, ctx)


def _relative_to(lines: Sequence[str], bases: Sequence[str]) -> tuple[str, str]:
    """Return the folder that lines are relative to, and what they begin with needlessly: ``data/`` in exports."""
    sample = lines[:: max(1, -(-len(lines) // SAMPLE))]
    ways = [(base, cut) for cut in ("", "data/") for base in dict.fromkeys(bases)]
    fits = [sum(os.path.isfile(os.path.join(base, line.removeprefix(cut))) for line in sample) for base, cut in ways]
    return ways[fits.index(max(fits))]


def named_parts(data: DataYaml, folder: str) -> list[str]:
    """Return the parts of a set: those that data.yaml names, or else the folders that are there.

    Where the images lie in ``images`` itself, or in ``folder``, they are the part ".".
    """
    if data.parts:
        return [name for name in PARTS if name in data.parts]
    found = _folders(os.path.join(folder, "images"))
    found += [name for name in _folders(folder) if os.path.isdir(os.path.join(folder, name, "images"))]
    if found:
        return sorted(set(found))
    tops = [top for top in (os.path.join(folder, "images"), folder) if os.path.isdir(top)]
    return [ALL] if any(is_image(name) for top in tops for name in os.listdir(top)) else []


def _folders(folder: str) -> list[str]:
    if not os.path.isdir(folder):
        return []
    return [entry.name for entry in os.scandir(folder) if entry.is_dir() and not hidden(entry.name)]

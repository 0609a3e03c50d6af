"""What a YOLO folder's ``data.yaml`` says of the set: class names, and which images each part has.

``path, train, val, test, nc, names`` are read as Ultralytics documents them: a part is a folder, a .txt list of images
or several of these, relative to ``path``, which is relative to the file. What is named and is not there is an error.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

from ssod.data.formats.darknet import CLASSES, OBJ_DATA, read_names, read_obj_data
from ssod.data.formats.findings import Context, default_root, short
from ssod.data.formats.jsonfile import kind, nearest, read_text
from ssod.data.formats.leftout import report_left_out
from ssod.data.formats.listing import is_image
from ssod.data.formats.paths import Opener
from ssod.utils.errors import Exit, SsodError
from ssod.utils.yaml_io import parse_yaml

NAME = "data.yaml"
VAL = ("val", "valid", "validation")  # one part under three names
PARTS = ("train", *VAL, "test")
_LOOKED_AT = 1 << 20  # characters of a file of another name, to see what it is
_MOST_VALUES = 50_000  # of a file; a class by its number is two


@dataclass(frozen=True)
class DataYaml:
    """A ``data.yaml``.

    Attributes:
        file: the file; it need not exist.
        base: folder that the parts are relative to.
        tree: what the file holds; empty if there is none.
        parts: the names of each part's folders and lists, as they are written.
    """

    file: str
    base: str
    tree: dict[str, Any] = field(default_factory=dict)
    parts: dict[str, list[str]] = field(default_factory=dict)

    def names_of(self, split: str) -> list[str] | None:
        """Return what the file names as a part; None if it does not name it. ``valid`` is ``val``."""
        names = (split, *VAL) if split in VAL else (split,)
        return next((self.parts[name] for name in names if name in self.parts), None)


def is_yaml(path: str) -> bool:
    """Whether a source's ``root`` is the file itself, in the place of its folder."""
    return path.lower().endswith((".yaml", ".yml")) and not os.path.isdir(path)


def which(folder: str) -> str | None:
    """Return the name of the file that says what set lies in a folder; None if it is no YOLO folder.

    That is data.yaml, or the one YAML file of another name that lists ``names`` and a part.
    """
    for name in (NAME, OBJ_DATA):
        if os.path.lexists(os.path.join(folder, name)):
            return name
    others = [name for name in _listed(folder) if is_yaml(name) and _lists_names(folder, name)]
    if len(others) == 1:
        return others[0]
    flat = os.path.isdir(os.path.join(folder, "images")) or any(map(is_image, _listed(folder)))
    return CLASSES if flat and os.path.isfile(os.path.join(folder, CLASSES)) else None


def _listed(folder: str) -> list[str]:
    return sorted(os.listdir(folder)) if os.path.isdir(folder) else []


def _lists_names(folder: str, name: str) -> bool:
    """Return whether a YAML file has the keys of a data.yaml at the start of lines; reading it says what is wrong."""
    path = Opener(folder, allow_symlinks=False).path(name)
    if path is None:
        return False
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            text = file.read(_LOOKED_AT)
    except OSError:
        return False
    keys = {line.partition(":")[0].strip("\ufeff") for line in text.splitlines()}
    return "names" in keys and not keys.isdisjoint(PARTS)


def read_data_yaml(root: str, ctx: Context, *, needed: bool) -> DataYaml:
    """Read the ``data.yaml`` of ``root``, its folder or the file itself, or what stands in its place (``darknet``).

    Raises:
        SsodError: it is no plain YAML, or names a ``path`` or parts that are no names; if ``needed``, it is absent.
    """
    file = root if is_yaml(root) else os.path.join(root, which(root) or NAME)
    folder, name = os.path.dirname(file), os.path.basename(file)
    if not needed and not is_yaml(root) and not os.path.lexists(file):
        return DataYaml(file, folder)
    if name == CLASSES:
        return DataYaml(file, folder, {"names": read_names(file, ctx, folder)})
    tree = read_obj_data(file, ctx) if name == OBJ_DATA else _parse(file, ctx, None if is_yaml(root) else folder)
    where = tree.get("path")
    if where is None or where == "":
        where = "."
    if not isinstance(where, str):
        raise ctx.findings.fatal("Y01", file, "path", f"{_said(where)}, expected a folder", "name one")
    parts = {}
    for name, value in tree.items():
        if name in PARTS and value is not None and value != "" and value != []:
            parts[name] = [value] if isinstance(value, str) else value
            if not isinstance(parts[name], list) or not all(isinstance(item, str) and item for item in parts[name]):
                problem = f"{_said(value)}, expected a folder, a .txt list or several of these"
                raise ctx.findings.fatal("Y01", file, name, problem, "name them")
    return DataYaml(file, _base(folder, os.path.expanduser(where)), tree, parts)


def _said(value: Any) -> str:
    return short(value) if isinstance(value, (list, dict)) else f"{kind(value)} {short(value)}"


def _base(folder: str, where: str) -> str:
    """Return the folder that parts are relative to: ``path`` below the file's folder, or else below $SSOD_DATASETS."""
    places = [os.path.normpath(os.path.join(start, where)) for start in (folder, default_root())]
    return next((place for place in places if os.path.isdir(place)), places[0])


def _parse(file: str, ctx: Context, root: str | None) -> dict[str, Any]:
    """Read the YAML; the file lies below ``root``, unless the user named it."""
    place = f"{ctx.section}.root"
    text = read_text(file, ctx, place, root)
    try:
        tree = parse_yaml(text, file, most=_MOST_VALUES, number_keys=True)
    except SsodError as error:
        code = Exit.UNSAFE if error.code == Exit.UNSAFE else Exit.DATA
        where, fix = f"{place} {error.field}".strip(), error.fix or "write plain values only"
        raise ctx.findings.fatal("S10", file, where, error.problem, fix, code=code) from None
    return tree if isinstance(tree, dict) else {}


def class_names(data: DataYaml, ctx: Context, *, needed: bool) -> list[str] | None:
    """Return the names that data.yaml lists; None if it lists none and they are not ``needed``.

    Raises:
        SsodError: they are unsound, or not as many as ``nc`` says.
    """
    path, names = data.file, data.tree.get("names")
    if names is None and not needed:
        return None
    if isinstance(names, dict) and names:
        names = _by_number(names, path, ctx)
    if not isinstance(names, list) or not names:
        raise ctx.findings.fatal("D09", path, "names", "0 classes", "list the class names")
    for i, name in enumerate(names):
        if not isinstance(name, str):
            problem = f"{kind(name)} {short(name)}, expected string"
            ctx.findings.error("C03", path, f"names[{i}]", problem, "put it in quotes")
    ctx.findings.raise_first()
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ctx.findings.fatal("D16", path, "names", f"name {short(twice)} is listed twice", "merge them")
    return names


def check_nc(data: DataYaml, names: list[str], ctx: Context) -> None:
    """Refuse a number of classes that is not that of the names."""
    number = data.tree.get("nc")
    if number is not None and (type(number) is not int or number != len(names)):
        listed = "names lists" if data.tree.get("names") is not None else "data.classes lists"
        problem = f"{kind(number) + ' ' if type(number) is not int else ''}{short(number)}, but {listed} {len(names)}"
        raise ctx.findings.fatal("Y02", data.file, "nc", problem, "make them equal")


def _by_number(names: dict[Any, Any], path: str, ctx: Context) -> list[Any]:
    """Return the names of ``{0: car, 1: van}`` in order; the numbers must be all of 0..n-1."""
    keys = [str(key) for key in names]
    if sorted(keys) != sorted(map(str, range(len(names)))):
        problem = f"classes are numbered {', '.join(map(short, list(names)[:8]))}, expected 0..{len(names) - 1}"
        raise ctx.findings.fatal("D09", path, "names", problem, "number them from 0, without gaps")
    return [value for _, value in sorted(names.items(), key=lambda item: int(item[0]))]


def check_base(data: DataYaml, ctx: Context) -> None:
    """Refuse a ``path`` that is not there."""
    if not os.path.isdir(data.base):
        problem = f"{short(data.tree.get('path', '.'))} is no folder: {short(data.base)}{nearest(data.base)}"
        fix = "name the folder that train and val lie in, '.' for that of the file"
        raise ctx.findings.fatal("Y01", data.file, "path", problem, fix)


def place_of(data: DataYaml, part: str, name: str, ctx: Context) -> str:
    """Return the folder or the list that a part names; below ``path``, or without a leading ``../`` that leads nowhere.

    Raises:
        SsodError: it is not there.
    """
    check_base(data, ctx)
    name = os.path.expanduser(name)
    place = os.path.normpath(os.path.join(data.base, name))
    if os.path.exists(place):
        return place
    for cut in ("../", "data/"):  # as exports have it, whose files were meant to lie elsewhere
        bare = os.path.normpath(os.path.join(data.base, name.removeprefix(cut)))
        if name.startswith(cut) and os.path.exists(bare):
            report_left_out(
                "L15", [name], data.file, ctx, f"{part} is read as {short(os.path.relpath(bare, data.base))}"
            )
            return bare
    problem = f"{short(name)} not found below {short(data.base)}{nearest(place)}"
    raise ctx.findings.fatal("Y01", data.file, part, problem, "mend the line, or put the images there")

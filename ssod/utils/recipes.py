"""Recipes: data set, detector and method, one YAML file each, merged into one config.

The files are ``configs/data``, ``configs/detectors`` and ``configs/methods`` of the repository; an installed package
has them in its folder ``ssod/configs``. Each holds sections of a config, and may hold:

* ``base``: a file of the same folder, by name, that it is merged over;
* ``protocol`` (data alone): whose schedule it follows, ``paper``, ``small`` or ``own``, which is also that of no file;
* ``for``: a list of ``{when: {...}, then: {...}}``. Where every condition of ``when`` holds, ``then`` is merged, later
  entries over earlier ones. A condition is one value or a list of values of ``data``, ``protocol``, ``detector``,
  ``family`` (the detector's ``name``), ``backbone`` or ``percent``. ``refuse: why`` in place of ``then`` says that the
  combination is not offered.

A recipe is the data file, then the detector file, then the method file; each file's ``for`` right after its sections.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from ssod.utils.config_errors import Source, nearest, read_section
from ssod.utils.errors import SsodError
from ssod.utils.merging import merge
from ssod.utils.schema import Section
from ssod.utils.yaml_io import read_yaml

FACTORS = ("data", "detector", "method")  # in the order of merging
FOLDERS = {"data": "data", "detector": "detectors", "method": "methods"}
CONDITIONS = ("data", "protocol", "detector", "family", "backbone", "percent")
OWN = "own"  # data that a user's file describes itself
OWN_SMALL = "own_small"  # the same, for a detector without pretrained weights
OWNS = (OWN, OWN_SMALL)
Tree = dict[str, Any]


class Recipe(Section):
    """Which files a config is made of; what is left out is the config file's own."""

    method: str | None = None
    "A file of configs/methods."
    detector: str | None = None
    "A file of configs/detectors."
    data: str | None = None
    """A file of configs/data. `own`, and `own_small` for small detectors without pretrained weights: only views and
    schedule come from there, and the data are this file's."""
    percent: float | None = Field(None, gt=0, le=100)
    "Share of the labels, in per cent; by default that of the data file."
    fold: int | None = Field(None, ge=0)
    "Number of the draw; by default that of the data file."

    @field_validator("detector")
    @classmethod
    def _with_pyramid(cls, name: str | None) -> str | None:
        """``fcos_tiny`` is ``fcos_tiny_fpn``: so `ssod init` and sweeps called it before there were recipes."""
        return f"{name}_fpn" if name is not None and name.endswith("_tiny") else name

    def options(self) -> list[str]:
        """Return the options of the command line that name this recipe."""
        return [word for key, value in self if value is not None for word in (f"--{key}", f"{value}")]


class Entry(Section):
    """What a file changes under conditions."""

    when: dict[str, Any]
    "Fact -> the value, or the values, that it must have."
    then: dict[str, Any] = {}
    "Sections to merge."
    refuse: str | None = None
    "Why this combination is not offered."

    @field_validator("when")
    @classmethod
    def _known(cls, when: dict[str, Any]) -> dict[str, Any]:
        for key in when:
            if key not in CONDITIONS:
                raise ValueError(f"no condition '{key}'; {nearest(key, CONDITIONS)}")
        return when

    def holds(self, facts: Mapping[str, Any]) -> bool:
        """Return whether every condition is true of ``facts``."""
        return all(facts[key] in (value if isinstance(value, list) else [value]) for key, value in self.when.items())

    def label(self) -> str:
        """Return the conditions in words, by which ``ssod config`` tells one entry from another."""
        values = {key: value if isinstance(value, list) else [value] for key, value in self.when.items()}
        return ", ".join(f"{key} {'/'.join(map(str, value))}" for key, value in values.items())


class Page(Section):
    """One file of a recipe."""

    file: str
    base: str | None = None
    protocol: str | None = None
    entries: list[Entry] = []
    sections: dict[str, Any] = {}


def compose(recipe: Recipe) -> tuple[Tree, dict[str, str]]:
    """Merge the files of a recipe.

    Returns:
        The sections, and who set each key: dotted key -> ``configs/methods/x.yaml`` or, from an entry of ``for``,
        ``configs/methods/x.yaml (for data voc)``.

    Raises:
        SsodError: code 2; a name that is unknown, or a combination that a file refuses.
    """
    tree: Tree = {}
    origins: dict[str, str] = {}
    facts = {"data": recipe.data or OWN, "protocol": OWN, "detector": recipe.detector, "percent": recipe.percent}
    for factor, name in (("data", recipe.data), ("detector", recipe.detector), ("method", recipe.method)):
        for page in pages(factor, name) if name is not None else []:
            merge(tree, page.sections, origins, page.file)
            facts |= {"protocol": page.protocol or facts["protocol"]} | _facts(tree, recipe)
            for entry in page.entries:
                if not entry.holds(facts):
                    continue
                if entry.refuse is not None:
                    raise SsodError(page.file, f"for {entry.label()}", f"not offered: {entry.refuse}", "choose another")
                merge(tree, entry.then, origins, f"{page.file} (for {entry.label()})")
    return tree, origins


def _facts(tree: Tree, recipe: Recipe) -> Tree:
    """Return the facts that the merged sections tell."""
    split, detector = (tree.get("data") or {}).get("split") or {}, tree.get("detector") or {}
    percent = split.get("percent") if recipe.percent is None else recipe.percent
    return {"percent": percent, "family": detector.get("name"), "backbone": detector.get("backbone")}


def draw(tree: Tree, origins: dict[str, str], recipe: Recipe, source: str) -> None:
    """Put the recipe's percentage and fold into ``data.split``.

    Raises:
        SsodError: code 2; the data have no split, so that nothing is drawn.
    """
    for key, value in (("percent", recipe.percent), ("fold", recipe.fold)):
        if value is None:
            continue
        data = tree.get("data") or {}
        if not isinstance(data, dict):
            return  # it is refused where the sections are read
        if not data.get("split"):
            problem = f"{value:g}, but {recipe.data or 'the file'} has no data.split: all its labels are used"
            raise SsodError(source, f"recipe.{key}", problem, f"leave {key} out, or give a data.split")
        merge(tree, {"data": {"split": {key: value}}}, origins, source)


def read_recipe(values: Mapping[str, Any], source: str) -> Recipe:
    """Return the recipe that a ``recipe:`` section, or the command line, names.

    Raises:
        SsodError: code 2, naming the key that is wrong.
    """
    return read_section(Recipe, dict(values), "recipe", Source(source, {}), {})


def stem(recipe: Recipe, percent: float | None) -> str:
    """Return the name of a recipe, under which its runs are filed: method, detector, data, any percentage."""
    share = [] if percent is None else [f"{percent:g}p"]
    return "_".join([name for name in (recipe.method, recipe.detector, recipe.data) if name] + share)


# ---- files -------------------------------------------------------------------------------------------------------


def names(factor: str) -> list[str]:
    """Return the names that ``data``, ``detector`` or ``method`` can have."""
    return sorted(path.stem for path in (folder() / FOLDERS[factor]).glob("*.yaml"))


def folder() -> Path:
    """Return the folder of the recipes: inside an installed package, beside the package in a checkout."""
    package = Path(str(files("ssod")))
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


def pages(factor: str, name: str) -> list[Page]:
    """Return the file of a factor, its bases first.

    Raises:
        SsodError: code 2, an unknown name.
    """
    if name not in names(factor):
        raise SsodError("recipe", factor, f"'{name}' unknown", nearest(name, names(factor)))
    page = _page(factor, name)
    return [*(pages(factor, page.base) if page.base else []), page]


@cache
def _page(factor: str, name: str) -> Page:
    file = f"configs/{FOLDERS[factor]}/{name}.yaml"
    tree = read_yaml(folder() / FOLDERS[factor] / f"{name}.yaml")
    own = {"base": tree.pop("base", None), "protocol": tree.pop("protocol", None), "entries": tree.pop("for", [])}
    return read_section(Page, {"file": file, **own, "sections": tree}, "file", Source(file, {}), {})


# ---- names of before ---------------------------------------------------------------------------------------------

_DATA = "coco_additional|coco|voc|neu_det|bccd"
_FORMER = re.compile(
    r"(?P<method>\w+?)_(?P<detector>(?:retinanet|fcos|faster_rcnn)_(?:r50|tiny)_fpn)"
    rf"_(?P<data>{_DATA})(?:_(?P<percent>\d+)p)?(?P<form>_consistency)?"
)
_FORMER_BASE = re.compile(rf"(?P<data>{_DATA})_(?P<family>retinanet|fcos|faster_rcnn)")


def former(path: Path) -> str:
    """Return the options that stand for a file of the scheme of before, one file a combination; empty for others."""
    return " ".join(f"--{key} {value}" for key, value in _former(path).items())


def former_base(path: Path) -> str:
    """Return what to write in place of a ``base`` of the scheme of before; empty for other files."""
    keys = _former(path)
    parts = _FORMER_BASE.fullmatch(path.stem)
    if parts is not None and path.parent.name == "_base_":
        size = "tiny" if parts["data"] in ("neu_det", "bccd") else "r50"
        keys = {"detector": f"{parts['family']}_{size}_fpn", "data": parts["data"]}
    text = ", ".join(f"{key}: {value}" for key, value in keys.items())
    return f"write 'recipe: {{{text}}}' in place of it" if keys else ""


def _former(path: Path) -> dict[str, str]:
    parts = _FORMER.fullmatch(path.stem)
    if parts is None or parts["method"] not in names("method"):
        return {}
    keys = {"method": parts["method"] + (parts["form"] or ""), "detector": parts["detector"], "data": parts["data"]}
    return keys | ({"percent": parts["percent"]} if parts["percent"] else {})

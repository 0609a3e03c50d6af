"""A config file and the files that it is merged over, as plain values."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

from ssod.utils import recipes
from ssod.utils.config_errors import shown
from ssod.utils.errors import SsodError
from ssod.utils.yaml_io import read_yaml


def read_with_bases(path: Path, seen: tuple[Path, ...] = ()) -> list[tuple[Path, dict[str, Any]]]:
    """Return a file and the bases below it, the lowest first, each with its ``recipe``.

    Args:
        path: the YAML file.
        seen: the files that have it as their base.

    Raises:
        SsodError: code 2, a file is absent or no config, or bases form a circle; code 7, it wants to run code.
    """
    if not path.exists() and (options := recipes.former(path)):
        raise SsodError(path, "", "not found; each method has one file now", f"give {options}")
    tree = read_yaml(path)
    if path.resolve() in seen:
        raise SsodError(path, "base", "bases form a circle", "remove one")
    if not isinstance(tree, dict):
        raise SsodError(path, "", f"is a {type(tree).__name__}, expected sections", "see `ssod init`")
    recipe = tree.get("recipe") or {}
    if not isinstance(recipe, dict):
        raise SsodError(path, "recipe", f"{shown(recipe)} is no section", "write {method: ..., detector: ...}")
    base, below = tree.pop("base", None), []
    if isinstance(base, str):
        if not (path.parent / base).exists():
            near = difflib.get_close_matches(base, _beside(path.parent / base, base), 1)
            fix = f"did you mean '{near[0]}'?" if near else "the path is relative to this file"
            raise SsodError(path, "base", f"'{base}' not found", recipes.former_base(Path(base)) or fix)
        below = read_with_bases(path.parent / base, (*seen, path.resolve()))
    elif base is not None:
        raise SsodError(path, "base", "is not one path", "name one file, relative to this one")
    return [*below, (path, {**tree, "recipe": recipe})]


def _beside(target: Path, written: str) -> list[str]:
    """Return the files in ``target``'s folder, written as ``written`` is."""
    folder = target.parent
    return [written[: -len(target.name)] + item.name for item in folder.iterdir()] if folder.is_dir() else []

"""Finding a method by name: the file name is the registry.

A dotted name is a module of the user's own, and importing it runs it. A config may be a stranger's, or lie in a
stranger's run folder, so a module is imported only where somebody says so: ``ssod --allow-code``, or the names of
packages in ``$SSOD_ALLOW_CODE``; or where the program that calls has imported it already.
"""

from __future__ import annotations

import difflib
import importlib
import os
import pkgutil
import sys
from types import ModuleType
from typing import TYPE_CHECKING

import ssod.methods
from ssod.utils.docstrings import first_line
from ssod.utils.errors import Exit, SsodError

ALLOWED = "SSOD_ALLOW_CODE"  # names of packages, with commas between them; "*" is any

if TYPE_CHECKING:
    from ssod.methods.supervised import Supervised

_NOT_METHODS = {"background", "base", "burn_in", "config", "ema_config", "kept_answers", "labels_once"}
_NOT_METHODS |= {"plateau_config", "registry", "teacher_config", "teachers"}


def names() -> list[str]:
    """Return the methods of this package, sorted."""
    return sorted(m.name for m in pkgutil.iter_modules(ssod.methods.__path__) if m.name not in _NOT_METHODS)


def summary(name: str) -> str:
    """Return the first line of the docstring of a method of this package, which is not imported for it."""
    return first_line(f"{ssod.methods.__name__}.{name}")


def find(name: str) -> type[Supervised]:
    """Return the class ``METHOD`` of ``ssod.methods.<name>``, or of a dotted module of the user's own.

    Raises:
        SsodError: no such module, or it has no ``METHOD``; code 7, a module that nobody allowed to be run.
    """
    module = _module(name)
    from ssod.methods.supervised import Supervised  # here, so that names are listed without torch

    method = getattr(module, "METHOD", None)
    if not (isinstance(method, type) and issubclass(method, Supervised)):
        raise SsodError(
            "config", "method.name", f"module {module.__name__} has no METHOD", "end it with METHOD = YourClass"
        )
    return method


def _module(name: str) -> ModuleType:
    path = name if "." in name else f"ssod.methods.{name}"
    if path not in sys.modules and "." in name and not _allowed(name):
        file = _file(name)
        if file is not None:
            fix = f"if you trust it pass --allow-code, or set {ALLOWED}={name.partition('.')[0]}"
            raise SsodError("config", "method.name", f"'{name}' would run {file}", fix, code=Exit.UNSAFE)
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError as error:
        if not path.startswith(error.name or ""):
            raise
    if "." in name:
        problem = f"no module '{name}' on Python's path"
        raise SsodError("config", "method.name", problem, "if it lies in this folder, set PYTHONPATH=.")
    near = difflib.get_close_matches(name, names(), 1)
    hint = f"did you mean '{near[0]}'?" if near else f"there are: {', '.join(names())}"
    raise SsodError("config", "method.name", f"'{name}' unknown", hint)


def _allowed(name: str) -> bool:
    packages = [package.strip() for package in os.environ.get(ALLOWED, "").split(",")]
    return "*" in packages or any(name == package or name.startswith(f"{package}.") for package in packages if package)


def _file(name: str) -> str | None:
    """Return the file of a module, None if there is none; nothing of it and of the packages above it is run."""
    parts, path, file = name.split("."), None, None
    for i in range(1, len(parts) + 1):
        full = ".".join(parts[:i])
        specs = (finder.find_spec(full, path) for finder in sys.meta_path if hasattr(finder, "find_spec"))
        spec = next((found for found in specs if found is not None), None)
        if spec is None or (spec.submodule_search_locations is None and i < len(parts)):
            return None
        path, file = spec.submodule_search_locations, spec.origin or name
    return file

"""Finding a method by name: the file name is the registry."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from types import ModuleType
from typing import TYPE_CHECKING

import ssod.methods
from ssod.utils.docstrings import first_line
from ssod.utils.errors import SsodError

if TYPE_CHECKING:
    from ssod.methods.supervised import Supervised

_NOT_METHODS = {"base", "burn_in", "config", "ema_config", "kept_answers", "labels_once", "registry"}
_NOT_METHODS |= {"teacher_config", "teachers"}


def names() -> list[str]:
    """Return the methods of this package, sorted."""
    return sorted(m.name for m in pkgutil.iter_modules(ssod.methods.__path__) if m.name not in _NOT_METHODS)


def summary(name: str) -> str:
    """Return the first line of the docstring of a method of this package, which is not imported for it."""
    return first_line(f"{ssod.methods.__name__}.{name}")


def find(name: str) -> type[Supervised]:
    """Return the class ``METHOD`` of ``ssod.methods.<name>``, or of a dotted module of the user's own.

    Raises:
        SsodError: no such module, or it has no ``METHOD``.
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

"""ssod: train an object detector with a tenth of the labels.

Everything a command does is one call here: ``ssod.train(cfg)``, ``ssod.plan(cfg)``, ``ssod.load("best.safetensors")``,
... Options have the names that they have on the command line; a config is what ``load_config`` or ``load_recipe``
returns. Each call returns what it found, and raises ``ssod.SsodError`` where the command would print its one line.
What a command prints while it works is printed here, too, tables included: ``contextlib.redirect_stdout`` sends it
elsewhere. ``init``, ``split`` and the three lists print nothing: all that they say is in what they return.

``methods``, ``detectors``, ``losses`` and ``report`` are folders of this package; what these commands do is
``list_methods``, ``list_detectors``, ``list_losses`` and ``write_report``. ``eval`` is ``evaluate``.

The calls are imported when they are first used, so that ``import ssod`` costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

from ssod.version import __version__

if TYPE_CHECKING:  # for editors and type checkers; a test compares it with the table below
    from ssod.commands.audit import audit
    from ssod.commands.compare import compare
    from ssod.commands.demo import demo
    from ssod.commands.doctor import doctor
    from ssod.commands.evaluate import evaluate
    from ssod.commands.init.begin import init
    from ssod.commands.known import list_detectors, list_losses, list_methods
    from ssod.commands.merge import merge
    from ssod.commands.plan import plan
    from ssod.commands.split import split
    from ssod.config import load as load_config
    from ssod.config import load_recipe
    from ssod.inference.export import export
    from ssod.inference.label import label_files as label
    from ssod.inference.predict import load
    from ssod.inference.predict import predict_files as predict
    from ssod.report.run_page import report as write_report
    from ssod.run import check, train
    from ssod.utils.errors import SsodError

_CALLS = {
    "SsodError": ("ssod.utils.errors", "SsodError"),
    "audit": ("ssod.commands.audit", "audit"),
    "check": ("ssod.run", "check"),
    "compare": ("ssod.commands.compare", "compare"),
    "demo": ("ssod.commands.demo", "demo"),
    "doctor": ("ssod.commands.doctor", "doctor"),
    "evaluate": ("ssod.commands.evaluate", "evaluate"),
    "export": ("ssod.inference.export", "export"),
    "init": ("ssod.commands.init.begin", "init"),
    "label": ("ssod.inference.label", "label_files"),
    "list_detectors": ("ssod.commands.known", "list_detectors"),
    "list_losses": ("ssod.commands.known", "list_losses"),
    "list_methods": ("ssod.commands.known", "list_methods"),
    "load": ("ssod.inference.predict", "load"),
    "load_config": ("ssod.config", "load"),
    "load_recipe": ("ssod.config", "load_recipe"),
    "merge": ("ssod.commands.merge", "merge"),
    "plan": ("ssod.commands.plan", "plan"),
    "predict": ("ssod.inference.predict", "predict_files"),
    "split": ("ssod.commands.split", "split"),
    "train": ("ssod.run", "train"),
    "write_report": ("ssod.report.run_page", "report"),
}

__all__ = [
    "SsodError",
    "__version__",
    "audit",
    "check",
    "compare",
    "demo",
    "doctor",
    "evaluate",
    "export",
    "init",
    "label",
    "list_detectors",
    "list_losses",
    "list_methods",
    "load",
    "load_config",
    "load_recipe",
    "merge",
    "plan",
    "predict",
    "split",
    "train",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name not in _CALLS:
        raise AttributeError(f"module 'ssod' has no attribute {name!r}")
    module, attribute = _CALLS[name]
    return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

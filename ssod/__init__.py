"""ssod: train an object detector with a tenth of the labels.

Everything a command does is one call here: ``ssod.train(cfg)``, ``ssod.load("best.safetensors")``, ...
They are imported when they are first used, so that ``import ssod`` costs nothing.
"""

import importlib
from typing import Any

from ssod.version import __version__

_CALLS = {
    "load_config": ("ssod.config", "load"),
    "load_recipe": ("ssod.config", "load_recipe"),
    "train": ("ssod.run", "train"),
    "evaluate": ("ssod.commands.evaluate", "evaluate"),
    "load": ("ssod.inference.predict", "load"),
    "export": ("ssod.inference.export", "export"),
}

__all__ = ["__version__", "evaluate", "export", "load", "load_config", "load_recipe", "train"]


def __getattr__(name: str) -> Any:
    if name not in _CALLS:
        raise AttributeError(f"module 'ssod' has no attribute {name!r}")
    module, attribute = _CALLS[name]
    return getattr(importlib.import_module(module), attribute)

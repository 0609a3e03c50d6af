"""Exported graphs among files of weights: told apart by their names, and refused where only weights will do."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

from ssod.utils.errors import Exit, SsodError

ONNX, PT2 = ".onnx", ".pt2"
EXTRA = 'pip install "ssod[export]"'


def is_graph(path: str | os.PathLike) -> bool:
    """Return whether a path is named like an exported graph."""
    return Path(path).suffix.lower() in (ONNX, PT2)


def refuse(path: str | os.PathLike, use: str) -> None:
    """Refuse an exported graph where weights are needed.

    Args:
        path: any file.
        use: what it cannot be: ``trained on``.

    Raises:
        SsodError: code 4, it is a graph.
    """
    if is_graph(path):
        fix = "name the best.safetensors that it was exported from"
        raise SsodError(path, "", f"is an exported graph, which cannot be {use}", fix, code=Exit.CHECKPOINT)


def need_packages(path: str | os.PathLike) -> None:
    """Refuse an ONNX graph where nothing is installed that runs it; this imports none of it.

    Raises:
        SsodError: code 2.
    """
    if Path(path).suffix.lower() != ONNX:
        return
    missing = [name for name in ("onnx", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        raise SsodError(path, "", f"needs {' and '.join(missing)}, which is not installed", EXTRA)

"""Exported graphs that several test modules, and several processes of a run, share: each is converted once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

from ssod.inference.export import convert
from ssod.inference.model import Model

Converted = Callable[[Model, str], bytes]


def converted_in(folder: Path) -> Converted:
    """Return ``convert``, which keeps each graph in a file of ``folder``: one takes up to twenty seconds."""

    def get(model: Model, format: str) -> bytes:
        seen = hashlib.sha256(json.dumps(model.card, sort_keys=True).encode())
        for key, value in sorted(model.detector.state_dict().items()):
            seen.update(key.encode() + value.numpy().tobytes())
        file = folder / f"{seen.hexdigest()[:20]}.{format}"
        with FileLock(file.with_suffix(f".{format}.lock")):
            if not file.exists():
                content = convert(model, format)
                file.write_bytes(content)
                return content
        return file.read_bytes()

    return get


def shared_folder(factory: pytest.TempPathFactory, in_processes: bool) -> Path:
    """Return the folder of the whole run, whichever of its processes asks."""
    own = factory.getbasetemp()
    folder = (own.parent if in_processes else own) / "converted"
    folder.mkdir(exist_ok=True)
    return folder

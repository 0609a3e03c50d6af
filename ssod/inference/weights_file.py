"""Where a trained teacher lies."""

import os
from pathlib import Path

from ssod.utils.errors import Exit, SsodError


def weights_file(path: str | os.PathLike) -> Path:
    """Return the model file that ``path`` is, or that the run folder ``path`` holds.

    Raises:
        SsodError: code 4, it is absent.
    """
    path = Path(path)
    file = path / "best.safetensors" if path.is_dir() else path
    if not file.is_file():
        problem = "no best.safetensors in this folder" if path.is_dir() else "not found"
        fix = "name a run folder that has finished an evaluation, or a .safetensors file"
        if path.suffix in (".onnx", ".pt2"):
            fix = "ssod export writes it; or fix the path"
        raise SsodError(path, "", problem, fix, code=Exit.CHECKPOINT)
    return file

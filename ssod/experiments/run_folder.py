"""Whether a folder is one that ``ssod train`` wrote."""

from pathlib import Path

from ssod.utils.errors import Exit, SsodError


def run_folder(path: Path) -> Path:
    """Return ``path``.

    Raises:
        SsodError: code 3, it is no run folder.
    """
    for name in ("config.yaml", "split.json"):
        if not (path / name).is_file():
            problem = f"is no run folder: no {name} in it" if path.is_dir() else "is no run folder: not found"
            raise SsodError(path, "", problem, "name a folder that `ssod train` wrote", code=Exit.DATA)
    return path

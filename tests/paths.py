"""Where the tests find numbers and material to compare with."""

from pathlib import Path

import pytest

GOLDEN = Path(__file__).resolve().parent / "golden"
SHARED = Path(__file__).resolve().parents[2] / "shared"
NOT_HERE = ("efficient_teacher_pla.npz", "pseco.npz", "sa_autoaug.npz")  # their originals have no permissive licence


def golden_path(name: str) -> Path:
    """Return a file of golden vectors; for one that this repository may not carry, skip the test where it is absent.

    Args:
        name: of the file, for example ``"splits.json"``; a name that nobody knows is an error, not a skip.
    """
    path = GOLDEN / name
    if name in NOT_HERE and not path.exists():
        return shared_path(f"golden/{name}")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such golden vectors; {GOLDEN / 'README.md'} lists those that there are")
    return path


def shared_path(name: str) -> Path:
    """Return a path below the shared material, or skip the test (or module) that needs it."""
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"shared/{name} is not here", allow_module_level=True)
    return path

"""Where the tests find material that is not part of the project."""

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


def shared_path(name: str) -> Path:
    """Return a path below the shared material, or skip the test (or module) that needs it."""
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"shared/{name} is not here", allow_module_level=True)
    return path

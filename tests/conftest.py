"""Fixtures that every test may use."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.paths import shared_path

# Two cores: parallel kernels inside tiny models cost more than they gain, and bits must not depend on the machine.
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture
def shared() -> Callable[[str], Path]:
    """``shared("golden/splits.json")`` is its path, or a skip where the shared material is absent."""
    return shared_path

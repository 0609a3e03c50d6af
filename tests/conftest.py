"""What holds for every test, and how ``tools/test_matrix.sh`` plays other machines."""

import os
import random
from collections.abc import Iterator

import pytest
import torch

from tests.rounding import Rounding

# One thread: parallel kernels inside tiny models cost more than they gain on two cores, and tests run in processes.
THREADS = int(os.environ.get("SSOD_TEST_THREADS", "1"))
torch.set_num_threads(THREADS)
os.environ.setdefault("OMP_NUM_THREADS", str(THREADS))  # of the processes that tests start

if "SSOD_TEST_ROUNDING" in os.environ:

    @pytest.fixture(autouse=True)
    def _rounding() -> Iterator[None]:
        with Rounding(int(os.environ["SSOD_TEST_ROUNDING"])):
            yield


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Shuffle the tests if asked to, alike in every process."""
    if "SSOD_TEST_SHUFFLE" in os.environ:
        random.Random(os.environ["SSOD_TEST_SHUFFLE"]).shuffle(items)

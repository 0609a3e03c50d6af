"""What holds for every test, and how ``tools/test_matrix.sh`` plays other machines."""

import os
import random
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from typing import TYPE_CHECKING

import pytest
import torch

from ssod.utils.errors import SsodError
from tests.rounding import played

if TYPE_CHECKING:
    from tests.converted import Converted

# One thread: parallel kernels inside tiny models cost more than they gain on two cores, and tests run in processes.
THREADS = int(os.environ.get("SSOD_TEST_THREADS", "1"))
torch.set_num_threads(THREADS)
os.environ.setdefault("OMP_NUM_THREADS", str(THREADS))  # of the processes that tests start
os.environ.pop("SSOD_DATASETS", None)  # a user's own: tests say themselves where data lies
# A forked process has none of its parent's threads, and would wait for them for ever.
os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))


NOT_PLAYED = ("counts_calls", "rows_know_no_neighbours")  # setup.cfg says why


@pytest.fixture(autouse=True)
def _rounding(request: pytest.FixtureRequest) -> Iterator[None]:
    with nullcontext() if any(map(request.node.get_closest_marker, NOT_PLAYED)) else played():
        yield


MADE = SsodError.__init__
WITHOUT_A_FIX: list[str] = []


def _made(self: SsodError, *args: object, **words: object) -> None:
    """Make an error, and note where the package makes one that does not say what to do."""
    MADE(self, *args, **words)
    caller = sys._getframe(1)
    finding = caller.f_locals.get("self") if caller.f_code.co_name == "error" else None
    told = getattr(finding, "level", "error") == "error"  # what was repaired has nothing to be done about
    if not self.fix.strip() and told and "/ssod/" in caller.f_code.co_filename and caller.f_code.co_name != "_rebuild":
        WITHOUT_A_FIX.append(f"{caller.f_code.co_filename}:{caller.f_lineno}: {self.line()}")


SsodError.__init__ = _made


@pytest.fixture(autouse=True)
def _every_error_says_what_to_do() -> Iterator[None]:
    WITHOUT_A_FIX.clear()
    yield
    assert WITHOUT_A_FIX == []


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef) -> Iterator[None]:
    """Play in what several tests share, too: it is made before the fixture above is entered."""
    with nullcontext() if fixturedef.scope == "function" else played():
        return (yield)


@pytest.fixture(scope="session")
def converted(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> "Converted":
    """``convert`` of a graph that other tests may have converted before."""
    from tests.converted import converted_in, shared_folder  # not above: torch's threads are set before

    return converted_in(shared_folder(tmp_path_factory, hasattr(pytestconfig, "workerinput")))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Shuffle the tests if asked to, alike in every process."""
    if "SSOD_TEST_SHUFFLE" in os.environ:
        random.Random(os.environ["SSOD_TEST_SHUFFLE"]).shuffle(items)

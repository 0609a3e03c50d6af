"""Files of strangers, for tests: a plain value spoilt in one place, and a bound on the memory that reading it takes."""

from __future__ import annotations

import copy
import resource
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ssod.utils.errors import SsodError
from tests.amount import examples

GONE = object()
DEEP: list = []
for _ in range(200):
    DEEP = [DEEP]
# Of every kind; the large ones would take memory or time wherever they stand for a size.
VALUES = (
    GONE, None, True, -1, 0, 10**5, 1 << 40, 1 << 62, 10**400, 1e300, float("nan"), float("inf"), "", "x" * 5000,
    "\ud800", "a\0b", "../..", "-1", [], [1], ["a"], [[1]], [None], {}, {"a": {"b": [1]}}, {"": None}, DEEP,
)  # fmt: skip


def places(value: Any, path: tuple = ()) -> list[tuple]:
    """Return the path of every value inside a plain one, its own among them."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, inner in items for place in places(inner, (*path, key)))]


def spoilt(tree: Any, each: int, seed: int, most: int | None = None) -> Iterator[tuple[str, Any]]:
    """Spoil places of ``tree`` in ``each`` ways, drawn by ``seed``; yield what was done, and the spoilt copy.

    Args:
        tree: a plain value.
        each: ways, of ``VALUES``; ``SSOD_TEST_EXAMPLES`` times as many.
        seed: of the draw.
        most: places that are spoilt; None = every one. Likewise.
    """
    each, most = min(examples(each), len(VALUES)), most and examples(most)
    draw = np.random.RandomState(seed)
    found = places(tree)
    for path in found if most is None else [found[i] for i in draw.permutation(len(found))[:most]]:
        for i in draw.choice(len(VALUES), each, replace=False):
            new, value = copy.deepcopy(tree), VALUES[i]
            said = f"{'.'.join(map(str, path)) or 'all'} = {'gone' if value is GONE else repr(value)[:30]}"
            if not path:
                yield said, None if value is GONE else value
                continue
            at = new
            for key in path[:-1]:
                at = at[key]
            if value is GONE:
                del at[path[-1]]
            else:
                at[path[-1]] = value
            yield said, new


def ended(call: Callable[[], object], said: str, codes: Collection[int], words: str) -> str:
    """Return how a call ended, ``good`` or ``refused``; a refusal has one of these codes, and these words in it."""
    try:
        call()
    except SsodError as error:
        refusal = error
    except Exception as error:
        raise AssertionError(f"{said}: {type(error).__name__}: {error}") from error
    else:
        return "good"
    assert refusal.code in codes, f"{said}: {refusal!r}"
    assert words in refusal.line(), said
    return "refused"


@contextmanager
def memory(megabytes: int = 1500) -> Iterator[None]:
    """Let this process take so much more memory than it has, and no more."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (megabytes << 20), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)

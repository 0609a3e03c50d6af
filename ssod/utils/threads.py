"""Work in threads beside a loop: what it needs next is made ahead, what it has done with is worked on after it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from itertools import islice
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


def in_order(make: Callable[[int], T], count: int, workers: int, ahead: int) -> Generator[T, None, None]:
    """Yield ``make(0)``, ``make(1)``, ..., up to ``ahead`` of which are made in threads before they are asked for.

    The one that was yielded last is among these: with ``ahead=2`` the next is made while whoever asks works on it.
    """
    if not workers:
        yield from map(make, range(count))
        return
    pool, numbers = ThreadPoolExecutor(workers), iter(range(count))
    try:
        coming = deque(pool.submit(make, i) for i in islice(numbers, ahead))
        while coming:
            yield coming.popleft().result()
            coming.extend(pool.submit(make, i) for i in islice(numbers, 1))
    finally:  # also when whoever asks wants no more
        pool.shutdown(cancel_futures=True)


@contextmanager
def beside(work: Callable[P, None], workers: int, ahead: int) -> Generator[Callable[P, None], None, None]:
    """Give what calls ``work`` in threads; at the end of the block all calls are over.

    Args:
        work: its calls may overtake each other.
        workers: threads; 0 = whoever calls does the work.
        ahead: calls that may be open; whoever wants one more waits until one of them is over.

    Raises:
        Exception: what ``work`` raised, at the next call or at the end; calls that had not begun are given up.
    """
    if not workers:
        yield work
        return
    pool, pending = ThreadPoolExecutor(workers), set[Future[None]]()

    def settle(most: int) -> None:
        while True:
            over = {call for call in pending if call.done()}
            pending.difference_update(over)
            for call in over:
                call.result()
            if len(pending) <= most:
                return
            wait(pending, return_when=FIRST_COMPLETED)

    def submit(*args: P.args, **named: P.kwargs) -> None:
        settle(ahead - 1)
        pending.add(pool.submit(work, *args, **named))

    try:
        yield submit
        settle(0)
    finally:  # also when something else went wrong in the block
        pool.shutdown(cancel_futures=True)

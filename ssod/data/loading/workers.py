"""Running a data set's ``__getitem__`` in worker processes, and turning what can go wrong there into one error."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ssod.data.loading.team import Team, prepare, worker_deaths
from ssod.structures import Batch, Pieces, Targets, View
from ssod.utils.errors import SsodError

T = TypeVar("T")


def run(
    dataset: Dataset, numbers: Sequence[int], describe: Callable[[int], str], workers: int, timeout: float
) -> Generator[Any, None, None]:
    """Yield ``dataset[k]`` for each number, in order.

    Whoever takes from it closes it (``reading``), or the workers live until the process ends: a traceback that holds
    the frame of a loop holds what it loops over, too.

    Args:
        dataset: returns a ``View``, a tuple that starts with a ``Batch``, or an ``SsodError``. It *returns* errors
            because torch cannot raise an exception of several arguments again.
        numbers: what to ask for.
        describe: says what ``dataset[k]`` is, for the message when it does not come.
        workers: processes; 0 = this one. No more are started than there are CPUs that this process may use, which
            changes how soon an item comes and nothing about it.
        timeout: seconds to wait for an item before a worker counts as hung.

    Raises:
        SsodError: the one that was returned; or code 6 when a worker died, hung, or could not be started.
    """
    workers = min(workers, usable_cpus())
    loader = DataLoader(
        _Packed(dataset),
        sampler=numbers,
        batch_size=None,
        num_workers=workers,
        timeout=timeout if workers else 0,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=prepare,
        generator=torch.Generator(),  # or it would draw from, and change, the global one
    )
    team = Team(timeout if workers else 0)
    try:
        with worker_deaths():  # of a second worker, while the end of the first is dealt with
            team.start(loader)
            for k in numbers:
                item = team.next(lambda k=k: describe(k))
                if isinstance(item, SsodError):
                    raise item
                yield _unpack(item)
    finally:
        team.end()


@contextlib.contextmanager
def reading(items: Generator[T, None, None]) -> Iterator[Generator[T, None, None]]:
    """Give a loader's items until the block is left, however; then its workers have ended.

    Raises:
        SsodError: code 6, a worker died inside the block.
    """
    with worker_deaths(), contextlib.closing(items):
        yield items


def usable_cpus() -> int:
    """Return the number of CPUs that this process may run on, where the system says; else of all there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclass(frozen=True)
class _Packed(Dataset):
    """Sends all but the pixels as arrays: each tensor that crosses processes costs a file descriptor."""

    inner: Dataset

    def __getitem__(self, k: int) -> Any:
        return _each_view(self.inner[k], _to_array)


def _unpack(item: Any) -> Any:
    return _each_view(item, _to_tensor)


def _each_view(item: Any, fn: Callable[[Any], Any]) -> Any:
    """Apply ``fn`` to the tensors or arrays of every view inside, but not to pixels."""
    if isinstance(item, tuple | list):
        return tuple(_each_view(part, fn) for part in item)
    if isinstance(item, Batch):
        return Batch(_of_view(item.labeled, fn), {name: _of_view(view, fn) for name, view in item.views.items()})
    return _of_view(item, fn) if isinstance(item, View) else item


def _of_view(view: View, fn: Callable[[Any], Any]) -> View:
    targets = view.targets
    if targets is not None:
        targets = [Targets(**{f.name: fn(getattr(t, f.name)) for f in fields(t)}) for t in targets]
    pieces = view.pieces
    if pieces is not None:
        pieces = Pieces(**{f.name: fn(getattr(pieces, f.name)) for f in fields(Pieces)})
    more = {"targets": targets, "pieces": pieces}
    return replace(view, sizes=fn(view.sizes), matrix=fn(view.matrix), keys=fn(view.keys), **more)


def _to_array(item: Tensor | None) -> np.ndarray | None:
    return None if item is None else item.numpy()


def _to_tensor(item: np.ndarray | None) -> Tensor | None:
    return None if item is None else torch.from_numpy(item)

"""Running a data set's ``__getitem__`` in worker processes, and turning what can go wrong there into one error."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from multiprocessing import active_children
from multiprocessing.process import BaseProcess
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ssod.structures import Batch, Targets, View
from ssod.utils.errors import Exit, SsodError


def run(
    dataset: Dataset, numbers: Sequence[int], describe: Callable[[int], str], workers: int, timeout: float
) -> Iterator[Any]:
    """Yield ``dataset[k]`` for each number, in order.

    Args:
        dataset: returns a ``View``, a tuple that starts with a ``Batch``, or an ``SsodError``. It *returns* errors
            because torch cannot raise an exception of several arguments again.
        numbers: what to ask for.
        describe: says what ``dataset[k]`` is, for the message when it does not come.
        workers: processes; 0 = this one. No more are started than there are CPUs that this process may use, which
            changes how soon an item comes and nothing about it.
        timeout: seconds to wait for an item before a worker counts as hung.

    Raises:
        SsodError: the one that was returned; or code 6 when a worker died or hung.
    """
    workers = min(workers, usable_cpus())
    loader = DataLoader(
        _Packed(dataset),
        sampler=numbers,
        batch_size=None,
        num_workers=workers,
        timeout=timeout if workers else 0,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_ignore_signals,
        generator=torch.Generator(),  # or it would draw from, and change, the global one
    )
    before = active_children()
    with _signals_held_back():
        items = iter(loader)
    processes = [process for process in active_children() if process not in before]
    try:
        for k in numbers:
            try:
                item = next(items)
            except Exception as error:
                _kill(processes)  # torch would wait 5 s for each that hangs
                failure = worker_failure(error, describe(k))
                if failure is None:
                    raise
                raise failure from None
            if isinstance(item, SsodError):
                raise item
            yield _unpack(item)
    finally:
        items = None  # torch's own orderly end, unless a traceback still holds the iterator
        _kill(processes)


def usable_cpus() -> int:
    """Return the number of CPUs that this process may run on, where the system says; else of all there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _kill(processes: Sequence[BaseProcess]) -> None:
    """End what still runs, without torch's signal handler taking it for an accident."""
    left = [process for process in processes if process.is_alive()]
    if not left:
        return
    main = threading.current_thread() is threading.main_thread()
    handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL) if main else None
    for process in left:
        process.kill()
    for process in left:
        process.join(1)
    if main:
        signal.signal(signal.SIGCHLD, handler or signal.SIG_DFL)


def worker_failure(error: BaseException, doing: str = "") -> SsodError | None:
    """Return the ``SsodError`` for what torch raises when a data worker dies or hangs, None for any other error.

    torch notices a killed worker in a signal handler, so that its error can also surface in the training step: the
    loop passes what it catches through here.

    Args:
        error: what was caught.
        doing: what the worker was asked for.
    """
    text = str(error).partition("\n")[0]
    if not isinstance(error, RuntimeError) or not text.startswith(("DataLoader worker (pid", "DataLoader timed out")):
        return None
    hint = "look for out-of-memory kills, a full /dev/shm or a stalled disk; fewer workers need less memory"
    problem = text.rstrip(". ") + (f" while making {doing}" if doing else "")
    return SsodError("data", "worker", problem, hint, code=Exit.IO)


_WHOLE_JOB = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def _signals_held_back() -> Iterator[None]:
    """Processes started inside inherit the mask: a signal that comes before they ignore it must not end them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _WHOLE_JOB)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _ignore_signals(_: int) -> None:
    """Ctrl-C and a cluster's SIGTERM reach every process; the main one needs its workers until it has saved."""
    for number in _WHOLE_JOB:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _WHOLE_JOB)  # what had come until now is dropped


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
    return replace(view, sizes=fn(view.sizes), matrix=fn(view.matrix), keys=fn(view.keys), targets=targets)


def _to_array(item: Tensor | None) -> np.ndarray | None:
    return None if item is None else item.numpy()


def _to_tensor(item: np.ndarray | None) -> Tensor | None:
    return None if item is None else torch.from_numpy(item)

"""The worker processes of one loader: started together, and ended before the process that started them."""

from __future__ import annotations

import os
import signal
import stat
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from multiprocessing import active_children
from multiprocessing.process import BaseProcess
from multiprocessing.util import Finalize
from typing import Any

from torch.utils.data import DataLoader

from ssod.utils.errors import Exit, SsodError
from ssod.utils.parent import end_with_parent

PATIENCE = 5.0  # seconds that all workers together have for an orderly end
MARGIN = 5.0  # seconds beyond a time-out, at most, until workers are killed that torch still waits for
DYING = 1.0  # seconds that a process may need from closing its connections to its end
_BEFORE_OTHERS = 100  # multiprocessing's own finalizers have up to 10, and it waits for its children after all of them
_WHOLE_JOB = (signal.SIGINT, signal.SIGTERM)


class Team:
    """The workers of one loader.

    They ignore the signals that stop a whole job, because the main process needs them until it has saved. So it must
    see to their end: by ``end``, when the loader is closed, and for a loader that a traceback keeps open by a finalizer
    at the exit of this process. It comes before multiprocessing's own exit handler, which would send SIGTERM, which
    they ignore, and wait for ever. When the main process is killed, the kernel ends them with it.

    Args:
        timeout: seconds to wait for an item before a worker counts as hung; 0 = for ever.
    """

    def __init__(self, timeout: float) -> None:
        self._owner, self._timeout = os.getpid(), timeout
        self._processes: list[BaseProcess] = []
        self._items: Iterator[Any] = iter(())
        self._watch: Watch | None = None
        self._at_exit = Finalize(None, _kill, (self._processes,), exitpriority=_BEFORE_OTHERS)

    def start(self, loader: DataLoader) -> None:
        """Start the workers of ``loader``, whose ``worker_init_fn`` is ``prepare``; none if it wants none.

        Raises:
            SsodError: code 6, the system refuses to start one.
        """
        before = active_children()
        with _signals_held_back():
            try:
                self._items = iter(loader)
            except OSError as error:
                problem = f"a data worker cannot be started: {error.strerror or error}"
                fix = "lower it, or raise the system's limits on processes and memory"
                raise SsodError("config", "train.workers", problem, fix, code=Exit.IO) from None
            finally:
                self._processes += [process for process in active_children() if process not in before]
        self._watch = Watch(self._timeout, self._processes) if self._processes and self._timeout else None

    def next(self, doing: Callable[[], str]) -> Any:
        """Return the next item, or the ``SsodError`` for a worker that died or hangs while ``doing`` something."""
        try:
            with self._watch or nullcontext():
                return next(self._items)
        except (RuntimeError, OSError, EOFError) as error:
            late = self._watch is not None and self._watch.late
            failure = worker_failure(self._too_late() if late else self._of_a_death(error), doing())
            if failure is None:
                raise
        # The error is gone by here: its traceback would hold torch's iterator, which ``end`` is to drop.
        _kill(self._processes)  # others may hang, too
        return failure

    def _too_late(self) -> RuntimeError:
        return RuntimeError(f"DataLoader timed out after {self._timeout:g} seconds")

    def _of_a_death(self, error: Exception) -> Exception:
        """Return torch's own error where ``error`` is that of a connection to a worker that has died meanwhile."""
        if not isinstance(error, ConnectionError | FileNotFoundError | EOFError):
            return error
        with _deaths_expected():
            for process in self._processes:  # its connections are closed a moment before it has ended
                process.join(DYING / len(self._processes))
                if process.exitcode:
                    return RuntimeError(f"DataLoader worker (pid {process.pid}) ended with code {process.exitcode}")
        return error

    def end(self) -> None:
        """End the workers: in order where that takes no longer than ``PATIENCE``, else by force."""
        if os.getpid() != self._owner or not self._at_exit.still_active():
            return  # a copy in a forked process, or they have ended; no thread starts when Python is as good as gone
        held, self._items = [self._items], iter(())
        try:
            if self._processes:
                with _deaths_expected():
                    # Dropping torch's iterator ends its workers in order, and waits 10 s for each that hangs, so it
                    # happens where nobody needs to wait for it.
                    closer = threading.Thread(target=held.clear, daemon=True)
                    closer.start()
                    closer.join(PATIENCE)
                    _kill(self._processes)
                    closer.join(1)
        finally:
            _kill(self._processes)
            self._at_exit.cancel()
            if self._watch is not None:
                self._watch.end()


class Watch:
    """Kills the workers where the main process waits for one longer than torch's own time-out lets it.

    torch counts the seconds until a message comes. The pixels that it names are fetched after that, over a connection
    to the worker, and one that is stopped, or swapped out, answers never. Enter it for as long as is waited.

    Args:
        timeout: seconds after which torch gives up; the watch waits for a little longer.
        processes: the workers.

    Attributes:
        late: whether it has killed them.
    """

    def __init__(self, timeout: float, processes: Sequence[BaseProcess]) -> None:
        self.late, self._processes = False, processes
        self._limit, self._often = timeout + min(timeout, MARGIN), min(timeout / 4, 1.0)
        self._since: float | None = None
        self._ended = threading.Event()
        threading.Thread(target=self._look, daemon=True).start()

    def __enter__(self) -> None:
        self._since = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self._since = None

    def end(self) -> None:
        """Let the thread end."""
        self._ended.set()

    def _look(self) -> None:
        while not self._ended.wait(self._often):
            since = self._since
            if since is not None and time.monotonic() - since > self._limit:
                self.late = True
                for process in self._processes:
                    process.kill()  # its connections break, and so does the wait of the main process
                return


def prepare(_: int) -> None:
    """Make a new process a worker.

    Ctrl-C and a cluster's SIGTERM reach every process, and the main one needs its workers until it has saved.
    """
    end_with_parent(signal.SIGKILL)
    _let_go_of_sockets()
    for number in _WHOLE_JOB:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _WHOLE_JOB)  # what had come until now is dropped


def _let_go_of_sockets() -> None:
    """Hold no connection of the main process: the other ranks see by its closing that a rank has died.

    The numbers stay taken, for whoever opened them here may close them once more.
    """
    nowhere = os.open(os.devnull, os.O_RDWR)
    with suppress(OSError):  # no such folder: a system that does not list what is open
        for number in map(int, os.listdir("/dev/fd")):
            with suppress(OSError):  # the folder's own, which is closed again
                if number > 2 and stat.S_ISSOCK(os.fstat(number).st_mode):
                    os.dup2(nowhere, number)
    os.close(nowhere)


def worker_failure(error: BaseException, doing: str = "") -> SsodError | None:
    """Return the ``SsodError`` for what torch raises when a data worker dies or hangs, None for any other error.

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


@contextmanager
def worker_deaths() -> Iterator[None]:
    """Turn a worker's death into an ``SsodError``: torch raises it from a signal handler, in whatever line runs."""
    try:
        yield
    except RuntimeError as error:
        failure = worker_failure(error)
        if failure is None:
            raise
        raise failure from None


def _kill(processes: Sequence[BaseProcess]) -> None:
    left = [process for process in processes if process.is_alive()]
    if not left:
        return
    with _deaths_expected():
        for process in left:
            process.kill()
        for process in left:
            process.join(1)


@contextmanager
def _deaths_expected() -> Iterator[None]:
    """Keep torch's signal handler from taking the end of a worker for an accident."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may change handlers
        return
    handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, handler or signal.SIG_DFL)


@contextmanager
def _signals_held_back() -> Iterator[None]:
    """Processes started inside inherit the mask: a signal that comes before they ignore it must not end them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _WHOLE_JOB)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

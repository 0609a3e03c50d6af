"""Being asked to stop: by the scheduler of a cluster (SIGTERM, SIGUSR1) or by the user (SIGINT)."""

import os
import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Self

from ssod.utils.errors import Exit

_CODES = {
    signal.SIGTERM: Exit.PREEMPTED,
    signal.SIGUSR1: Exit.PREEMPTED,
    signal.SIGINT: Exit.INTERRUPTED,
}


class Ended(SystemExit):
    """A scheduler ended a command that has no state to save. As with Ctrl-C, no ``except Exception`` swallows it."""


@contextmanager
def ended_by_sigterm() -> Generator[None, None, None]:
    """Let SIGTERM raise ``Ended`` where it would kill, so that nothing stays half done; a second one changes nothing.

    Outside the main thread, where Python takes no handlers, it does nothing.
    """
    owner = os.getpid()

    def end(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if os.getpid() != owner:  # a process forked from this one, which has nothing to clear away
            os._exit(int(Exit.PREEMPTED))
        raise Ended(int(Exit.PREEMPTED))

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


class Stopped(Exception):
    """A long piece of work ended early, on every rank, because some rank was asked to stop; ``code`` says how."""

    def __init__(self, code: int) -> None:
        self.code = code
        super().__init__(f"asked to stop ({Exit(code).name.lower()})")


class Signals:
    """While it is entered, a signal only leaves a note; the loop reads it between two steps and saves.

    A second SIGINT raises ``KeyboardInterrupt`` at once. Outside the main thread, where Python takes no handlers, it
    does nothing.
    """

    def __init__(self) -> None:
        self.code: int = Exit.OK
        self._before: dict[signal.Signals, Any] = {}
        self._pid = os.getpid()

    def __enter__(self) -> Self:
        self.code = requested()  # an outer Signals may have heard something already
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in _CODES}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid:
            return  # a forked data worker: Ctrl-C reaches it too, and it must live until the state is saved
        if number == signal.SIGINT and self.code == Exit.INTERRUPTED:
            raise KeyboardInterrupt
        self.code = max(self.code, _CODES[signal.Signals(number)])


def requested() -> int:
    """Return the exit code that the entered ``Signals`` was asked for, 0 if none was.

    The process's own table of signal handlers says which ``Signals`` is entered, so that code far from the loop, an
    evaluation say, can ask without being handed anything.
    """
    owner = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    return owner.code if isinstance(owner, Signals) else Exit.OK

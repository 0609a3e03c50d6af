"""Where the runs of a sweep are made: on this machine, or on those of a cluster.

An executor starts a command and tells what became of it. Which runs are made, and how often, is the pool's affair.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from functools import partial
from typing import IO, Protocol

from ssod.utils.parent import end_with_parent


class Started(Protocol):
    """A run that was handed to an executor; it may still wait for its turn."""

    def poll(self) -> int | None:
        """Return its exit code, None until it has ended."""

    def ask(self) -> None:
        """Ask it to save its state and to end."""

    def wait(self) -> int | None:
        """Wait until it has ended; return its exit code where it is known."""


class Executor(Protocol):
    """Starts runs.

    Attributes:
        here: whether runs take memory and GPUs of this machine, so that the pool has to share them out.
    """

    here: bool

    def start(self, command: Sequence[str], log: IO[bytes], env: Mapping[str, str]) -> Started:
        """Start a command.

        Args:
            command: of a run, with absolute paths or such as hold in the current folder.
            log: takes what it prints; locked by this process.
            env: variables beside those of this process.
        """


def process(
    command: Sequence[str], log: IO[bytes], env: Mapping[str, str], folder: str | None = None
) -> subprocess.Popen:
    """Start a run as a process that saves its state when this one ends, however it does.

    Args:
        command, log, env: as in ``Executor.start``.
        folder: where it starts; None = the current folder.
    """
    return subprocess.Popen(
        command,
        cwd=folder,
        stdout=log,
        stderr=subprocess.STDOUT,
        env={**os.environ, **env},
        start_new_session=True,  # Ctrl-C is the sweep's alone; the runs are asked once, by `ask`
        preexec_fn=partial(end_with_parent, signal.SIGTERM),
    )


class Local:
    """Runs that are processes of this machine."""

    here = True

    def start(self, command: Sequence[str], log: IO[bytes], env: Mapping[str, str]) -> Started:
        """See ``Executor.start``; the process inherits the lock of its log."""
        return _Process(process(command, log, env))


class _Process:
    def __init__(self, process: subprocess.Popen) -> None:
        self._process = process

    def poll(self) -> int | None:
        return self._process.poll()

    def ask(self) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)

    def wait(self) -> int:
        return self._process.wait()

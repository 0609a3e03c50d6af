"""Where the runs of a sweep are made: on this machine, or on those of a cluster.

An executor starts a command and tells what became of it. Which runs are made, and how often, is the pool's affair.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
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


def note(log: str, problem: str) -> None:
    """Write why a run is over into its log, where the run itself could not: it never began, or was ended from outside.

    Args:
        log: the file, which the pool reads the reason from.
        problem: one line.
    """
    with suppress(OSError), open(log, "a", encoding="utf-8", errors="backslashreplace") as file:
        file.write(f"ssod: error: {problem}\n")


def reason(error: Exception) -> str:
    """Return the line of another library's error that says what was wrong: of a traceback its last."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    raised = [line for line in lines if re.match(r"[\w.]*(Error|Exception): ", line)]
    return (raised[-1:] or lines[:1] or [type(error).__name__])[0]


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

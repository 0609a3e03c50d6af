"""What a person sees: a command in a terminal of its own, and what stands on its screen from moment to moment."""

from __future__ import annotations

import fcntl
import io
import os
import select
import struct
import sys
import termios
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from rich.console import Console

from ssod.utils import printing
from tests.engine.fork import Command
from tests.patience import LONG

pyte = pytest.importorskip("pyte", reason="a terminal is played by pyte, which is not installed")

UNSET = ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE")


class Window:
    """A played terminal that takes bytes and tells what stands on it.

    Args:
        columns, rows: its size.

    Attributes:
        seen: the screens after each portion of bytes, each a list of lines without blanks at their ends.
        bytes: all that came.
    """

    def __init__(self, columns: int = 80, rows: int = 24) -> None:
        self.columns, self.rows = columns, rows
        self._screen = pyte.HistoryScreen(columns, rows, history=10000, ratio=1.0)
        self._stream = pyte.ByteStream(self._screen)
        self.seen: list[list[str]] = []
        self.bytes = b""

    def feed(self, portion: bytes) -> None:
        """Take what was written; a line feed alone begins a line anew, as a terminal's driver has it."""
        self.bytes += portion
        self._stream.feed(portion)
        if not self.seen or self.seen[-1] != self.lines():
            self.seen.append(self.lines())

    def lines(self) -> list[str]:
        """Return what stands on the screen now."""
        return [line.rstrip() for line in self._screen.display]

    def everything(self) -> list[str]:
        """Return what stands on the screen and what went out at its top."""
        above = ["".join(row[i].data for i in range(self.columns)).rstrip() for row in self._screen.history.top]
        return [*above, *self.lines()]

    @property
    def sane(self) -> bool:
        """Whether the cursor is to be seen, and lines go on to be broken at the edge."""
        return not self._screen.cursor.hidden and pyte.modes.DECAWM in self._screen.mode


class Recorder(io.StringIO):
    """A terminal's stream: what is written to it goes to a played window."""

    encoding = "utf-8"

    def __init__(self, window: Window) -> None:
        super().__init__()
        self.window = window

    def write(self, text: str) -> int:
        self.window.feed(text.replace("\n", "\r\n").encode())  # as the driver of a terminal does
        return len(text)

    def isatty(self) -> bool:
        return True


def on_terminal(window: Window, monkeypatch: pytest.MonkeyPatch) -> Console:
    """Return a console on ``window``, to which standard output and error go, too."""
    out = Recorder(window)
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", out)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", str(window.columns))
    monkeypatch.setenv("LINES", str(window.rows))
    for name in UNSET[2:]:
        monkeypatch.delenv(name, raising=False)
    return printing.console(wrap=True)


class InTerminal(Command):
    """A command of ours, forked from this process, with a terminal for its input and output.

    Args:
        words: as a shell has them, ``[python, "-m", "ssod", ...]``.
        window: what stands for the terminal.
        env: more environment variables.
    """

    def __init__(self, words: Sequence[str], window: Window, env: dict[str, str] | None = None) -> None:
        self.window = window
        self._master, self._slave = os.openpty()
        size = struct.pack("HHHH", window.rows, window.columns, 0, 0)
        fcntl.ioctl(self._slave, termios.TIOCSWINSZ, size)
        super().__init__(words, {"TERM": "xterm-256color", **(env or {})}, Path(os.devnull))
        os.close(self._slave)

    def _begin(self, env: dict[str, str]) -> None:
        for name in UNSET:
            os.environ.pop(name, None)
        os.environ.update(env)
        os.setsid()
        fcntl.ioctl(self._slave, termios.TIOCSCTTY, 0)
        for number in (0, 1, 2):
            os.dup2(self._slave, number)
        os.close(self._master)
        os.close(self._slave)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False, encoding="utf-8") for number in (1, 2))
        self.work()

    def watch(self, until: Callable[[list[str]], bool] = lambda lines: False, seconds: float = LONG) -> bool:
        """Look at the window until its lines are as wanted, and return True, or until the command has ended."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if not select.select([self._master], [], [], 0.1)[0]:
                continue
            try:
                portion = os.read(self._master, 1 << 16)
            except OSError:  # nobody has the terminal open any more
                return False
            self.window.feed(portion)
            if until(self.window.lines()):
                return True
        raise AssertionError(f"not seen within {seconds} s: {self.window.lines()}")

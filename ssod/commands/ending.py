"""How a command ends: the line that it prints of an error, and its code."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from ssod.utils.errors import Exit, SsodError
from ssod.utils.plain_text import visible
from ssod.utils.signals import Ended, ended_by_sigterm


@contextmanager
def one_line_errors(*, debug: bool) -> Iterator[None]:
    """Turn an error that a user can mend into one line and an exit code.

    Args:
        debug: print its traceback, too, before the line.

    Raises:
        SystemExit: with the error's code.
    """
    streams = sys.stdout, sys.stderr
    # type: ignore because an Outlet is no TextIO by its class; it has all that the stream has.
    sys.stdout, sys.stderr = (stream and Outlet(stream) for stream in streams)  # type: ignore
    try:
        with ended_by_sigterm():
            yield
    except SsodError as error:
        if debug:
            traceback.print_exc()
        if error.teller in (None, _rank()):
            print(f"ssod: error: {error.line()}", file=sys.stderr)
        sys.exit(int(error.code))
    except OSError as error:
        if error.filename is None:
            raise
        if debug:
            traceback.print_exc()
        # What nobody foresaw of a file is still no bug: a name that is too long, say, or a disk that went away.
        refusal = SsodError(error.filename, "", f"{error.strerror}", "check the path and the disk", code=Exit.IO)
        print(f"ssod: error: {refusal.line()}", file=sys.stderr)
        sys.exit(int(Exit.IO))
    except Ended:
        if _rank() == 0:  # a job's processes are all ended
            print("ssod: stopped", file=sys.stderr)
        raise
    except SystemExit as end:
        if end.code == Exit.INTERRUPTED:  # what typer makes of Ctrl-C
            print("ssod: interrupted", file=sys.stderr)
        raise
    finally:
        sys.stdout, sys.stderr = streams
        _let_go_of_broken_pipes()


def told_once_a_machine(error: SsodError) -> SsodError:
    """Return an error that all processes on this machine have: the first of them prints it."""
    error.teller = _rank() - int(os.environ.get("LOCAL_RANK", "0")) if _rank() else 0
    return error


def speaks() -> bool:
    """Return whether this process is the one of its job that tells what all of them do."""
    return _rank() == 0


def _rank() -> int:
    """Return the number of this process in its job, as torchrun says it; 0 where it is alone."""
    return int(os.environ.get("RANK", "0")) if int(os.environ.get("WORLD_SIZE", "1")) > 1 else 0


class Outlet:
    """A stream that nobody needs to read (``ssod ... | head``), and whose reader may be a terminal.

    What can no longer be written is dropped: a training goes on, and a command ends with its own code; typer would end
    it with 1. Names of classes and files cannot do anything to a terminal: control characters are written out, as is
    what the stream's encoding has not.

    Args:
        stream: where it goes.
        harmless: False for ``styled``, where a console writes colours and moves its bars, and sees to its texts.
    """

    def __init__(self, stream: TextIO, harmless: bool = True) -> None:
        self.stream, self.harmless = stream, harmless

    @property
    def styled(self) -> Outlet:
        """The same stream for a console."""
        return Outlet(self.stream, harmless=False)

    def write(self, text: str) -> int:
        """Write, or drop."""
        if self.harmless:
            back = "\r" * text.startswith("\r")  # a bar of torch's downloads begins its line anew
            encoding = self.stream.encoding or "utf-8"
            text = back + visible(text[len(back) :]).encode(encoding, "backslashreplace").decode(encoding)
        try:
            return self.stream.write(text)
        except BrokenPipeError:
            _drop(self.stream)
            return len(text)

    def flush(self) -> None:
        """Flush, or drop."""
        try:
            self.stream.flush()
        except BrokenPipeError:
            _drop(self.stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def _drop(stream: TextIO) -> None:
    """Send what is in the stream's buffer, and whatever comes, nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _let_go_of_broken_pipes() -> None:
    """Drop what can no longer be written (``ssod ... | head``): Python would complain at its end, with code 120."""
    for stream in (sys.stdout, sys.stderr):
        if stream is None or stream.closed:
            continue
        try:
            stream.flush()
        except BrokenPipeError:
            _drop(stream)
        except OSError:  # a full disk, say: Python tells of it, and its code is right
            continue

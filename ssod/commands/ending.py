"""How a command ends: the line that it prints of an error, and its code."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from ssod.utils.errors import Exit, SsodError


@contextmanager
def one_line_errors(*, debug: bool) -> Iterator[None]:
    """Turn an error that a user can mend into one line and an exit code.

    Args:
        debug: print its traceback, too, before the line.

    Raises:
        SystemExit: with the error's code.
    """
    try:
        yield
    except SsodError as error:
        with suppress(BrokenPipeError):  # ssod ... 2>&1 | head
            if debug:
                traceback.print_exc()
            print(f"ssod: error: {error.line()}", file=sys.stderr)
        sys.exit(int(error.code))
    except SystemExit as end:
        if end.code == Exit.INTERRUPTED:  # what typer makes of Ctrl-C
            with suppress(BrokenPipeError):
                print("ssod: interrupted", file=sys.stderr)
        raise
    finally:
        _let_go_of_broken_pipes()


def _let_go_of_broken_pipes() -> None:
    """Drop what can no longer be written (``ssod ... | head``): Python would complain at its end, with code 120."""
    for stream in (sys.stdout, sys.stderr):
        if stream is None or stream.closed:
            continue
        try:
            stream.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        except OSError:  # a full disk, say: Python tells of it, and its code is right
            continue

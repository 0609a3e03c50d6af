"""Options that the tools have in common, refused in one line where they make no sense."""

from __future__ import annotations

import argparse
from pathlib import Path

from matplotlib.backend_bases import FigureCanvasBase

from ssod.utils import atomic
from ssod.utils.config_errors import Source
from ssod.utils.errors import SsodError

COMMAND_LINE = Source("command line", {})  # what messages about a section name as its file


def count(text: str) -> int:
    """Read a number of things, of which there must be one at least."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not 1 or more")
    return int(text)


def size(text: str) -> tuple[int, int]:
    """Read a height and a width, ``800x1333``, or the side of a square."""
    height, _, width = text.partition("x")
    return count(height), count(width or height)


def cpu_time(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuse ``--cpu-time`` on a GPU, whose work is none of this process."""
    if args.cpu_time and args.device != "cpu":
        parser.error("--cpu-time needs --device cpu")


def picture(path: Path) -> None:
    """Refuse a file that matplotlib cannot draw to, and make its folder.

    Raises:
        SsodError: code 2 for the ending, 6 when the disk refuses.
    """
    known = FigureCanvasBase.get_supported_filetypes()
    if path.suffix[1:].lower() not in known:
        raise SsodError(
            "command line", "-o", f"'{path}' has no known ending", f"use one of .{', .'.join(sorted(known))}"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise atomic.refused(path, error) from None

"""Printing for people: tables and lines in which a name stays as its owner wrote it."""

from __future__ import annotations

import math
import re
import sys
import textwrap
from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from ssod.utils.plain_text import visible

HANGING = " " * 4  # before the further lines of a line that is broken


class _Terminal(Console):
    """Writes styles of its own, and nothing that would move a terminal in the texts that it is given.

    The cursor stays to be seen: a process that is killed in the middle of a bar could not show it again.
    """

    def show_cursor(self, show: bool = True) -> bool:
        return False

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=visible(segment.text))


def console(*, stderr: bool = False, wrap: bool = False, width: int | None = None) -> Console:
    """Return where tables and bars are shown; ``[/b]`` and ``:car:`` in a class or a file are nothing but text.

    Args:
        stderr: on standard error, not on standard output.
        wrap: break long lines between words; else they are left to the terminal.
        width: in letters; None = that of the terminal.
    """
    stream = sys.stderr if stderr else sys.stdout
    out = getattr(stream, "styled", stream)  # what else a command prints is made harmless by its outlet
    return _Terminal(file=out, soft_wrap=not wrap, markup=False, emoji=False, highlight=False, width=width)


def between_pairs(text: str, width: int) -> str:
    """Return a line such as ``sup 1.239  unsup 0.100``, broken between its pairs where it is wider than ``width``.

    Further lines are indented. Two blanks part the pairs; a pair that is too wide by itself stays as it is.
    """
    glued = re.sub("(?<! ) (?! )", "\N{NO-BREAK SPACE}", text)
    lines = textwrap.wrap(glued, width, subsequent_indent=HANGING, break_long_words=False, break_on_hyphens=False)
    return "\n".join(lines).replace("\N{NO-BREAK SPACE}", " ")


def percent(value: float | None) -> str:
    """Return a fraction in per cent, ``76.1``; ``-`` where it is undefined: there was nothing to find."""
    return "-" if value is None or math.isnan(value) else f"{100 * value:.1f}"


def duration(seconds: float) -> str:
    """Return ``2 d 3 h``, ``1 h 05 min``, ``12 min`` or ``7.5 s``."""
    minutes = round(seconds / 60)
    if seconds < 100:
        return f"{seconds:.1f} s"
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes // (24 * 60)} d {minutes // 60 % 24} h"

"""How far a piece of work is: lines at the bottom of a terminal, each with its pace and the time that is left.

What is printed meanwhile stands above them. Where nobody watches (a pipe, a file, ``TERM=dumb``), nothing is shown. The
cursor is never hidden: a process that is killed could not show it again.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import Self, TextIO, TypeVar

from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.live import Live
from rich.text import Text

from ssod.utils import printing

EVERY = 0.1  # seconds between two drawings, at least
SHARE, RAREST = 0.05, 1.0  # of the time, at most, that goes into drawing, unless it is once a second
KEEP, RECENT = 0.98, 10.0  # the pace is that of the last fifty steps or ten seconds, whichever is more
WIDEST, NARROWEST = 40, 6  # letters of a bar


T = TypeVar("T")


class Pace:
    """Seconds that one item takes, of late.

    The first step, in which much is made ready, counts only until there is a second one.

    Args:
        keep: how much what was there counts after a step.
    """

    def __init__(self, keep: float = KEEP) -> None:
        self._keep = keep
        self._steps, self._seconds, self._items = 0, 0.0, 0.0

    def add(self, seconds: float, items: int = 1) -> None:
        """Take in a step that took so many seconds for so many items."""
        keep = 0.0 if self._steps == 1 else max(self._keep, math.exp(-max(seconds, 0.0) / RECENT))
        self._steps += 1
        self._seconds, self._items = self._seconds * keep + seconds, self._items * keep + items

    def __float__(self) -> float:
        """Return seconds an item; NaN before the first."""
        return self._seconds / self._items if self._items else math.nan


class Bar:
    """A line that fits the window: what is done, a bar, the share, the pace and the time that is left.

    Where there is less room, the share goes first, then the pace, the bar and the time.

    Args:
        what: is done.
        total: items, such as steps or images.
        done: of them, before this process began.
        unit: one that is worth seconds, ``step``, is shown with its seconds; several in a second, ``images``, as such.

    Attributes:
        done: items up to now.
        pace: of the items.
        more: seconds that are left besides those of the items.
    """

    def __init__(self, what: str, total: int, *, done: int = 0, unit: str = "images") -> None:
        self.what, self.total, self.done, self.unit = what, total, done, unit
        self.pace, self.more = Pace(), 0.0
        self._last = time.perf_counter()

    def reach(self, done: int) -> None:
        """Note that so many items are done by now."""
        now = time.perf_counter()
        if done > self.done:
            self.pace.add(now - self._last, done - self.done)
        self.done, self._last = done, now

    def left(self) -> float:
        """Return the seconds that are left; NaN before the first item is done."""
        return max(self.total - self.done, 0) * float(self.pace) + self.more

    def text(self, width: int, *, ascii_only: bool = False) -> Text:
        """Return the line, of ``width`` letters at most."""
        share = min(self.done / self.total, 1.0) if self.total else 1.0
        count = f"{self.what} {self.done:>{len(str(self.total))}}/{self.total}"
        eta = f"eta {as_timer(self.left())}"
        parts = [f"{math.floor(100 * share):3d}%", self._pace(), eta]
        while parts:
            words = "".join(f"  {part}" for part in parts)
            room = min(WIDEST, width - len(count) - len(words) - 1)
            if room >= NARROWEST:
                full, empty = ("#", ".") if ascii_only else ("━", "─")
                filled = math.floor(room * share)
                drawn = (f"{full * filled}", "bar.complete"), (f"{empty * (room - filled)}", "bar.back")
                return Text.assemble(f"{count} ", *drawn, words, no_wrap=True, overflow="crop")
            parts.pop(0)
        short = f"{count}  {eta}"
        return Text((short if len(short) <= width else count)[:width], no_wrap=True, overflow="crop")

    def _pace(self) -> str:
        seconds = float(self.pace)
        if math.isnan(seconds):
            return "?"
        if self.unit == "step":
            return f"{seconds:.{3 if seconds < 10 else 1}f} s/step"
        rate = 1 / max(seconds, 1e-9)
        return f"{rate:.{0 if rate >= 100 else 1 if rate >= 1 else 2}f} {self.unit}/s"

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        yield self.text(options.max_width, ascii_only=options.ascii_only)


class Screen:
    """The lines at the bottom of a terminal, drawn at most ten times a second and by no thread of their own.

    Args:
        console: of a terminal.

    Attributes:
        rows: what is shown, from the top; whoever changes them calls ``draw``.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.rows: list[RenderableType] = []
        self._due, self._broken = 0.0, False
        self._outer: Screen | None = None
        self._live = Live(
            get_renderable=lambda: Group(*self.rows),
            console=console,
            auto_refresh=False,
            transient=True,
            redirect_stdout=_terminal(sys.stdout),  # a file that takes results or errors goes on taking them
            redirect_stderr=_terminal(sys.stderr),
        )

    def draw(self, *, now: bool = False) -> None:
        """Show the rows as they are, if it is time to, or ``now``; a terminal that is gone is left alone."""
        begin = time.perf_counter()
        if self._broken or (begin < self._due and not now):
            return
        try:
            self._live.refresh()
        except (OSError, ValueError):  # whoever prints a line there is told why
            self._broken = True
        end = time.perf_counter()
        self._due = end + max(EVERY, min((end - begin) / SHARE, RAREST))

    def __enter__(self) -> Self:
        self._outer = _open[0]
        _open[0] = self
        self._live.start()
        self.draw(now=True)
        return self

    def __exit__(self, *_: object) -> None:
        _open[0] = self._outer
        self.rows.clear()
        self._live.stop()


_open: list[Screen | None] = [None]  # the one that is shown: a process has one terminal


def _terminal(stream: TextIO | None) -> bool:
    return stream is not None and not stream.closed and stream.isatty()


def watched(console: Console) -> bool:
    """Whether somebody looks at a console, on something that can draw a line anew."""
    return console.is_terminal and not console.is_dumb_terminal


@contextmanager
def screen() -> Generator[None, None, None]:
    """Show the bars of what is done meanwhile on standard error, where somebody watches it and none are shown yet."""
    console = printing.console(stderr=True, wrap=True)
    if _open[0] is not None or not watched(console):
        yield
        return
    with Screen(console):
        yield


@contextmanager
def bar(what: str, total: int, unit: str = "images") -> Generator[Callable[[int], None], None, None]:
    """Show a bar until a piece of work is over, below those that are shown; where no screen is shown, nothing.

    Args:
        what: is done.
        total: items.
        unit: their name, in the plural.

    Yields:
        What is told how many are done by now.
    """
    shown = _open[0]
    if shown is None:
        yield lambda done: None
        return
    row = Bar(what, total, unit=unit)

    def reach(done: int) -> None:
        row.reach(done)
        shown.draw()

    shown.rows.append(row)
    shown.draw(now=True)
    try:
        yield reach
    finally:
        if row in shown.rows:
            shown.rows.remove(row)
        shown.draw(now=True)


def passing(items: Iterable[T], what: str, total: int, size: Callable[[T], int]) -> Iterator[T]:
    """Yield ``items``, batches of so many, and show a ``bar`` of how many of ``total`` have gone by."""
    with bar(what, total) as reach:
        done = 0
        for item in items:
            yield item
            done += size(item)
            reach(done)


def as_timer(seconds: float) -> str:
    """Return ``1:02:05``, ``?`` where it is not known."""
    if not math.isfinite(seconds):
        return "?"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"

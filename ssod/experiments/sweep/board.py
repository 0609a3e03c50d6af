"""A sweep on a terminal: a line of counts, and one for each run that is being made, read from the end of its own log.

Any executor will do: nothing is asked of a run but its ``metrics.jsonl``.
"""

from __future__ import annotations

import heapq
import json
import math
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean

from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions, RenderableType
from rich.text import Text

from ssod.engine.checkpointing import lines
from ssod.experiments import cost
from ssod.experiments.runs import read_run
from ssod.experiments.sweep.sweep import Cell
from ssod.utils.plain_text import visible
from ssod.utils.printing import percent
from ssod.utils.progress import Pace, Screen, as_timer, watched

KEEP = 0.9  # the pace of a run is that of its last ten lines
SHORTEST = 12  # letters of a name that say something


@dataclass(frozen=True)
class Advance:
    """Where a sweep is.

    Attributes:
        total: runs of it.
        finished: those that have ended well.
        failed: how many have not.
        waiting: those that have not begun.
        running: those that are being made.
    """

    total: int
    finished: Sequence[Cell]
    failed: int
    waiting: Sequence[Cell]
    running: Sequence[Cell]


@dataclass
class Row:
    """A run that is being made, as far as its log tells.

    Attributes:
        cell: which.
        steps: that it is to make.
        step: the last one that it told of.
        ap: the teacher's, a fraction; None before the first evaluation.
        pace: seconds that a step takes, with its share of evaluations.
    """

    cell: Cell
    steps: int
    step: int = 0
    ap: float | None = None
    pace: Pace = field(default_factory=lambda: Pace(KEEP))
    _told: float | None = None  # when it told of that step; None = before anybody looked
    _file: tuple[int, int] | None = None

    def look(self, now: float) -> None:
        """Read the end of the log, if it is another one than last time."""
        path = self.cell.folder / "metrics.jsonl"
        try:
            stat = path.stat()
        except OSError:
            self._file = self._file or (0, 0)
            return
        if (stat.st_ino, stat.st_size) == self._file:
            return
        first, self._file = self._file is None, (stat.st_ino, stat.st_size)
        step, seconds, ap = last_told(path)
        self.ap = self.ap if ap is None else ap
        new = step - self.step
        if new < 0:  # it goes on where it had saved a state
            self.pace, self._told = Pace(KEEP), None
        if new > 0 and self._told is not None:
            self.pace.add(now - self._told, new)
        elif seconds is not None and (new or math.isnan(float(self.pace))):
            self.pace.add(seconds)  # its own word, for it also took time to start
        if new > 0 and not first:
            self._told = now
        self.step = step

    def left(self, now: float) -> float:
        """Return the seconds that are left; NaN before it told of a step."""
        waited = 0.0 if self._told is None else now - self._told
        left = (self.steps - self.step) * float(self.pace) - waited
        return left if math.isnan(left) else max(left, 0.0)


class Board:
    """The lines of a sweep; they fit the window, of which runs fill no more than there is.

    Args:
        console: where they are shown.
    """

    def __init__(self, console: Console) -> None:
        self.console, self.now = console, 0.0
        self.standing = Advance(0, (), 0, (), ())
        self.rows: dict[str, Row] = {}
        self._took: dict[str, float] = {}  # seconds, by the name of a run that is finished

    def see(self, standing: Advance) -> None:
        """Take in where the sweep is, and how far its runs are."""
        self.standing, self.now = standing, time.monotonic()
        known = self.rows
        self.rows = {c.name: known.get(c.name) or Row(c, c.load().train.steps) for c in standing.running}
        for row in self.rows.values():
            row.look(self.now)
        for cell in standing.finished:
            if cell.name not in self._took:
                self._took[cell.name] = seconds_of(cell)

    def left(self) -> float:
        """Return the seconds until all runs are made, as many at a time as now; NaN where nothing tells of it."""
        ends = [row.left(self.now) for row in self.rows.values()]
        free = [self.expected(row.cell) if math.isnan(end) else end for row, end in zip(self.rows.values(), ends)]
        free = free or [0.0]
        coming = [self.expected(cell) for cell in self.standing.waiting]
        if any(map(math.isnan, [*free, *coming])):
            return math.nan
        heapq.heapify(free)
        for seconds in coming:
            heapq.heapreplace(free, free[0] + seconds)
        return max(free)

    def expected(self, cell: Cell) -> float:
        """Return the seconds that a run takes: as others with the same config do, or as others do; else NaN."""
        known = self._took | {name: row.steps * float(row.pace) for name, row in self.rows.items()}
        known = {name: seconds for name, seconds in known.items() if not math.isnan(seconds)}
        alike = [seconds for name, seconds in known.items() if _row_of(name) == _row_of(cell.name)]
        return mean(alike or known.values()) if known else math.nan

    def text(self, width: int, height: int) -> list[str]:
        """Return the lines, ``height`` of ``width`` letters at most."""
        rows = list(self.rows.values())
        room = max(height - 2, 1)
        shown = rows if len(rows) <= room else rows[: room - 1]
        out = [self._counts(width), *_table(shown, self.now, width)]
        if len(shown) < len(rows):
            out.append(f"and {len(rows) - len(shown)} more")
        return [set_cell_size(line, width).rstrip() for line in out]

    def _counts(self, width: int) -> str:
        now = self.standing
        counts = {"running": len(self.rows), "failed": now.failed, "waiting": len(now.waiting)}
        parts = [f"{count} {word}" for word, count in counts.items() if count or word != "failed"]
        first, last = f"{len(now.finished)}/{now.total} finished", f"eta {as_timer(self.left())}"
        while parts and len("  ".join([first, *parts, last])) > width:
            parts.pop()
        return "  ".join([first, *parts, last])

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        head, *rest = self.text(options.max_width, console.size.height)
        yield Text(head, style="bold", no_wrap=True, overflow="crop")
        for line in rest:
            yield Text(line, no_wrap=True, overflow="crop")


def _table(rows: Sequence[Row], now: float, width: int) -> list[str]:
    """Return a line for each row; where names are long, AP is left out, then the steps."""
    columns = [
        [f"{row.step}/{row.steps}" for row in rows],
        [f"AP {percent(row.ap):>4}" for row in rows],
        [f"eta {as_timer(row.left(now)):>7}" for row in rows],
    ]
    names = [visible(row.cell.name) for row in rows]
    longest = max(map(cell_len, names), default=0)
    while True:
        wide = [max(map(len, column), default=0) for column in columns]
        room = width - sum(wide) - 2 * len(wide)
        if room >= min(longest, SHORTEST) or len(columns) == 1:
            break
        columns.pop(1 if len(columns) == 3 else 0)
    cells = [[text.rjust(size) for text in column] for column, size in zip(columns, wide)]
    return ["  ".join([_name(name, min(longest, max(room, 1))), *rest]) for name, *rest in zip(names, *cells)]


def _name(name: str, size: int) -> str:
    """Return a name with so many letters; of a longer one the end, where fold and seed are, is kept."""
    if cell_len(name) <= size:
        return set_cell_size(name, size)
    while cell_len(name) >= size and name:
        name = name[1:]
    return set_cell_size(f"…{name}", size)


def _row_of(name: str) -> str:
    return name.rpartition("/")[0]


def last_told(path: Path) -> tuple[int, float | None, float | None]:
    """Return the step, the seconds of a step and the teacher's AP that a log told of last; 0 and None for nothing."""
    step, seconds, ap = 0, None, None
    for line in reversed(lines.at_end(path)):
        at = lines.step_of(line)
        if at == math.inf:
            continue
        row = json.loads(line)
        step = max(step, int(at))
        value = row.get("time/step") if row.get("kind") == "train" else row.get("teacher/AP")
        if row.get("kind") == "train" and seconds is None and isinstance(value, float | int):
            seconds = float(value)
        if row.get("kind") == "eval" and ap is None and isinstance(value, float | int):
            ap = float(value)
        if seconds is not None and ap is not None:
            break
    return step, seconds, ap


def seconds_of(cell: Cell) -> float:
    """Return the seconds that a finished run's steps took."""
    run = read_run(cell.folder)
    return 3600 * cost.hours(run, max((row["step"] for row in run.train), default=0))


@contextmanager
def shown(console: Console) -> Generator[Callable[[Advance], None], None, None]:
    """Show a sweep at the bottom of a terminal until it is over; anywhere else, nothing.

    Yields:
        What is told where the sweep is.
    """
    if not watched(console):
        yield lambda standing: None
        return
    board = Board(console)
    with Screen(console) as screen:

        def show(standing: Advance) -> None:
            board.see(standing)
            screen.draw()

        screen.rows.append(board)
        yield show

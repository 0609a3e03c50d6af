"""How many steps were made and how many skipped, counted once the host knows it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ssod.engine import endings
from ssod.engine.logging.meters import Window
from ssod.engine.step import Step


class Tally:
    """Counts the steps of a run, and ends it where too many in a row are faulty.

    Args:
        folder: of the run, for messages.
        most: so many faulty steps in a row end the run.

    Attributes:
        window: sums since the last line of the log.
        bad: faulty steps in a row.
    """

    def __init__(self, folder: Path, most: int) -> None:
        self.window, self.bad = Window(), 0
        self._folder, self._most = folder, most
        self._unread: list[Step] = []  # whose end is not known yet

    def take(self, step: Step, say: Callable[[str], None], *, halts: bool) -> int:
        """Take in a step; return the exit code of a stop that was asked for, 0 for none.

        On a GPU the host knows what became of a step when the next one is on its way.

        Args:
            step: the last one.
            say: told of a step that was skipped for a fault.
            halts: whether anything but a step comes next, for which all of them are waited for.

        Raises:
            SsodError: code 5, too many faulty steps in a row.
        """
        stop = 0
        self._unread.append(step)
        while self._unread and (stop or halts or self._unread[0].known or len(self._unread) > 1):
            stop = max(stop, self._count(self._unread.pop(0), say))
        return stop

    def _count(self, done: Step, say: Callable[[str], None]) -> int:
        if done.made:
            self.window.add(done.values)
            self.bad = 0
        else:
            self.window.skipped += 1
        if done.fault:
            self.bad += 1
            say(f"step {done.number}: {done.fault} is out of range; skipped ({self.bad} of {self._most})")
            if self.bad >= self._most:
                raise endings.diverged(self._folder, done.number, done.fault, self.bad, done.images)
        return done.stop

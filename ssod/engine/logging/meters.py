"""What is counted between two lines of the log: averages of losses and statistics, and where the time went."""

import itertools
import time
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor

from ssod.utils import distributed
from ssod.utils.progress import Pace

Values = dict[str, Any]
T = TypeVar("T")


class Window:
    """Averages since the last line, kept as tensors where they were made: nothing is read before a line is due.

    Scalars are averaged over the steps in which they occur; of vectors the last one counts.
    """

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}
        self.last: dict[str, Tensor] = {}
        self.skipped = 0

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Take in the detached values of one step."""
        for name, value in values.items():
            value = value.detach().float()
            if value.ndim:
                self.last[name] = value
                continue
            self.sums[name] = self.sums[name] + value if name in self.sums else value
            self.counts[name] = self.counts.get(name, 0) + 1

    def read(self) -> Values:
        """Return the averages over steps and ranks, and start anew; every rank calls it."""
        own: Values = {name: float(total) / self.counts[name] for name, total in self.sums.items()}
        own |= {name: value.flatten().tolist() for name, value in self.last.items()}
        own["skipped"] = self.skipped
        self.__init__()
        shares = distributed.gather(own)
        merged: Values = {}
        for name in dict.fromkeys(name for share in shares for name in share):
            seen = [share[name] for share in shares if name in share]
            merged[name] = seen[0] if isinstance(seen[0], list) or name == "skipped" else sum(seen) / len(seen)
        return merged

    def state_dict(self) -> dict[str, Any]:
        """Return what makes the next line the same after a restart."""
        return {
            "sums": {name: total.cpu() for name, total in self.sums.items()},
            "last": {name: value.cpu() for name, value in self.last.items()},
            "counts": dict(self.counts),
            "skipped": self.skipped,
        }

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        """Take up a saved window."""
        self.sums = {name: total.to(device) for name, total in state["sums"].items()}
        self.last = {name: value.to(device) for name, value in state["last"].items()}
        self.counts, self.skipped = dict(state["counts"]), state["skipped"]


class Clock:
    """How long the steps since the last line took, and how much of it was waiting; entered around each step.

    Attributes:
        last: seconds of the last step.
    """

    def __init__(self) -> None:
        self.steps, self.seconds, self.waited, self.last, self._start = 0, 0.0, 0.0, 0.0, 0.0

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.last = time.perf_counter() - self._start
        self.seconds += self.last
        self.steps += 1

    def wait_for(self, source: Iterator[T]) -> T:
        """Return the next item of ``source``, and count the wait as one for data."""
        before = time.perf_counter()
        item = next(source)
        self.waited += time.perf_counter() - before
        return item

    def timed(self, source: Iterator[T]) -> Iterator[T]:
        """Return what gives the items of ``source`` and counts each wait as one for data."""
        return map(self.wait_for, itertools.repeat(source))

    def read(self) -> Values:
        """Return seconds per step and how much of it was waiting for data, and start anew."""
        values = {"time/step": self.seconds / self.steps, "time/data": self.waited / self.steps}
        self.__init__()
        return values


class Remaining:
    """The time that a run still takes: its steps, its evaluations, and what else comes between steps.

    All is measured in this process, so that a run that goes on elsewhere, or after months, is told of its own pace.

    Args:
        steps: the last one.
        step: the one that the process begins after.
        eval_every: steps between evaluations; 0 = one after the last step.

    Attributes:
        pace: seconds that a step takes of late.
    """

    def __init__(self, steps: int, step: int, eval_every: int) -> None:
        self.pace = Pace()
        self._steps, self._step, self._every = steps, step, eval_every
        self._last: float | None = None  # when the last step ended
        self._evaluations, self._evaluating = 0, 0.0  # how many, and their seconds
        self._between, self._others = 0, 0.0  # steps after which there was none, and the seconds until the next began

    def tick(self, step: int, seconds: float) -> None:
        """Note that ``step`` steps are made, the last in so many seconds."""
        now = time.perf_counter()
        if self._last is not None:
            between = max(now - self._last - seconds, 0.0)
            if self._due(self._step) > self._due(self._step - 1):
                self._evaluations, self._evaluating = self._evaluations + 1, self._evaluating + between
            else:
                self._between, self._others = self._between + 1, self._others + between
        self.pace.add(seconds)
        self._step, self._last = step, now

    def besides(self, step: int) -> float:
        """Return the seconds that are left after ``step`` steps besides those of steps, as far as they are known."""
        coming = self._due(self._steps) - self._due(step - 1)
        evaluations = coming * self._evaluating / self._evaluations if self._evaluations else 0.0
        return evaluations + ((self._steps - step) * self._others / self._between if self._between else 0.0)

    def eta(self, step: int) -> float:
        """Return the seconds that are left after ``step`` steps; NaN before the first."""
        return (self._steps - step) * float(self.pace) + self.besides(step)

    def _due(self, step: int) -> int:
        """Return how many evaluations there are after the first ``step`` steps."""
        if step < 1:
            return 0
        last = step >= self._steps and (self._every == 0 or self._steps % self._every > 0)
        return (step // self._every if self._every else 0) + last


def totals(values: Values) -> Values:
    """Return ``loss/sup`` and ``loss/unsup``, the sums of the losses that ``values`` has."""
    parts = {part: [v for name, v in values.items() if name.startswith(f"{part}/")] for part in ("sup", "unsup")}
    return {f"loss/{part}": sum(terms) for part, terms in parts.items() if terms}

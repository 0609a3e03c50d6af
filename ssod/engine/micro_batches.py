"""A step in several parts (``train.accumulate``): one batch in less memory, and the very gradient of it.

Losses are divided by what the whole step counts, and labels are chosen by what all of its images showed; a part does
not know either when it comes to it. So each part is what a rank is. It starts from the state at the step's start, draws
what that rank would draw, and what ranks exchange (``ssod.utils.collective``), parts exchange, too:

1. Parts run without gradient, one after the other, and leave behind what they have to tell. A part that needs an answer
   before it can say more waits, that is, it is run again when all have been heard; else it goes on with a value of its
   own in the place of the answer, and nothing of that is kept. A part ends with the last thing that it has to tell.
2. Parts run with gradient, one after the other, and are given the answers.

A step in which nothing is exchanged has no first pass. How much is exchanged is known from the step before; where that
was less, the first part finds out in the second pass, before any gradient is there.

The teacher's answers are kept from the first pass (``collective.once``), batches lie on the host. Buffers are those
that the last part leaves: what is exchanged makes them alike, also where each part has a place of its own in them.
Statistics of live batch norm are averaged, as over ranks; so is what is logged.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from ssod.engine.guard import Guard
from ssod.structures import Batch
from ssod.utils import collective, distributed

T = TypeVar("T")


class Waiting(BaseException):
    """Ends a run of a part that has to wait, or nothing more to tell; no error, and not to be handled as one."""


class Meeting:
    """What the parts of one step tell one another; see ``collective.Parts``.

    Args:
        count: how many parts there are.
        exchanges: how often each tells something, as far as is known; None = not.

    Attributes:
        part: the number of the one that runs.
        answers: to what was told by all parts, in its order.
        learning: whether the second pass is on.
    """

    def __init__(self, count: int, exchanges: int | None) -> None:
        self.count, self.exchanges = count, exchanges
        self.learning = False
        self.answers: list[Tensor] = []
        self._told: list[tuple[collective.Merge, list[Tensor]]] = []  # since the last answer
        self._kept: list[list[Any]] = [[] for _ in range(count)]
        self.part = self._at = self._made = 0

    def begin(self, part: int) -> None:
        """Let the next calls be those of a run of ``part``."""
        self.part, self._at, self._made = part, 0, 0

    def end(self) -> None:
        """Note that a part has told everything."""
        self.exchanges = self._at

    def settle(self) -> None:
        """Answer what all parts have told.

        Raises:
            RuntimeError: some told more than others.
        """
        for merge, values in self._told:
            if len(values) != self.count:
                raise RuntimeError(f"of {self.count} parts of a step, {len(values)} take part in an exchange")
            self.answers.append(merge(values))
        self._told = []

    def settled(self) -> bool:
        """Return whether there is an answer to everything."""
        return self.exchanges is not None and len(self.answers) >= self.exchanges

    def meet(self, value: Tensor, merge: collective.Merge, decides: bool) -> Tensor:
        """See ``collective.Parts``."""
        at, self._at = self._at, self._at + 1
        if at < len(self.answers):
            return self.answers[at]
        if self.learning:
            raise Waiting
        if at - len(self.answers) == len(self._told):
            self._told.append((merge, []))
        self._told[at - len(self.answers)][1].append(value)
        if decides or self._at == self.exchanges:
            raise Waiting
        return value

    def once(self, make: Callable[[], T], keep: Callable[[T], T]) -> T:
        """See ``collective.Parts``."""
        kept, at = self._kept[self.part], self._made
        self._made += 1
        if at == len(kept):
            kept.append(keep(make()))
        return kept[at]


class Learner(Protocol):
    """What ``Stepper`` can do with one part of a step."""

    guard: Guard
    method: Any  # an nn.Module, and a Method as in stepper.py

    def seed(self, step: int, part: int) -> None:
        """Seed what a part draws."""

    def look(self, batch: Batch, step: int) -> None:
        """Run it without gradient."""

    def learn(self, batch: Batch, step: int, *, last: bool) -> dict[str, Tensor]:
        """Add its gradient and return its losses."""


class MicroBatches:
    """Makes steps of several parts.

    Args:
        learner: runs one of them.
    """

    def __init__(self, learner: Learner) -> None:
        self.learner = learner
        self.exchanges: int | None = None  # of a part in the last step

    def learn(self, parts: list[Batch], step: int) -> dict[str, Tensor]:
        """Add the gradient of a step's parts and return its losses, the mean of theirs."""
        meeting = Meeting(len(parts), self.exchanges)
        with collective.among(meeting):
            while True:
                self.listen(meeting, parts, step)
                try:
                    losses = self.teach(meeting, parts, step)
                except Waiting:
                    meeting.exchanges, meeting.learning = None, False
                else:
                    self.exchanges = meeting.exchanges
                    return losses

    def listen(self, meeting: Meeting, parts: list[Batch], step: int) -> None:
        """Run the parts without gradient until there is an answer to all that they exchange."""
        while not meeting.settled():
            for number, part in enumerate(parts):
                self.begin(meeting, number, step)
                try:
                    self.learner.look(part, step)
                except Waiting:
                    continue
                meeting.end()
            meeting.settle()

    def teach(self, meeting: Meeting, parts: list[Batch], step: int) -> dict[str, Tensor]:
        """Run the parts with gradient.

        Raises:
            Waiting: there is more to exchange than was known; no gradient has been added.
            RuntimeError: later parts exchange more than the first.
        """
        meeting.learning = True
        method, live = self.learner.method, distributed.live_statistics(self.learner.method)
        losses, stats, moved = [], [], []
        for number, part in enumerate(parts):
            self.begin(meeting, number, step)
            try:
                losses.append(self.learner.learn(part, step, last=number == len(parts) - 1))
            except Waiting as error:
                if number:
                    raise RuntimeError(f"part {number} of a step exchanges more than part 0") from error
                raise
            meeting.end()
            stats.append(method.stats)
            moved.append([buffer.clone() for buffer in live])
        for buffer, values in zip(live, zip(*moved)):
            buffer.copy_(mean(values))
        method.stats = means(stats)
        return means(losses)

    def begin(self, meeting: Meeting, part: int, step: int) -> None:
        """Let a part start where a rank would."""
        self.learner.guard.restore()
        self.learner.seed(step, part)
        meeting.begin(part)


def means(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return the mean of each number over the parts that have it."""
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: mean([part[name] for part in parts if name in part]) for name in names}


def mean(values: Any) -> Tensor:
    """Return the mean of tensors of one shape, in float32 or better."""
    stacked = torch.stack(list(values))
    return (stacked if stacked.is_floating_point() else stacked.float()).mean(0)

"""Charges the seconds of a training step to its phases."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from ssod.engine.stepper import Stepper
from tools.synthetic import first_step, learners

Clock = Callable[[], float]
T = TypeVar("T")


class Stopwatch:
    """Charges every moment between ``start`` and ``stop`` to one phase; calls that are wrapped switch the phase."""

    def __init__(self, clock: Clock) -> None:
        self.clock, self.on = clock, False
        self.phases: dict[str, list[float]] = defaultdict(list)
        self._now: dict[str, float] = defaultdict(float)
        self._phase, self._since = "other", 0.0

    def wrap(self, owner: Any, name: str, during: str, after: str) -> None:
        """Replace ``owner.name`` by itself plus a switch to phase ``during``, and to ``after`` when it returns."""
        setattr(owner, name, self.timed(getattr(owner, name), during, after))

    def waiting(self, source: Iterator[T]) -> Iterator[T]:
        """Return what gives the items of ``source`` and charges each wait to the data."""
        return map(self.timed(next, "data wait", "copy to device"), itertools.repeat(source))

    def timed(self, inner: Callable[..., Any], during: str, after: str) -> Callable[..., Any]:
        """Return ``inner`` plus a switch to phase ``during``, and to ``after`` when it returns."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            if not self.on:
                return inner(*args, **kwargs)
            self._switch(during)
            try:
                return inner(*args, **kwargs)
            finally:
                self._switch(after)

        return timed

    def start(self) -> None:
        """Begin a step."""
        self.on, self._phase, self._since = True, "other", self.clock()

    def stop(self) -> None:
        """End a step and keep its phases."""
        self._switch("other")
        self.on = False
        for phase in {*self._now, *self.phases}:
            self.phases[phase].append(self._now[phase])
        self._now.clear()

    def _switch(self, phase: str) -> None:
        moment = self.clock()
        self._now[self._phase] += moment - self._since
        self._phase, self._since = phase, moment


def watched(stepper: Stepper, clock: Clock) -> Stopwatch:
    """Wrap the parts of a step."""
    watch, method = Stopwatch(clock), stepper.method
    watch.wrap(method, "forward", "student forward", "backward")
    for learner in learners(method):
        watch.wrap(learner.student, "predict", "student forward", "student forward")
        labeler = learner.labeler(first_step(method)) if learner.uses_unlabeled else learner.teacher
        watch.wrap(labeler, "predict", "teacher forward", "label")
        for detector in (m for m in labeler.children() if hasattr(m, "roi_rows")):
            watch.wrap(detector, "roi_rows", "teacher forward", "label")
        if learner.uses_unlabeled:
            watch.wrap(learner, "mix", "label", "student forward")
    watch.wrap(stepper.scaler, "unscale_", "clip", "clip")
    watch.wrap(stepper.guard, "judge", "guard", "guard")
    watch.wrap(stepper.optimizer, "step", "optimiser", "other")
    watch.wrap(method, "after_step", "EMA", "other")
    return watch

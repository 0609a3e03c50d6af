"""Charges the seconds of a training step to its phases."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

from ssod.engine.trainer import Trainer
from tools.synthetic import learners

Clock = Callable[[], float]


class Stopwatch:
    """Charges every moment between ``start`` and ``stop`` to one phase; calls that are wrapped switch the phase."""

    def __init__(self, clock: Clock) -> None:
        self.clock, self.on = clock, False
        self.phases: dict[str, list[float]] = defaultdict(list)
        self._now: dict[str, float] = defaultdict(float)
        self._phase, self._since = "other", 0.0

    def wrap(self, owner: Any, name: str, during: str, after: str) -> None:
        """Replace ``owner.name`` by itself plus a switch to phase ``during``, and to ``after`` when it returns."""
        inner = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            if not self.on:
                return inner(*args, **kwargs)
            self._switch(during)
            try:
                return inner(*args, **kwargs)
            finally:
                self._switch(after)

        setattr(owner, name, timed)

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


def watched(trainer: Trainer, clock: Clock) -> Stopwatch:
    """Wrap the parts of a trainer's step."""
    watch, method = Stopwatch(clock), trainer.method
    watch.wrap(trainer.clock, "wait_for", "data wait", "copy to device")
    watch.wrap(method, "forward", "student forward", "backward")
    for learner in learners(method):
        watch.wrap(learner.student, "predict", "student forward", "student forward")
        watch.wrap(learner.teacher, "predict", "teacher forward", "label")
        if hasattr(learner.teacher.model, "roi_rows"):
            watch.wrap(learner.teacher.model, "roi_rows", "teacher forward", "label")
        watch.wrap(learner, "mix", "label", "student forward")
    watch.wrap(trainer.scaler, "unscale_", "clip", "clip")
    watch.wrap(trainer.guard, "verdict", "guard", "guard")
    watch.wrap(trainer.scaler, "step", "optimiser", "other")
    watch.wrap(method, "after_step", "EMA", "other")
    return watch

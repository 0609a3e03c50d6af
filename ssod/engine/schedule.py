"""The learning rate as a pure function of the step: nothing to save, nothing to resume."""

import math
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ssod.utils.schema import Duration, Section


class Constant(Section):
    """The same rate from the end of the warm-up to the end."""

    name: Literal["constant"] = "constant"


class MultiStep(Section):
    """Multiply by ``gamma`` at each milestone."""

    name: Literal["multistep"] = "multistep"
    milestones: list[Duration] = []
    "Steps at which the rate drops."
    gamma: float = Field(0.1, gt=0, le=1)
    "Factor at each milestone."

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        if self.milestones != sorted(set(self.milestones)):
            raise ValueError(f"milestones {self.milestones} must rise; sort them")
        return self


class Cosine(Section):
    """Half a cosine from the full rate at step 0 to ``end`` of it after the last step."""

    name: Literal["cosine"] = "cosine"
    end: float = Field(0.0, ge=0, le=1)
    "Share of the rate that is left at the end."


ScheduleConfig = Annotated[Constant | MultiStep | Cosine, Field(discriminator="name")]


class WarmUp(Section):
    """A linear rise at the start."""

    steps: Duration = 500
    "Steps until the full rate; 0 = none."
    factor: float = Field(0.001, ge=0, le=1)
    "Share of the rate at step 0."


def lr_at(
    step: int, *, lr: float, steps: int, schedule: ScheduleConfig, warm_up: WarmUp, restart_at: int | None = None
) -> float:
    """Return the learning rate of step ``step`` in ``0..steps - 1``; the warm-up multiplies the schedule.

    Where the student starts afresh at ``restart_at``, each of the two stages has a warm-up and the whole schedule, its
    milestones in proportion to its length.
    """
    begin, end = next(stage for stage in reversed(stages(steps, restart_at)) if step >= stage[0])
    step, schedule, steps = step - begin, in_proportion(schedule, end - begin, steps), end - begin
    match schedule:
        case Constant():
            factor = 1.0
        case MultiStep(milestones=milestones, gamma=gamma):
            factor = gamma ** sum(step >= milestone for milestone in milestones)
        case Cosine(end=end):
            factor = end + (1 - end) * (1 + math.cos(math.pi * step / steps)) / 2
    if step < warm_up.steps:
        factor *= warm_up.factor + (1 - warm_up.factor) * step / warm_up.steps
    return lr * factor


def turns(*, steps: int, schedule: ScheduleConfig, warm_up: WarmUp, restart_at: int | None = None) -> list[int]:
    """Return the steps whose rates tell the whole course; see ``lr_at``."""
    found: set[int] = set()
    for begin, end in stages(steps, restart_at):
        own = in_proportion(schedule, end - begin, steps)
        found |= {begin, begin + warm_up.steps, (begin + end) // 2, end - 1}
        found |= {begin + milestone for milestone in own.milestones} if isinstance(own, MultiStep) else set()
    return sorted(step for step in found if step < steps)


def stages(steps: int, restart_at: int | None) -> list[tuple[int, int]]:
    """Return the first step of each stage, and the one after its last."""
    return [(0, steps)] if restart_at is None else [(0, restart_at), (restart_at, steps)]


def in_proportion(schedule: ScheduleConfig, steps: int, whole: int) -> ScheduleConfig:
    """Return a schedule of ``whole`` steps as one of ``steps``."""
    if steps == whole or not isinstance(schedule, MultiStep):
        return schedule
    return schedule.model_copy(update={"milestones": [round(m * steps / whole) for m in schedule.milestones]})

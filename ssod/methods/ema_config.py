"""How the teacher follows the student."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field, model_validator

from ssod.utils.schema import Duration, Section

Rule = Literal["ema", "copy", "never"]


class EmaConfig(Section):
    """How the teacher follows the student.

    ``rule`` holds from the end of burn-in on. Until ``start`` the teacher is a copy, and between the two an average.
    """

    rule: Rule = "ema"
    "`ema`: an average, moved at every step; `copy`: a copy, renewed every so many; `never`: as burn-in left it."
    every: int | None = Field(None, ge=1)
    "Steps between two copies, for `rule: copy`; between two moves of an average, for `rule: ema`, 1 if left out."
    decay: float = Field(0.999, ge=0, lt=1)
    "Share of the teacher kept at each move."
    warm_up: bool = True
    "Cap the decay at 1 - 1/(t + 1), so that a short run's teacher is not stuck at its start."
    gamma: float | None = Field(None, gt=0)
    "With `warm_up`: cap it at 1 - gamma/(gamma + t - 1) instead (MixPL); t steps have been made, this one included."
    growth: float | None = Field(None, gt=0)
    "With `warm_up`: it is `decay` times 1 - exp(-t / growth) instead (YOLOv5); t as for `gamma`."
    buffers: Literal["average"] | None = None
    "`average`: live batch-norm statistics are averaged, too (YOLOv5); by default they are the student's."
    start: Duration | None = 0
    "Until this step the teacher is a plain copy of the student; null = until burn-in ends."

    @model_validator(mode="after")
    def _every_key_moves_it(self) -> EmaConfig:
        if self.rule != "ema" and (self.rule == "copy") != (self.every is not None):
            have = f"'every: {self.every}' is for 'rule: copy'" if self.every else "'rule: copy' needs 'every'"
            raise ValueError(f"{have}; write e.g. {{rule: copy, every: 10000}}, or 'every: null'")
        if self.gamma is not None and not self.warm_up:
            raise ValueError(f"'gamma: {self.gamma:g}' shapes the warm-up, which is off; write 'gamma: null', too")
        if self.growth is not None and (self.gamma is not None or not self.warm_up):
            other = f"'gamma: {self.gamma:g}' does, too" if self.gamma is not None else "it is off"
            raise ValueError(f"'growth: {self.growth:g}' shapes the warm-up, and {other}; write 'growth: null'")
        return self


def cap(step: int, gamma: float | None) -> float:
    """Return what warm-up caps the decay at, after step number ``step``; by ``gamma`` as MixPL's released code."""
    return 1 - 1 / (step + 2) if gamma is None else 1 - gamma / (gamma + step)


def grown(decay: float, step: int, growth: float) -> float:
    """Return the decay after step number ``step`` that grows towards ``decay``, as YOLOv5's."""
    return -decay * math.expm1(-(step + 1) / growth)

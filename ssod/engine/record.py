"""What evaluations of the teacher found, and the model file of the best teacher."""

import math
from typing import Any

from torch import nn

from ssod.engine.checkpointing.run_dir import RunFolder
from ssod.utils import distributed, model_file


class Record:
    """The last evaluation of the teacher, and the best.

    Args:
        folder: the run's folder, for ``best.safetensors``.
        card: of that file; step and metrics are added to it.
        name: the metric that decides which teacher is best.

    Attributes:
        last: metrics of the last evaluation, fractions in 0..1, NaN where nothing is to be found; empty before the
            first.
        best: that of the best teacher; None before the first evaluation.
    """

    def __init__(self, folder: RunFolder, card: dict[str, Any], name: str) -> None:
        self.folder, self.card, self.name = folder, card, name
        self.last: dict[str, float] = {}
        self.best: float | None = None

    def take(self, metrics: dict[str, float]) -> bool:
        """Take note of an evaluation; return whether its teacher is better than all before."""
        self.last = metrics
        value = metrics[self.name]
        # Where val has nothing to find no teacher is better than another, and the last is kept.
        better = self.best is None or math.isnan(self.best) or value > self.best
        if better:
            self.best = value
        return better

    def write(self, teacher: nn.Module, step: int) -> None:
        """Write ``teacher`` of the last evaluation, after ``step`` steps, as ``best.safetensors``."""
        known = {name: None if math.isnan(value) else value for name, value in self.last.items()}
        card = self.card | {"step": step, "metrics": known}
        state = teacher.state_dict()
        distributed.on_rank_zero(lambda: model_file.save(self.folder.best, state, card))

    def results(self) -> dict[str, float]:
        """Return the last and the best teacher, for people; nothing where none was evaluated."""
        if self.best is None:
            return {}
        return {f"teacher {self.name}": self.last[self.name], "best": self.best} if self.name in self.last else {}

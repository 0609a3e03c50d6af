"""When has a teacher learned what labels alone can teach it? Its AP on val has stopped growing."""

from __future__ import annotations

from typing import Any

LEAST = 0.01  # an AP below says nothing: the teacher finds next to nothing yet


class Plateau:
    """Tells from the measurements of a run, one after the other, when they have levelled off.

    Args:
        looks: so many measurements in a row, none of them better by ``gain``, are a plateau.
        gain: share of the best so far by which a measurement must be above it to count as better.

    Attributes:
        best: the last measurement that was better; None before the first.
        waited: measurements since then.
    """

    def __init__(self, looks: int, gain: float) -> None:
        self._looks, self._gain = looks, gain
        self.best: float | None = None
        self.waited = 0

    def reached(self, value: float) -> bool:
        """Take in a measurement, a fraction in 0..1, and return whether this is a plateau."""
        if self.best is None or value > self.best * (1 + self._gain):
            self.best, self.waited = value, 0
        elif self.best >= LEAST:
            self.waited += 1
        return self.waited >= self._looks

    def state_dict(self) -> dict[str, Any]:
        """Return what the next measurement is compared with."""
        return {"best": self.best, "waited": self.waited}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Put back what ``state_dict`` returned; of nothing, begin anew."""
        self.best, self.waited = saved.get("best"), saved.get("waited") or 0

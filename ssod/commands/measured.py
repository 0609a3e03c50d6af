"""Metrics by name, as a training and an evaluation return them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, eq=False)
class Measured(Mapping[str, float]):
    """A result that is read like a table of its metrics: ``found["AP"]``, ``dict(found)``. Equal metrics make it equal.

    Attributes:
        metrics: fractions in 0..1 by name.
    """

    metrics: dict[str, float]

    def __getitem__(self, name: str) -> float:
        return self.metrics[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.metrics)

    def __len__(self) -> int:
        return len(self.metrics)

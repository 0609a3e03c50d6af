"""What a config can name: methods, detectors and losses, a line about each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Known:
    """One name that a config can say.

    Attributes:
        name: it.
        summary: one line about it.
    """

    name: str
    summary: str


@dataclass(frozen=True)
class Listed:
    """Names that a config can say; as text, the table that the command prints.

    Attributes:
        known: each with a line about it.
        recipes: names that the option ``--detector`` takes, of detectors; else empty.
    """

    known: tuple[Known, ...]
    recipes: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The names alone."""
        return tuple(one.name for one in self.known)

    def __str__(self) -> str:
        width = max(len(one.name) for one in self.known)
        lines = [f"{one.name:<{width}}  {one.summary}" for one in self.known]
        return "\n".join([*lines, *([f"\nrecipes, for --detector: {', '.join(self.recipes)}"] if self.recipes else [])])


def list_methods() -> Listed:
    """Return the methods that a config can name; nothing is printed."""
    from ssod.methods.registry import names, summary

    return _listed((name, summary(name)) for name in names())


def list_detectors() -> Listed:
    """Return the detectors that a config can name, and the recipes of them; nothing is printed."""
    from ssod.detectors.registry import describe
    from ssod.utils.recipes import names

    return Listed(_listed(describe()).known, tuple(names("detector")))


def list_losses() -> Listed:
    """Return the losses and weightings that a config can name; nothing is printed.

    A name may stand there more than once: for several kinds of heads.
    """
    from ssod.losses import build
    from ssod.losses.weighting import criterion

    return _listed(build.describe() + criterion.describe())


def _listed(rows: Iterable[tuple[str, str]]) -> Listed:
    return Listed(tuple(Known(name, summary) for name, summary in rows))

"""``ssod methods``, ``detectors`` and ``losses``: what a config can name, a line each."""

from __future__ import annotations

from collections.abc import Iterable


def methods() -> None:
    """The methods a config can name."""
    from ssod.methods.registry import names, summary

    _table((name, summary(name)) for name in names())


def detectors() -> None:
    """The detectors a config can name, and the recipes of them that --detector takes."""
    from ssod.detectors.registry import describe
    from ssod.utils.recipes import names

    _table(describe())
    print(f"\nrecipes, for --detector: {', '.join(names('detector'))}")


def losses() -> None:
    """The losses and weightings a config can name."""
    from ssod.losses import build
    from ssod.losses.weighting import criterion

    _table(build.describe() + criterion.describe())


def _table(rows: Iterable[tuple[str, str]]) -> None:
    pairs = list(rows)
    width = max(len(name) for name, _ in pairs)
    for name, text in pairs:
        print(f"{name:<{width}}  {text}")

"""Printing for people: tables and lines in which a name stays as its owner wrote it."""

from __future__ import annotations

import math

from rich.console import Console


def console() -> Console:
    """Return where tables are printed; ``[/b]`` and ``:car:`` in a class, a file or a folder are nothing but text."""
    return Console(soft_wrap=True, markup=False, emoji=False, highlight=False)


def percent(value: float | None) -> str:
    """Return a fraction in per cent, ``76.1``; ``-`` where it is undefined: there was nothing to find."""
    return "-" if value is None or math.isnan(value) else f"{100 * value:.1f}"

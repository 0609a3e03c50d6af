"""Printing for people: tables and lines in which a name stays as its owner wrote it."""

from __future__ import annotations

from rich.console import Console


def console() -> Console:
    """Return where tables are printed; ``[/b]`` and ``:car:`` in a class, a file or a folder are nothing but text."""
    return Console(soft_wrap=True, markup=False, emoji=False, highlight=False)

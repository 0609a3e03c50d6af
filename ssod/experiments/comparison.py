"""What comparing runs finds, for all that shows it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ssod.experiments import tables
from ssod.experiments.bootstrap import RESAMPLES
from ssod.experiments.groups import Group, groups_of
from ssod.experiments.runs import Run
from ssod.experiments.settings import Row, rows_of
from ssod.experiments.standings import Standing, standings
from ssod.experiments.tables import Sheet
from ssod.experiments.verdict import verdicts


@dataclass(frozen=True)
class Comparison:
    """What was found.

    Attributes:
        runs: all that were read.
        rows: their settings, with a finished run or without.
        groups: rows that may be ranked together, best first.
        refusals: one line for each group that is not ranked with the first, and each row without a finished run.
        sheets: the same as tables.
        standings: the same as plain values, which are what JSON has of it, beside ``refusals``.
        verdicts: a sentence for each row that has a supervised baseline, or could have one.
    """

    runs: list[Run] = field(repr=False)
    rows: list[Row] = field(repr=False)
    groups: list[Group] = field(repr=False)
    refusals: list[str]
    sheets: list[Sheet] = field(repr=False)
    standings: tuple[Standing, ...]
    verdicts: list[str]


def comparison(runs: Sequence[Run], resamples: int = RESAMPLES) -> Comparison:
    """Compare runs that were read."""
    rows = rows_of(runs)
    groups, refusals = groups_of(rows, resamples)
    places = standings(groups)
    return Comparison(list(runs), rows, groups, refusals, tables.sheets(groups, places), places, verdicts(groups))

"""The supervised baseline of a row, and which of their runs the gain is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean

from ssod.engine.checkpointing.resume_check import UNLABELED
from ssod.experiments.bootstrap import Gain, Resamples, Unit, gain
from ssod.experiments.draws import draws
from ssod.experiments.runs import Run
from ssod.experiments.settings import Row, by_fold


@dataclass(frozen=True)
class Pair:
    """Runs of a row and of its baseline that learnt from the same labels."""

    name: str
    ours: list[Run]
    theirs: list[Run]


@dataclass(frozen=True)
class Paired:
    """A row against its baseline.

    Attributes:
        kind: what a pair is, ``fold`` or ``seed``.
        pairs: at least one.
    """

    kind: str
    pairs: list[Pair]

    @property
    def difference(self) -> float:
        """Mean over pairs of the difference in AP, a fraction."""
        return mean(mean(r.ap() for r in p.ours) - mean(r.ap() for r in p.theirs) for p in self.pairs)

    def gain(self, resamples: Resamples) -> Gain | None:
        """Return the gain with its intervals; None where a run saved no matches."""
        if any(run.table is None for pair in self.pairs for run in (*pair.ours, *pair.theirs)):
            return None
        units = [Unit(p.name, [r.table for r in p.ours], [r.table for r in p.theirs]) for p in self.pairs]
        return gain(units, kind=self.kind, resamples=resamples)

    def left_out(self, row: Row, baseline: Row) -> str | None:
        """Say which runs the gain is made of, where these are not all; None where they are."""
        ours, theirs = (
            sum(len(group) for group in groups) for groups in zip(*((p.ours, p.theirs) for p in self.pairs))
        )
        if (ours, theirs) == (len(row.runs), len(baseline.runs)):
            return None
        names = ", ".join(pair.name for pair in self.pairs)
        counts = f"{ours} of its {len(row.runs)} runs, {theirs} of the baseline's {len(baseline.runs)}"
        return f"gain of {row.name}: on what both have, {names}: {counts}"


def paired(row: Row, baseline: Row) -> Paired:
    """Pair the folds that both have, or the seeds of the only fold, where they share several.

    Args:
        row: of a method.
        baseline: has a split of ``row``.
    """
    ours, theirs = by_fold(row.runs), by_fold(baseline.runs)
    folds = [fold for fold in ours if fold in theirs]
    if len(folds) == 1:
        mine, other = ({run.seed: run for run in groups[folds[0]]} for groups in (ours, theirs))
        seeds = sorted(mine.keys() & other.keys())
        if len(seeds) > 1:
            return Paired("seed", [Pair(f"seed {seed}", [mine[seed]], [other[seed]]) for seed in seeds])
    names = draws(run for fold in folds for run in ours[fold])
    return Paired("fold", [Pair(names[fold], ours[fold], theirs[fold]) for fold in folds])


def baseline_of(row: Row, rows: Sequence[Row]) -> Row | None:
    """Return the supervised row with the same detector on the same labels whose other settings differ least."""
    likely = [
        other
        for other in rows
        if other.first.method == "supervised"
        and other.first.config["detector"]["name"] == row.first.config["detector"]["name"]
        and other.hashes & row.hashes
    ]
    return min(likely, key=lambda other: len(baseline_differences(row, other)), default=None)


def baseline_differences(row: Row, baseline: Row) -> list[str]:
    """Return the keys in which a baseline differs and should not: all that does not concern unlabelled images."""
    a, b = row.first.setting, baseline.first.setting
    free = ("method.", *UNLABELED)
    keys = [key for key in sorted(a.keys() | b.keys()) if not key.startswith(free) or key.startswith("method.ema")]
    return [key for key in keys if a.get(key) != b.get(key)]

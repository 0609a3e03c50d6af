"""Where each row of a comparison stands, as plain values: what the tables show, and ``ssod compare --json`` prints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from ssod.experiments.bootstrap import Gain
from ssod.experiments.cost import hours, seen
from ssod.experiments.groups import Group
from ssod.experiments.settings import Row, by_fold


@dataclass(frozen=True)
class Standing:
    """A row of a comparison: runs that differ in fold and seed alone.

    Attributes:
        name: short, and unlike any other row's.
        group: number of its group, from 1; rows of different groups are not to be compared.
        rank: among the ranked rows of its group, from 1, the best; rows of equal AP share one. None = it has no rank
            there.
        reason: why it has no rank; empty where it has one.
        runs: folders of the finished runs that count.
        unfinished: folders of those that do not count yet.
        folds: sets of labelled images that its runs learnt from.
        metrics: ``AP``, ``AP50`` and ``AP75``, fractions in 0..1: means over folds of means over seeds.
        ap_sd: standard deviation of AP over all runs (n - 1); None of a single run.
        baseline: the row that its gain is over; None = it has none.
        gain: AP less the baseline's, a fraction; None without one.
        gain_images: the gain's 95 % interval over val images; None where it cannot be had.
        gain_whole: likewise over val images and folds, or seeds; None with one of them.
        labeled_seen, unlabeled_seen: images that a run has used, each time counted; mean over runs.
        hours: of training; mean over runs.
    """

    name: str
    group: int
    rank: int | None
    reason: str
    runs: tuple[Path, ...]
    unfinished: tuple[Path, ...]
    folds: int
    metrics: dict[str, float]
    ap_sd: float | None
    baseline: str | None
    gain: float | None
    gain_images: tuple[float, float] | None
    gain_whole: tuple[float, float] | None
    labeled_seen: float
    unlabeled_seen: float
    hours: float


def standings(groups: Sequence[Group]) -> tuple[Standing, ...]:
    """Return where each row stands, the first group first, the best first."""
    return tuple(_standing(number, group, row) for number, group in enumerate(groups, 1) for row in group.rows)


def _standing(number: int, group: Group, row: Row) -> Standing:
    reasons = {one.name: reason for one, reason in group.others}
    gain: Gain | None = group.gains.get(row.name)
    labeled, unlabeled = (mean(values) for values in zip(*(seen(run, run.last["step"]) for run in row.runs)))
    return Standing(
        name=row.name,
        group=number,
        rank=group.places.get(row.name),
        reason=reasons.get(row.name, ""),
        runs=tuple(run.path for run in row.runs),
        unfinished=tuple(run.path for run in row.unfinished),
        folds=len(by_fold(row.runs)),
        metrics={metric: row.mean(metric) for metric in ("AP", "AP50", "AP75")},
        ap_sd=row.sd(),
        baseline=group.baselines.get(row.name),
        gain=group.differences.get(row.name) if gain is None else gain.value,
        gain_images=None if gain is None else gain.images,
        gain_whole=None if gain is None else gain.whole,
        labeled_seen=labeled,
        unlabeled_seen=unlabeled,
        hours=mean(hours(run, run.last["step"]) for run in row.runs),
    )

"""Who may be ranked with whom: groups are rows measured alike on the same labels.

Two runs are ranked together only when they agree in the val images and boxes, the classes and their order, the metric,
the lowest score of a detection (it moves AP by a point), and the sets of labelled images (the split hashes). What
disagrees is reported in one line, and shown in a group of its own.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from ssod.experiments.baselines import baseline_differences, baseline_of, paired
from ssod.experiments.bootstrap import Gain, Resamples
from ssod.experiments.draws import draws
from ssod.experiments.settings import ALIKE, Row, shortened


@dataclass
class Group:
    """Rows that may be compared, best first.

    Attributes:
        protocol: what all runs share; see ``ALIKE``.
        ranked: rows with runs on every split of the group, best first, those of equal AP by name; only runs on these
            splits are in them.
        others: (row, why it has no rank); they have some of the splits.
        gains: gain over the supervised baseline, by the row's name, where it can be had with an interval.
        differences: the gain where it cannot, a fraction.
        baselines: name of the baseline's row, by the row's name.
        differing: keys in which a baseline differs and should not, by the row's name, where there are some.
        notes: sentences for people.
    """

    protocol: dict[str, str]
    ranked: list[Row] = field(default_factory=list)
    others: list[tuple[Row, str]] = field(default_factory=list)
    gains: dict[str, Gain] = field(default_factory=dict)
    differences: dict[str, float] = field(default_factory=dict)
    baselines: dict[str, str] = field(default_factory=dict)
    differing: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def rows(self) -> list[Row]:
        """Ranked rows, then the others."""
        return [*self.ranked, *(row for row, _ in self.others)]

    @property
    def places(self) -> dict[str, int]:
        """Place of each ranked row by its name, from 1, the best; rows of equal AP share one: 1, 2, 2, 4."""
        means = [row.mean() for row in self.ranked]
        return {row.name: 1 + sum(other > own for other in means) for row, own in zip(self.ranked, means)}

    @property
    def hashes(self) -> frozenset[str]:
        """The splits of the group."""
        return self.ranked[0].hashes


def groups_of(rows: Sequence[Row], resamples: int = 1000) -> tuple[list[Group], list[str]]:
    """Sort rows into groups, rank them, and measure gains.

    Args:
        rows: from ``rows_of``.
        resamples: of the val images for each interval.

    Returns:
        Groups, the one with most runs first, and one line for each pair that is refused a common rank.
    """
    groups: list[Group] = []
    shared = Resamples(resamples)
    alike: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        if row.runs:
            alike.setdefault(tuple(row.protocol.values()), []).append(row)
    for measured_alike in alike.values():
        found = _groups(measured_alike)
        for group in found:
            group.ranked.sort(key=lambda row: (-row.mean(), row.name))
            for row in group.rows:
                _measure(group, row, measured_alike, shared)
                group.notes += row.notes
        groups += found
    groups.sort(key=lambda group: (-sum(len(row.runs) for row in group.rows), group.rows[0].name))
    lines = [_refusal(groups[0], other) for other in groups[1:] if not _overlap(groups[0], other)]
    lines += [f"{row.name}: no finished run ({row.unfinished[0].state})" for row in rows if not row.runs]
    return groups, lines


# ---- who is in which group -----------------------------------------------------------------------------------------


def _groups(rows: Sequence[Row]) -> list[Group]:
    """Return the groups of rows that were measured alike: each has the rows that have some of its splits."""
    groups: list[Group] = []
    left = list(rows)
    while left:
        hashes = _best(_shared(left) or {row.hashes for row in left}, left)
        here = [row for row in left if row.hashes & hashes]
        left = [row for row in left if not row.hashes & hashes]
        group = _group(hashes, here)
        groups += [group, *_narrower(group, here), *_wider(group, here)]
    return groups


def _shared(rows: Iterable[Row]) -> set[frozenset[str]]:
    """Return the splits that two rows have in common, for every two that have some."""
    return {a.hashes & b.hashes for a, b in itertools.combinations(rows, 2)} - {frozenset()}


def _best(candidates: Iterable[frozenset[str]], rows: Sequence[Row]) -> frozenset[str]:
    """Return the splits on which most runs can be ranked."""

    def worth(hashes: frozenset[str]) -> tuple:
        return len(hashes) * sum(row.hashes >= hashes for row in rows), len(hashes), sorted(hashes)

    return max(candidates, key=worth)


def _group(hashes: frozenset[str], rows: Sequence[Row]) -> Group:
    """Return a group on the splits ``hashes``; a row that has more of them is ranked on these."""
    group = Group(rows[0].protocol)
    for row in rows:
        more = len(row.hashes - hashes)
        if not row.hashes >= hashes:
            group.others.append((row, f"has {len(row.hashes & hashes)} of the group's {len(hashes)} splits"))
            continue
        group.ranked.append(_only(row, hashes))
        if more:
            left = f"{more} split{'s' if more > 1 else ''} that other rows lack left out"
            group.notes.append(f"{row.name}: {left}; AP over all {len(row.hashes)}: {row.spread('AP')}")
    return group


def _only(row: Row, hashes: frozenset[str]) -> Row:
    """Return a row without the runs on other splits."""
    return replace(row, runs=[run for run in row.runs if run.hash in hashes])


def _narrower(group: Group, rows: Sequence[Row]) -> list[Group]:
    """Return a further group for all ``rows``, on the splits that all have, where some of ``group`` lack splits of it.

    What has no rank among five folds has one on the fold that all have; the other group goes without it.
    """
    common = frozenset.intersection(*(row.hashes for row in rows))
    if not group.others or not common:
        return []
    for row, reason in group.others:
        group.notes.append(f"{row.name} {reason}: it is ranked on {len(common)}, in another group")
    group.others.clear()
    return [Group(group.protocol, ranked=[_only(row, common) for row in rows])]


def _wider(group: Group, rows: Sequence[Row]) -> list[Group]:
    """Return a further group for rows that share more splits than the others of ``group`` have; often there is none.

    What several rows were measured on is ranked, also when one more row has a single fold.
    """
    more = [row for row in rows if row.hashes > group.hashes]
    found = {hashes for hashes in _shared(more) if hashes > group.hashes}
    if not found:
        return []
    hashes = _best(found, more)
    return [Group(group.protocol, ranked=[_only(row, hashes) for row in more if row.hashes >= hashes])]


def _overlap(a: Group, b: Group) -> bool:
    """Whether one of the groups has rows of the other, on more splits."""
    return a.protocol == b.protocol and (a.hashes < b.hashes or b.hashes < a.hashes)


def _refusal(a: Group, b: Group) -> str:
    """Say in one line why two groups are not one."""
    reasons = [f"{what} {_short(a.protocol[what])} and {_short(b.protocol[what])}" for what in ALIKE if
               a.protocol[what] != b.protocol[what]]  # fmt: skip
    if a.hashes != b.hashes:
        names = draws(run for group in (a, b) for row in group.ranked for run in row.runs)
        ours, theirs = (", ".join(sorted(names[h] for h in group.hashes)) for group in (a, b))
        reasons.append(f"labelled split {_short(ours)} and {_short(theirs)}")
    return f"not ranked together: {_who(a)} | {_who(b)}: different {'; '.join(reasons)}"


def _who(group: Group) -> str:
    names = [row.name for row in group.rows]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _short(text: str) -> str:
    return text if len(text) <= 40 else text[:37] + "..."


# ---- gains ---------------------------------------------------------------------------------------------------------


def _measure(group: Group, row: Row, alike: Sequence[Row], resamples: Resamples) -> None:
    """Find the row's supervised baseline and measure the gain over it.

    The baseline of a ranked row is ranked beside it, if there is one. Else it is any row that was measured alike and
    has a split of the row's, with all of its runs; so is that of a row without a rank.
    """
    if row.first.method == "supervised":
        return
    baseline = baseline_of(row, group.ranked) if row in group.ranked else None
    if baseline is None:
        row = next(whole for whole in alike if whole.name == row.name)
        baseline = baseline_of(row, alike)
    if baseline is None:
        return
    group.baselines[row.name] = baseline.name
    differing = baseline_differences(row, baseline)
    if differing:
        group.differing[row.name] = differing
        group.notes.append(f"{row.name} and its baseline differ in {shortened(differing)}")
    pairs = paired(row, baseline)
    left_out = pairs.left_out(row, baseline)
    if left_out:
        group.notes.append(left_out)
    gain = pairs.gain(resamples)
    if gain is None:
        group.differences[row.name] = pairs.difference
        group.notes.append(f"{row.name}: no interval, a run or its baseline saved no eval/step_*.npz")
    else:
        group.gains[row.name] = gain

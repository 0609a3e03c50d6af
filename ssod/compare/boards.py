"""Who may be ranked with whom: rows are repetitions of one setting, boards are rows measured alike on the same labels.

Two runs are ranked together only when they agree in the val images and boxes, the classes and their order, the metric,
the lowest score of a detection (it moves AP by a point), and the sets of labelled images (the split hashes). What
disagrees is said in one line, and shown on a board of its own.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import mean, stdev
from typing import Any

from ssod.compare.gain import Gain, Unit, gain
from ssod.compare.runs import UNLABELED, Run

# What every run of a board shares, as the reasons name it.
ALIKE = ("val set", "classes", "metric", "score threshold")
MOST_TOLD = 6  # keys that a note names


@dataclass(frozen=True)
class Row:
    """Runs that differ in fold and seed alone.

    Attributes:
        name: short, and unlike any other row's.
        runs: finished ones, by fold and seed.
        unfinished: runs that cannot be counted yet.
    """

    name: str
    runs: list[Run]
    unfinished: list[Run]

    @property
    def first(self) -> Run:
        """Any run; all share the setting."""
        return (self.runs or self.unfinished)[0]

    @property
    def hashes(self) -> frozenset[str]:
        """The sets of labelled images that the finished runs learnt from."""
        return frozenset(run.hash for run in self.runs)

    def mean(self, metric: str = "AP") -> float:
        """Mean over folds of the mean over seeds, a fraction."""
        return mean(mean(run.ap(metric) for run in runs) for runs in by_fold(self.runs).values())

    def sd(self, metric: str = "AP") -> float | None:
        """Standard deviation over all runs (n - 1); None of a single run."""
        return stdev(run.ap(metric) for run in self.runs) if len(self.runs) > 1 else None


@dataclass
class Board:
    """Rows that may be compared, best first.

    Attributes:
        protocol: what all runs share; see ``ALIKE``.
        ranked: rows with runs on every split of the board, best first; only runs on these splits are in them.
        others: (row, why it has no rank).
        gains: gain over the supervised twin, by the row's name, where it can be had with an interval.
        twins: name of the twin's row, by the row's name.
        notes: sentences for people.
    """

    protocol: dict[str, str]
    ranked: list[Row] = field(default_factory=list)
    others: list[tuple[Row, str]] = field(default_factory=list)
    gains: dict[str, Gain] = field(default_factory=dict)
    twins: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def rows(self) -> list[Row]:
        """Ranked rows, then the others."""
        return [*self.ranked, *(row for row, _ in self.others)]

    @property
    def hashes(self) -> frozenset[str]:
        """The splits of the board."""
        return self.rows[0].hashes


def by_fold(runs: Iterable[Run]) -> dict[str, list[Run]]:
    """Return runs by the set of labelled images they learnt from."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.hash, []).append(run)
    return groups


def protocol(run: Run) -> dict[str, str]:
    """Return what must be equal between runs that are ranked together, besides the split."""
    config, table = run.config, run.table
    source = config["data"].get("val") or {}
    named = " ".join(str(source[key]) for key in ("ann", "root", "split", "images") if key in source)
    val = table.about["val"][:12] if table is not None else named
    score = table.about["score"] if table is not None else config["detector"]["decode"]["score"]
    values = (val, ", ".join(run.classes), config["eval"]["metric"], f"{score:g}")
    return dict(zip(ALIKE, values))


def rows_of(runs: Sequence[Run]) -> list[Row]:
    """Sort runs into rows and name them by what tells them apart."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(json.dumps([run.setting, run.percent], sort_keys=True), []).append(run)
    names = _names([group[0] for group in groups.values()])
    rows = []
    for name, group in zip(names, groups.values()):
        group = sorted(group, key=lambda run: (run.fold, run.seed, str(run.path)))
        rows.append(Row(name, [r for r in group if r.finished], [r for r in group if not r.finished]))
    return rows


def _names(firsts: Sequence[Run]) -> list[str]:
    """Return the method's name of each row, with as much more as makes it unlike the others."""
    parts = [[run.method] for run in firsts]
    for texts in (
        [run.detector for run in firsts],
        ["" if run.percent is None else f"{run.percent:g} %" for run in firsts],
    ):
        if len(set(texts)) > 1:
            for part, text in zip(parts, texts):
                part += [text] if text else []
    names = [" ".join(part) for part in parts]
    for name in {name for name in names if names.count(name) > 1}:
        alike = [i for i, other in enumerate(names) if other == name]
        for i, text in zip(alike, _differences([firsts[i].setting for i in alike])):
            names[i] = f"{name} ({text})"
    return names


def _differences(settings: Sequence[dict[str, Any]]) -> list[str]:
    """Return what tells settings apart: all keys and values that differ, the fewest that do, or else a number."""
    keys = dict.fromkeys(key for setting in settings for key in setting)
    missing = object()
    differ = [key for key in keys if any(s.get(key, missing) != settings[0].get(key, missing) for s in settings)]
    few = (keys for size in (1, 2) for keys in itertools.combinations(differ[:20], size))
    for chosen in itertools.chain([tuple(differ)], few):
        texts = [", ".join(f"{key.split('.')[-1]}={s[key]}" for key in chosen if key in s) for s in settings]
        if all(0 < len(text) <= 60 for text in texts) and len(set(texts)) == len(texts):
            return texts
    return [f"setting {i}" for i in range(1, len(settings) + 1)]


def boards_of(rows: Sequence[Row], resamples: int = 1000) -> tuple[list[Board], list[str]]:
    """Sort rows into boards, rank them, and measure gains.

    Args:
        rows: from ``rows_of``.
        resamples: draws of the val images for each interval.

    Returns:
        Boards, the one with most runs first, and one line for each pair that is refused a common rank.
    """
    boards: list[Board] = []
    pending = [row for row in rows if not row.runs]
    known = [(row, protocol(row.runs[0])) for row in rows if row.runs]
    # A board's splits are those on which most runs can be ranked; a row that has more of them is ranked on these.
    order = sorted(known, key=lambda pair: (-_ranked_runs(*pair, known), -len(pair[0].hashes), pair[0].name))
    for row, shared in order:
        home = next((b for b in boards if b.protocol == shared and _fits(row, b)), None)
        if home is None:
            boards.append(Board(shared, ranked=[row]))
        elif row.hashes >= home.hashes:
            if row.hashes > home.hashes:
                home.notes.append(f"{row.name}: {len(row.hashes - home.hashes)} splits that other rows lack left out")
            home.ranked.append(_only(row, home.hashes))
        else:
            has, all_ = len(row.hashes), len(home.hashes)
            home.others.append((row, f"has {has} of the board's {all_} splits"))
    boards += [more for board in boards for more in (*_narrower(board), *_wider(board, [row for row, _ in known]))]
    for board in boards:
        board.ranked.sort(key=lambda row: -row.mean())
        for row in board.rows:
            _measure(board, row, resamples)
    boards.sort(key=lambda board: -sum(len(row.runs) for row in board.rows))
    lines = [_refusal(boards[0], other) for other in boards[1:] if not _overlap(boards[0], other)]
    lines += [f"{row.name}: no finished run ({row.unfinished[0].state})" for row in pending]
    return boards, lines


def _ranked_runs(row: Row, shared: dict[str, str], known: Sequence[tuple[Row, dict[str, str]]]) -> int:
    """Return how many splits of how many rows a board with this row's splits would rank."""
    return len(row.hashes) * sum(other.hashes >= row.hashes and alike == shared for other, alike in known)


def _fits(row: Row, board: Board) -> bool:
    """Whether one's splits are among the other's."""
    return row.hashes <= board.hashes or row.hashes >= board.hashes


def _only(row: Row, hashes: frozenset[str]) -> Row:
    """Return a row without the runs on other splits."""
    return Row(row.name, [run for run in row.runs if run.hash in hashes], row.unfinished)


def _narrower(board: Board) -> list[Board]:
    """Return a further board for all rows, on the splits that all have, where some of ``board`` lack splits of it.

    What has no rank among five folds has one on the fold that all have; the other board goes without it.
    """
    common = frozenset.intersection(*(row.hashes for row in board.rows))
    if not board.others or not common:
        return []
    rows = [_only(row, common) for row in board.rows]
    for row, reason in board.others:
        board.notes.append(f"{row.name} {reason}: it is ranked on {len(common)}, on another board")
    board.others.clear()
    return [Board(board.protocol, ranked=rows)]


def _wider(board: Board, rows: Sequence[Row]) -> list[Board]:
    """Return a further board for rows that share more splits than the others of ``board`` have; often there is none.

    What several rows were measured on is ranked, also when one more row has a single fold.
    """
    names = {row.name for row in board.ranked}
    more = [row for row in rows if row.name in names and row.hashes > board.hashes]
    found = {row.hashes: [other for other in more if other.hashes >= row.hashes] for row in more}
    found = {hashes: group for hashes, group in found.items() if len(group) > 1}
    if not found:
        return []
    hashes = max(found, key=lambda h: (len(h) * len(found[h]), sorted(h)))
    return [Board(board.protocol, ranked=[_only(row, hashes) for row in found[hashes]])]


def _overlap(a: Board, b: Board) -> bool:
    """Whether one of the boards has rows of the other, on more splits."""
    return a.protocol == b.protocol and (a.hashes < b.hashes or b.hashes < a.hashes)


def _refusal(a: Board, b: Board) -> str:
    """Say in one line why two boards are not one."""
    reasons = [f"{what} {_short(a.protocol[what])} and {_short(b.protocol[what])}" for what in ALIKE if
               a.protocol[what] != b.protocol[what]]  # fmt: skip
    if a.hashes != b.hashes:
        ours, theirs = (", ".join(sorted(h[:8] for h in board.hashes)) for board in (a, b))
        reasons.append(f"labelled split {_short(ours)} and {_short(theirs)}")
    return f"not ranked together: {_who(a)} | {_who(b)}: different {'; '.join(reasons)}"


def _who(board: Board) -> str:
    names = [row.name for row in board.rows]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _short(text: str) -> str:
    return text if len(text) <= 40 else text[:37] + "..."


# ---- twins ---------------------------------------------------------------------------------------------------------


def _measure(board: Board, row: Row, resamples: int) -> None:
    """Find the row's supervised twin and measure the gain over it."""
    if row.first.method == "supervised":
        return
    twin = twin_of(row, board.rows)
    if twin is None:
        return
    board.twins[row.name] = twin.name
    differing = twin_differences(row, twin)
    if differing:
        more = f" and {len(differing) - MOST_TOLD} more keys" if len(differing) > MOST_TOLD else ""
        board.notes.append(f"{row.name} and its twin differ in {', '.join(differing[:MOST_TOLD])}{more}")
    chosen = units(row, twin)
    if chosen is None:
        board.notes.append(f"{row.name}: no interval, a run or its twin saved no eval/step_*.npz")
        return
    kind, pairs = chosen
    board.gains[row.name] = gain(pairs, kind=kind, resamples=resamples)


def twin_of(row: Row, rows: Sequence[Row]) -> Row | None:
    """Return the supervised row with the same detector on the same labels whose other settings differ least."""
    likely = [
        other
        for other in rows
        if other.first.method == "supervised"
        and other.first.config["detector"]["name"] == row.first.config["detector"]["name"]
        and other.hashes & row.hashes
    ]
    return min(likely, key=lambda other: len(twin_differences(row, other)), default=None)


def twin_differences(row: Row, twin: Row) -> list[str]:
    """Return the keys in which a twin differs and should not: all that does not concern unlabelled images."""
    a, b = row.first.setting, twin.first.setting
    free = ("method.", *UNLABELED)
    keys = [key for key in sorted(a.keys() | b.keys()) if not key.startswith(free) or key.startswith("method.ema")]
    return [key for key in keys if a.get(key) != b.get(key)]


def units(row: Row, twin: Row) -> tuple[str, list[Unit]] | None:
    """Return what ``gain`` needs: folds that both have, or the seeds of the only fold; None without saved matches."""
    ours, theirs = by_fold(row.runs), by_fold(twin.runs)
    folds = [fold for fold in ours if fold in theirs]
    if any(run.table is None for fold in folds for run in (*ours[fold], *theirs[fold])):
        return None
    if len(folds) == 1:
        mine = {run.seed: run.table for run in ours[folds[0]]}
        other = {run.seed: run.table for run in theirs[folds[0]]}
        seeds = sorted(mine.keys() & other.keys())
        if len(seeds) > 1:
            return "seed", [Unit(f"seed {seed}", [mine[seed]], [other[seed]]) for seed in seeds]
    named = {fold: f"fold {ours[fold][0].fold}" for fold in folds}
    tables = [(named[f], [r.table for r in ours[f]], [r.table for r in theirs[f]]) for f in folds]
    return "fold", [Unit(*parts) for parts in tables]

"""Rows of a comparison: runs of one setting on one share of labels, measured alike; they differ in fold and seed."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import mean, stdev
from typing import Any

from ssod.experiments.draws import draw_of
from ssod.experiments.runs import Run

# What every run of a row, and of a group, shares, as the reasons name it.
ALIKE = ("val set", "classes", "metric", "score threshold")
MOST_TOLD = 6  # keys that a note names
HASHED = re.compile(r" of \w+ [0-9a-f]{8}$")  # weights of another run, see ``Run.setting``
CELL = re.compile(r"fold\d+-seed\d+")  # a run's folder in a sweep, in the folder of its row


@dataclass(frozen=True)
class Row:
    """Runs that differ in fold and seed alone.

    Attributes:
        name: short, and unlike any other row's.
        runs: finished ones, by fold and seed; one for each.
        unfinished: runs that cannot be counted yet.
        repeated: finished runs whose fold and seed a later one of ``runs`` has, too.
        protocol: how its runs were measured; see ``ALIKE``.
        notes: sentences for people.
    """

    name: str
    runs: list[Run]
    unfinished: list[Run]
    repeated: list[Run] = field(default_factory=list)
    protocol: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def first(self) -> Run:
        """Any run; all share the setting."""
        return (self.runs or self.unfinished)[0]

    @property
    def members(self) -> list[tuple[Run, str]]:
        """All runs, each with its state in a few words, by fold and seed."""
        states = [(run, run.state) for run in (*self.runs, *self.unfinished)]
        states += [(run, "finished, not counted: fold and seed repeated") for run in self.repeated]
        return sorted(states, key=lambda pair: (pair[0].fold, pair[0].seed, str(pair[0].path)))

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

    def spread(self, metric: str = "AP") -> str:
        """Return ``37.1 ± 0.3``, or the mean alone of a single run; per cent."""
        sd = self.sd(metric)
        return f"{100 * self.mean(metric):.1f}" + ("" if sd is None else f" ± {100 * sd:.1f}")


def by_fold(runs: Iterable[Run]) -> dict[str, list[Run]]:
    """Return runs by the set of labelled images they learnt from."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.hash, []).append(run)
    return groups


# ---- measured alike ------------------------------------------------------------------------------------------------


def protocols(runs: Sequence[Run]) -> list[dict[str, str]]:
    """Return of each run what must be equal between runs that are ranked together, besides the split.

    A val set is known by the hash of its images and boxes. A run that saved no matches has no hash: it takes the one
    of the runs whose config names the same val set, or, if there is not exactly one, what its config names.
    """
    hashes: dict[str, set[str]] = {}
    for run in runs:
        if run.val_hash is not None:
            hashes.setdefault(run.val_name, set()).add(run.val_hash)
    found = []
    for run in runs:
        known = [run.val_hash] if run.val_hash is not None else sorted(hashes.get(run.val_name, ()))
        val = known[0][:12] if len(known) == 1 else run.val_name
        score = "unknown" if run.score is None else f"{run.score:g}"
        found.append(dict(zip(ALIKE, (val, ", ".join(run.classes), run.config["eval"]["metric"], score))))
    return found


# ---- rows ----------------------------------------------------------------------------------------------------------


def rows_of(runs: Sequence[Run]) -> list[Row]:
    """Sort runs into rows and name them by what tells them apart."""
    groups: dict[str, list[Run]] = {}
    shared: dict[str, dict[str, str]] = {}
    for run, protocol in zip(runs, protocols(runs)):
        key = json.dumps([run.setting, run.percent, protocol], sort_keys=True)
        groups.setdefault(key, []).append(run)
        shared[key] = protocol
    firsts = [group[0] for group in groups.values()]
    named = _names(firsts, list(shared.values()))
    return [
        _row(name, notes, group, protocol)
        for (name, *notes), group, protocol in zip(named, groups.values(), shared.values())
    ]


def _row(name: str, notes: list[str], group: list[Run], protocol: dict[str, str]) -> Row:
    """Return a row in which each fold and seed counts once: the run that finished last."""
    group = sorted(group, key=lambda run: (run.fold, run.seed, str(run.path)))
    counted: dict[tuple[str, int], Run] = {}
    for run in (run for run in group if run.finished):
        other = counted.get((run.hash, run.seed))
        if other is None or run.ended > other.ended:
            counted[run.hash, run.seed] = run
    used = {id(run) for run in counted.values()}
    repeated = [run for run in group if run.finished and id(run) not in used]
    for run in repeated:
        rival = counted[run.hash, run.seed].path
        notes.append(f"{name}: {run.path} is not counted: it repeats {draw_of(run)}, seed {run.seed} of {rival}")
    unfinished = [run for run in group if not run.finished]
    return Row(name, [run for run in group if id(run) in used], unfinished, repeated, protocol, tuple(notes))


def _names(firsts: Sequence[Run], protocols: Sequence[dict[str, str]]) -> list[list[str]]:
    """Return the method's name of each row, with as much more as makes it unlike the others, and notes on it."""
    parts = [[run.method] for run in firsts]
    for texts in (
        [run.detector for run in firsts],
        ["" if run.percent is None else f"{run.percent:g} %" for run in firsts],
    ):
        if len(set(texts)) > 1:
            for part, text in zip(parts, texts):
                part += [text] if text else []
    names = [" ".join(part) for part in parts]
    found = [[name] for name in names]
    for name in {name for name in names if names.count(name) > 1}:
        alike = [i for i, other in enumerate(names) if other == name]
        # The metric and, but for detectron2's detectors, the score threshold are settings already.
        settings = [firsts[i].setting | {k: protocols[i][k] for k in ("val set", "classes")} for i in alike]
        texts = _differences(settings)
        called = texts or _sweep_names([firsts[i] for i in alike])
        called = called or [f"setting {number + 1}" for number in range(len(alike))]
        for text, setting, i in zip(called, settings, alike):
            found[i] = [f"{name} ({text})"]
            if not texts:
                found[i].append(f"{found[i][0]} is {firsts[i].path}{_unlike(setting, settings[0], called[0])}")
    return found


def _sweep_names(firsts: Sequence[Run]) -> list[str]:
    """Return the names that a sweep gave to the rows of some runs; [] where some are of none, or share one."""
    names = [run.path.parent.name for run in firsts if CELL.fullmatch(run.path.name)]
    return names if len(set(names)) == len(firsts) else []


def _differences(settings: Sequence[dict[str, Any]]) -> list[str]:
    """Return what tells settings apart: all keys and values that differ, or the fewest that do; [] if that is long.

    Weights of other runs are left out: they are known by a hash, which tells nobody anything.
    """
    differ = [k for k in different_keys(*settings) if not any(HASHED.search(str(s.get(k, ""))) for s in settings)]
    few = (keys for size in (1, 2) for keys in itertools.combinations(differ[:20], size))
    for chosen in itertools.chain([tuple(differ)], few):
        texts = [", ".join(f"{key.split('.')[-1]}={s[key]}" for key in chosen if key in s) for s in settings]
        if all(0 < len(text) <= 60 for text in texts) and len(set(texts)) == len(texts):
            return texts
    return []


def _unlike(setting: dict[str, Any], first: dict[str, Any], name: str) -> str:
    keys = different_keys(setting, first)
    return f"; it differs from {name} in {shortened(keys)}" if keys else ""


def different_keys(*settings: dict[str, Any]) -> list[str]:
    """Return the keys in which settings differ; one that only some have is among them."""
    missing = object()
    keys = dict.fromkeys(key for setting in settings for key in setting)
    return [key for key in keys if any(s.get(key, missing) != settings[0].get(key, missing) for s in settings)]


def shortened(keys: Sequence[str]) -> str:
    """Return keys for a sentence."""
    more = f" and {len(keys) - MOST_TOLD} more keys" if len(keys) > MOST_TOLD else ""
    return f"{', '.join(keys[:MOST_TOLD])}{more}"

"""A comparison as CSV for programs: one record a line, every number in a column of its own, per cent, unrounded.

``kind`` says what a line is: a ``row`` (a setting), a ``run``, a ``published`` figure, a ``note``, or why groups were
``refused`` a common rank. Cells that a kind has no use for are empty.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import mean
from typing import Any

from ssod.experiments.cost import CURRENCIES, equal, hours, seen
from ssod.experiments.groups import Group
from ssod.experiments.published import references
from ssod.experiments.runs import METRICS, Run
from ssod.experiments.settings import Row
from ssod.utils import plain_text

COLUMNS = (
    *("kind", "board", "rank", "row", "method", "detector", "percent", "fold", "seed", "folds", "runs", "state"),
    *("AP", "AP_sd", "AP50", "AP50_sd", "AP75", "AP75_sd", "score_threshold", "metric", "split"),
    *("twin", "gain", "gain_low", "gain_high", "gain_folds_low", "gain_folds_high"),
    *("labeled_seen", "unlabeled_seen", "hours"),
    *(f"{what}_{name}" for name in CURRENCIES for what in ("budget", "AP_at")),
    *("source", "known_from", "path", "text"),
)


def comma_separated(groups: Sequence[Group], rows: Sequence[Row], refusals: Sequence[str] = ()) -> str:
    """Return the CSV of a comparison, ``COLUMNS`` as its first line; ``rows`` are all, also those without a group."""
    records = [{"board": number, **record} for number, group in enumerate(groups, 1) for record in _group(group)]
    for row in rows:
        for run, state in row.members:
            records.append({"kind": "run", "row": row.name, **_setting(run), **_repetition(run), "state": state})
    records += [{"kind": "refused", "text": line} for line in refusals]
    return plain_text.comma_separated([COLUMNS, *([record.get(name) for name in COLUMNS] for record in records)])


def _group(group: Group) -> Iterator[dict[str, Any]]:
    places = group.places
    reasons = {row.name: f"has no rank: it {reason}" for row, reason in group.others}
    budgets = {currency: equal({row.name: row.runs for row in group.ranked}, currency) for currency in CURRENCIES}
    shared = {"metric": group.protocol["metric"], "score_threshold": group.protocol["score threshold"]}
    for row in group.rows:
        cost = {}
        for currency, (budget, values) in budgets.items():
            cost |= {f"budget_{currency}": budget, f"AP_at_{currency}": _percent(values.get(row.name))}
        yield {
            **{"kind": "row", "rank": places.get(row.name), "row": row.name, "folds": len(row.hashes)},
            **{"runs": len(row.runs), "text": reasons.get(row.name)},
            **shared,
            **_setting(row.first),
            **_metrics(row),
            **_gain(group, row),
            **_spent(row.runs),
            **cost,
        }
    for figure in references([run for row in group.rows for run in row.runs]):
        yield {
            **{"kind": "published", "row": figure.method, "method": figure.method, "detector": figure.detector},
            **{figure.metric: figure.value, f"{figure.metric}_sd": figure.sd, "text": figure.protocol},
            **{"source": figure.source, "known_from": figure.kind},
        }
    for note in group.notes:
        yield {"kind": "note", "text": note}


def _setting(run: Run) -> dict[str, Any]:
    return {"method": run.method, "detector": run.detector, "percent": run.percent}


def _repetition(run: Run) -> dict[str, Any]:
    found = {"fold": run.fold, "seed": run.seed, "split": run.hash, "path": str(run.path)}
    return found | ({name: _percent(run.ap(name)) for name in METRICS} | _spent([run]) if run.finished else {})


def _metrics(row: Row) -> dict[str, float | None]:
    found = {name: _percent(row.mean(name)) for name in METRICS}
    return found | {f"{name}_sd": _percent(row.sd(name)) for name in METRICS}


def _gain(group: Group, row: Row) -> dict[str, Any]:
    """Return the gain and its intervals, where it can be had with them."""
    gain = group.gains.get(row.name)
    name = group.baselines.get(row.name)
    if gain is None:
        return {"twin": name, "gain": _percent(group.differences.get(row.name))}
    low, high = gain.whole or (None, None)
    ends = {"gain_low": gain.images[0], "gain_high": gain.images[1], "gain_folds_low": low, "gain_folds_high": high}
    return {"twin": name, "gain": _percent(gain.value), **{key: _percent(end) for key, end in ends.items()}}


def _spent(runs: Sequence[Run]) -> dict[str, float]:
    labeled, unlabeled = (mean(values) for values in zip(*(seen(run, run.last["step"]) for run in runs)))
    spent = mean(hours(run, run.last["step"]) for run in runs)
    return {"labeled_seen": labeled, "unlabeled_seen": unlabeled, "hours": spent}


def _percent(value: float | None) -> float | None:
    return None if value is None else 100 * value

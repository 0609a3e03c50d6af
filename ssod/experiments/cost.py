"""What a run's AP cost: images seen and hours of training; two methods are alike only at the same price."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import mean

from ssod.experiments.runs import Run

CURRENCIES = {"images": "images seen", "labeled": "labelled images seen", "hours": "hours"}


@dataclass(frozen=True)
class Point:
    """The teacher's AP after a step, and what was spent until then.

    Attributes:
        step: optimiser steps.
        labeled, unlabeled: images that steps used, each time counted; also those that a teacher only labels.
        hours: of training steps, evaluations left out.
        ap: of the teacher, a fraction.
    """

    step: int
    labeled: int
    unlabeled: int
    hours: float
    ap: float

    @property
    def images(self) -> int:
        """Labelled and unlabelled ones."""
        return self.labeled + self.unlabeled


def seen(run: Run, step: int) -> tuple[int, int]:
    """Return how many labelled and unlabelled images ``step`` steps have used."""
    batch = run.config["train"]["batch"]
    if "burn_in" not in run.config["method"]:  # a method without unlabelled images has no such key
        return step * batch["labeled"], 0
    return step * batch["labeled"], max(0, step - run.burn_in) * batch["unlabeled"]


def hours(run: Run, step: int) -> float:
    """Return the hours that the first ``step`` steps took, from the pace that the log has of each stretch."""
    seconds, last = 0.0, 0
    for row in run.train:
        until = min(row["step"], step)
        if until > last:
            seconds += (until - last) * row["time/step"]
            last = until
    if run.train and step > last:
        seconds += (step - last) * run.train[-1]["time/step"]
    return seconds / 3600


def curve(run: Run) -> list[Point]:
    """Return a point for each evaluation."""
    steps = [(row["step"], row["teacher/AP"]) for row in run.evals if row.get("teacher/AP") is not None]
    return [Point(step, *seen(run, step), hours(run, step), ap) for step, ap in steps]


def at(points: Sequence[Point], budget: float, currency: str) -> float | None:
    """Return the AP that ``budget`` buys: on the line between the evaluations before and after; None before the first.

    Beyond the last evaluation nothing is known, and nothing is returned.
    """
    spent = [getattr(p, currency) for p in points]
    if not points or not spent[0] <= budget <= spent[-1]:
        return None
    for (a, left), (b, right) in pairwise(zip(spent, points)):
        if a <= budget <= b:
            share = (budget - a) / (b - a) if b > a else 1.0
            return left.ap + share * (right.ap - left.ap)
    return points[-1].ap


def equal(rows: dict[str, list[Run]], currency: str) -> tuple[float, dict[str, float | None]]:
    """Compare rows at the largest budget that all of them spent.

    Args:
        rows: runs by the row's name.
        currency: a key of ``CURRENCIES``.

    Returns:
        The budget and the mean AP of each row there; None where a run has no evaluation that early.
    """
    curves = {name: [curve(run) for run in runs] for name, runs in rows.items()}
    ends = [getattr(points[-1], currency) for group in curves.values() for points in group if points]
    if not ends:
        return 0.0, dict.fromkeys(rows)
    budget = min(ends)
    found = {}
    for name, group in curves.items():
        values = [at(points, budget, currency) for points in group]
        found[name] = None if None in values or not values else mean(values)
    return budget, found

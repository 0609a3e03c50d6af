"""How much better than its supervised baseline, and how sure of it: a paired bootstrap over val images.

A *unit* is a pair of run groups that learnt from the same labels: one fold (its seeds are averaged), or, where there is
one fold only, one seed. The gain of unit u is ``g_u = AP(method) - AP(baseline)``; what is reported is the mean over
units.

Two things make it uncertain, and there is an interval for the first alone and one for both:

- *The val images.* They are drawn anew with replacement, n out of n, ``RESAMPLES`` times. In each resample **every**
  run is measured on the same images, so that what is hard for all cancels (paired), and folds that share a val set
  share their luck. ``V`` is the variance of the mean gain over the resamples; ``images`` = mean ± 1.96 sqrt(V). It says
  what other val images would have shown of these very models.
- *The labels drawn and the training's chance.* The variance between units, less what the val images alone would cause:
  ``tau^2 = max(0, s^2 - d)`` with ``s^2`` the variance of ``g_u`` and ``d`` the mean variance between units of the
  resamples' deviations. The second interval, ``whole``, adds both in quadrature, each with its own quantile:
  ``h^2 = 1.96^2 V + t^2 tau^2 / U``, t = Student's 97.5 % quantile with U - 1 degrees of freedom. It says what other
  labels would have given too. With one unit there is none, and with two it is wide (t = 12.7): take more folds.

Simulated coverage of the nominal 95 %: 93 to 97 % (tests/experiments/test_bootstrap.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import t as student

from ssod.evaluation.matching import Matches, mean_ap
from ssod.utils.errors import Exit, SsodError

RESAMPLES = 1000
Z = 1.959964


@dataclass(frozen=True)
class Unit:
    """Runs of a method and of its baseline on one fold (or one seed); all were measured on the same images."""

    name: str
    method: Sequence[Matches]
    baseline: Sequence[Matches]


@dataclass(frozen=True)
class Gain:
    """Mean gain in AP, fractions.

    Attributes:
        value: the mean over units.
        units: gain of each unit, by its name.
        kind: what a unit is, ``fold`` or ``seed``.
        by_images: standard error that the val images cause.
        by_units: standard error that folds (or seeds) cause beyond that; None with one unit.
        runs: how many runs of the method, and of its baseline, it is made of.
    """

    value: float
    units: dict[str, float]
    kind: str
    by_images: float
    by_units: float | None
    runs: tuple[int, int] = (1, 1)

    @property
    def images(self) -> tuple[float, float]:
        """95 % interval over val images, for the models at hand."""
        half = Z * self.by_images
        return self.value - half, self.value + half

    @property
    def whole(self) -> tuple[float, float] | None:
        """95 % interval over val images and folds (or seeds); None with one unit."""
        if self.by_units is None:
            return None
        half = math.hypot(Z * self.by_images, student.ppf(0.975, len(self.units) - 1) * self.by_units)
        return self.value - half, self.value + half

    @property
    def scope(self) -> str:
        """Say what the second interval covers."""
        number = len(self.units)
        uneven = self.runs != (number, number)
        runs = f", {self.runs[0]} runs against {self.runs[1]}" if uneven else ""
        if number == 1:
            return f"one fold{runs or ' and seed'}: what other labels would give is not known"
        return f"{number} {self.kind}s" + (" of one fold" if self.kind == "seed" else "") + runs


class Resamples:
    """AP of tables in the same resamples of their images; what was measured once is not measured again.

    Args:
        number: resamples: images drawn with replacement, as many as there are.
        seed: of the resamples.
    """

    def __init__(self, number: int = RESAMPLES, seed: int = 0) -> None:
        self.number, self.seed = number, seed
        self._weights: dict[int, np.ndarray] = {}  # by the number of images
        self._known: dict[int, tuple[Matches, np.ndarray]] = {}  # by the table's id; the table is kept, and so its id

    def ap(self, table: Matches) -> np.ndarray:
        """Return [1 + B] AP of ``table``: of all images, then of each resample; NaN without a box to find."""
        if id(table) not in self._known:
            self._known[id(table)] = table, mean_ap(table, self._drawn(len(table)))
        return self._known[id(table)][1]

    def _drawn(self, images: int) -> np.ndarray:
        if images not in self._weights:
            rng = np.random.default_rng(self.seed)
            counts = rng.multinomial(images, np.full(images, 1 / images), size=self.number)
            self._weights[images] = np.concatenate([np.ones((1, images), counts.dtype), counts])
        return self._weights[images]


def gain(units: Sequence[Unit], *, kind: str = "fold", resamples: Resamples | None = None) -> Gain:
    """Return the mean gain over ``units`` with its interval; see the module's docstring.

    Args:
        units: at least one; every table has the same images in the same order.
        kind: what a unit is, ``fold`` or ``seed``.
        resamples: of the val images; gains that share them measure a run that they share once. None = new ones.

    Raises:
        SsodError: code 3, tables of different images, or images without a box.
    """
    resamples = resamples or Resamples()
    tables = [table for unit in units for table in (*unit.method, *unit.baseline)]
    if any(table.ids != tables[0].ids for table in tables):
        problem, fix = "runs were measured on different images", "compare runs with one val set"
        raise SsodError("compare", "val", problem, fix, code=Exit.DATA)

    def mean(group: Sequence[Matches]) -> np.ndarray:
        return np.mean([resamples.ap(table) for table in group], 0)

    values = np.array([mean(unit.method) - mean(unit.baseline) for unit in units])  # [U, 1 + B]
    if np.isnan(values[:, 0]).any():
        raise SsodError("compare", "val", "has no box to find", "give data.val labels", code=Exit.DATA)
    exact, drawn = values[:, 0], values[:, 1:][:, ~np.isnan(values[:, 1:]).any(0)]
    found = combine({unit.name: value for unit, value in zip(units, exact.tolist())}, drawn, kind)
    return replace(found, runs=(sum(len(u.method) for u in units), sum(len(u.baseline) for u in units)))


def combine(units: dict[str, float], drawn: np.ndarray, kind: str = "fold") -> Gain:
    """Return the mean and its errors from the gain of each unit and ``drawn`` [U, B], the same in each resample."""
    exact = np.array(list(units.values()))
    between = None
    if len(exact) > 1:
        deviation = drawn - drawn.mean(1, keepdims=True)
        caused = deviation.var(0, ddof=1).mean()
        between = math.sqrt(max(0.0, exact.var(ddof=1) - caused) / len(exact))
    return Gain(float(exact.mean()), units, kind, float(drawn.mean(0).std(ddof=1)), between)

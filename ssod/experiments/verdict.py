"""What a comparison shows, in one sentence for each row that has a supervised baseline, no more than its intervals do.

The interval that decides covers val images and folds (``Gain.whole``) where there are two folds or more; what it says
holds for other labelled images, too. With one fold there is none of that kind: the interval over val images, or over
the seeds of that fold, decides, and the sentence says that it speaks of these labels alone. An interval holds 0 where
it does as it is printed, with one digit: an end of ``0.0`` is no proof.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ssod.experiments.bootstrap import Gain
from ssod.experiments.groups import Group
from ssod.experiments.settings import shortened

THESE = "with these labels; what others would give is not known"
TWO = ", as far as two folds tell"  # what folds vary is poorly known from two, and may be taken for nothing
NO_MATCHES = "a run or its baseline saved no eval/step_*.npz"


def verdicts(groups: Sequence[Group]) -> list[str]:
    """Return a sentence for each row that is no baseline, group by group; one that says so where there is none."""
    found = []
    for number, group in enumerate(groups, 1):
        name = f"group {number}: " if len(groups) > 1 else ""
        methods = [row.name for row in group.rows if row.first.method != "supervised"]
        found += [f"{name}{of_row(group, row)}" for row in methods]
        if not methods:
            found.append(f"{name}All rows are supervised: there is no gain over a baseline to tell.")
    return found


def of_row(group: Group, row: str) -> str:
    """Return the sentence about the row ``row`` of ``group``, which is no supervised one."""
    return verdict(
        row,
        group.gains.get(row),
        difference=group.differences.get(row),
        baseline=group.baselines.get(row),
        differing=group.differing.get(row, ()),
    )


def verdict(
    name: str,
    gain: Gain | None,
    *,
    difference: float | None = None,
    baseline: str | None = "supervised",
    differing: Sequence[str] = (),
    why: str = NO_MATCHES,
) -> str:
    """Say whether a method is ahead of its supervised baseline, and how far that holds.

    Args:
        name: of the method's row.
        gain: over the baseline; None = there is none with an interval.
        difference: in AP, a fraction, where there is no ``gain``.
        baseline: name of the baseline's row; None = there is no such row.
        differing: keys in which the baseline differs and should not.
        why: the reason that there is no interval.
    """
    if baseline is None:
        return f"{name} has no supervised baseline here (same detector, same labels): its gain is not known."
    other = "its supervised baseline" + ("" if baseline == "supervised" else f", {baseline}")
    value = gain.value if gain is not None else difference
    if value is None or math.isnan(value):
        return f"{name} against {other}: one of them has no AP, nothing can be told."
    if gain is None or any(map(math.isnan, gain.images)):
        why = why if gain is None else "the val set has too few images with boxes"
        told = f"{_moved(name, value, None, other)}: no interval ({why}), not shown to help."
    else:
        told = f"{_moved(name, value, _deciding(gain), other)} {_where(gain)}{_judged(gain)}."
    return told + (f" The two differ in {shortened(differing)}, too." if differing else "")


def _deciding(gain: Gain) -> tuple[float, float]:
    """Return the widest interval that there is."""
    return gain.images if gain.whole is None else gain.whole


def _moved(name: str, value: float, ends: tuple[float, float] | None, other: str) -> str:
    """Return ``name gains 2.2 AP [1.9, 2.5] over other``, or that it loses, or that both are equal."""
    points = f"{100 * abs(value):.1f} AP"
    bounds = "" if ends is None else f"[{100 * ends[0]:z.1f}, {100 * ends[1]:z.1f}]"
    if value < 0 and points != "0.0 AP":
        return f"{name} loses {points}{f' (gain {bounds})' if bounds else ''} against {other}"
    return f"{name} gains {points}{f' {bounds}' if bounds else ''} over {other}"


def _where(gain: Gain) -> str:
    """Return what the gain is the mean of: ``on 3 folds``."""
    if len(gain.units) == 1:
        return f"on {next(iter(gain.units))} alone"
    return f"on {len(gain.units)} {gain.kind}s" + (" of one fold" if gain.kind == "seed" else "")


def _judged(gain: Gain) -> str:
    """Return ``: ahead``, ``: behind``, or that it is open, with what that says of other labels."""
    side = _side(_deciding(gain))
    one_fold = len(gain.units) == 1 or gain.kind == "seed"
    if side:
        return f": {side} {THESE}" if one_fold else f": {side}{TWO if len(gain.units) == 2 else ''}"
    told = "; the interval holds 0: not shown to help"
    near = _side(gain.images)
    if near:
        ends = f"[{100 * gain.images[0]:z.1f}, {100 * gain.images[1]:z.1f}]"
        told += f"; these very models are {near} on other val images ({ends}), more {gain.kind}s would tell"
    return told


def _side(ends: tuple[float, float]) -> str:
    """Return on which side of 0 an interval lies as it is printed; nothing where it holds 0."""
    low, high = (float(f"{100 * end:.1f}") for end in ends)
    return "ahead" if low > 0 else "behind" if high < 0 else ""

"""The sentence that says what a comparison shows: for every kind of interval, and where there is none."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest

from ssod.commands.compare import compare
from ssod.experiments.bootstrap import Gain, combine
from ssod.experiments.groups import groups_of
from ssod.experiments.runs import read_run
from ssod.experiments.settings import rows_of
from ssod.experiments.verdict import THESE, TWO, verdict, verdicts
from tests.experiments.fake import fake_run


def gain_of(*units: float, images: float, folds: float | None = None, kind: str = "fold") -> Gain:
    """Return a gain from AP points of its units and the standard errors of val images and of folds, in points."""
    named = {f"{kind} {i}": unit / 100 for i, unit in enumerate(units, 1)}
    error = None if folds is None else folds / 100
    return Gain(sum(units) / len(units) / 100, named, kind, images / 100, error)


WORDS = {
    "over": "over its supervised baseline", "against": "against its supervised baseline", "these": THESE,
    "open": "; the interval holds 0: not shown to help",
    "very": "these very models are", "other": "on other val images", "more": "more folds would tell",
}  # fmt: skip
CASES = {
    "ahead": (gain_of(2.1, 2.2, 2.3, images=0.15, folds=0.0),
              "m gains 2.2 AP [1.9, 2.5] {over} on 3 folds: ahead."),
    "behind": (gain_of(-2.1, -2.2, -2.3, images=0.15, folds=0.0),
               "m loses 2.2 AP (gain [-2.5, -1.9]) {against} on 3 folds: behind."),
    "two folds, ahead": (gain_of(2.1, 2.3, images=0.15, folds=0.0),
        "m gains 2.2 AP [1.9, 2.5] {over} on 2 folds: ahead, as far as two folds tell."),
    "open": (gain_of(1.0, -0.5, 0.1, images=0.5, folds=0.1),
             "m gains 0.2 AP [-0.9, 1.3] {over} on 3 folds{open}."),
    "two folds, val images alone ahead": (gain_of(1.0, 3.0, images=0.5, folds=1.0),
        "m gains 2.0 AP [-10.7, 14.7] {over} on 2 folds{open}; {very} ahead {other} ([1.0, 3.0]), {more}."),
    "two folds, val images alone behind": (gain_of(-1.0, -3.0, images=0.5, folds=1.0),
        "m loses 2.0 AP (gain [-14.7, 10.7]) {against} on 2 folds{open}; "
        "{very} behind {other} ([-3.0, -1.0]), {more}."),
    "one fold": (gain_of(2.2, images=0.15),
                 "m gains 2.2 AP [1.9, 2.5] {over} on fold 1 alone: ahead {these}."),
    "one fold, behind": (gain_of(-2.2, images=0.15),
        "m loses 2.2 AP (gain [-2.5, -1.9]) {against} on fold 1 alone: behind {these}."),
    "one fold, open": (gain_of(0.2, images=0.15),
        "m gains 0.2 AP [-0.1, 0.5] {over} on fold 1 alone{open}."),
    "seeds": (gain_of(2.1, 2.2, 2.3, images=0.15, folds=0.0, kind="seed"),
              "m gains 2.2 AP [1.9, 2.5] {over} on 3 seeds of one fold: ahead {these}."),
    "touches 0": (gain_of(0.98, images=0.5),
        "m gains 1.0 AP [0.0, 2.0] {over} on fold 1 alone{open}."),
    "touches 0 as it is printed": (gain_of(1.0199, images=0.5),
        "m gains 1.0 AP [0.0, 2.0] {over} on fold 1 alone{open}."),
    "touches 0 from below": (gain_of(-0.98, images=0.5),
        "m loses 1.0 AP (gain [-2.0, 0.0]) {against} on fold 1 alone{open}."),
    "equal": (gain_of(0.0, 0.0, images=0.0, folds=0.0),
        "m gains 0.0 AP [0.0, 0.0] {over} on 2 folds{open}."),
    "no interval": (gain_of(1.0, images=math.nan),
        "m gains 1.0 AP {over}: no interval (the val set has too few images with boxes), not shown to help."),
    "no AP": (gain_of(math.nan, images=0.5),
              "m against its supervised baseline: one of them has no AP, nothing can be told."),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_every_case_has_its_sentence(case: str) -> None:
    gain, sentence = CASES[case]
    assert verdict("m", gain) == sentence.format(**WORDS)


def test_only_an_interval_over_folds_says_ahead_without_a_restriction() -> None:
    """Of random gains: the word stands alone if, and only if, the widest interval as printed lies above 0."""
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(300):
        count, kind = int(rng.integers(1, 5)), str(rng.choice(["fold", "seed"]))
        exact = rng.normal(rng.choice([-2, 0, 2]), 0.3, count) / 100
        drawn = exact[:, None] + rng.normal(0, 0.004, 50) + rng.normal(0, 0.001, (count, 50))
        found = combine({f"{kind} {i}": value for i, value in enumerate(exact.tolist())}, drawn, kind)
        ends = found.whole or found.images
        low, high = (round(100 * end, 1) for end in ends)
        said = verdict("m", found)
        side = "ahead" if low > 0 else "behind" if high < 0 else "open"
        assert (f": {side}" in said) == (side != "open")
        assert (TWO in said) == (side != "open" and count == 2 and kind == "fold")
        assert ("holds 0: not shown to help" in said) == (side == "open")
        assert (THESE in said) == (side != "open" and (count == 1 or kind == "seed"))
        seen.add((side, THESE in said))
    assert seen == {("ahead", True), ("ahead", False), ("behind", True), ("behind", False), ("open", False)}


def test_what_is_not_there_is_said() -> None:
    assert verdict("m", None, baseline=None) == (
        "m has no supervised baseline here (same detector, same labels): its gain is not known."
    )
    why = "no interval (a run or its baseline saved no eval/step_*.npz), not shown to help."
    assert verdict("m", None, difference=0.02) == f"m gains 2.0 AP over its supervised baseline: {why}"
    assert "no interval (this run is at step 3), not shown" in verdict(
        "m", None, difference=-0.02, why="this run is at step 3"
    )
    for difference in (None, math.nan):
        assert "nothing can be told" in verdict("m", None, difference=difference)


def test_a_baseline_is_named_and_so_is_what_differs_in_it() -> None:
    said = verdict("m", gain_of(2.2, images=0.15), baseline="supervised (lr=0.1)", differing=["train.lr"])
    assert "over its supervised baseline, supervised (lr=0.1) on fold 1" in said
    assert said.endswith(" The two differ in train.lr, too.")


def test_a_row_has_a_sentence_and_a_baseline_none(tmp_path: Path) -> None:
    """Two baselines: each method is measured against its own; supervised rows alone have nothing to tell."""
    runs = [
        fake_run(tmp_path / f"{method}-{lr}", method, changes={"train.lr": lr}, ap=ap)
        for method, ap in (("supervised", 0.3), ("mean_teacher", 0.7))
        for lr in (0.001, 0.1)
    ]

    def said(*folders: Path) -> list[str]:
        return verdicts(groups_of(rows_of([read_run(folder) for folder in folders]), resamples=50)[0])

    found = said(*runs)
    assert len(found) == 2
    for line in found:
        lr = re.match(r"mean_teacher \(lr=(\S+)\) gains", line)[1]
        assert f"over its supervised baseline, supervised (lr={lr}) on fold 1 alone" in line
    assert said(runs[0]) == ["All rows are supervised: there is no gain over a baseline to tell."]
    assert said(runs[2]) == [verdict("mean_teacher", None, baseline=None)]
    one, two = said(runs[0], runs[2], fake_run(tmp_path / "x", "humble_teacher", 2))
    assert one.startswith("group 1: mean_teacher gains ")
    assert two == f"group 2: {verdict('humble_teacher', None, baseline=None)}"
    assert "The two differ in train.lr, too." in said(runs[0], runs[3])[0]


def test_it_stands_first_wherever_a_comparison_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    runs = [fake_run(tmp_path / "a", "supervised", ap=0.3), fake_run(tmp_path / "b", ap=0.7)]
    out = [tmp_path / f"c.{end}" for end in ("md", "tex", "html")]
    found = compare(runs, out=out, resamples=50)
    (line,) = found.verdicts
    assert capsys.readouterr().out.startswith(f"{line}\n")
    assert out[0].read_text().startswith(f"{line}\n\n**")
    assert out[1].read_text().splitlines()[1] == f"% {line}"
    page = out[2].read_text()
    assert f'<ul class="verdict"><li>{line}</li></ul>' in page
    assert page.index(line) < page.index("<table")

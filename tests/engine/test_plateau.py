"""Burn-in that ends where the teacher no longer gets better."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from ssod import config
from ssod.engine.checkpointing import checkpoint
from ssod.engine.checkpointing.burn_in import BurnIn
from ssod.utils.errors import Exit, SsodError
from ssod.utils.plateau import Plateau
from tests.engine import toy
from tests.engine.crash import difference, final_state
from tests.engine.test_resume import Cut, cut_at
from tests.small import small_config

LATEST = 9


def plateau(looks: int = 2) -> dict[str, Any]:
    """Options of a run whose burn-in ends at step 9, or sooner."""
    return {
        "method": {"burn_in": LATEST},
        "burn_in": BurnIn(LATEST, lambda step: {"step": step}, plateau=Plateau(looks, 0.02)),
        "evaluate": lambda detector: {"AP": 0.3},
        "eval_every": 2,
    }


@pytest.mark.parametrize(
    ("values", "at"),
    [
        ([0.1, 0.2, 0.3, 0.3, 0.3], 4),
        ([0.1, 0.2, 0.202, 0.203, 0.204], 3),  # each a little better than the one before: no more than noise
        ([0.3, 0.29, 0.31, 0.3, 0.3], 4),
        ([0.0, 0.0, 0.005, 0.005, 0.005, 0.1, 0.1, 0.1], 7),  # a teacher that finds nothing has learned nothing yet
        ([math.nan, math.nan, math.nan], None),
        ([0.1, 0.2, 0.3, 0.4], None),
    ],
)
def test_a_plateau_is_two_looks_without_a_better_one(values: list[float], at: int | None) -> None:
    seen = Plateau(2, 0.02)
    reached = [seen.reached(value) for value in values]
    assert (reached.index(True) if True in reached else None) == at


def test_unlabelled_images_join_in_where_the_teacher_stops_getting_better(tmp_path: Path) -> None:
    toy.run(tmp_path / "run", **plateau())
    saved = checkpoint.load(tmp_path / "run/checkpoints/last.pt")
    assert (saved["ahead"], saved["plateau"]) == (3, {"best": 0.3, "waited": 2})  # better at 2, waited at 4 and at 6
    assert saved["method"]["seen"] == 6 * 4  # steps 6 to 11
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [(row["step"], row["burn_in/ahead"]) for row in rows if "burn_in/ahead" in row] == [(6, 3)]
    assert "step 6: the teacher's AP has stopped growing" in (tmp_path / "run/train.log").read_text()


def test_it_ends_as_the_config_says_where_the_teacher_goes_on_getting_better(tmp_path: Path) -> None:
    toy.run(tmp_path / "run", **plateau(looks=9))
    saved = checkpoint.load(tmp_path / "run/checkpoints/last.pt")
    assert (saved["ahead"], saved["method"]["seen"]) == (0, 3 * 4)


@pytest.mark.parametrize("step", [3, 6, 7])
def test_a_run_that_died_ends_the_same(tmp_path: Path, step: int) -> None:
    """At step 6 it dies with the evaluation behind it that ended burn-in, and with no state of that."""
    toy.run(tmp_path / "whole", **plateau())
    with pytest.raises(Cut):
        toy.run(tmp_path / "cut", wrap=cut_at(step), **plateau())
    toy.run(tmp_path / "cut", **plateau())
    assert difference(final_state(tmp_path / "whole"), final_state(tmp_path / "cut")) == []


def test_auto_is_written_in_two_keys(tmp_path: Path) -> None:
    cfg = config.load(
        small_config(tmp_path, method={"name": "mean_teacher", "burn_in": "auto"}), ["train.eval_every=1"]
    )
    assert cfg.method.burn_in == round(0.6 * cfg.train.steps)
    assert cfg.dump()["method"]["plateau"] == {"looks": 2, "gain": 0.02}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["method.burn_in=auto", "train.eval_every=0"], "set it to"),
        (["method.burn_in=0", "method.plateau={}"], "'burn_in' is 0"),
        (["method.burn_in=auto", "train.eval_every=1", "train.keep_burn_in=true"], "the run's own evaluations"),
        (["method={name: stac, burn_in: auto}", "train.eval_every=1"], "starts afresh"),
        (["method.burn_in=auto", "train.eval_every=1", "data.val=null"], "there are none"),
        (["method.burn_in=soon"], "should be a valid integer"),
    ],
)
def test_what_no_evaluation_could_end_is_refused(tmp_path: Path, changes: list[str], words: str) -> None:
    file = small_config(tmp_path, method={"name": "mean_teacher", "burn_in": 0})
    with pytest.raises(SsodError) as refused:
        config.load(file, ["train.steps=20", *changes])
    assert words in refused.value.line()
    assert refused.value.code == Exit.USAGE

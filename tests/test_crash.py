"""The command, killed at random moments, ends with the bits of a run that nobody disturbed.

Each start is a process of its own that runs the command line from the top; it finds torch imported, so that what is
killed is the command's own work.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from tests.engine.crash import difference, final_state, kill_until_done
from tests.engine.fork import Command, run
from tests.small import seen_once, small_config, train_command
from tests.test_methods import SIDES

KILLS = int(os.environ.get("SSOD_KILLS", "3"))
ALL = "SSOD_ALL_ENDINGS" in os.environ
STEPS = max(48, 16 * KILLS)  # a start makes some, and all are made in the end


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, float]:
    """A config, the folder of a run that nobody disturbed, and the seconds that its command took."""
    folder = tmp_path_factory.mktemp("calm")
    config = small_config(folder, train__steps=STEPS)
    begin = time.monotonic()
    run(train_command(config, folder / "run"))
    return config, folder / "run", time.monotonic() - begin


def in_the_loop(run: Path, steps: float) -> float:
    """Return the seconds that so many steps took; a start must not be over before it is killed."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    times = [row["time/step"] for row in rows if row["kind"] == "train"]
    return sum(times) / len(times) * steps


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("after_save", [False, True], ids=["from the start", "in the loop"])
def test_kill_9_at_random_moments_changes_no_bit(calm: tuple, tmp_path: Path, after_save: bool) -> None:
    """``SSOD_KILLS`` sets how often; moments are drawn from start-up on, or from a start's first checkpoint on."""
    config, undisturbed, seconds = calm
    before = seconds - in_the_loop(undisturbed, STEPS)  # the first step
    longest = in_the_loop(undisturbed, 12) if after_save else 0.8 * (before + in_the_loop(undisturbed, 48))
    wild = tmp_path / "wild"
    command = train_command(config, wild)
    record = kill_until_done(lambda: Command(command), wild, kills=KILLS, longest=longest, after_save=after_save)
    print(f"killed {record.killed} times, after steps {record.steps}")
    assert record.killed > 0
    assert difference(final_state(undisturbed), final_state(wild)) == []


METHODS = {
    "humble_teacher": {},
    "instant_teaching": {"score": 0.05},
    "instant_teaching_rectify": {"score": 0.05},
    "consistent_teacher": {"start": 3},
    "label_match": {"start": 3, "queue": 16, "score": 0.05},
    "acrst": {"bank": {"size": 5, "side": 16}},
    "mean_teacher": {"threshold": "gmm", "loss": {"unsup": {"weighting": "uncertainty"}}},
    "stac": {"burn_in": 3, "score": 0.05},
    "s4od": {"every": 4, "look": 3, "score": 0.05, "spread": 0.5},
    "dsl": {"every": 3, "score": 0.05, "unsure": 0.02, "rise": 0.3},
    "mix_pl": {"score": 0.05, "cache": {"side": 64}, "mosaic_size": [20, 40]},
    "pseco": {"score": 0.05},
    "soft_teacher": {"score": 0.05, "candidate_score": 0.05, "spread": 0.5},
    "unbiased_teacher": {"score": 0.05},
    "csd": {},
    "dense_teacher": {},
    "unbiased_teacher_v2": {"score": 0.05},
    "efficient_teacher": {"score": 0.1, "unsure_score": 0.02},
}
OWN = {"unbiased_teacher_v2": SIDES["fcos"]}  # what a method asks of the detector
# A bank of pictures, queues of scores, labels of an earlier look. Without a kill, tests/test_methods.py lets every
# method go on from its state.
USUALLY = ["acrst", "label_match", "s4od"]
PARTS = {"acrst": 2, "consistent_teacher": 2, "dsl": 2, "label_match": 2, "mix_pl": 2, "s4od": 2}  # of a step


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", METHODS if ALL else USUALLY)
def test_what_a_method_remembers_survives_kill_9(name: str, tmp_path: Path) -> None:
    """Score banks, thresholds, a second model, an auxiliary branch: all come back to the bit.

    Each has begun to fill when the first checkpoint is written, after four steps; the kill comes after that.
    ``SSOD_ALL_ENDINGS=1`` tries every method.
    """
    method = {"name": name, "burn_in": 2, "ema": {"decay": 0.9}, **METHODS[name]}
    parts = PARTS.get(name, 1)
    asked = {f"detector__{key}": value for key, value in OWN.get(name, {}).items()}
    config = small_config(
        tmp_path, method=method, train__steps=14, train__eval_every=0, train__accumulate=parts, **asked
    )
    calm, wild = tmp_path / "calm", tmp_path / "wild"
    run(train_command(config, calm, *seen_once(name)))
    command, longest = train_command(config, wild, *seen_once(name)), in_the_loop(calm, 3.5)
    record = kill_until_done(lambda: Command(command), wild, kills=1, longest=longest, after_save=True)
    assert record.killed > 0
    assert difference(final_state(calm), final_state(wild)) == []


@pytest.mark.slow
def test_workers_change_no_bit(tmp_path: Path) -> None:
    config = small_config(tmp_path, train__steps=10, train__eval_every=0, train__save_every=0)
    states = []
    for workers in (0, 2):
        out = tmp_path / f"w{workers}"
        run(train_command(config, out, f"train.workers={workers}"))
        state = final_state(out)
        del state["checkpoint"]["identity"]  # knows the number of workers
        states.append(state)
    assert difference(*states) == []

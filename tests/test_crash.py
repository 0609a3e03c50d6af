"""The real command, killed at random moments, ends with the bits of a run that nobody disturbed."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path

import pytest

from tests.engine.crash import difference, final_state, kill_until_done
from tests.small import seen_once, small_config, train_command

KILLS = int(os.environ.get("SSOD_KILLS", "3"))
ONE_THREAD = {"OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, float]:
    """A config, the folder of a run that nobody disturbed, and the seconds that its command took."""
    folder = tmp_path_factory.mktemp("calm")
    config = small_config(folder, train__steps=48)
    run, begin = train_command(config, folder / "run"), time.monotonic()
    subprocess.run(run, check=True, env={**os.environ, **ONE_THREAD}, capture_output=True)
    return config, folder / "run", time.monotonic() - begin


def in_the_loop(run: Path) -> float:
    """Return the seconds in which to kill: a quarter of what all steps took, so that a start is not over before."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    times = [row["time/step"] for row in rows if row["kind"] == "train"]
    return sum(times) / len(times) * rows[-1]["step"] / 4


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("after_save", [False, True], ids=["from the start", "in the loop"])
def test_kill_9_at_random_moments_changes_no_bit(calm: tuple, tmp_path: Path, after_save: bool) -> None:
    """``SSOD_KILLS`` sets how often; moments are drawn from start-up on, or from a start's first checkpoint on."""
    config, undisturbed, seconds = calm
    longest = in_the_loop(undisturbed) if after_save else 0.8 * seconds
    wild = tmp_path / "wild"
    command = train_command(config, wild)
    record = kill_until_done(command, wild, kills=KILLS, longest=longest, after_save=after_save, env=ONE_THREAD)
    print(f"killed {record.killed} times, after steps {record.steps}")
    assert record.killed > 0
    assert difference(final_state(undisturbed), final_state(wild)) == []


METHODS = {
    "humble_teacher": {},
    "instant_teaching": {"score": 0.05},
    "instant_teaching_rectify": {"score": 0.05},
    "consistent_teacher": {"start": 10},
    "label_match": {"start": 10, "queue": 16, "score": 0.05},
    "acrst": {"bank": {"size": 5, "side": 16}},
    "mean_teacher": {"threshold": "gmm", "loss": {"unsup": {"weighting": "uncertainty"}}},
    "stac": {"burn_in": 12, "score": 0.05},
    "s4od": {"every": 6, "look": 3, "score": 0.05, "spread": 0.5},
    "dsl": {"every": 5, "score": 0.05, "unsure": 0.02, "rise": 0.3},
    "mix_pl": {"score": 0.05, "cache": {"side": 64}, "mosaic_size": [20, 40]},
}
PARTS = {"acrst": 2, "consistent_teacher": 2, "dsl": 2, "label_match": 2, "mix_pl": 2, "s4od": 2}  # of a step


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", METHODS)
def test_what_a_method_remembers_survives_kill_9(name: str, tmp_path: Path) -> None:
    """Score banks, thresholds, a second model, an auxiliary branch: all come back to the bit."""
    method = {"name": name, "burn_in": 6, "ema": {"decay": 0.9}, **METHODS[name]}
    parts = PARTS.get(name, 1)
    config = small_config(tmp_path, method=method, train__steps=32, train__eval_every=0, train__accumulate=parts)
    command = train_command(config, tmp_path / "calm", *seen_once(name))
    subprocess.run(command, check=True, env={**os.environ, **ONE_THREAD}, capture_output=True)
    command = train_command(config, tmp_path / "wild", *seen_once(name))
    longest = in_the_loop(tmp_path / "calm")
    record = kill_until_done(command, tmp_path / "wild", kills=1, longest=longest, after_save=True, env=ONE_THREAD)
    assert record.killed > 0
    assert difference(final_state(tmp_path / "calm"), final_state(tmp_path / "wild")) == []


@pytest.mark.slow
def test_workers_change_no_bit(tmp_path: Path) -> None:
    config = small_config(tmp_path, train__steps=10, train__eval_every=0, train__save_every=0)
    states = []
    for workers in (0, 2):
        out = tmp_path / f"w{workers}"
        command = train_command(config, out, f"train.workers={workers}")
        subprocess.run(command, check=True, env={**os.environ, **ONE_THREAD}, capture_output=True)
        state = final_state(out)
        del state["checkpoint"]["identity"]  # knows the number of workers
        states.append(state)
    assert difference(*states) == []

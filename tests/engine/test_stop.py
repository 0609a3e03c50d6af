"""Being stopped: politely at any moment, or not at all politely; the run ends the same in all cases."""

import json
import os
import signal
from itertools import pairwise
from pathlib import Path

import pytest

from ssod.engine.checkpointing import checkpoint
from ssod.utils.errors import Exit
from ssod.utils.signals import Signals, requested
from tests.engine import toy
from tests.engine.crash import difference, final_state, kill_until_done, wait_for
from tests.engine.fork import Job


def lines(folder: Path) -> list[dict]:
    path = folder / "metrics.jsonl"
    return [json.loads(x) for x in path.read_text().splitlines() if x.endswith("}")] if path.exists() else []


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, Exit.PREEMPTED), (signal.SIGUSR1, Exit.PREEMPTED), (signal.SIGINT, Exit.INTERRUPTED)],
)
def test_a_stopped_run_saves_and_goes_on(tmp_path: Path, number: int, code: Exit) -> None:
    options = {"steps": 40, "log_every": 1, "eval_every": 0, "save_every": 0}
    process = Job(tmp_path / "run", pace=0.1, **options)
    wait_for(lambda: len(lines(tmp_path / "run")) > 3)
    process.signal(number)
    ended, error = process.wait()
    assert ended == code, error
    assert error.count("ssod: error:") == 1
    assert f"state saved; run it again with -o {tmp_path / 'run'} to go on" in error
    assert "Traceback" not in error
    assert json.loads((tmp_path / "run/exit.json").read_text())["code"] == code
    saved = checkpoint.load(tmp_path / "run/checkpoints/last.pt")["step"]
    assert saved == lines(tmp_path / "run")[-1]["step"], "no step is lost"
    toy.run(tmp_path / "run", **options)
    toy.run(tmp_path / "whole", **options)
    assert difference(final_state(tmp_path / "whole"), final_state(tmp_path / "run")) == []
    assert json.loads((tmp_path / "run/exit.json").read_text())["code"] == 0


def test_a_stop_during_an_evaluation_is_made_up_for(tmp_path: Path) -> None:
    """The evaluation is given up, the state saved, and the same evaluation is made after the restart."""
    options = {"steps": 8, "log_every": 4, "eval_every": 4}
    process = Job(tmp_path / "run", slow_eval=True, **options)
    wait_for((tmp_path / "run/evaluating").exists)
    process.signal(signal.SIGTERM)
    code, error = process.wait()
    assert code == Exit.PREEMPTED, error
    state = checkpoint.load(tmp_path / "run/checkpoints/last.pt")
    assert (state["step"], state["pending"], state["metrics"]) == (4, True, {})
    toy.run(tmp_path / "run", **options)
    toy.run(tmp_path / "whole", **options)
    assert difference(final_state(tmp_path / "whole"), final_state(tmp_path / "run")) == []


def test_a_stop_in_the_made_up_evaluation_is_heard_too(tmp_path: Path) -> None:
    options = {"steps": 4, "log_every": 4, "eval_every": 4}
    for _ in range(2):
        process = Job(tmp_path / "run", slow_eval=True, **options)
        wait_for((tmp_path / "run/evaluating").exists)
        process.signal(signal.SIGTERM)
        code, error = process.wait()
        assert code == Exit.PREEMPTED, error
        (tmp_path / "run/evaluating").unlink()
    assert toy.run(tmp_path / "run", **options)["AP"] > 0


def test_a_second_ctrl_c_ends_at_once() -> None:
    with pytest.raises(KeyboardInterrupt), Signals() as signals:  # noqa: PT012
        os.kill(os.getpid(), signal.SIGINT)
        assert signals.code == requested() == Exit.INTERRUPTED
        os.kill(os.getpid(), signal.SIGINT)
    assert requested() == 0


def test_handlers_are_put_back_and_nested_listeners_inherit() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Signals() as outer:
        os.kill(os.getpid(), signal.SIGUSR1)
        assert outer.code == Exit.PREEMPTED
        with Signals() as inner:
            assert inner.code == Exit.PREEMPTED
    assert signal.getsignal(signal.SIGTERM) == before


def test_sigkill_at_random_moments_changes_nothing(tmp_path: Path) -> None:
    """Three kills here; ``tests.engine.crash`` is what longer campaigns use."""
    options = {"steps": 60, "log_every": 3, "eval_every": 10, "save_every": 4}
    run = tmp_path / "run"
    record = kill_until_done(lambda: Job(run, pace=0.1, **options), run, kills=3, longest=0.5, after_save=True)
    assert record.killed == 3
    assert record.codes == [0]
    toy.run(tmp_path / "whole", **options)
    assert difference(final_state(tmp_path / "whole"), final_state(tmp_path / "run")) == []
    # Each start gets further than the one before; one that was killed in an evaluation, to the end of the evaluation.
    assert all(a < b or (a == b and b % 10 == 0) for a, b in pairwise(record.steps)), record.steps

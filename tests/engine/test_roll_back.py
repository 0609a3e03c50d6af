"""After a collapse a run goes back to its best teacher and goes on with other batches; a crash changes nothing."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from ssod.engine.checkpointing import checkpoint
from ssod.utils.errors import Exit, SsodError
from tests.engine import toy
from tests.engine.crash import difference, final_state
from tests.engine.test_resume import Cut, cut_at

APS = {4: 0.4, 8: 0.1, 12: 0.3}


def run(path: Path, aps: Mapping[int, float] = APS, **options: Any) -> toy.Trainer:
    """Train the toy; its teachers have these APs after these steps."""
    with toy.RunFolder(path) as folder:
        made = toy.trainer(
            folder,
            evaluate=lambda detector: {"AP": aps[made.step]},
            **{"on_collapse": "roll_back", **options},
        )
        made.fit()
    return made


def saved(path: Path, name: str = checkpoint.LAST) -> dict[str, Any]:
    return checkpoint.load(path / "checkpoints" / name)


def test_all_that_learns_goes_back_and_the_step_does_not(tmp_path: Path) -> None:
    with pytest.raises(Cut):
        run(tmp_path, wrap=cut_at(8))
    best, last = saved(tmp_path, checkpoint.BEST), saved(tmp_path)
    assert (best["step"], last["step"], last["setbacks"]) == (4, 8, 1)
    parts = ("method", "optimizer", "scaler", "best", "metrics")
    assert difference({k: best[k] for k in parts}, {k: last[k] for k in parts}) == []
    assert "step 8: back to the state of step 4 (1 of 3)" in (tmp_path / "train.log").read_text()
    ended = run(tmp_path)
    assert ended.record.last == {"AP": 0.3}
    assert saved(tmp_path)["setbacks"] == 1, "the best teacher is still that of step 4"


def test_without_it_the_collapsed_state_goes_on(tmp_path: Path) -> None:
    with pytest.raises(Cut):
        run(tmp_path / "back", wrap=cut_at(8))
    with pytest.raises(Cut):
        run(tmp_path / "warn", wrap=cut_at(8), on_collapse="warn", save_every=4)
    assert not (tmp_path / "warn/checkpoints/best.pt").exists()
    assert difference(saved(tmp_path / "back")["method"], saved(tmp_path / "warn")["method"]) != []


def test_a_log_without_warnings_still_goes_back(tmp_path: Path) -> None:
    with pytest.raises(Cut):
        run(tmp_path / "back", wrap=cut_at(8), warn_after=0)
    assert saved(tmp_path / "back")["setbacks"] == 1
    with pytest.raises(SsodError, match="the teacher collapsed"):
        run(tmp_path / "stop", warn_after=0, on_collapse="stop")


@pytest.mark.parametrize("step", [3, 5, 8, 10])
def test_a_crash_on_the_way_changes_nothing(tmp_path: Path, step: int) -> None:
    run(tmp_path / "whole")
    with pytest.raises(Cut):
        run(tmp_path / "cut", wrap=cut_at(step))
    run(tmp_path / "cut")
    assert difference(final_state(tmp_path / "whole"), final_state(tmp_path / "cut")) == []


def test_a_run_that_collapses_again_and_again_ends(tmp_path: Path) -> None:
    aps = {2: 0.4} | dict.fromkeys(range(4, 13, 2), 0.1)
    with pytest.raises(SsodError, match="collapsed again after 3 times") as error:
        run(tmp_path, aps, eval_every=2)
    assert error.value.code == Exit.DIVERGED
    assert (saved(tmp_path)["step"], saved(tmp_path)["pending"]) == (10, True)


def test_a_better_teacher_gives_it_all_its_chances_back(tmp_path: Path) -> None:
    aps = {2: 0.4, 4: 0.1, 6: 0.5, 8: 0.1, 10: 0.1, 12: 0.1}
    run(tmp_path, aps, eval_every=2)
    assert (saved(tmp_path)["setbacks"], saved(tmp_path, checkpoint.BEST)["step"]) == (3, 6)


def test_a_run_that_kept_no_best_state_says_so(tmp_path: Path) -> None:
    with pytest.raises(Cut):
        run(tmp_path, wrap=cut_at(6), on_collapse="warn")
    with pytest.raises(SsodError, match=r"no best.pt to go back to") as error:
        run(tmp_path)
    assert error.value.code == Exit.DIVERGED

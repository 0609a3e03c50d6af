"""Two processes learn what one does, agree on what to skip and when to stop, and never wait for the dead."""

import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
import torch

from ssod.engine.checkpointing import checkpoint
from ssod.evaluation.measure import evaluate
from ssod.utils import distributed
from ssod.utils.errors import Exit, SsodError
from tests.engine import toy
from tests.engine.crash import difference, final_state, wait_for
from tests.engine.fork import Pair, free_port
from tests.engine.test_stop import lines
from tests.evaluation.test_coco import TRUTH, Oracle, flipped_views
from tests.patience import LONG

EXACT = {"dropout": 0.0, "norm": False, "steps": 20, "log_every": 1, "eval_every": 0, "save_every": 5}


def losses(folder: Path) -> torch.Tensor:
    return torch.tensor([[r["sup/box"], r["sup/cls"], r.get("unsup/box", 0.0)] for r in lines(folder) if "lr" in r])


def test_two_ranks_learn_what_one_process_does(tmp_path: Path) -> None:
    ended = Pair(tmp_path / "two", **EXACT).wait()
    assert [code for code, _ in ended] == [0, 0], ended
    toy.run(tmp_path / "one", **EXACT)
    assert len(losses(tmp_path / "one")) == 20
    torch.testing.assert_close(losses(tmp_path / "two"), losses(tmp_path / "one"), rtol=1e-5, atol=1e-6)
    one, two = (final_state(tmp_path / name)["best"] for name in ("one", "two"))
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("parts", [1, 2])
def test_parts_of_one_process_learn_what_ranks_do(tmp_path: Path, parts: int) -> None:
    """Dropout and live batch norm, too: part j of rank r is, and draws, what rank r * parts + j would be and draw."""
    options = {"steps": 8, "log_every": 1, "eval_every": 0, "save_every": 0}
    ended = Pair(tmp_path / "two", accumulate=parts, **options).wait()
    assert [code for code, _ in ended] == [0, 0], ended
    toy.run(tmp_path / "one", accumulate=2 * parts, **options)
    assert len(losses(tmp_path / "one")) == 8
    torch.testing.assert_close(losses(tmp_path / "two"), losses(tmp_path / "one"), rtol=1e-5, atol=1e-6)
    one, two = (checkpoint.load(tmp_path / name / "checkpoints/last.pt") for name in ("one", "two"))
    for name, value in one["method"].items():
        torch.testing.assert_close(two["method"][name], value, rtol=1e-5, atol=1e-6)
    for rank in two["ranks"]:
        for name, value in rank["buffers"].items():
            torch.testing.assert_close(value, one["method"][name], rtol=1e-5, atol=1e-6)


def test_two_ranks_resume_bit_for_bit_with_live_batch_norm(tmp_path: Path) -> None:
    """A stop in the middle of a window and of a save interval."""
    options = {"steps": 14, "log_every": 5, "eval_every": 0, "save_every": 0, "accumulate": 2}
    pair = Pair(tmp_path / "run", pace=0.3, **options)
    wait_for(lambda: len(lines(tmp_path / "run")) > 0)
    pair.ranks[1].signal(signal.SIGTERM)  # only one rank hears it; both stop
    ended = pair.wait()
    assert [code for code, _ in ended] == [Exit.PREEMPTED] * 2, ended
    state = checkpoint.load(tmp_path / "run/checkpoints/last.pt")
    assert 5 <= state["step"] < 14
    with pytest.raises(SsodError, match="saved with 2 processes, now 1"):
        toy.run(tmp_path / "run", **options)
    pairs = [Pair(tmp_path / name, **options) for name in ("run", "whole")]
    assert [code for pair in pairs for code, _ in pair.wait()] == [0] * 4
    assert difference(final_state(tmp_path / "whole"), final_state(tmp_path / "run")) == []


def test_live_batch_norm_has_the_statistics_of_all_ranks(tmp_path: Path) -> None:
    """One teacher, whichever rank measures or writes it; after one step its mean is that of the whole batch."""
    ended = Pair(tmp_path / "two", steps=1).wait()
    assert [code for code, _ in ended] == [0, 0], ended
    toy.run(tmp_path / "one", steps=1)
    one, two = (checkpoint.load(tmp_path / name / "checkpoints/last.pt") for name in ("one", "two"))
    for model in ("student", "teacher.model"):
        means = [rank["buffers"][f"{model}.norm.running_mean"] for rank in two["ranks"]]
        assert torch.equal(*means)
        torch.testing.assert_close(means[0], one["method"][f"{model}.norm.running_mean"])
        assert torch.equal(*(rank["buffers"][f"{model}.norm.running_var"] for rank in two["ranks"]))


def test_a_loss_that_is_nan_on_one_rank_is_skipped_by_both(tmp_path: Path) -> None:
    """The poisoned rank has live batch norm: its statistics must not suffer either."""
    options = {"steps": 12, "log_every": 1, "eval_every": 0, "save_every": 0}
    ended = Pair(tmp_path / "run", only=1, at=5, act="nan", **options).wait()
    assert [code for code, _ in ended] == [0, 0], ended
    assert [r["step"] for r in lines(tmp_path / "run") if r.get("skipped")] == [6]
    state = checkpoint.load(tmp_path / "run/checkpoints/last.pt")
    for rank in state["ranks"]:
        assert all(bool(v.isfinite().all()) for v in rank["buffers"].values())
    log = (tmp_path / "run/train.log").read_text()
    assert "loss sup/box = nan is out of range; skipped (1 of 3)" in log


def measure(rank: int, port: int, path: Path) -> None:
    """Evaluate every other view on this rank; both ranks must return the same."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), WORLD_SIZE="2", RANK=str(rank))
    views, found = flipped_views()
    with distributed.job(torch.device("cpu")):
        metrics = evaluate(Oracle(found), views[rank::2], TRUTH, device="cpu")
    (path / f"{rank}.json").write_text(json.dumps(metrics))


def test_an_evaluation_is_shared_among_ranks(tmp_path: Path) -> None:
    port, context = free_port(), multiprocessing.get_context("fork")
    ranks = [context.Process(target=measure, args=(rank, port, tmp_path)) for rank in range(2)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(LONG)
    views, found = flipped_views()
    alone = evaluate(Oracle(found), views, TRUTH, device="cpu")
    assert alone["AP"] == pytest.approx(1)
    for rank in range(2):
        assert json.loads((tmp_path / f"{rank}.json").read_text()) == pytest.approx(alone, rel=0, abs=0, nan_ok=True)


@pytest.mark.parametrize(("act", "codes"), [("kill", (-9, {8})), ("fail", (3, {8}))])
def test_when_a_rank_dies_the_other_does_not_wait(tmp_path: Path, act: str, codes: tuple) -> None:
    pair = Pair(tmp_path / "run", only=1, at=4, act=act, steps=200, pace=0.01, timeout=2 * LONG)
    (zero, error), (one, other) = pair.wait()
    assert one == codes[0], other
    assert zero in codes[1], error
    assert (error + other).count("Traceback") == 0
    message = json.loads((tmp_path / "run/exit.json").read_text())
    assert message["code"] == (Exit.DATA if act == "fail" else Exit.DISTRIBUTED)


def test_a_rank_that_fails_does_not_wait_for_the_others_to_leave(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NCCL leaves a job when all ranks do, and the others wait in a collective; here leaving takes forever."""
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: time.sleep(1000))
    pair = Pair(tmp_path / "run", only=1, at=4, act="fail", steps=200, pace=0.01)
    code, error = pair.ranks[1].wait()
    pair.ranks[0].signal(signal.SIGKILL)
    pair.ranks[0].wait()
    assert code == Exit.DATA
    assert error.endswith("ssod: error: x.jpg: truncated image; copy it again\n")


def test_a_rank_that_ends_well_leaves_the_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left = tmp_path / "left"
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: left.open("a").write("x"))
    ended = Pair(tmp_path / "run", steps=2).wait()
    assert [code for code, _ in ended] == [0, 0], ended
    assert left.read_text() == "xx"


def test_a_rank_that_hangs_is_given_up(tmp_path: Path) -> None:
    pair = Pair(tmp_path / "run", only=1, at=4, act="stop", steps=200, pace=0.01, timeout=5)
    code, error = pair.ranks[0].wait()
    pair.ranks[1].signal(signal.SIGKILL)
    pair.ranks[1].wait()
    assert code == Exit.DISTRIBUTED, error
    assert "ssod: error: rank 0: another rank died or is late" in error


def refused(rank: int, port: int, path: Path) -> None:
    """Let ranks be refused or not, each by its own; write down what each raises, and who tells it."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), WORLD_SIZE="2", RANK=str(rank))
    said = []
    with distributed.job(torch.device("cpu")):
        for errors in ([None, None], ["a", "a"], ["a", "b"], [None, "b"]):

            def work(mine: str | None = errors[rank]) -> int:
                if mine is not None:
                    raise SsodError(mine, "", "wrong", "mend it")
                return rank

            try:
                said.append([distributed.together(work), None])
            except SsodError as error:
                said.append([error.file, error.teller])
    (path / f"{rank}.json").write_text(json.dumps(said))


def test_what_several_ranks_have_is_told_by_the_lowest(tmp_path: Path) -> None:
    port, context = free_port(), multiprocessing.get_context("fork")
    ranks = [context.Process(target=refused, args=(rank, port, tmp_path)) for rank in range(2)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(LONG)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert first == [[0, None], ["a", 0], ["a", 0], ["b", 1]]
    assert second == [[1, None], ["a", 0], ["b", 1], ["b", 1]]

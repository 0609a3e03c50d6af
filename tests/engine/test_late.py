"""Where the device decides by itself whether a step is made, and the host reads it a step late, as on a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from ssod.engine import optim
from ssod.engine.checkpointing import checkpoint
from ssod.engine.step import Step
from ssod.engine.trainer import Trainer
from ssod.utils.errors import Exit, SsodError
from tests.engine import toy
from tests.engine.crash import difference
from tests.engine.test_guard import TRANSIENT, build, finite
from tests.waits import Waits

SGD, ADAMW = {"name": "sgd", "momentum": 0.9, "nesterov": True}, {"name": "adamw"}
QUIET: dict[str, Any] = {"log_every": 0, "eval_every": 0, "save_every": 0}
LAST = "checkpoints/last.pt"


@pytest.fixture(autouse=True)
def fused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Treat this CPU as a GPU is treated."""
    monkeypatch.setattr(optim, "FUSED", {"cpu"})


def learned(trainer: Trainer, late: bool) -> dict[str, Any]:
    """All that is known after the last step; with ``late`` off, the host decides before the optimiser."""
    trainer.stepper.late = late
    if trainer.cfg.precision == "fp16":
        trainer.stepper.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    trainer.fit()
    return trainer.state_dict()


@pytest.mark.parametrize("more", [{}, {"ema": {"rule": "copy", "every": 3}}, {"burn_in": 6}], ids=["", "copy", "burn"])
@pytest.mark.parametrize(("where", "optimizer"), [*((where, SGD) for where in TRANSIENT), ("target", ADAMW)])
def test_the_device_decides_as_the_host_would(tmp_path: Path, where: str, optimizer: dict, more: dict) -> None:
    """Bit for bit, whatever was not finite: weights, teacher, buffers, momentum, what the log will tell."""
    states = []
    for late in (True, False):
        with toy.RunFolder(tmp_path / str(late)) as folder:
            trainer = build(folder, TRANSIENT[where][0], 1, steps=8, **QUIET, optimizer=optimizer, method=more)
            states.append(learned(trainer, late))
    assert difference(*states) == []
    assert states[0]["ranks"][0]["window"] == states[1]["ranks"][0]["window"]
    assert finite(states[0])


def test_an_overflow_of_fp16_halves_the_scale_and_nothing_else(tmp_path: Path) -> None:
    states = []
    for late in (True, False):
        with toy.RunFolder(tmp_path / str(late)) as folder:
            trainer = toy.trainer(folder, precision="fp16", norm=False, **QUIET | {"steps": 40})
            states.append(learned(trainer, late))
    assert difference(*states) == []
    assert states[0]["scaler"]["scale"] < 2.0**39
    assert finite(states[0])


@pytest.mark.parametrize("optimizer", [SGD, ADAMW], ids=["sgd", "adamw"])
def test_a_first_step_that_is_skipped_leaves_no_trace(tmp_path: Path, optimizer: dict) -> None:
    with toy.RunFolder(tmp_path / "run") as folder:
        trainer = toy.trainer(folder, steps=1, **QUIET, optimizer=optimizer)
        trainer.method.register_forward_hook(lambda module, args, losses: losses | {"sup/box": losses["sup/box"] / 0})
        before = {name: value.clone() for name, value in trainer.method.state_dict().items()}
        trainer.fit()
    assert difference(before, trainer.method.state_dict()) == []
    kept = [value for state in trainer.stepper.optimizer.state.values() for value in state.values()]
    assert kept
    assert not any(value.any() for value in kept)


def test_what_was_saved_is_laid_out_as_the_weights_are() -> None:
    """A fused step refuses others; a state may come from a run without channels_last."""
    net = torch.nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    optimizer = optim.build(net, optim.SGD(), fused=True)
    saved = {name: {"momentum_buffer": torch.rand(p.shape)} for name, p in net.named_parameters()}
    assert optim.load_state(optimizer, net, saved) == 0
    kept = optimizer.state[net.weight]["momentum_buffer"]
    assert kept.stride() == net.weight.stride() != saved["weight"]["momentum_buffer"].stride()
    assert torch.equal(kept, saved["weight"]["momentum_buffer"])


@pytest.mark.counts_calls
def test_nothing_is_read_before_the_optimiser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step reads one thing, the verdict on the step before, when all of it is on its way."""
    done: list[str] = []
    for name in ("item", "tolist", "__bool__", "__float__", "__int__", "cpu", "numpy"):
        original = getattr(torch.Tensor, name)
        monkeypatch.setattr(torch.Tensor, name, lambda t, *a, f=original, n=name: (done.append(n), f(t, *a))[1])
    with toy.RunFolder(tmp_path / "run") as folder:
        trainer = toy.trainer(folder, steps=8, **QUIET, clip=1.0)
        stepper, steps = trainer.stepper, []
        move, finish, step = stepper.optimizer.step, stepper.finish, stepper.train_step

        def watched(batches: Iterator, number: int) -> Step:
            steps.append(list(done))
            done.clear()
            return step(batches, number)

        def counted(*args: Any) -> Step:
            with Waits() as waits:
                ended = finish(*args)
            assert (waits.masks, waits.copies) == (0, 0)
            return ended

        stepper.optimizer.step = lambda: (done.append("optimiser"), move())[1]
        stepper.finish, stepper.train_step = counted, watched
        trainer.fit()
    assert steps[1:2] == [["optimiser"]]
    assert steps[2:] == [["optimiser", "tolist"]] * 6


@pytest.mark.parametrize("where", TRANSIENT)
def test_a_streak_is_told_with_the_step_in_which_it_was(tmp_path: Path, where: str) -> None:
    hurt, words = TRANSIENT[where]
    with pytest.raises(SsodError) as caught, toy.RunFolder(tmp_path / "run") as folder:
        build(folder, hurt, 99, **QUIET | {"save_every": 5}).fit()
    assert (caught.value.code, caught.value.field) == (Exit.DIVERGED, "step 6")
    assert words in str(caught.value)
    assert "l6-0, l6-1" in str(caught.value)
    state = checkpoint.load(tmp_path / "run" / LAST)
    assert (state["step"], state["bad"]) == (5, 1), "the step before it was saved was bad, and known to be"
    assert finite(state)


def test_a_run_that_was_stopped_goes_on_to_the_same_end(tmp_path: Path) -> None:
    states = []
    for stops in (False, True):
        with toy.RunFolder(tmp_path / str(stops)) as folder:
            trainer = build(folder, TRANSIENT["loss"][0], 1, **QUIET)
            if stops:
                step = trainer.stepper.train_step

                def asked(batches: Iterator, number: int, step: Any = step, trainer: Trainer = trainer) -> Step:
                    trainer.signals.code = Exit.PREEMPTED if number == 4 else 0
                    return step(batches, number)

                trainer.stepper.train_step = asked
                with pytest.raises(SsodError, match="after step 6, state saved"):
                    trainer.fit()
                trainer = build(folder, TRANSIENT["loss"][0], 1, **QUIET)
            trainer.fit()
        states.append(checkpoint.load(tmp_path / str(stops) / LAST))
    assert difference(*states) == []

"""A step by itself: it needs no run, says what became of it, and is whole or not made at all."""

import copy

import pytest
import torch

from ssod.engine.stepper import Stepper
from ssod.engine.train_config import TrainConfig
from ssod.utils import collective
from ssod.utils.errors import Exit
from ssod.utils.signals import Signals
from tests.engine import toy
from tests.engine.crash import difference

NAN = float("nan")


def stepper(signals: Signals | None = None, **cfg: object) -> Stepper:
    settings = {"steps": 12, "lr": 0.05, "batch": toy.BATCH, **cfg}
    config = TrainConfig.model_validate(settings, context={"steps": 12})
    torch.manual_seed(7)
    method = toy.Method(toy.Detector(), toy.Config.model_validate({"burn_in": 0, "ema": {"decay": 0.9}}))
    return Stepper(method, config, signals or Signals())


def state(of: Stepper) -> dict:
    """A copy of all that has been learned."""
    return copy.deepcopy(of.state_dict())


def test_a_good_step_moves_student_and_teacher_and_tells_its_values() -> None:
    one = stepper()
    before = state(one)
    done = one.train_step(toy.batches(3, one.cfg), 3)
    assert (done.made, done.fault, done.images, done.stop) == (True, "", [], 0)
    assert {"sup/box", "unsup/box", "pseudo/threshold", "grad_norm"} <= done.values.keys()
    assert not any(value.requires_grad for value in done.values.values())
    moved = difference(before["method"], one.state_dict()["method"])
    assert {"/student.head.weight", "/teacher.model.head.weight", "/bank"} <= set(moved)
    assert one.state_size() == sum(
        value.numel() * value.element_size()
        for part in (one.state_dict()["method"], *one.state_dict()["optimizer"].values())
        for value in part.values()
    )


def test_a_bad_step_changes_nothing_and_names_fault_and_images() -> None:
    one = stepper()
    one.train_step(toy.batches(3, one.cfg), 3)
    before = state(one)
    batch = next(toy.batches(4, one.cfg))
    batch.labeled.images[0, 0, 4, 4] = NAN
    done = one.train_step(iter([batch]), 4)
    assert (done.made, done.values) == (False, {})
    assert done.fault == "loss sup/box = nan"
    assert done.images == batch.labeled.ids
    assert difference(before["method"], one.state_dict()["method"]) == []


def test_an_overflow_of_fp16_is_no_fault() -> None:
    one = stepper(precision="fp16")
    one.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**60)
    done = one.train_step(toy.batches(3, one.cfg), 3)
    assert (done.made, done.fault) == (False, "")
    assert one.scaler.get_scale() == 2.0**59


def test_a_step_says_that_the_run_is_to_stop_after_it() -> None:
    signals = Signals()
    one = stepper(signals)
    signals.code = Exit.PREEMPTED
    done = one.train_step(toy.batches(3, one.cfg), 3)
    assert (done.made, done.stop) == (True, Exit.PREEMPTED)


class Banks(torch.nn.Module):
    """One buffer that all ranks share, and one of each rank."""

    alike = ("shared",)

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("shared", torch.zeros(2))
        self.register_buffer("own", torch.zeros(2))


def test_what_all_ranks_share_is_kept_once(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = stepper(), stepper()
    for each in (one, other):
        each.method.banks = Banks()
    one.method.banks.shared += 1
    one.method.banks.own += 2
    assert one.own_buffers() == {}
    monkeypatch.setattr(collective, "active", lambda: True)
    kept = one.own_buffers()
    assert {"banks.own", "bank", "student.norm.running_mean"} <= kept.keys()
    assert "banks.shared" not in kept
    saved = state(one)
    saved["method"]["banks.own"].zero_()  # that of rank 0
    other.load_state_dict(saved, kept)
    assert difference(one.state_dict()["method"], other.state_dict()["method"]) == []


def test_what_was_learned_is_put_back() -> None:
    one, other = stepper(), stepper()
    one.train_step(toy.batches(3, one.cfg), 3)
    saved = state(one)
    assert other.load_state_dict(saved, {}) == 0
    for each in (one, other):
        each.train_step(toy.batches(4, each.cfg), 4)
    assert difference(one.state_dict(), other.state_dict()) == []
    assert difference(saved["method"], one.state_dict()["method"]) != []
    assert stepper(optimizer={"name": "adamw"}).load_state_dict(saved, {}) == len(saved["optimizer"])

"""The parts of a step, by themselves: what they tell one another, what each starts from, and what is left of them."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from ssod.engine.micro_batches import MicroBatches
from ssod.engine.stepper import Stepper
from ssod.engine.train_config import TrainConfig
from ssod.structures import Batch
from ssod.utils import collective
from ssod.utils.signals import Signals
from tests.engine import toy
from tests.engine.crash import difference


class Script:
    """A learner whose parts are numbers, and what they do a function of (number, step, log)."""

    def __init__(self, act: Callable[[float, int, list], Tensor | None]) -> None:
        self.act, self.method, self.guard = act, nn.Module(), self
        self.method.stats = {}
        self.log: list = []

    def restore(self) -> None:
        """There is no buffer."""

    def seed(self, step: int, part: int) -> None:
        self.log.append(f"{part}")

    def look(self, part: float, step: int) -> None:
        self.log.append("look")
        self.act(part, step, self.log)

    def learn(self, part: float, step: int, *, last: bool) -> dict[str, Tensor]:
        self.log.append("last" if last else "learn")
        loss = self.act(part, step, self.log)
        self.method.stats = {"part": torch.tensor(part)}
        return {"loss": torch.zeros(()) if loss is None else loss}


def test_an_answer_that_scales_is_not_waited_for_and_one_that_decides_is() -> None:
    def act(part: float, step: int, log: list) -> Tensor:
        mean = collective.mean_over_ranks(torch.tensor(part))
        log.append("go on")
        rows = collective.all_gather_rows(torch.full((int(part),), part))
        log.append("decided")
        total = collective.sum_over_ranks(rows.sum())
        log.append("done")
        return mean + total

    script = Script(act)
    losses = MicroBatches(script).learn([1.0, 3.0], 0)
    assert float(losses["loss"]) == 2.0 + 2 * (1 + 9)
    assert script.method.stats == {"part": torch.tensor(2.0)}
    assert collective.shares() == 1
    ended = ["go on", "decided", "done"]
    first = ["0", "look", "go on", "1", "look", "go on"]
    second = ["0", "look", *ended, "1", "look", "go on", "decided"]  # the second part has nothing more to tell
    assert script.log == [*first, *second, "0", "learn", *ended, "1", "last", *ended]


def test_a_step_that_exchanges_nothing_has_no_first_pass_once_that_is_known() -> None:
    script = Script(lambda part, step, log: None)
    batches = MicroBatches(script)
    for step in range(2):
        script.log.clear()
        batches.learn([1.0, 2.0], step)
    assert script.log == ["0", "learn", "1", "last"]


def test_a_step_may_exchange_more_than_the_one_before_it_or_less() -> None:
    def act(part: float, step: int, log: list) -> Tensor:
        total = torch.zeros(())
        for _ in range(step):
            total = total + collective.sum_over_ranks(torch.tensor(part))
        return total

    script = Script(act)
    batches = MicroBatches(script)
    for step in (0, 2, 3, 1, 0, 1):
        assert float(batches.learn([1.0, 2.0], step)["loss"]) == 3 * step
        assert batches.exchanges == step


def test_parts_that_exchange_at_different_times_are_an_error() -> None:
    def some(part: float, step: int, log: list) -> None:
        if part == 1:
            collective.mean_over_ranks(torch.tensor(part))

    with pytest.raises(RuntimeError, match="of 2 parts of a step, 1 take part"):
        MicroBatches(Script(some)).learn([1.0, 2.0], 0)
    assert collective.shares() == 1
    batches = MicroBatches(Script(some))
    batches.exchanges = 0
    with pytest.raises(RuntimeError, match="part 1 of a step exchanges more than part 0"):
        batches.learn([2.0, 1.0], 0)


def test_what_costs_much_is_made_once_for_each_part() -> None:
    def act(part: float, step: int, log: list) -> Tensor:
        made = [collective.once(lambda i=i: log.append("made") or part + i, lambda x: -x) for i in range(2)]
        collective.all_gather_rows(torch.ones(1))
        return torch.tensor(sum(made))

    script = Script(act)
    losses = MicroBatches(script).learn([1.0, 2.0, 3.0], 0)
    assert float(losses["loss"]) == -(2 * 2 + 1)
    assert script.log.count("made") == 6
    assert collective.once(lambda: 4, lambda x: -x) == 4


# ---- a real step -------------------------------------------------------------------------------------------------


def stepper(accumulate: int, burn_in: int = 0, **cfg: object) -> Stepper:
    settings = {"steps": 12, "lr": 0.05, "batch": toy.BATCH, "accumulate": accumulate, **cfg}
    config = TrainConfig.model_validate(settings, context={"steps": 12})
    torch.manual_seed(7)
    method = toy.Method(toy.Detector(), toy.Config.model_validate({"burn_in": burn_in, "ema": {"decay": 0.9}}))
    return Stepper(method, config, Signals())


def test_batch_norm_and_counters_are_those_of_ranks() -> None:
    """Each part begins with the statistics that the step begins with; their mean is kept, and a bank moves once."""
    four, ranks = stepper(4), []
    parts = [next(batches) for batches in [toy.batches(3, four.cfg)] for _ in range(4)]
    for part in parts:
        alone = stepper(1, batch={"labeled": 1, "unlabeled": 1})
        alone.method(part, 3)
        ranks.append(dict(alone.method.student.named_buffers()))
    start = dict(copy.deepcopy(four.method.student).named_buffers())
    done = four.train_step(iter(parts), 3)
    assert done.made
    found = dict(four.method.student.named_buffers())
    for name in ("norm.running_mean", "norm.running_var"):
        assert not torch.allclose(found[name], start[name])
        torch.testing.assert_close(found[name], torch.stack([r[name] for r in ranks]).mean(0))
    assert int(found["norm.num_batches_tracked"]) == int(ranks[0]["norm.num_batches_tracked"])
    wanted = [four.method.teacher.predict(p.weak).maps for p in parts]
    assert int(four.method.seen) == len(wanted[0])
    assert bool((four.method.bank != 0).all())


@pytest.mark.parametrize("known", [None, 0, 1, 5])
def test_what_was_exchanged_before_changes_no_bit(known: int | None) -> None:
    """A run that goes on does not know it."""
    one, other = stepper(2), stepper(2)
    other.micro_batches.exchanges = known
    for step in (3, 4):
        for made in (one, other):
            assert made.train_step(toy.batches(step, made.cfg), step).made
    assert difference(one.state_dict(), other.state_dict()) == []


def test_a_step_in_parts_that_is_skipped_leaves_no_trace() -> None:
    one = stepper(2)
    assert one.train_step(toy.batches(3, one.cfg), 3).made
    before = copy.deepcopy(one.state_dict())
    batches = [next(b) for b in [toy.batches(4, one.cfg)] for _ in range(2)]
    batches[1].labeled.images[0, 0, 4, 4] = float("nan")
    done = one.train_step(iter(batches), 4)
    assert not done.made
    assert (done.fault, done.images) == ("loss sup/box = nan", [i for b in batches for i in b.labeled.ids])
    assert difference(before["method"], one.state_dict()["method"]) == []


def test_an_overflow_of_fp16_halves_the_scale() -> None:
    one = stepper(2, precision="fp16")
    one.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**60)
    done = one.train_step(toy.batches(3, one.cfg), 3)
    assert (done.made, done.fault) == (False, "")
    assert one.scaler.get_scale() == 2.0**59


def test_an_error_in_a_part_ends_the_exchange() -> None:
    class Failing(toy.Method):
        def forward(self, batch: Batch, step: int) -> dict[str, Tensor]:
            losses = super().forward(batch, step)
            if "l3-2" in batch.labeled.ids:
                raise ValueError("no")
            return losses

    one = stepper(2)
    one.method.__class__ = Failing
    one.micro_batches.exchanges = 1
    with pytest.raises(ValueError, match="no"):
        one.train_step(toy.batches(3, one.cfg), 3)
    assert collective.shares() == 1

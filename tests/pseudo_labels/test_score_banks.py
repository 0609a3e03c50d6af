"""Score banks of each rank and part by itself: as of one GPU that knows of no other, however a batch is divided."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ssod import build
from ssod.config import load
from ssod.data import datasets
from ssod.pseudo_labels.threshold import GmmThreshold, divide
from ssod.structures import Targets
from ssod.utils import distributed
from tests.engine.fork import free_port
from tests.parts import together
from tests.pseudo_labels.test_threshold import found
from tests.small import small_config
from tests.test_methods import detector, method
from tests.test_micro_batches import STEP, cut, stepper, whole

K, SIZE, STEPS = 3, 20, 5
Kept = list[list[Tensor]]


def share(number: int, step: int) -> list[Targets]:
    """What one of several parts finds at a step: parts differ in what they see, and one sees nothing at first."""
    rng = np.random.default_rng(100 * step + number)
    n = 0 if (step, number) == (0, 1) else 6 + 3 * number
    return [found(rng.integers(0, K, n).tolist(), (rng.random(n) ** (number + 1)).clip(0.01).tolist())]


def own(parts: int = 1) -> GmmThreshold:
    threshold = GmmThreshold(K, size=SIZE, banks="rank")
    divide(nn.ModuleList([threshold]), parts)
    return threshold


def alone(number: int) -> tuple[GmmThreshold, list[Tensor]]:
    """A process that knows of no other."""
    threshold = GmmThreshold(K, size=SIZE)
    return threshold, [threshold(share(number, step))[0].scores for step in range(STEPS)]


def in_parts(threshold: GmmThreshold, numbers: range) -> Kept:
    """Let the parts of one process take their turns, each from the buffers that the step began with."""
    kept: Kept = [[] for _ in numbers]
    for step in range(STEPS):
        before = {name: value.clone() for name, value in threshold.state_dict().items()}

        def turn(number: int, before: dict[str, Tensor] = before, step: int = step) -> Tensor:
            threshold.load_state_dict(before)
            return threshold(share(number, step))[0].scores

        calls: list[Callable[[], Tensor]] = [partial(turn, number) for number in numbers]
        for scores, found_ in zip(kept, together(calls)[0]):
            scores.append(found_)
    return kept


def work(rank: int, port: int, folder: Path, parts: int) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), WORLD_SIZE="2", RANK=str(rank))
    threshold = own(parts)
    with distributed.job(torch.device("cpu")):
        kept = in_parts(threshold, range(rank * parts, (rank + 1) * parts))
    torch.save((threshold.state_dict(), kept), folder / f"{rank}.pt")


def same(state: dict[str, Tensor], kept: Kept, numbers: range) -> None:
    """Bank by bank, and label by label, what each of ``numbers`` has alone."""
    singles = [alone(number) for number in numbers]
    for name, value in state.items():
        assert torch.equal(value, torch.cat([single.state_dict()[name] for single, _ in singles])), name
    for scores, (_, wanted) in zip(kept, singles, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(scores, wanted, strict=True))


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_each_part_has_a_bank_of_its_own(parts: int) -> None:
    threshold = own(parts)
    kept = in_parts(threshold, range(parts))
    same(threshold.state_dict(), kept, range(parts))
    assert threshold.stats["threshold"].shape == (K,)


@pytest.mark.parametrize("parts", [1, 2])
def test_each_rank_has_banks_of_its_own(tmp_path: Path, parts: int) -> None:
    context, port = multiprocessing.get_context("fork"), free_port()
    ranks = [context.Process(target=work, args=(rank, port, tmp_path, parts), daemon=True) for rank in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(60)
    assert [process.exitcode for process in ranks] == [0, 0]
    for rank in range(2):
        same(*torch.load(tmp_path / f"{rank}.pt"), range(rank * parts, (rank + 1) * parts))


def consistent_teacher() -> nn.Module:
    threshold = {"name": "gmm", "size": SIZE, "banks": "rank"}
    return method("consistent_teacher", detector("fcos"), threshold=threshold)


@pytest.mark.parametrize("parts", [2, 4])
def test_a_step_leaves_the_bank_of_every_part(parts: int) -> None:
    """Each part of a real step labels, and remembers, as a process that was given its images alone."""
    m = consistent_teacher()
    divide(m, parts)
    batches = cut(whole(m), parts)
    assert stepper(m, parts).train_step(iter(batches), STEP).made
    banks, values = m.threshold.bank.scores.split(K), m.threshold.values.split(K)
    for number, batch in enumerate(batches):
        one = consistent_teacher()
        with torch.no_grad():
            one.labels(batch, STEP)
        assert one.threshold.bank.fill() > 0
        torch.testing.assert_close(banks[number], one.threshold.bank.scores)
        torch.testing.assert_close(values[number], one.threshold.values)
    assert not torch.equal(banks[0], banks[1])


@pytest.mark.parametrize(("banks", "wanted"), [("rank", 3), ("shared", 1)])
def test_a_run_has_a_bank_for_each_of_its_parts(tmp_path: Path, banks: str, wanted: int) -> None:
    """Before its state is loaded, which has as many."""
    section = f"method={{name: consistent_teacher, start: 0, threshold: {{name: gmm, size: {SIZE}, banks: {banks}}}}}"
    cfg = load(small_config(tmp_path), ["train.accumulate=3", "train.batch={labeled: 3, unlabeled: 3}", section])
    data = datasets.load(cfg.data)
    m = build.build_method(cfg, data, pretrained=False)
    assert m.threshold.bank.scores.shape == (wanted * len(data.classes.names), SIZE)
    assert m.threshold.values.shape == (wanted * len(data.classes.names),)


def test_banks_that_are_shared_are_one() -> None:
    """What is not asked for does not change: the same buffers in any number of parts."""
    threshold = GmmThreshold(K, size=SIZE)
    divide(nn.ModuleList([threshold]), 4)
    assert {name: value.shape for name, value in threshold.state_dict().items()} == {
        "values": (K,),
        "bank.scores": (K, SIZE),
    }
    kept = in_parts(threshold, range(2))
    whole = GmmThreshold(K, size=SIZE)
    for step in range(STEPS):
        both = whole([t for number in range(2) for t in share(number, step)])
        assert [len(scores[step]) for scores in kept] == [len(t) for t in both]
    assert torch.equal(threshold.values, whole.values)


def test_a_part_without_a_bank_says_so() -> None:
    with pytest.raises(ValueError, match="part 1 of a step has no score bank"):
        in_parts(GmmThreshold(K, size=SIZE, banks="rank"), range(2))

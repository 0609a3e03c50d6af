"""tools/bench_d2.py: both loops make real steps on one batch, with the same weights."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("detectron2", reason="detectron2 is not installed")

from tools.bench_d2 import Result, main

TINY = ["--depth", "18", "--size", "64", "--batch", "1", "--rounds", "2", "--device", "cpu", "--cpu-time"]


def test_both_loops_learn_the_same(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from tools import bench_d2

    plain, seen = bench_d2.pair, []
    monkeypatch.setattr(bench_d2, "pair", lambda *args: seen.append(plain(*args)) or seen[-1])
    found = main(TINY)
    assert isinstance(found, Result)
    assert len(found.ours) == len(found.theirs) == 2
    assert found.ratio > 0.2
    assert "ratio" in capsys.readouterr().out
    ours, theirs = seen[0]
    # Dense losses do not depend on the sample that either draws: the same gradient reaches the first layer of the RPN.
    pairs = zip(ours.method.student.named_parameters(), theirs.model.named_parameters())
    for (name, a), (other, b) in pairs:
        assert name == other
        assert torch.equal(a, b), name  # the rate is 0
        assert a.grad is not None
        assert b.grad is not None
    assert len(ours.optimizer.state) == len(ours.parameters)
    assert theirs.storage.latest()["total_loss"][0] > 0


def test_the_ratio_is_that_of_the_medians() -> None:
    assert Result([1.0, 9.0, 2.0], [1.0, 4.0, 0.5]).ratio == 2.0

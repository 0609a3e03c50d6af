"""The teacher follows as Consistent-Teacher's does, copies buffers, and never trains."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from ssod.engine.ema import EMA, warm_decay
from tests.paths import golden_path

GOLDEN = np.load(golden_path("box_transfer_and_ema.npz"))
CASES = [c for c in json.loads(str(GOLDEN["cases_json"])) if c["name"] == "ema"]


class Weights(nn.Module):
    def __init__(self, values: np.ndarray) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.from_numpy(values.copy()))


def momentum(case: dict, t: int) -> float:
    """``min(m, 1 - (1 + w) / (t + 1 + w))`` of the reference, which counts from 0; warm_decay where w = 0."""
    w = case["warm_up"]
    return warm_decay(case["max_momentum"], t) if w == 0 else min(case["max_momentum"], 1 - (1 + w) / (t + 1 + w))


@pytest.mark.parametrize("case", CASES, ids=lambda c: c["id"])
def test_the_teacher_moves_as_the_reference(case: dict) -> None:
    students, wanted = GOLDEN[f"{case['id']}.student_at_iter"], GOLDEN[f"{case['id']}.teacher_after_update"]
    ema = EMA(Weights(students[0]))
    for t in range(case["iterations"]):
        decay = momentum(case, t)
        assert decay == pytest.approx(GOLDEN[f"{case['id']}.momentum"][t], abs=1e-12)
        ema.update(Weights(students[t]), decay)
        np.testing.assert_allclose(ema.model.values.numpy(), wanted[t], rtol=1e-6, atol=1e-8)


def test_the_schedule_of_the_momentum() -> None:
    for t, a, b in zip(GOLDEN["ema_table.iteration"], GOLDEN["ema_table.m_0999"], GOLDEN["ema_table.m_09995"]):
        assert warm_decay(0.999, int(t)) == pytest.approx(a, abs=1e-12)
        assert warm_decay(0.9995, int(t)) == pytest.approx(b, abs=1e-12)


def net() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout(0.5))


def test_no_decay_copies_bit_for_bit_and_buffers_are_always_copied() -> None:
    student, ema = net(), EMA(net())
    student(torch.randn(2, 3, 4, 4))
    ema.update(student, 0.99)
    assert torch.equal(ema.model[1].running_mean, student[1].running_mean)
    assert ema.model[1].num_batches_tracked == 1
    assert not torch.equal(ema.model[0].weight, student[0].weight)
    ema.update(student, 0.0)
    assert all(torch.equal(a, b) for a, b in zip(ema.model.state_dict().values(), student.state_dict().values()))


def test_the_teacher_stays_in_eval_mode_without_gradients() -> None:
    ema = EMA(net()).train()
    assert not any(m.training for m in ema.modules())
    assert not any(p.requires_grad for p in ema.parameters())
    nn.ModuleList([ema]).train()
    assert not ema.model[2].training


def test_the_student_does_not_move() -> None:
    student = net()
    before = {k: v.clone() for k, v in student.state_dict().items()}
    EMA(net()).update(student, 0.5)
    assert all(torch.equal(before[k], v) for k, v in student.state_dict().items())

"""The teacher follows as Consistent-Teacher's does, copies buffers, and never trains."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from ssod.methods.config import EmaConfig
from ssod.methods.teachers import Copy, Ema, Stopped, build_teacher
from tests.paths import golden_path

GOLDEN = np.load(golden_path("box_transfer_and_ema.npz"))
CASES = [c for c in json.loads(str(GOLDEN["cases_json"])) if c["name"] == "ema"]


class Weights(nn.Module):
    def __init__(self, values: np.ndarray) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.from_numpy(values.copy()))


def ema(student: nn.Module, decay: float = 0.999, start: int = 0) -> Ema:
    return Ema(student, decay=decay, warm_up=True, start=start)


def momentum(case: dict, t: int) -> float:
    """``min(m, 1 - (1 + w) / (t + 1 + w))`` of the reference, which counts from 0; ``Ema.decay`` where w = 0."""
    w = case["warm_up"]
    if w == 0:
        return ema(net(), case["max_momentum"]).decay(t - 1)
    return min(case["max_momentum"], 1 - (1 + w) / (t + 1 + w))


@pytest.mark.parametrize("case", CASES, ids=lambda c: c["id"])
def test_the_teacher_moves_as_the_reference(case: dict) -> None:
    students, wanted = GOLDEN[f"{case['id']}.student_at_iter"], GOLDEN[f"{case['id']}.teacher_after_update"]
    teacher = ema(Weights(students[0]))
    for t in range(case["iterations"]):
        decay = momentum(case, t)
        assert decay == pytest.approx(GOLDEN[f"{case['id']}.momentum"][t], abs=1e-12)
        teacher.move(Weights(students[t]), decay)
        np.testing.assert_allclose(teacher.model.values.numpy(), wanted[t], rtol=1e-6, atol=1e-8)


def test_the_schedule_of_the_momentum() -> None:
    for t, a, b in zip(GOLDEN["ema_table.iteration"], GOLDEN["ema_table.m_0999"], GOLDEN["ema_table.m_09995"]):
        assert ema(net(), 0.999).decay(int(t) - 1) == pytest.approx(a, abs=1e-12)
        assert ema(net(), 0.9995).decay(int(t) - 1) == pytest.approx(b, abs=1e-12)


def net() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout(0.5))


def test_no_decay_copies_bit_for_bit_and_buffers_are_always_copied() -> None:
    student, teacher = net(), ema(net())
    student(torch.randn(2, 3, 4, 4))
    teacher.move(student, 0.99)
    assert torch.equal(teacher.model[1].running_mean, student[1].running_mean)
    assert teacher.model[1].num_batches_tracked == 1
    assert not torch.equal(teacher.model[0].weight, student[0].weight)
    teacher.move(student, 0.0)
    assert all(torch.equal(a, b) for a, b in zip(teacher.model.state_dict().values(), student.state_dict().values()))


def test_the_teacher_stays_in_eval_mode_without_gradients() -> None:
    teacher = ema(net()).train()
    assert not any(m.training for m in teacher.modules())
    assert not any(p.requires_grad for p in teacher.parameters())
    nn.ModuleList([teacher]).train()
    assert not teacher.model[2].training


def test_the_student_does_not_move() -> None:
    student = net()
    before = {k: v.clone() for k, v in student.state_dict().items()}
    ema(net()).move(student, 0.5)
    assert all(torch.equal(before[k], v) for k, v in student.state_dict().items())


def test_until_its_start_the_teacher_is_a_copy() -> None:
    assert [ema(net(), 0.6, start=3).decay(step) for step in (0, 2, 3)] == [0, 0, 0.6]


def test_an_average_may_move_every_third_step_and_warm_up_by_another_law() -> None:
    """MixPL's momentum at the steps at which it moves; in between nothing does, and until the start it is a copy."""
    teacher = Ema(net(), decay=1 - 2e-4, warm_up=True, start=0, gamma=4, every=3)
    momentum = {2: 0.666667, 5: 0.444444, 8: 0.333333, 299: 0.013201, 2999: 0.001332, 19994: 0.0002, 19997: 0.0002}
    for step, expected in momentum.items():
        assert 1 - teacher.decay(step) == pytest.approx(expected, abs=5e-7)
        assert teacher.decay(step + 1) == teacher.decay(step + 2) == 1
    assert 1 - teacher.decay(19994) == pytest.approx(4 / 19998)
    later = Ema(net(), decay=0.9, warm_up=False, start=4, every=3)
    assert [later.decay(step) for step in range(9)] == [0, 0, 0, 0, 1, 0.9, 1, 1, 0.9]
    assert build_teacher(net(), EmaConfig(every=3, gamma=4), 0).decay(5) == pytest.approx(1 - 4 / 9)
    plain = build_teacher(net(), EmaConfig(), 0)
    assert [plain.decay(step) for step in (0, 1, 2, 10**6)] == [1 - 1 / 2, 1 - 1 / 3, 1 - 1 / 4, 0.999]


def test_a_decay_may_grow_as_yolos_and_statistics_be_averaged() -> None:
    """0.9999 (1 - exp(-n / 2000)) with n = 1 at the first step; counters are copied all the same."""
    teacher = build_teacher(net(), EmaConfig(decay=0.9999, growth=2000, buffers="average"), 0)
    grown = {0: 0.000499825, 1999: 0.632057347, 19999: 0.999854605, 10**6: 0.9999}
    assert {step: round(teacher.decay(step), 9) for step in grown} == grown
    student = net()
    student(torch.randn(2, 3, 4, 4))
    before = teacher.model[1].running_mean.clone()
    teacher.move(student, 0.75)
    torch.testing.assert_close(teacher.model[1].running_mean, 0.75 * before + 0.25 * student[1].running_mean)
    assert teacher.model[1].num_batches_tracked == 1
    teacher.move(student, 0.0)
    assert all(torch.equal(a, b) for a, b in zip(teacher.model.state_dict().values(), student.state_dict().values()))


def test_copies_are_made_from_the_end_of_burn_in_on() -> None:
    teacher = Copy(net(), every=2, burn_in=3, decay=0.6, warm_up=False, start=1)
    assert [teacher.decay(step) for step in range(7)] == [0, 0.6, 0.6, 1, 0, 1, 0]


def test_a_stopped_teacher_stays_as_burn_in_left_it() -> None:
    teacher = Stopped(net(), burn_in=2, decay=0.6, warm_up=False, start=0)
    assert [teacher.decay(step) for step in range(4)] == [0.6, 0.6, 1, 1]

"""Every method on every detector on a GPU, where there is one: the losses of the CPU, steps that are made, a teacher
that follows. ``SSOD_TEST_DEVICE`` names the device; without a GPU two pairs alone are run, on the CPU.
"""

from __future__ import annotations

import os
from copy import deepcopy

import pytest
import torch

from ssod.engine.stepper import Stepper
from ssod.engine.train_config import TrainConfig
from ssod.methods.registry import names
from ssod.utils.signals import Signals
from tests.test_methods import batch_for, detector, method, offered

DEVICE = os.environ.get("SSOD_TEST_DEVICE", "cuda" if torch.cuda.is_available() else "cpu")
PAIRS = offered(names())
FEW = [("mean_teacher", "fcos"), ("soft_teacher", "faster_rcnn")]  # where the device is the one of all other tests
STEP = 50


def stepper(name: str, kind: str, device: str, precision: str = "fp32") -> Stepper:
    """Return the steps of a method whose weights are the same on every device."""
    tree = {"steps": 100, "lr": 1e-3, "batch": {"labeled": 2, "unlabeled": 2}, "device": device, "precision": precision}
    return Stepper(
        deepcopy(method(name, detector(kind))), TrainConfig.model_validate(tree, context={"steps": 100}), Signals()
    )


@pytest.mark.parametrize(("name", "kind"), PAIRS if DEVICE != "cpu" else FEW)
def test_two_steps_are_made_and_begin_as_on_the_cpu(name: str, kind: str) -> None:
    """The labelled losses of the first step are those of the CPU: no box of a teacher, which rounding may choose."""
    firsts = []
    for device in ("cpu", DEVICE):
        s = stepper(name, kind, device)
        before = {k: v.clone() for k, v in s.method.teacher.state_dict().items()}
        done = [s.train_step(iter([batch_for(s.method)]), step) for step in (STEP, STEP + 1)]
        assert all(step.made for step in done), [step.fault for step in done]
        assert all(value.isfinite().all() for step in done for value in step.values.values())
        assert any(not torch.equal(v, before[k]) for k, v in s.method.teacher.state_dict().items())
        firsts.append({k: float(v) for k, v in done[0].values.items() if k.startswith("sup/")})
    assert firsts[1] == pytest.approx(firsts[0], rel=1e-3, abs=1e-5)


@pytest.mark.parametrize(("name", "kind"), PAIRS if DEVICE != "cpu" else FEW[:1])
def test_half_precision_makes_its_steps(name: str, kind: str) -> None:
    s = stepper(name, kind, DEVICE, "bf16")
    done = s.train_step(iter([batch_for(s.method)]), STEP)
    assert done.made, done.fault
    assert all(value.isfinite().all() for value in done.values.values())

"""Learning rates by hand, and which parameter gets which."""

import math

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from ssod.engine import optim
from ssod.engine.schedule import Constant, Cosine, MultiStep, WarmUp, lr_at
from ssod.engine.train_config import TrainConfig
from ssod.utils.errors import SsodError

NONE = WarmUp(steps=0)


def rates(schedule: object, warm_up: WarmUp = NONE, steps: int = 10) -> list[float]:
    return [lr_at(s, lr=0.1, steps=steps, schedule=schedule, warm_up=warm_up) for s in range(steps)]


def test_constant() -> None:
    assert rates(Constant()) == [0.1] * 10


def test_multistep_drops_at_its_milestones() -> None:
    wanted = [0.1] * 4 + [0.05] * 4 + [0.025] * 2
    assert rates(MultiStep(milestones=[4, 8], gamma=0.5)) == pytest.approx(wanted)


def test_cosine_is_half_at_half_time_and_ends_where_it_should() -> None:
    found = rates(Cosine(end=0.1))
    assert found[0] == pytest.approx(0.1)
    assert found[5] == pytest.approx(0.055)
    assert found[9] == pytest.approx(0.1 * (0.1 + 0.9 * (1 + math.cos(0.9 * math.pi)) / 2))


def test_warm_up_is_linear_and_multiplies() -> None:
    found = rates(MultiStep(milestones=[2], gamma=0.1), WarmUp(steps=4, factor=0.2))
    assert found[:5] == pytest.approx([0.02, 0.04, 0.006, 0.008, 0.01])


def test_warm_up_equals_torchs() -> None:
    weight = nn.Parameter(torch.zeros(1))
    theirs = torch.optim.SGD([weight], lr=0.1)
    schedule = torch.optim.lr_scheduler.LinearLR(theirs, 0.2, 1.0, total_iters=4)
    for rate in rates(Constant(), WarmUp(steps=4, factor=0.2)):
        assert rate == pytest.approx(theirs.param_groups[0]["lr"])
        theirs.step()
        schedule.step()


def test_durations_and_unions_are_read_from_plain_values() -> None:
    data = {
        "steps": 1000,
        "schedule": {"name": "multistep", "milestones": ["50%", 900]},
        "optimizer": {"name": "adamw", "weight_decay": 0.1},
        "save_every": "5%",
    }
    cfg = TrainConfig.model_validate(data, context={"steps": 1000})
    assert cfg.schedule.milestones == [500, 900]
    assert isinstance(cfg.optimizer, optim.AdamW)
    assert cfg.save_every == 50


@pytest.mark.parametrize(
    "data",
    [
        {"schedule": {"name": "multistep", "milestones": [5, 2]}},
        {"optimizer": {"name": "sgd", "nesterov": True, "momentum": 0}},
        {"lr": math.nan},
        {"batch": {"labeled": -1}},
        {"optimizer": {"name": "lamb"}},
        {"log_every": -1},
    ],
)
def test_nonsense_is_refused(data: dict) -> None:
    with pytest.raises(ValidationError):
        TrainConfig.model_validate({"steps": 10, **data})


def test_every_field_has_its_help() -> None:
    for section in (TrainConfig, optim.SGD, optim.AdamW, MultiStep, Cosine, WarmUp):
        bare = [name for name, field in section.model_fields.items() if not field.description and name != "name"]
        assert not bare, section


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
        self.head = nn.Linear(4, 2)
        self.frozen = nn.Linear(2, 2).requires_grad_(False)


def test_groups_cover_every_trainable_parameter_once() -> None:
    net = Net()
    optimizer = optim.build(net, optim.SGD(backbone_lr=0.5, weight_decay=0.1, decay_norm_and_bias=False))
    optim.set_lr(optimizer, 0.2)
    found = {id(p): (g["lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}
    wanted = {"backbone.0.weight": (0.1, 0.1), "backbone.0.bias": (0.1, 0), "backbone.1.weight": (0.1, 0),
              "backbone.1.bias": (0.1, 0), "head.weight": (0.2, 0.1), "head.bias": (0.2, 0)}  # fmt: skip
    assert {n: found[id(p)] for n, p in net.named_parameters() if p.requires_grad} == wanted
    assert len(found) == sum(len(g["params"]) for g in optimizer.param_groups) == len(wanted)


def test_by_default_there_is_one_group() -> None:
    assert [g["weight_decay"] for g in optim.build(Net(), optim.SGD()).param_groups] == [1e-4]


def test_a_backbone_rate_without_a_backbone_is_an_error() -> None:
    with pytest.raises(SsodError, match="backbone_lr"):
        optim.build(nn.Linear(2, 2), optim.SGD(backbone_lr=0.1))

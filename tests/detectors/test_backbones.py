from itertools import product

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from ssod.detectors.backbones import LEVELS, Normalise, Tiny, build_backbone, group_norm, norm_layer
from ssod.detectors.build import build
from tests.detectors.reference import CONFIG, NAMES, config

LIGHT = ("resnet18", "mobilenet_v3_large", "tiny")
SPANS = ((2, 6), (3, 7), (3, 5), (4, 4), (5, 7))


@pytest.mark.parametrize(
    ("backbone", "levels"),
    [*product(LIGHT, SPANS), *product(sorted(set(LEVELS) - set(LIGHT)), SPANS[:1])],
)
def test_pyramid(backbone: str, levels: tuple[int, int]) -> None:
    cfg = config("retinanet", backbone=backbone, weights="none", norm="batch", channels=16, levels=levels)
    net = build_backbone(cfg).eval()
    with torch.no_grad():
        maps = list(net(torch.rand(1, 3, 128, 256)).values())
    strides = [2**level for level in range(levels[0], levels[1] + 1)]
    assert [tuple(m.shape) for m in maps] == [(1, 16, 128 // s, 256 // s) for s in strides]


def test_tiny_is_tiny() -> None:
    assert sum(p.numel() for p in Tiny(norm_layer("group")).parameters()) < 1_000_000


@pytest.mark.parametrize(
    ("given", "weights", "norm"),
    [
        ({}, "imagenet", "frozen"),
        ({"backbone": "tiny"}, "none", "group"),
        ({"weights": "none"}, "none", "group"),
        ({"weights": "x.pth"}, "x.pth", "frozen"),
        ({"weights": "x.pth", "norm": "batch"}, "x.pth", "batch"),
    ],
)
def test_defaults_follow_the_backbone_and_the_weights(given: dict, weights: str, norm: str) -> None:
    cfg = CONFIG.validate_python({"name": "fcos", **given})
    assert (cfg.weights, cfg.norm) == (weights, norm)


@pytest.mark.parametrize("levels", [(1, 5), (3, 8), (6, 7), (5, 4)])
def test_impossible_levels_are_refused(levels: tuple[int, int]) -> None:
    with pytest.raises(ValidationError, match="levels"):
        config("retinanet", levels=levels)


def test_group_norm_always_divides() -> None:
    for channels in (3, 8, 16, 24, 40, 64, 72, 96, 112, 184, 256, 960):
        norm = group_norm(channels)
        assert channels % norm.num_groups == 0
    assert group_norm(256).num_groups == 32


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_norm_of_the_backbone(norm: str) -> None:
    kinds = {"batch": nn.BatchNorm2d, "group": nn.GroupNorm}
    net = build_backbone(config("fcos", norm=norm))
    found = {type(m) for m in net.modules() if isinstance(m, nn.BatchNorm2d | nn.GroupNorm)}
    assert found == {kinds[norm]}


def test_affine_norm_learns_but_measures_nothing() -> None:
    norm = norm_layer("affine")(4).train()
    x = torch.randn(2, 4, 3, 3) * 5 + 1
    torch.testing.assert_close(norm(x), x, rtol=1e-4, atol=1e-4)
    norm(x).sum().backward()
    assert norm.weight.grad is not None
    assert norm.running_mean.tolist() == [0] * 4


def test_normalise_by_hand() -> None:
    images = torch.full((1, 3, 2, 2), 255, dtype=torch.uint8)
    x = Normalise()(images, torch.tensor([[1, 2]]))
    assert x[0, :, 0, 0].tolist() == pytest.approx([(1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225])
    assert (x[0, :, 1] == 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_the_section_can_be_dumped_and_read_again(name: str) -> None:
    cfg = config(name, loss={"cls": {"name": "softmax_focal" if name == "faster_rcnn" else "focal", "gamma": 1}})
    again = config(name, **cfg.model_dump(mode="json", exclude={"name"}))
    assert again == cfg
    build(again, 3)

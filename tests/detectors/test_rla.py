"""A ResNet whose blocks hand on a memory: the plain net at first, then what the recurrence says."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import resnet18
from torchvision.models.resnet import Bottleneck, ResNet

from ssod.detectors.backbones import build_backbone, norm_layer
from ssod.detectors.build import build
from ssod.detectors.rla import CHANNELS, Layers, Stage, aggregate, own_name
from ssod.utils.errors import SsodError
from tests.detectors.reference import config

RETURN = {"layer2": "0", "layer4": "1"}
SMALL = {"backbone": "resnet18", "channels": 16, "levels": (3, 5), "norm": "group"}


def bottlenecks() -> ResNet:
    """Five bottlenecks, two of them in the last stage, of few channels inside."""
    torch.manual_seed(0)
    return ResNet(Bottleneck, [1, 1, 1, 2], width_per_group=4, norm_layer=norm_layer("group")).eval()


def read(body: nn.Module, x: Tensor) -> list[Tensor]:
    return list(Layers(body, RETURN)(x).values())


def test_bottlenecks_begin_as_the_plain_net_and_then_read_what_was_written() -> None:
    plain, x = bottlenecks(), torch.rand(2, 3, 64, 96)
    body = deepcopy(plain)
    aggregate(body, norm_layer("group"), "layer4")
    with torch.no_grad():
        for a, b in zip(read(plain, x), read(body, x)):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
        for layer in ("layer1", "layer2", "layer3", "layer4"):
            for block in body.get_submodule(layer).blocks():
                nn.init.normal_(block.conv1.weight[:, -CHANNELS:], std=0.1)
        assert all(not torch.allclose(a, b, atol=1e-2) for a, b in zip(read(plain, x), read(body, x)))


def test_the_recurrence_by_hand() -> None:
    """A stage of two blocks, of which the first halves the map: what it reads, skips and writes."""
    torch.manual_seed(0)
    net = resnet18(norm_layer=norm_layer("group"))
    plain = deepcopy(net.layer2).eval()
    stage = Stage(list(net.layer2), norm_layer("group"), last=False).eval()
    x, h = torch.randn(1, 64, 12, 8), torch.randn(1, CHANNELS, 12, 8)
    with torch.no_grad():
        reads = [block.conv1.weight[:, -CHANNELS:].normal_(std=0.1).clone() for block in stage.blocks()]
        y, g, memory = x, h, stage.hidden
        for i, block in enumerate(plain):
            seen = block.conv1(y) + F.conv2d(g, reads[i], stride=block.stride, padding=1)
            added = block.bn2(block.conv2(block.bn1(seen).relu()))
            y = (added + (y if block.downsample is None else block.downsample(y))).relu()
            if i == 0:
                g = F.avg_pool2d(g, 2)
            g = memory.recurrent(torch.tanh(memory.norms[i](g + memory.out(added))))
        for got, wanted in zip(stage(x, h), (y, g)):
            torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)


def test_each_weight_learns_and_frozen_stages_do_not() -> None:
    net = build_backbone(config("fcos", rla=True, weights="none", **SMALL)).train()
    for name, p in net.named_parameters():
        if name.endswith("conv1.weight"):
            nn.init.normal_(p, std=0.1)
    sum(x.square().mean() for x in net(torch.rand(1, 3, 64, 64)).values()).backward()
    assert all(p.grad is not None for p in net.parameters())
    assert all(p.grad.any() for name, p in net.named_parameters() if ".hidden." in name)
    frozen = build_backbone(config("fcos", rla=True, weights="none", trainable_layers=3, **SMALL))
    still = {name.split(".")[1] for name, p in frozen.named_parameters() if not p.requires_grad}
    assert still == {"conv1", "bn1", "layer1"}
    assert not any(p.requires_grad for p in frozen.body["layer1"].parameters())


def test_a_frozen_stage_hands_on_0_and_the_next_one_what_it_writes(tmp_path: Path) -> None:
    """A file of this kind of net says how the frozen stage writes, too."""
    own = {"rla": True, "trainable_layers": 3, **SMALL}
    x, h = torch.randn(2, 64, 12, 8), torch.zeros(2, CHANNELS, 12, 8)
    frozen = build_backbone(config("fcos", weights="none", **own)).eval()
    with torch.no_grad():
        y, after = frozen.body["layer1"](x, h)
        assert not after.any()
        assert frozen.body["layer2"](y, after)[1].any()
        source = build_backbone(config("fcos", weights="none", rla=True, **SMALL))
        torch.save(source.body.state_dict(), tmp_path / "body.pth")
        net = build(config("fcos", weights=str(tmp_path / "body.pth"), **own), 2).eval()
        assert net.backbone.body["layer1"](x, h)[1].any()


def test_images_of_half_their_size_have_maps_with_odd_sides() -> None:
    net = build_backbone(config("fcos", rla=True, half_size=True, weights="none", **SMALL)).eval()
    with torch.no_grad():
        maps = net.half_size(torch.rand(1, 3, 96, 96))
    assert [x.shape[-1] for x in maps.values()] == [12, 6, 3]


@pytest.mark.parametrize("theirs", [False, True])
def test_files_of_both_kinds_fit(tmp_path: Path, theirs: bool) -> None:
    """A plain ResNet's weights, and those of an RLA-ResNet by the names of its authors."""
    source = build(config("fcos", rla=theirs, weights="none", **SMALL), 2)
    body = {name.removeprefix("backbone.body."): v for name, v in source.state_dict().items() if ".body." in name}
    if theirs:
        body = {their_name(name): value for name, value in body.items()} | {"bn2.weight": torch.ones(CHANNELS)}
        assert {own_name(name) for name in body} >= {"layer1.0.conv1.weight", "layer2.hidden.norms.1.weight"}
    torch.save(body | {"fc.weight": torch.ones(1, 1)}, tmp_path / "body.pth")
    net = build(config("fcos", rla=True, weights=str(tmp_path / "body.pth"), **SMALL), 2)
    net.head, net.backbone.fpn = source.head, source.backbone.fpn
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        for a, b in zip(source.eval().backbone(x).values(), net.eval().backbone(x).values()):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    if theirs:
        own = net.state_dict()
        assert all(torch.equal(value, own[name]) for name, value in source.state_dict().items() if ".hidden." in name)


def their_name(name: str) -> str:
    """``layer1.hidden.norms.0.weight`` as ``stage_bns.0.0.weight``, and so on."""
    layer, *rest = name.split(".")
    if not layer.startswith("layer"):
        return name
    number = int(layer[-1]) - 1
    if rest[0] != "hidden":
        return ".".join(["stages", str(number), *rest])
    kind = {"norms": "stage_bns", "out": "conv_outs", "recurrent": "recurrent_convs"}[rest[1]]
    return ".".join([kind, str(number), *rest[2:]])


@pytest.mark.parametrize("backbone", ["tiny", "mobilenet_v3_large"])
def test_a_net_without_such_blocks_is_refused(backbone: str) -> None:
    with pytest.raises(SsodError, match="no blocks that could hand it on") as error:
        build_backbone(config("fcos", backbone=backbone, rla=True, weights="none", norm="group"))
    assert error.value.field == "detector.rla"


def test_it_is_one_graph_for_any_batch_and_canvas() -> None:
    """What ``ssod export`` builds on; heads and suppression are those of any FCOS (``test_export_ready``)."""
    net = build_backbone(config("fcos", rla=True, weights="none", **SMALL)).eval()
    for block in net.body["layer3"].blocks():
        nn.init.normal_(block.conv1.weight, std=0.1)
    n, h, w = torch.export.Dim("n", min=1, max=16), *(torch.export.Dim(d, min=3, max=42) for d in "hw")
    with torch.no_grad():
        shapes = ({0: n, 2: 32 * h, 3: 32 * w},)
        exported = torch.export.export(net, (torch.rand(2, 3, 96, 128),), dynamic_shapes=shapes).module()
        for pictures in (torch.rand(2, 3, 96, 128), torch.rand(1, 3, 160, 96)):
            for a, b in zip(net(pictures).values(), exported(pictures).values()):
                torch.testing.assert_close(a, b, rtol=0, atol=1e-4)

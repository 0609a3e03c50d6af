"""What our detectors need to be detectron2's, each against torchvision or arithmetic; detectron2 is not needed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision.models import resnet50
from torchvision.ops import roi_align

from ssod.detectors.anchors import AnchorConfig
from ssod.detectors.backbones import Normalise, build_backbone
from ssod.detectors.build import build
from ssod.detectors.decode import DecodeConfig, clip_last, detect
from ssod.detectors.roi_pool import RoIPool
from ssod.structures import Predictions
from ssod.structures.boxes import LtrbCoder
from ssod.utils.errors import Exit, SsodError
from tests.detectors.reference import CONFIG, NAMES, config, images, view


@pytest.mark.parametrize("name", NAMES)
def test_left_out_they_are_not_in_a_run(name: str) -> None:
    """Checkpoints that are older than these keys compare their config with the run's."""
    dump = str(CONFIG.validate_python({"name": name}).model_dump(mode="json", exclude_none=True))
    for key in ("rounding", "level6", "downsample", "pixel_std", "clip", "points", "pooling"):
        assert f"'{key}'" not in dump


def test_anchors_in_fractions_of_pixels() -> None:
    strides = (8, 16)
    exact, whole = (AnchorConfig(spacing="stride", rounding=r).build(strides) for r in ("none", None))
    a, b = (x((32, 32), [(4, 4), (2, 2)]) for x in (exact, whole))
    sides = a[:, 2:] - a[:, :2]
    torch.testing.assert_close(sides.prod(1).sqrt()[:3], torch.tensor([32.0, 32 * 2 ** (1 / 3), 32 * 2 ** (2 / 3)]))
    torch.testing.assert_close((sides[:, 1] / sides[:, 0])[:9:3], torch.tensor([0.5, 1.0, 2.0]))
    assert 0.1 < (a - b).abs().max() < 2


def test_points_in_the_middle_of_their_cells() -> None:
    corner, middle = (build(config("fcos", points=p, levels=[3, 5]), 2).anchors for p in (None, "middle"))
    grids = [(4, 4), (2, 2), (1, 1)]
    a, b = (x((32, 32), grids) for x in (corner, middle))
    stride = (a[:, 2:] - a[:, :2])[:, :1]
    torch.testing.assert_close(b, a + stride / 2)


def test_stride_in_the_first_convolution() -> None:
    net = build_backbone(config("retinanet", backbone="resnet50", channels=16, norm="batch", downsample="1x1"))
    plain = build_backbone(config("retinanet", backbone="resnet50", channels=16, norm="batch"))
    plain.load_state_dict(net.state_dict())
    x = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        a, b = (m.eval()(x) for m in (net, plain))
    assert [f.shape for f in a.values()] == [f.shape for f in b.values()]
    assert not torch.equal(a["0"], b["0"])
    first = [m.conv1.stride for m in (net.body.layer2[0], net.body.layer3[0], net.body.layer4[0])]
    assert first == [(2, 2)] * 3
    assert resnet50().layer2[0].conv1.stride == (1, 1)


def test_level_six_from_the_last_stage() -> None:
    net = build_backbone(config("retinanet", backbone="resnet18", channels=16, level6="c5", norm="batch"))
    assert net.fpn.extra_blocks.p6.in_channels == 512
    seen: list[Tensor] = []
    net.fpn.extra_blocks.p6.register_forward_hook(lambda m, x, y: seen.append(x[0]))
    net(torch.rand(1, 3, 64, 64))
    assert seen[0].shape[1] == 512


def test_pixels_of_another_scale() -> None:
    x, sizes = torch.rand(1, 3, 4, 4), torch.tensor([[4, 4]])
    got = Normalise((1.0, 1.0, 1.0))(x, sizes)
    mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
    torch.testing.assert_close(got, (x - mean) * 255, rtol=0, atol=1e-4)


def test_pooling_with_as_many_samples_as_a_cell_has_pixels() -> None:
    draw = torch.Generator().manual_seed(0)
    feature = torch.rand(2, 4, 16, 16, generator=draw)
    boxes = torch.tensor([[10.0, 12, 200, 220], [3.0, 5, 60, 41]])
    image = torch.tensor([1, 0])
    rows = torch.cat([image[:, None].float(), boxes], 1)
    got = RoIPool((4, 4), 7, 224.0, adaptive=True)([feature], boxes, image)
    assert torch.equal(got, roi_align(feature, rows, 7, 1 / 16, 0, aligned=True))
    assert not torch.equal(got, RoIPool((4, 4), 7, 224.0)([feature], boxes, image))


def test_boxes_cut_after_suppression() -> None:
    """The second box overlaps the first by 0.24 as it was decoded, and wholly inside the image."""
    size = torch.tensor([[32, 32]])
    priors = torch.tensor([[0.0, 0, 32, 32]]).expand(3, 4)  # centers at 16, 16
    sides = torch.tensor([[16.0, 16, 16, 16], [16, 16, 116, 16], [-20.0, 16, 24, 16]]) / 32  # the last lies outside
    logits = torch.tensor([[2.0], [1.0], [0.0]])
    p = Predictions(logits, sides[:, None], priors, torch.zeros(3, dtype=torch.long), size, LtrbCoder())
    cfg = DecodeConfig(nms=0.5)
    first, last = (rule(p, logits.sigmoid(), (3,), cfg).to_targets()[0] for rule in (detect, clip_last))
    assert first.scores.tolist() == pytest.approx(logits[[0, 2], 0].sigmoid().tolist())
    assert last.scores.tolist() == pytest.approx(logits[:2, 0].sigmoid().tolist())
    assert torch.equal(last.boxes, torch.tensor([[0.0, 0, 32, 32]]).expand(2, 4))


@pytest.mark.parametrize("name", NAMES)
def test_all_of_them_at_once(name: str) -> None:
    torch.manual_seed(0)
    keys: dict = {"backbone": "resnet18", "norm": "batch", "pixel_std": [1, 1, 1]}
    keys |= {"points": "middle"} if name == "fcos" else {"anchors": {"spacing": "stride", "rounding": "none"}}
    keys |= {"roi": {"pooling": "adaptive"}} if name == "faster_rcnn" else {"level6": "c5", "decode": {"clip": "last"}}
    net = build(config(name, **keys), 3).eval()
    with torch.no_grad():
        found = net.predict(view(images())).detections(0.0)
    assert all(len(f) for f in found)


@pytest.mark.parametrize(
    ("keys", "field"),
    [
        ({"downsample": "1x1"}, "downsample"),
        ({"level6": "c5", "levels": [3, 5]}, "level6"),
        ({"level6": "c5", "channels": 512, "backbone": "resnet18", "norm": "batch"}, "level6"),
    ],
)
def test_what_does_not_go_together(keys: dict, field: str) -> None:
    with pytest.raises(SsodError) as error:
        build(config("retinanet", **keys), 3)
    assert error.value.field == f"detector.{field}"
    assert error.value.code == Exit.USAGE

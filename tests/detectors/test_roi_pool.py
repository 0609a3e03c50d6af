"""RoI pooling by rows is torchvision's pooling by images, values and gradients."""

from collections import OrderedDict

import pytest
import torch
from torchvision.ops import MultiScaleRoIAlign

from ssod.detectors.roi_pool import RoIPool


@pytest.mark.parametrize(("levels", "scale"), [((2, 5), 224.0), ((2, 5), 56.0), ((3, 3), 224.0)])
@pytest.mark.parametrize("counts", [(9, 5), (0, 7), (0, 0)])
def test_equals_torchvision(levels: tuple[int, int], scale: float, counts: tuple[int, int]) -> None:
    draw = torch.Generator().manual_seed(3)
    strides = [2**level for level in range(levels[0], levels[1] + 1)]
    features = [torch.randn(2, 8, 256 // s, 320 // s, generator=draw) for s in strides]
    low = [torch.rand(n, 2, generator=draw) * 100 for n in counts]
    side = [torch.exp(torch.rand(n, 2, generator=draw) * 5) for n in counts]  # 1 to 148 pixels: every level is used
    boxes = [torch.cat([a, a + s], 1) for a, s in zip(low, side)]

    names = [str(i) for i in range(len(strides))]
    theirs = MultiScaleRoIAlign(names, 7, sampling_ratio=2, canonical_scale=scale)
    mine = RoIPool(levels, 7, scale)
    a = [f.clone().requires_grad_() for f in features]
    b = [f.clone().requires_grad_() for f in features]
    expected = theirs(OrderedDict(zip(names, a)), boxes, [(256, 320)] * 2)
    image = torch.cat([torch.full((n,), i) for i, n in enumerate(counts)])
    got = mine(b, torch.cat(boxes), image)
    assert torch.equal(got, expected)
    if sum(counts):
        weight = torch.randn(got.shape, generator=draw)
        (expected * weight).sum().backward()
        (got * weight).sum().backward()
        for x, y in zip(a, b):
            assert torch.equal(x.grad, y.grad)


def test_keeps_the_type_of_the_features_under_autocast() -> None:
    features = [torch.randn(1, 4, 32, 32, dtype=torch.bfloat16) for _ in range(2)]
    with torch.autocast("cpu", torch.bfloat16):
        out = RoIPool((3, 4), 3, 64.0)(features, torch.tensor([[0.0, 0.0, 50.0, 50.0]]), torch.zeros(1))
    assert out.dtype == torch.bfloat16

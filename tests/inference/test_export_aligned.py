"""A detector with aligned boxes exports like any other, and the graph says what torch says."""

import pytest
import torch
from torch import nn

from ssod.inference.export import Graph, convert, runner
from ssod.inference.export_parity import as_view, measure, texture
from tests.detectors.test_fam3d import ONE, bend
from tools.export_parity import pictures, random_model

KEPT, DISTANCES = {"keep_inverted": True}, {"keep_inverted": False, "decode": "distances"}


@pytest.mark.parametrize(
    ("name", "format", "align", "clip"),
    [
        ("3d", "onnx", KEPT, "last"),  # as the recipe of Consistent-Teacher has it
        ("3d", "pt2", DISTANCES, None),
    ],
    ids=["3d-last-onnx", "distances-pt2"],
)
def test_an_aligned_detector_exports(name: str, format: str, align: dict, clip: str | None) -> None:
    keep = align["keep_inverted"]
    anchors = {**ONE, "scale": 2 if keep else 8}
    changes = {"anchors": anchors, "loss": {"box": "giou"}, "align": {"name": name, **align}, "decode": {"clip": clip}}
    model = random_model("retinanet", levels=(4, 5), channels=16, **changes)
    detector, draw = model.detector, torch.Generator().manual_seed(3)
    torch.manual_seed(0)
    bend(detector, std=1)
    if keep:  # take left sides from two cells further right, and right sides from two further left
        detector.align.space_offset.bias[[1, 5]] = torch.tensor([2.0, -2.0])
    detector.decode = detector.decode.model_copy(update={"score": 0.02})
    run = runner(convert(model, format), format)
    found = measure(detector, Graph(detector), run, pictures(4, (101, 133), seed=10))
    assert found.differ == 0, found.problem
    assert found.boxes > 20
    if keep:  # boxes whose corners changed places are among the rows, and neither program answers with one
        pair = torch.stack([texture(96, 128, draw) for _ in range(2)]), torch.tensor([[96, 128]] * 2)
        rows = detector.predict(as_view(*pair)).stages["dense"]
        inverted = (rows.boxes()[:, 2:] < rows.boxes()[:, :2]).any(1)
        assert (inverted & (rows.probs().amax(1) > detector.decode.score)).any()
        for boxes, scores, _ in (Graph(detector)(*pair), run(*pair)):
            assert (boxes[..., 2:] >= boxes[..., :2])[scores > 0].all()
    for n, height, width in ((1, 32, 32), (1, 8, 9), (2, 50, 75)):  # maps of one cell, where neighbours are resized
        images, sizes = torch.stack([texture(height, width, draw) for _ in range(n)]), torch.tensor([[height, width]])
        sizes = sizes.repeat(n, 1)
        for wanted, got in zip(Graph(detector)(images, sizes), run(images, sizes)):
            torch.testing.assert_close(got, wanted, rtol=0, atol=1e-3)
    images, sizes = torch.stack([texture(96, 128, draw)]), torch.tensor([[96, 128]])
    moved = run(images, sizes)[0]
    for layer in (detector.align.scale_offset, detector.align.space_offset):
        if layer is not None:
            nn.init.zeros_(layer.weight)
    assert (moved - Graph(detector)(images, sizes)[0]).abs().max() > 1

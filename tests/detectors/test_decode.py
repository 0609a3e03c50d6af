from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torchvision.ops import nms

from ssod.detectors.decode import DecodeConfig, Detections, Rule, clip_last, detect, rank, suppress, top
from ssod.structures import Predictions
from ssod.structures.boxes import IdentityCoder, LtrbCoder


def cloud(n: int, c: int, k: int, extent: float = 1300, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Clusters of overlapping boxes, scores and groups of N images."""
    g = torch.Generator().manual_seed(seed)
    center = (torch.rand(n, c // 8, 1, 2, generator=g) * extent).expand(-1, -1, 8, -1).reshape(n, c, 2)
    center = center + torch.randn(n, c, 2, generator=g) * 4
    half = 8 + torch.rand(n, c, 2, generator=g) * 12
    boxes = torch.cat([center - half, center + half], -1).clamp(0, extent + 40)
    return boxes, torch.rand(n, c, generator=g), torch.randint(0, k, (n, c), generator=g)


def one_by_one(boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float, count: int) -> list[Tensor]:
    """The slow way: one suppression for every image and group."""
    out = []
    for b, s, g in zip(boxes, scores, groups):
        keep = []
        for label in g.unique():
            rows = ((g == label) & (s > 0)).nonzero().squeeze(1)
            keep.append(rows[nms(b[rows].double(), s[rows].double(), threshold)])
        keep = torch.cat(keep)
        out.append(keep[s[keep].argsort(descending=True)][:count])
    return out


@pytest.mark.parametrize(("n", "c", "k"), [(1, 64, 1), (3, 400, 5), (8, 400, 80), (2, 40, 3)])
def test_suppression_is_that_of_single_images_and_classes(n: int, c: int, k: int) -> None:
    boxes, scores, groups = cloud(n, c, k)
    scores = scores * (scores > 0.2)
    got = suppress(boxes, scores, groups, k, 0.5, 100)
    for i, rows in enumerate(one_by_one(boxes, scores, groups, 0.5, 100)):
        m = len(rows)
        assert torch.equal(got.scores[i, :m], scores[i][rows])
        assert torch.equal(got.boxes[i, :m], boxes[i][rows])
        assert torch.equal(got.labels[i, :m], groups[i][rows])
        assert (got.scores[i, m:] == 0).all()
        assert (got.boxes[i, m:] == 0).all()


def test_float32_is_precise_enough_for_export(monkeypatch: pytest.MonkeyPatch) -> None:
    """8 images of 80 classes: the grid loses nothing that one long line would not lose twenty times over."""
    boxes, scores, groups = cloud(8, 400, 80)
    exact = suppress(boxes, scores, groups, 80, 0.5, 300)
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    got = suppress(boxes, scores, groups, 80, 0.5, 300)
    assert (got.scores != exact.scores).float().mean() < 0.01
    counts = (got.scores > 0).sum(1) - (exact.scores > 0).sum(1)
    assert counts.abs().max() <= 1


def test_nothing_to_suppress() -> None:
    boxes = torch.zeros(2, 5, 4)
    got = suppress(boxes, torch.zeros(2, 5), torch.zeros(2, 5, dtype=torch.long), 3, 0.5, 10)
    assert got.scores.shape == (2, 10)
    assert [len(t) for t in got.to_targets()] == [0, 0]


def test_top_pads_to_a_fixed_size() -> None:
    value, index = top(torch.tensor([[[0.1, 0.9], [0.0, 0.4]]]), 6)
    torch.testing.assert_close(value, torch.tensor([[0.9, 0.4, 0.1, 0, 0, 0]]))
    assert index.tolist() == [[1, 3, 0, 0, 0, 0]]


def rows(scores: list[list[float]], quality: list[float] | None = None) -> Predictions:
    """FCOS-like rows of one image: row i is a box of side 10 at (20 i, 0)."""
    r = len(scores)
    priors = torch.tensor([[20.0 * i, 0, 20 * i + 10, 10] for i in range(r)])
    logits = torch.tensor(scores).logit()
    return Predictions(
        logits,
        torch.full((r, 1, 4), 0.5),
        priors,
        torch.zeros(r, dtype=torch.long),
        torch.tensor([[100, 100]]),
        LtrbCoder(),
        quality=None if quality is None else torch.tensor(quality).logit(),
        levels=(r - 1, 1),
        strides=(8, 16),
    )


def test_detect_by_hand() -> None:
    p = rows([[0.9, 0.06], [0.05, 0.3], [0.04, 0.5]])
    got = detect(p, rank(p), p.levels, DecodeConfig(detections=4)).to_targets()[0]
    assert got.scores.tolist() == pytest.approx([0.9, 0.5, 0.3, 0.06])
    assert got.labels.tolist() == [0, 1, 1, 1]
    assert got.boxes[:, 0].tolist() == [0, 40, 20, 0]
    strict = detect(p, rank(p), p.levels, DecodeConfig(score=0.3, per_level=1)).to_targets()[0]
    assert strict.scores.tolist() == pytest.approx([0.9, 0.5])  # the threshold is strict


def test_rank_is_the_geometric_mean_with_the_quality() -> None:
    p = rows([[0.9, 0.1], [0.5, 0.5]], [0.4, 1 - 1e-7])
    assert rank(p)[0].tolist() == pytest.approx([0.6, 0.2], rel=1e-5)
    assert rank(p)[1].tolist() == pytest.approx([0.5**0.5] * 2, rel=1e-5)


def test_small_boxes_can_be_refused() -> None:
    p = rows([[0.9], [0.8], [0.7]])
    p.deltas[1] = 0
    kept = [detect(p, rank(p), p.levels, DecodeConfig(), min_size=m).to_targets()[0] for m in (0.0, 1e-2)]
    assert [len(t) for t in kept] == [3, 2]


@pytest.mark.parametrize("rule", [detect, clip_last])
@pytest.mark.parametrize("box", [(30, 5, 20, 15), (20, 15, 30, 5), (30, 15, 20, 5)], ids=str)
def test_an_inverted_box_is_no_detection_and_takes_no_place(rule: Rule, box: tuple[int, ...]) -> None:
    boxes = torch.tensor([box, (0, 0, 10, 10), (40, 0, 50, 10)], dtype=torch.float32)
    p = rows([[0.9], [0.8], [0.7]])
    p = replace(p, deltas=boxes[:, None], coder=IdentityCoder())
    got = rule(p, rank(p), p.levels, DecodeConfig(detections=2))
    assert got.boxes.tolist() == [boxes[1:].tolist()]
    assert got.scores[0].tolist() == pytest.approx([0.8, 0.7])


def test_padding_is_dropped() -> None:
    d = Detections(torch.ones(2, 3, 4), torch.tensor([[0.5, 0.2, 0], [0, 0, 0]]), torch.zeros(2, 3, dtype=torch.long))
    assert [len(t) for t in d.to_targets()] == [2, 0]

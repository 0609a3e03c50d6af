"""The rows of largest IoU of each object, without a threshold (Li et al. 2020)."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ssod.assign.iou import IoUAssigner
from ssod.assign.top_iou import TopIoUAssigner
from ssod.structures import Predictions, Targets
from ssod.structures.boxes import DeltaCoder, iou
from tests.assign.test_assign import points, random_boxes
from tests.waits import Waits


def anchors(n: int = 1) -> Predictions:
    """Two levels of squares four strides wide."""
    p = points(((16, 16), (8, 8)), (8, 16), n)
    center, half = (p.priors[:, :2] + p.priors[:, 2:]) / 2, (p.priors[:, 2:] - p.priors[:, :2]) * 2
    return replace(p, priors=torch.cat([center - half, center + half], 1), coder=DeltaCoder())


def one_by_one(priors: Tensor, boxes: Tensor, top: int) -> list[int]:
    """The rule in loops."""
    overlap = iou(boxes, priors).tolist()
    taken: dict[int, int] = {}
    for box, row in enumerate(overlap):
        for prior in sorted(range(len(row)), key=lambda i: -row[i])[:top]:
            if row[prior] > 0 and (prior not in taken or row[prior] > overlap[taken[prior]][prior]):
                taken[prior] = box
    return [taken.get(i, -1) for i in range(len(priors))]


@pytest.mark.parametrize("top", [1, 7, 40, 10_000])
@pytest.mark.parametrize("seed", range(4))
def test_a_box_takes_its_best_rows_and_a_row_its_best_box(seed: int, top: int) -> None:
    priors, boxes = random_boxes(300, seed), random_boxes(6, seed + 100)
    found = TopIoUAssigner(top).match(priors, boxes)
    assert found.tolist() == one_by_one(priors, boxes, top)
    assert (found == -1).any() or top == 10_000


def test_no_row_is_too_poor_and_none_is_ignored() -> None:
    p, boxes = anchors(), torch.tensor([[10.0, 10, 18, 90], [60, 60, 66, 66]])
    targets = [Targets(boxes, torch.tensor([1, 0]))]
    a = TopIoUAssigner(12)(p, targets)
    assert [(a.matched == i).sum().item() for i in range(2)] == [12, 12]
    assert iou(boxes, p.priors).amax() < 0.4  # that of an IoU rule, below which all is background
    assert not IoUAssigner(allow_low_quality=False)(p, targets).fg.any()
    assert (a.cls_weight == 1).all()
    assert (a.cls[~a.fg] == 2).all()
    assert a.cls[a.matched == 0].unique().tolist() == [1]
    assert torch.equal(a.box[a.matched == 1], boxes[1:].expand(12, 4))


def test_a_row_that_does_not_meet_the_box_is_none_of_its_best() -> None:
    priors = torch.tensor([[0.0, 0, 10, 10], [5, 5, 15, 15], [50, 50, 60, 60]])
    boxes = torch.tensor([[0.0, 0, 9, 9], [500, 500, 510, 510]])
    assert TopIoUAssigner(3).match(priors, boxes).tolist() == [0, 0, -1]


def test_of_the_boxes_that_want_a_row_the_one_that_overlaps_it_most_gets_it() -> None:
    priors = torch.tensor([[0.0, 0, 10, 10], [4, 0, 14, 10], [6, 0, 16, 10], [6, 0, 16, 10]])
    boxes = torch.tensor([[0.0, 0, 10, 10], [6, 0, 16, 10]])
    assert TopIoUAssigner(3).match(priors, boxes).tolist() == [0, 1, 1, 1]  # both want row 1
    assert TopIoUAssigner(2).match(priors, boxes).tolist() == [0, 0, 1, 1]  # the second has better ones


def test_points_count_as_squares_of_eight_strides_and_lie_inside() -> None:
    """Squares of one stride would give an object of 64 pixels to the level of stride 64, which sees it in one cell."""
    p = points(((32, 32), (16, 16), (8, 8), (4, 4)), (4, 8, 16, 32))
    box = torch.tensor([[40.0, 40, 104, 104]])
    a = TopIoUAssigner(40)(p, [Targets(box, torch.tensor([0]))])
    center = (p.priors[:, :2] + p.priors[:, 2:])[a.fg] / 2
    level = torch.repeat_interleave(torch.arange(4), torch.tensor(p.levels))[a.fg]
    assert ((center > 40) & (center < 104)).all()
    assert level.bincount().argmax() == 1  # 8 strides of 8 pixels: the level whose squares are as large as the object
    assert a.fg.sum() == 40
    small = TopIoUAssigner(40)(p, [Targets(torch.tensor([[41.0, 41, 47, 47]]), torch.tensor([0]))])
    assert ((p.priors[:, :2] + p.priors[:, 2:])[small.fg] / 2).tolist() == [[44, 44]]  # the only point inside


def test_rows_beyond_the_padded_image_learn_nothing() -> None:
    p = replace(anchors(2), sizes=torch.tensor([[60, 60], [128, 128]]))
    targets = [Targets(torch.tensor([[44.0, 44, 60, 60]]), torch.tensor([0]))] * 2
    a = TopIoUAssigner(9, divisor=32)(p, targets)
    center = (p.priors[:, :2] + p.priors[:, 2:]) / 2
    beyond = (p.image == 0) & (center >= 64).any(1)
    assert torch.equal(a.matched == -2, beyond)
    assert (a.matched == 0).sum() == 9
    assert TopIoUAssigner(9)(p, targets).fg[beyond].any()
    nothing = TopIoUAssigner(9, divisor=32)(p, [Targets.empty(p.priors)] * 2)
    assert torch.equal(nothing.matched == -2, beyond)
    assert not nothing.fg.any()


def test_nothing_waits_for_the_device() -> None:
    targets = [Targets(random_boxes(3, 1), torch.tensor([0, 1, 0]))]
    for p in (anchors(), points(((16, 16), (8, 8)), (8, 16))):
        with Waits() as seen:
            TopIoUAssigner(divisor=32)(p, targets)
        assert seen.masks == 0


def test_rows_of_an_ignored_box_are_ignored() -> None:
    boxes = torch.tensor([[8.0, 8, 40, 40], [80, 80, 112, 112]])
    targets = Targets(boxes, torch.tensor([0, 1]), weight=torch.tensor([1.0, 0.0]))
    a = TopIoUAssigner(5)(anchors(), [targets])
    assert [(a.matched == i).sum().item() for i in (0, -2)] == [5, 5]
    assert (a.cls_weight == 0).sum() == 5

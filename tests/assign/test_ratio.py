"""YOLO's assignment, cell by cell; ``tests/detectors/test_dense_detector_release.py`` has the released numbers."""

import pytest
import torch
from torch import Tensor

from ssod.assign.ratio import RatioAssigner, around
from ssod.detectors.anchors import SidesAnchors
from ssod.structures import Predictions, Targets
from ssod.structures.boxes import DeltaCoder

GRIDS = [(4, 6), (2, 3)]
LEVELS = (4 * 6 * 2, 2 * 3 * 2)
ANCHORS = SidesAnchors([[(8, 8), (16, 8)], [(32, 32), (16, 64)]], (8, 16))


def rows(images: int = 1) -> Predictions:
    priors, n = ANCHORS((32, 48), GRIDS).repeat(images, 1), sum(LEVELS)
    image = torch.arange(images).repeat_interleave(n)
    sizes = torch.tensor([[32, 48]] * images)
    outputs = torch.zeros(len(priors), 3), torch.zeros(len(priors), 1, 4)
    return Predictions(*outputs, priors, image, sizes, DeltaCoder(), levels=LEVELS, strides=(8, 16), grids=tuple(GRIDS))


def taken(targets: Targets, most: float = 4.0) -> Tensor:
    """The box of each row of the first level, [4, 6, 2]."""
    return RatioAssigner(most)(rows(), [targets]).matches()[: LEVELS[0]].view(4, 6, 2)


def box(x: float, y: float, w: float = 8, h: float = 8) -> list[float]:
    return [x - w / 2, y - h / 2, x + w / 2, y + h / 2]


def targets(*boxes: list[float], **more: Tensor) -> Targets:
    return Targets(torch.tensor(boxes), torch.arange(len(boxes)) % 3, **more)


@pytest.mark.parametrize(
    ("center", "cells"),
    [
        ((18, 18), {(2, 2), (1, 2), (2, 1)}),  # the upper left quarter of its cell
        ((22, 18), {(2, 2), (1, 2), (2, 3)}),
        ((22, 22), {(2, 2), (3, 2), (2, 3)}),
        ((20, 20), {(2, 2)}),  # the middle
        ((20, 22), {(2, 2), (3, 2)}),
        ((2, 2), {(0, 0)}),  # there is nothing beyond the border
        ((46, 31), {(3, 5)}),
        ((46, 25), {(3, 5), (2, 5)}),
    ],
)
def test_the_cell_of_the_center_and_the_two_nearer_ones(center: tuple[int, int], cells: set[tuple[int, int]]) -> None:
    match = taken(targets(box(*center)), most=1.5)
    assert {(y, x) for y, x, anchor in (match == 0).nonzero().tolist() if anchor == 0} == cells
    assert (match[..., 1] == -1).all()  # twice as wide


def test_both_sides_differ_by_less_than_the_factor() -> None:
    for w, h, fits in ((31, 8, True), (32, 8, False), (2.1, 8, True), (2, 8, False), (8, 33, False), (8, 2, False)):
        assert (taken(targets(box(20, 20, w, h)))[2, 2, 0] == 0) == fits, (w, h)


def test_of_several_boxes_a_row_has_the_one_of_its_shape() -> None:
    wide, square = box(20, 20, 16, 8), box(20, 20)
    for pair in ((wide, square), (square, wide)):
        match = taken(targets(*pair))[2, 2]
        assert match.tolist() == [pair.index(square), pair.index(wide)]
    assert taken(targets(square, square))[2, 2, 0] == 0


def test_a_box_that_does_not_count_takes_no_row_from_one_that_does() -> None:
    both = targets(box(20, 20, 12, 12), box(20, 20), weight=torch.tensor([1.0, 0.0]))
    assert taken(both)[2, 2, 0] == 0
    alone = targets(box(20, 20), weight=torch.zeros(1))
    assert taken(alone)[2, 2, 0] == -2


def test_images_keep_to_themselves() -> None:
    """``matched`` counts the boxes of all images; one without a box is background."""
    empty = Targets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long))
    match = (
        RatioAssigner()(rows(3), [targets(box(20, 20)), empty, targets(box(20, 20), box(4, 4))]).matches().view(3, -1)
    )
    assert set(match[0].tolist()) == {-1, 0}
    assert set(match[1].tolist()) == {-1}
    assert set(match[2].tolist()) == {-1, 1, 2}


def test_a_center_outside_of_the_grid_has_no_cell() -> None:
    own, near = around(torch.tensor([-3.0, 4.0, 50.0]), torch.tensor([4.0, 12.0]), 8)
    assert own.tolist() == [[False, False], [True, False], [False, False]]
    assert torch.equal(near, own)

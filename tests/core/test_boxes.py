"""Boxes: coders equal torchvision's, warps equal the reference's, clipping and overlaps by hand."""

import json

import numpy as np
import pytest
import torch
from torchvision.models.detection._utils import BoxCoder, BoxLinearCoder

from ssod.structures.boxes import DeltaCoder, LtrbCoder, clip, compose, iou, paired_iou, warp
from tests.paths import golden_path
from tests.waits import Waits


def _boxes(n: int, seed: int) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    corner = torch.rand(n, 2, generator=g) * 100
    return torch.cat([corner, corner + 1 + torch.rand(n, 2, generator=g) * 80], 1)


def test_delta_coder_equals_torchvision() -> None:
    boxes, priors = _boxes(50, 0), _boxes(50, 1)
    theirs, ours = BoxCoder((10.0, 10.0, 5.0, 5.0)), DeltaCoder(shift=10, size=5)
    torch.testing.assert_close(ours.encode(boxes, priors), theirs.encode_single(boxes, priors))
    deltas = torch.randn(50, 4) * 3
    torch.testing.assert_close(ours.decode(deltas, priors), theirs.decode_single(deltas, priors))


def test_ltrb_coder_equals_torchvision() -> None:
    boxes, priors = _boxes(50, 0), _boxes(50, 1)
    theirs, ours = BoxLinearCoder(normalize_by_size=True), LtrbCoder()
    torch.testing.assert_close(ours.encode(boxes, priors), theirs.encode(priors, boxes))
    deltas = torch.randn(50, 4)
    torch.testing.assert_close(ours.decode(deltas, priors), theirs.decode(deltas, priors))


@pytest.mark.parametrize("coder", [DeltaCoder(10, 5), LtrbCoder(), LtrbCoder(8)])
def test_coders_round_trip(coder: DeltaCoder | LtrbCoder) -> None:
    boxes, priors = _boxes(50, 2), _boxes(50, 3)
    torch.testing.assert_close(coder.decode(coder.encode(boxes, priors), priors), boxes, atol=1e-4, rtol=1e-5)


def test_paired_iou_is_the_diagonal_of_iou() -> None:
    a, b = _boxes(20, 4), _boxes(20, 5)
    torch.testing.assert_close(paired_iou(a, b), iou(a, b).diagonal())
    empty = torch.zeros(1, 4)
    assert paired_iou(empty, empty).item() == 0


def test_clip_uses_height_and_width_in_that_order() -> None:
    boxes = torch.tensor([[-5.0, -5, 50, 50]])
    assert clip(boxes, torch.tensor([20, 30])).tolist() == [[0, 0, 30, 20]]


def test_warp_takes_the_hull_of_the_corners() -> None:
    turn = torch.tensor([[0.0, -1, 10], [1, 0, 0], [0, 0, 1]])  # x' = 10 - y, y' = x
    assert warp(torch.tensor([[1.0, 2, 3, 6]]), turn).tolist() == [[4, 1, 8, 3]]
    assert warp(torch.zeros(0, 4), turn).shape == (0, 4)


def test_nothing_is_copied_to_the_device() -> None:
    boxes = _boxes(3, 0)
    with Waits() as waits:
        warp(boxes, torch.eye(3))
        LtrbCoder().mirror(boxes, boxes[:, 0])
    assert waits.copies == 0


def test_matrices_stay_exact_under_autocast() -> None:
    a, b = torch.randn(4, 3, 3) * 300, torch.randn(4, 3, 3) * 300
    boxes = _boxes(4, 6) * 7.3
    with torch.autocast("cpu", dtype=torch.bfloat16):
        product, moved = compose(a, b), warp(boxes, a)
    torch.testing.assert_close(product, a @ b, rtol=1e-5, atol=1e-2)
    assert product.dtype == moved.dtype == torch.float32
    torch.testing.assert_close(moved, warp(boxes.double(), a.double()).float(), rtol=1e-4, atol=1e-2)


def test_box_transfer_golden() -> None:
    """Teacher boxes land in the student's view as in the reference (clamped, degenerate boxes kept)."""
    golden = np.load(golden_path("box_transfer_and_ema.npz"), allow_pickle=False)
    cases = [c for c in json.loads(str(golden["cases_json"])) if c["id"].startswith("w")]
    assert cases
    for case in cases:
        get = lambda name, case=case: torch.from_numpy(golden[f"{case['id']}.{name}"]).double()  # noqa: E731
        transfer = compose(get("student_matrix"), torch.linalg.inv(get("teacher_matrix")))
        torch.testing.assert_close(transfer, get("teacher_to_student"), rtol=1e-5, atol=1e-7)
        moved = clip(warp(get("boxes_teacher"), transfer), get("student_wh").flip(-1))
        torch.testing.assert_close(moved, get("boxes_student"), rtol=1e-5, atol=1e-5)

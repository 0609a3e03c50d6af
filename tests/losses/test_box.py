import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torchvision.ops import complete_box_iou_loss, distance_box_iou_loss, generalized_box_iou_loss

from ssod.losses import box as losses
from ssod.losses.box import ALIGNED, BOX, BOX_STD, ciou_pairs, diou_pairs, giou_pairs, l1, nll, smooth_l1
from ssod.structures import Predictions
from ssod.structures.boxes import DeltaCoder, LtrbCoder, paired_iou
from tests.losses.rows import assignment, predictions
from tests.paths import golden_path

RNG = torch.Generator().manual_seed(0)


def random_boxes(n: int) -> torch.Tensor:
    start = torch.rand(n, 2, generator=RNG) * 50
    return torch.cat([start, start + 1 + torch.rand(n, 2, generator=RNG) * 40], 1)


@pytest.mark.parametrize("name", ["giou", "diou", "ciou"])
def test_golden(name: str) -> None:
    file = np.load(golden_path("box_iou_losses.npz"), allow_pickle=False)
    cases = json.loads(str(file["cases_json"]))
    assert len(cases) == 3
    for case in cases:
        boxes = torch.from_numpy(file[f"{case['id']}.pred_xyxy"]).double().requires_grad_()
        target = torch.from_numpy(file[f"{case['id']}.target_xyxy"]).double()
        p = predictions(torch.zeros(len(boxes), 1).double(), boxes[:, None])
        loss = BOX[name](p, assignment(torch.zeros(len(boxes), dtype=torch.long), target))
        assert loss.dtype == torch.float64
        loss.sum().backward()
        np.testing.assert_allclose(loss.detach(), file[f"{case['id']}.{name}_loss"], rtol=1e-6, atol=1e-8)
        np.testing.assert_allclose(boxes.grad, file[f"{case['id']}.{name}_grad"], rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("name", sorted(ALIGNED))
def test_a_box_inside_out_costs_what_no_overlap_costs(name: str) -> None:
    """Corners changed places along x, y or both, far outside the wanted box: torchvision's GIoU loss is -24 here."""
    inside_out = torch.tensor([[100.0, 100, 0, 0], [100, 0, 0, 100], [0, 100, 100, 0], [60, 60, 40, 40]])
    target = torch.tensor([[40.0, 40, 60, 60]]).repeat(4, 1)
    far = inside_out * 1000 - 50_000
    for boxes in (inside_out.requires_grad_(), far.detach().requires_grad_()):
        p = predictions(torch.zeros(4, 1), boxes[:, None])
        loss = ALIGNED[name](p, assignment(torch.zeros(4, dtype=torch.long), target))
        loss.sum().backward()
        assert ((loss >= 1 - 1e-6) & (loss <= 4)).all(), loss
        assert boxes.grad.isfinite().all()


def test_giou_draws_the_corners_of_a_box_inside_out_together() -> None:
    boxes = torch.tensor([[100.0, 100, 0, 0]], requires_grad=True)
    giou_pairs(boxes, torch.tensor([[40.0, 40, 60, 60]])).sum().backward()
    assert (boxes.grad[:, :2] > 0).all()
    assert (boxes.grad[:, 2:] < 0).all()


def test_giou_and_diou_are_torchvisions_on_boxes() -> None:
    a, b = random_boxes(50), random_boxes(50)
    torch.testing.assert_close(giou_pairs(a, b), generalized_box_iou_loss(a, b))
    torch.testing.assert_close(diou_pairs(a, b), distance_box_iou_loss(a, b))


def test_ciou_is_torchvisions_where_that_is_finite() -> None:
    a, b = random_boxes(50), random_boxes(50)
    torch.testing.assert_close(ciou_pairs(a, b), complete_box_iou_loss(a, b))


@pytest.mark.parametrize("name", ["iou", "giou", "diou", "ciou"])
def test_boxes_without_size_are_finite(name: str) -> None:
    """FCOS's distances are clamped at 0: a fresh head does predict points and lines."""
    deltas = torch.tensor([[0.0, 0, 0, 0], [0, 1, 0, 1], [1, 0, 1, 0], [1, 1, 1, 1]], requires_grad=True)
    priors = torch.tensor([[8.0, 8, 16, 16]]).repeat(4, 1)
    p = predictions(torch.zeros(4, 1), deltas[:, None])
    p.priors, p.coder = priors, LtrbCoder()
    loss = BOX[name](p, assignment(torch.zeros(4, dtype=torch.long), torch.tensor([[4.0, 4, 20, 24]]).repeat(4, 1)))
    loss.sum().backward()
    assert loss.isfinite().all()
    assert deltas.grad.isfinite().all()


@pytest.mark.parametrize("name", sorted(BOX))
def test_a_perfect_box_costs_nothing(name: str) -> None:
    priors, boxes = random_boxes(8), random_boxes(8)
    coder = DeltaCoder(10, 5)
    p = predictions(torch.zeros(8, 1), coder.encode(boxes, priors)[:, None])
    p.priors, p.coder = priors, coder
    loss = BOX[name](p, assignment(torch.zeros(8, dtype=torch.long), boxes))
    torch.testing.assert_close(loss, torch.zeros(8), rtol=0, atol=1e-4)


def test_deltas_of_the_rows_own_class() -> None:
    deltas = torch.arange(24.0).view(2, 3, 4)
    p = predictions(torch.zeros(2, 4), deltas, softmax=True)
    a = assignment(torch.tensor([2, 0]), torch.zeros(2, 4), torch.tensor([1.0, 0.5]))
    assert l1(p, a).tolist() == [8 + 9 + 10 + 11, 12 + 13 + 14 + 15]
    soft = assignment(torch.tensor([[0.1, 0.2, 0.6], [0.9, 0, 0]]), torch.zeros(2, 4))
    assert l1(p, soft).tolist() == l1(p, a).tolist()


def test_smooth_l1_is_torchs() -> None:
    x, y = torch.randn(5, 4, generator=RNG), torch.randn(5, 4, generator=RNG)
    a = assignment(torch.zeros(5, dtype=torch.long), y)
    for beta in (1 / 9, 1.0):
        wanted = F.smooth_l1_loss(x, y, beta=beta, reduction="none").sum(1)
        torch.testing.assert_close(smooth_l1(predictions(torch.zeros(5, 1), x[:, None]), a, beta), wanted)


@pytest.mark.parametrize("name", sorted(BOX))
def test_no_foreground_still_reaches_the_deltas(name: str) -> None:
    deltas = torch.zeros(3, 1, 4, requires_grad=True)
    p = predictions(torch.zeros(3, 1), deltas)
    loss = BOX[name](p, assignment(torch.ones(3, dtype=torch.long), weight=torch.zeros(3)))
    assert loss.shape == (0,)
    loss.sum().backward()
    assert torch.equal(deltas.grad, torch.zeros(3, 1, 4))


def test_half_precision_is_upcast_also_under_autocast() -> None:
    priors, boxes = random_boxes(6), random_boxes(6)
    deltas = (DeltaCoder().encode(boxes, priors) * 0.9).bfloat16()
    a = assignment(torch.zeros(6, dtype=torch.long), boxes)
    for name, loss in BOX.items():
        wanted = loss(_with(priors, deltas.float()), a)
        with torch.autocast("cpu", torch.bfloat16):
            got = loss(_with(priors, deltas), a)
        assert got.dtype == torch.float32, name
        torch.testing.assert_close(got, wanted)


def _with(priors: torch.Tensor, deltas: torch.Tensor) -> Predictions:
    p = predictions(torch.zeros(len(deltas), 1), deltas[:, None])
    p.priors, p.coder = priors, DeltaCoder()
    return p


def test_the_table_holds_every_row_loss() -> None:
    public = {"l1", "smooth_l1", "iou", "giou", "diou", "ciou"}
    assert set(BOX) == public
    assert all(getattr(losses, name) is BOX[name] for name in public)


# ---- likelihood ----------------------------------------------------------------------------------------------------


def likely(deltas: torch.Tensor, box_std: torch.Tensor, boxes: torch.Tensor, **params: float) -> torch.Tensor:
    p = predictions(torch.zeros(len(deltas), 1), deltas[:, None], box_std=box_std)
    return nll(p, assignment(torch.zeros(len(deltas), dtype=torch.long), boxes), **params)


def test_nll_is_the_normals_likelihood_weighted_by_iou() -> None:
    boxes = random_boxes(6)
    deltas = (boxes + 0.5).requires_grad_()
    box_std = torch.randn(6, 4, generator=RNG).requires_grad_()
    loss = likely(deltas, box_std, boxes)
    sigma = box_std.sigmoid()
    each = -torch.distributions.Normal(deltas, sigma).log_prob(boxes).sum(1)
    overlap = paired_iou(deltas, boxes).detach()
    torch.testing.assert_close(loss, overlap * each)
    loss.sum().backward()
    torch.testing.assert_close(deltas.grad, (overlap[:, None] * (deltas - boxes) / sigma**2).detach())


def test_nll_is_finite_at_the_ends_of_box_std() -> None:
    boxes = random_boxes(4)
    for value in (-1e4, -100.0, 100.0, 1e4):
        deltas, box_std = (boxes + 3).requires_grad_(), torch.full((4, 4), value, requires_grad=True)
        loss = likely(deltas, box_std, boxes)
        loss.sum().backward()
        assert loss.isfinite().all()
        assert deltas.grad.isfinite().all()
        assert box_std.grad.isfinite().all()


@pytest.mark.parametrize("name", sorted(BOX_STD.keys() - {"ciou"}))  # its alpha has no gradient; see the golden file
def test_gradcheck(name: str) -> None:
    boxes = random_boxes(4).double()
    noise = torch.randn(4, 4, generator=RNG, dtype=torch.float64)

    def loss(deltas: torch.Tensor, box_std: torch.Tensor) -> torch.Tensor:
        p = predictions(torch.zeros(4, 1).double(), deltas[:, None], box_std=box_std)
        with torch.no_grad():
            frozen = paired_iou(p.deltas[:, 0], boxes)
        rows = BOX_STD[name](p, assignment(torch.zeros(4, dtype=torch.long), boxes))
        # The IoU of nll is a constant by definition: what is left is differentiable.
        return rows / frozen if name == "nll" else rows

    x, s = (boxes + noise).requires_grad_(), torch.randn(4, 4, generator=RNG, dtype=torch.float64).requires_grad_()
    if name == "nll":
        assert torch.autograd.gradcheck(loss, (x, s))
    else:
        assert torch.autograd.gradcheck(lambda v: loss(v, s.detach()), x)

"""Every class loss that a config can name: published numbers, gradients, and the ends of the scale."""

import json
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ssod.losses import elements
from ssod.losses.elements import (
    anchor_elements,
    equalization_elements,
    focal_elements,
    focal_ratio_elements,
    focal_star_elements,
    quality_focal_elements,
    varifocal_elements,
)
from ssod.losses.sigmoid import SIGMOID, SOFTMAX, bce, equalization, focal, label_smoothing, quality_focal
from ssod.losses.softmax import cross_entropy, log_rest, softmax_anchor, softmax_focal_ratio, softmax_label_smoothing
from ssod.structures import RowLoss
from tests.losses.rows import assignment, predictions
from tests.paths import golden_path

EXTREME = [-1e4, -200.0, -88.0, -20.0, -1.0, 0.0, 1.0, 20.0, 88.0, 200.0, 1e4]
RARE = torch.tensor([0.5, 0.001, 0.1])
FAMILY = {name: partial(loss, frequency=RARE) if name == "equalization" else loss for name, loss in SIGMOID.items()}
SMALL_GAMMA = {name: partial(FAMILY[name], gamma=0.5) for name in ("focal", "focal_ratio", "varifocal", "focal_star")}
SIGMOID_CASES = FAMILY | {f"{name}, gamma 0.5": loss for name, loss in SMALL_GAMMA.items()}
SOFTMAX_CASES = SOFTMAX | {
    "focal_ratio, gamma 0.5": partial(softmax_focal_ratio, gamma=0.5),
    "softmax_focal, gamma 0.5": partial(SOFTMAX["softmax_focal"], gamma=0.5),
}
CASES = [(name, loss, False) for name, loss in SIGMOID_CASES.items()]
CASES += [(name, loss, True) for name, loss in SOFTMAX_CASES.items()]


def ids(case: object) -> str:
    return case if isinstance(case, str) else "softmax" if case is True else "sigmoid" if case is False else ""


@pytest.fixture(scope="module")
def formulas():
    return np.load(golden_path("focal_formulas.npz"), allow_pickle=False)


@pytest.mark.parametrize(
    ("case", "formula"),
    [
        ("focal", lambda x, t, a, g: focal_elements(x, t, a, g)),
        ("focal_star_retinanet", lambda x, t, a, g, b: focal_star_elements(x, t, a, g, b)),
        ("focal_star_ratio", lambda x, t, a, g: focal_ratio_elements(x, t, a, g, max_factor=1e300)),
    ],
)
@pytest.mark.parametrize("target", [1.0, 0.0])
def test_golden_formulas(formulas, case: str, formula, target: float) -> None:
    """The file's ``x_t`` is the logit of a positive; a negative has it with the other sign and ``1 - alpha``."""
    params = torch.from_numpy(formulas[f"{case}.params"]).double()
    sign = 1 if target else -1
    x_t = torch.from_numpy(formulas[f"{case}.x_t"]).double()
    rows = 0
    for key in torch.unique(params, dim=0):
        chosen = (params == key).all(1)
        alpha, *rest = key.tolist()
        x = (sign * x_t[chosen]).requires_grad_()
        loss = formula(x, torch.full_like(x, target), alpha if target else 1 - alpha, *rest)
        loss.sum().backward()
        np.testing.assert_allclose(loss.detach(), formulas[f"{case}.value"][chosen], rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(sign * x.grad, formulas[f"{case}.grad"][chosen], rtol=1e-8, atol=1e-12)
        rows += len(x)
    assert rows == len(x_t) > 200


def test_the_derivative_has_its_exponent_on_one_minus_p(formulas) -> None:
    p = torch.from_numpy(formulas["printed_derivative.p"]).double()
    x = torch.logit(p).requires_grad_()
    focal_elements(x, torch.ones_like(x), -1, float(formulas["printed_derivative.gamma"])).sum().backward()
    np.testing.assert_allclose(x.grad, formulas["printed_derivative.correct"], rtol=1e-9)
    assert not np.allclose(x.grad, formulas["printed_derivative.as_printed"], rtol=1e-2)


def test_worked_examples(formulas) -> None:
    x = torch.logit(torch.from_numpy(formulas["worked_examples.p"]).double())
    loss = focal_elements(x, torch.ones_like(x), -1, float(formulas["worked_examples.gamma"]))
    np.testing.assert_allclose(loss, formulas["worked_examples.value"], rtol=1e-7)


def test_quality_focal_golden() -> None:
    file = np.load(golden_path("dense_teacher_elementwise.npz"), allow_pickle=False)
    student = torch.from_numpy(file["qfl.student_prob"]).double().requires_grad_()
    chosen = torch.from_numpy(file["qfl.selected"])[:, None] > 0
    target = torch.where(chosen, torch.from_numpy(file["qfl.teacher_prob"]).double(), 0.0)
    loss = quality_focal_elements(torch.logit(student), target)
    loss.sum().backward()
    np.testing.assert_allclose(loss.detach(), file["qfl.loss_elementwise"], rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(loss.sum().item(), file["qfl.loss_sum"], rtol=1e-7)
    np.testing.assert_allclose(student.grad, file["qfl.grad_student_prob"], rtol=1e-5, atol=1e-8)


def rows_of(softmax: bool, soft: bool, dtype: torch.dtype = torch.float64, n: int = 5):
    g = torch.Generator().manual_seed(3)
    x = (3 * torch.randn(n, 4 if softmax else 3, generator=g)).to(dtype)
    hard = torch.tensor([0, 1, 2, 3, 0])[:n]  # 3 is background
    weight = 0.2 + 0.7 * torch.rand(n, 1, generator=g)
    cls = (F.one_hot(hard, 4)[:, :3] * weight).to(torch.float64) if soft else hard
    return x, cls


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize(("name", "loss", "softmax"), CASES, ids=ids)
def test_gradcheck(name: str, loss: RowLoss, softmax: bool, soft: bool) -> None:
    x, cls = rows_of(softmax, soft)
    assert torch.autograd.gradcheck(
        lambda v: loss(predictions(v, softmax=softmax), assignment(cls)), x.requires_grad_()
    )


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize(("name", "loss", "softmax"), CASES, ids=ids)
def test_finite_to_the_ends(name: str, loss: RowLoss, softmax: bool, precision: str) -> None:
    """Every pair of extreme logits, hard and soft targets; half precision as autocast hands it over."""
    dtype = getattr(torch, precision)
    grid = torch.cartesian_prod(torch.tensor(EXTREME), torch.tensor(EXTREME))
    columns = 4 if softmax else 3
    values = torch.cat([grid, torch.zeros(len(grid), columns - 2)], 1).to(dtype)
    for cls in (0, 1, 2, 3):
        hard = torch.full((len(grid),), cls)
        for target in (hard, 0.6 * F.one_hot(hard, 4)[:, :3].float()):
            x = values.clone().requires_grad_()
            with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
                rows = loss(predictions(x, softmax=softmax), assignment(target))
            assert rows.dtype == torch.float32
            rows.sum().backward()
            assert rows.isfinite().all()
            assert x.grad.isfinite().all()


@pytest.mark.parametrize(("name", "loss", "softmax"), CASES, ids=ids)
def test_hard_labels_are_one_hot(name: str, loss: RowLoss, softmax: bool) -> None:
    x, hard = rows_of(softmax, soft=False)
    p = predictions(x, softmax=softmax)
    soft = F.one_hot(hard, 4)[:, :3].double()
    torch.testing.assert_close(loss(p, assignment(hard)), loss(p, assignment(soft)))
    assert (loss(p, assignment(hard)) > 0).all()


@pytest.mark.parametrize("name", sorted(FAMILY))
def test_wrong_rows_cost_more_than_right_ones(name: str) -> None:
    """For every form, at some distance from the middle."""
    x = torch.tensor([[4.0, -4, -4], [-4, 4, -4]])
    right, wrong = FAMILY[name](predictions(x), assignment(torch.tensor([0, 0]))).tolist()
    assert wrong > 2 * right


# ---- what single forms promise -------------------------------------------------------------------------------------


def test_relations_between_the_forms() -> None:
    x, hard = rows_of(False, soft=False)
    p, a = predictions(x), assignment(hard)
    plain = bce(p, a)
    torch.testing.assert_close(focal(p, a, alpha=-1, gamma=0), plain)
    torch.testing.assert_close(FAMILY["focal_ratio"](p, a, alpha=-1, gamma=0), plain)
    torch.testing.assert_close(FAMILY["focal_star"](p, a, alpha=-1, gamma=1, beta=0), plain)
    torch.testing.assert_close(FAMILY["balanced_bce"](p, a, alpha=0.5), plain / 2)
    torch.testing.assert_close(label_smoothing(p, a, eps=0), plain)
    torch.testing.assert_close(quality_focal(p, a, beta=0), plain)
    torch.testing.assert_close(FAMILY["anchor"](p, a, gamma=0), plain)
    torch.testing.assert_close(equalization(p, a, lam=0, frequency=RARE), plain)
    x, hard = rows_of(True, soft=False)
    p, a = predictions(x, softmax=True), assignment(hard)
    ce = cross_entropy(p, a)
    torch.testing.assert_close(softmax_focal_ratio(p, a, gamma=0), ce)
    torch.testing.assert_close(SOFTMAX["focal_star"](p, a, gamma=1, beta=0), ce)
    torch.testing.assert_close(softmax_label_smoothing(p, a, eps=0), ce)
    others = 1 - F.one_hot(hard, 4)
    torch.testing.assert_close(softmax_anchor(p, a, gamma=0), ce - (others * (1 - x.softmax(1)).log()).sum(1))


def test_focal_ratio_is_held_at_its_largest_factor() -> None:
    x = torch.tensor([-50.0], requires_grad=True)
    loss = focal_ratio_elements(x, torch.ones(1), alpha=0.25, gamma=2, max_factor=1e3)
    loss.sum().backward()
    assert loss.item() == pytest.approx(0.25 * 1e3 * 50)
    assert x.grad.item() == pytest.approx(-0.25 * 1e3)
    inside = torch.linspace(-3, 3, 7)  # e^6 < 1e3
    free = focal_ratio_elements(inside, torch.ones(7), max_factor=1e30)
    torch.testing.assert_close(focal_ratio_elements(inside, torch.ones(7)), free)


def test_varifocal_weighs_by_quality_and_is_focal_on_background() -> None:
    x, q = torch.tensor([0.3, 0.3]), torch.tensor([0.7, 0.0])
    p = torch.sigmoid(torch.tensor(0.3)).item()
    ce = F.binary_cross_entropy_with_logits(x, q, reduction="none")
    wanted = [0.7 * ce[0].item(), 0.75 * p**2 * ce[1].item()]
    assert varifocal_elements(x, q).tolist() == pytest.approx(wanted)


def test_anchor_by_hand() -> None:
    """True class at 0.6: a rival at 0.8 weighs more than in BCE, one at 0.1 less."""
    p = torch.tensor([[0.6, 0.8, 0.1]])
    got = anchor_elements(torch.logit(p), torch.tensor([[1.0, 0, 0]]), delta=0.05, gamma=0.5)[0]
    q = 0.55
    wanted = [-np.log(0.6), -((1 + 0.8 - q) ** 0.5) * np.log(0.2), -((1 + 0.1 - q) ** 0.5) * np.log(0.9)]
    assert got.tolist() == pytest.approx(wanted, rel=1e-5)
    background = anchor_elements(torch.logit(p), torch.zeros(1, 3), delta=0.05, gamma=0.5)[0]
    q = (1 - 0.8) - 0.05
    assert background[2].item() == pytest.approx(-((1 + 0.1 - q) ** 0.5) * np.log(0.9), rel=1e-5)


def test_equalization_spares_rare_classes_on_foreground_only() -> None:
    x = torch.zeros(3, 3, requires_grad=True)
    target = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 0]])  # a frequent object, a rare one, background
    equalization_elements(x, target, RARE).sum().backward()
    assert x.grad.tolist() == [[-0.5, 0, 0.5], [0.5, -0.5, 0.5], [0.5, 0.5, 0.5]]


def test_frequencies_must_be_of_the_classes_of_the_rows() -> None:
    """Else they would broadcast, and a row of one class would count once for each of them."""
    with pytest.raises(ValueError, match="frequencies of 3 classes for rows of 1"):
        equalization(predictions(torch.zeros(4, 1)), assignment(torch.zeros(4, dtype=torch.long)), frequency=RARE)


def test_smoothed_targets_are_the_minimum() -> None:
    target, eps = torch.tensor([[1.0, 0, 0, 0]]), 0.1
    best = torch.logit((1 - eps) * target + eps / 4).requires_grad_()
    elements.label_smoothing_elements(best, target, eps).sum().backward()
    torch.testing.assert_close(best.grad, torch.zeros(1, 4), atol=1e-6, rtol=0)
    logits = ((1 - eps) * target + eps / 4).log().requires_grad_()
    rows = softmax_label_smoothing(predictions(logits, softmax=True), assignment(torch.tensor([0])), eps)
    rows.sum().backward()
    torch.testing.assert_close(logits.grad, torch.zeros(1, 4), atol=1e-6, rtol=0)


def test_one_class_is_smoothed_on_both_sides() -> None:
    target = torch.tensor([[1.0], [0.0]])
    best = torch.logit(torch.tensor([[0.95], [0.05]])).requires_grad_()
    elements.label_smoothing_elements(best, target, 0.1).sum().backward()
    torch.testing.assert_close(best.grad, torch.zeros(2, 1), atol=1e-6, rtol=0)


def test_log_of_the_rest_keeps_its_digits() -> None:
    x = torch.tensor([[50.0, 0, 0], [1, 2, 3], [-1e4, 1e4, 0]])
    exact = torch.log1p(-x.double().softmax(1))
    exact[0, 0] = np.log(2) - 50
    exact[2] = torch.tensor([0.0, -1e4, 0.0])
    torch.testing.assert_close(log_rest(x).double(), exact, rtol=1e-5, atol=1e-6)


def test_the_golden_file_says_what_is_tested(formulas) -> None:
    names = {case["id"] for case in json.loads(str(formulas["cases_json"]))}
    assert names == {"focal", "focal_star_retinanet", "focal_star_ratio", "printed_derivative", "worked_examples"}


def test_log_rest_has_the_slope_of_a_tie() -> None:
    """With two classes of one half each; a clamp at one half has no slope there in torch 2.14, and has one in 2.11."""
    logits = torch.zeros(1, 2, dtype=torch.float64, requires_grad=True)
    slopes = [torch.autograd.grad(log_rest(logits)[0, one], logits)[0][0].tolist() for one in (0, 1)]
    assert slopes == [[pytest.approx(-0.5), pytest.approx(0.5)], [pytest.approx(0.5), pytest.approx(-0.5)]]

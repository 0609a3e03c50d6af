import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ssod.losses import sigmoid
from ssod.losses.elements import focal_elements, modulator, quality_focal_elements
from ssod.losses.sigmoid import bce, cross_entropy, focal, quality_bce, quality_focal, softmax_focal
from tests.losses.rows import assignment, predictions
from tests.paths import golden_path

EXTREME = [-1e4, -200.0, -88.0, -20.0, 0.0, 20.0, 88.0, 200.0, 1e4]


def golden(name: str):
    file = np.load(golden_path(f"{name}.npz"), allow_pickle=False)
    for case in json.loads(str(file["cases_json"])):
        prefix = case["id"] + "."
        yield case, {k[len(prefix) :]: file[k] for k in file.files if k.startswith(prefix)}


def test_focal_golden() -> None:
    cases = 0
    for case, v in golden("focal_sigmoid"):
        x = torch.from_numpy(v["logit"]).double().requires_grad_()
        loss = focal_elements(x, torch.from_numpy(v["target"]).double(), case["alpha"], case["gamma"])
        assert loss.dtype == torch.float64
        loss.sum().backward()
        np.testing.assert_allclose(loss.detach(), v["loss"], rtol=1e-6, atol=1e-8, err_msg=case["name"])
        np.testing.assert_allclose(x.grad, v["grad_logit"], rtol=1e-5, atol=1e-8, err_msg=case["name"])
        np.testing.assert_allclose(loss.sum().item(), v["loss_sum"], rtol=1e-6)
        np.testing.assert_allclose(loss.mean().item(), v["loss_mean"], rtol=1e-6)
        cases += 1
    assert cases == 19


def test_softmax_focal_golden() -> None:
    cases = 0
    for case, v in golden("focal_softmax_unbiased_teacher"):
        labels = torch.from_numpy(v["labels"]).long()
        hard = torch.from_numpy(v["logits"]).double().requires_grad_()
        loss = softmax_focal(predictions(hard, softmax=True), assignment(labels), gamma=case["gamma"])
        loss.sum().backward()
        np.testing.assert_allclose(loss.detach(), v["per_sample"], rtol=1e-6, atol=1e-8, err_msg=case["name"])
        np.testing.assert_allclose(hard.grad, v["grad_logits_of_sum"], rtol=1e-5, atol=1e-8, err_msg=case["name"])
        np.testing.assert_allclose(loss.sum().item(), v["loss_sum"], rtol=1e-6)
        if case["gamma"] == 1.5:
            np.testing.assert_allclose(loss.mean().item(), v["loss_over_R"], rtol=1e-6)
        soft = F.one_hot(labels, case["columns"])[:, :-1].double()
        again = softmax_focal(predictions(hard.detach(), softmax=True), assignment(soft), gamma=case["gamma"])
        torch.testing.assert_close(again, loss.detach())
        cases += 1
    assert cases == 7


@pytest.mark.parametrize("target", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("gamma", [0.0, 0.25, 0.5, 1.0, 1.5, 2.0, 5.0])
def test_sigmoid_losses_are_finite_everywhere(gamma: float, target: float) -> None:
    for formula in (lambda x, t: focal_elements(x, t, 0.25, gamma), lambda x, t: quality_focal_elements(x, t, gamma)):
        x = torch.tensor(EXTREME, requires_grad=True)
        loss = formula(x, torch.full_like(x, target))
        loss.sum().backward()
        assert loss.isfinite().all()
        assert x.grad.isfinite().all()
        assert (loss >= 0).all()


@pytest.mark.parametrize("gamma", [0.25, 0.5, 1.0, 1.5, 2.0])
def test_softmax_losses_are_finite_everywhere(gamma: float) -> None:
    for cls in (torch.tensor([0, 1, 2]), torch.tensor([[1.0, 0], [0, 0.5], [0, 0]])):
        x = torch.tensor([[1e4, -1e4, 0.0]] * 3, requires_grad=True)
        p, a = predictions(x, softmax=True), assignment(cls)
        loss = softmax_focal(p, a, gamma) + cross_entropy(p, a)
        loss.sum().backward()
        assert loss.isfinite().all()
        assert x.grad.isfinite().all()


def test_gamma_below_one_agrees_with_finite_differences() -> None:
    x = torch.linspace(-6, 6, 25, dtype=torch.float64, requires_grad=True)
    for target in (0.0, 0.4, 1.0):
        assert torch.autograd.gradcheck(lambda v, t=target: focal_elements(v, torch.full_like(v, t), 0.25, 0.5), x)


def test_easy_rows_keep_their_digits_in_float32() -> None:
    x = torch.tensor([25.0])
    exact = focal_elements(x.double(), torch.ones(1), gamma=2.0)
    got = focal_elements(x, torch.ones(1), gamma=2.0)
    assert exact > 0
    assert (modulator((-x).sigmoid(), 2.0) > 0).all()
    assert got.item() == pytest.approx(exact.item(), abs=1e-12)


def test_hard_and_soft_targets_agree() -> None:
    torch.manual_seed(0)
    x = torch.randn(6, 3)
    hard = torch.tensor([0, 1, 2, 3, 3, 0])  # 3 is background
    soft = F.one_hot(hard, 4)[:, :3].float()
    for loss in (bce, focal, quality_focal):
        torch.testing.assert_close(loss(predictions(x), assignment(hard)), loss(predictions(x), assignment(soft)))
    x = torch.randn(6, 4)
    for loss in (cross_entropy, softmax_focal):
        p = predictions(x, softmax=True)
        torch.testing.assert_close(loss(p, assignment(hard)), loss(p, assignment(soft)))


@pytest.mark.parametrize("loss", [bce, focal, quality_focal])
@pytest.mark.parametrize("soft", [False, True])
def test_parts_change_nothing(loss, soft: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    cls = torch.rand(10, 3) if soft else torch.randint(0, 4, (10,))
    whole = torch.randn(10, 3)
    results = []
    for size in (sigmoid.PART, 9):
        monkeypatch.setattr(sigmoid, "PART", size)
        x = whole.clone().requires_grad_()
        rows = loss(predictions(x), assignment(cls))
        (rows * torch.arange(10)).sum().backward()
        results.append((rows.detach(), x.grad))
    # Not to the bit: a processor takes several elements at a time and those that are left over at the end of a part one
    # by one, by another polynomial for exp and log. A row in the wrong part differs in its first digit.
    torch.testing.assert_close(results[0], results[1], rtol=1e-5, atol=1e-6)


def test_parts_keep_little_for_the_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sigmoid, "PART", 1000)
    kept: dict[int, int] = {}

    def note(t: torch.Tensor) -> torch.Tensor:
        kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    x = torch.randn(2000, 5, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        focal(predictions(x), assignment(torch.full((2000,), 5)))
    assert sum(kept.values()) < 2 * x.untyped_storage().nbytes()


def test_missing_mass_is_background() -> None:
    x = torch.tensor([[0.3, -0.2, 1.0]])
    got = cross_entropy(predictions(x, softmax=True), assignment(torch.tensor([[0.5, 0.2]])))
    logp = x.log_softmax(-1)[0]
    assert got.item() == pytest.approx(-(0.5 * logp[0] + 0.2 * logp[1] + 0.3 * logp[2]).item(), rel=1e-6)
    over = cross_entropy(predictions(x, softmax=True), assignment(torch.tensor([[0.7, 0.3 + 1e-7]])))
    assert over.item() == pytest.approx(-(0.7 * logp[0] + 0.3 * logp[1]).item(), rel=1e-5)


def test_half_precision_logits_are_upcast() -> None:
    x = torch.randn(4, 3).bfloat16()
    cls = torch.tensor([0, 1, 2, 3])
    for loss in (bce, focal, quality_focal):
        got = loss(predictions(x), assignment(cls))
        assert got.dtype == torch.float32
        torch.testing.assert_close(got, loss(predictions(x.float()), assignment(cls)))
    with torch.autocast("cpu", torch.bfloat16):
        assert softmax_focal(predictions(x, softmax=True), assignment(cls.clamp(max=2))).dtype == torch.float32


def test_quality_looks_at_foreground_only() -> None:
    x = torch.zeros(3, 2)
    p = predictions(x, quality=torch.tensor([0.0, 2.0, -1e4]))
    a = assignment(torch.tensor([0, 2, 1]), weight=torch.tensor([1.0, 0.0, 0.5]))
    a.quality = torch.tensor([0.5, float("nan"), 0.0])
    got = quality_bce(p, a)
    assert got.tolist() == pytest.approx([0.693147, 0.0], abs=1e-5)

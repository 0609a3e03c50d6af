import json

import numpy as np
import pytest
import torch
from torch import nn

from ssod.losses.weighting.bayes import Branch, C, ConvBayes, Guess, bald, difficulty, own_loss, predicted, wanted
from tests.losses.rows import assignment, predictions
from tests.paths import golden_path


@pytest.fixture
def golden():
    return np.load(golden_path("uncertainty_bald.npz"), allow_pickle=False)


def test_bald_golden(golden) -> None:
    mu = torch.from_numpy(golden["bald.mu"]).double().requires_grad_()
    sigma = torch.from_numpy(golden["bald.sigma"]).double().requires_grad_()
    score = bald(mu, sigma)
    score.sum().backward()
    assert golden["bald.C"] == pytest.approx(C)
    np.testing.assert_allclose(score.detach(), golden["bald.U_bald"], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(mu.grad, golden["bald.grad_mu"], rtol=1e-7, atol=1e-11)
    np.testing.assert_allclose(sigma.grad, golden["bald.grad_sigma"], rtol=1e-7, atol=1e-11)
    u = score.detach().sigmoid()
    np.testing.assert_allclose(u, golden["bald.U"], rtol=1e-9)
    right = torch.ones(len(u), dtype=torch.bool)
    np.testing.assert_allclose(difficulty(u, right), golden["bald.D_correct"], rtol=1e-9)
    np.testing.assert_allclose(difficulty(u, ~right), golden["bald.D_wrong"], rtol=1e-9)


def test_bald_is_finite_and_bounded_everywhere() -> None:
    values = torch.tensor([-1e4, -40.0, -3.0, 0.0, 3.0, 40.0, 1e4])
    mu, sigma = (m.requires_grad_() for m in torch.meshgrid(values, values.abs(), indexing="ij"))
    score = bald(mu, sigma)
    score.sum().backward()
    assert ((score > -0.0031) & (score < 1)).all()
    assert mu.grad.isfinite().all()
    assert sigma.grad.isfinite().all()
    x = torch.randn(20, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda m: bald(m, m.abs() + 0.1), x)


@pytest.mark.parametrize("case", ["conv0", "conv1", "conv2"])
def test_conv_golden(golden, case: str) -> None:
    meta = {c["id"]: c for c in json.loads(str(golden["cases_json"]))}[case]

    def get(name: str) -> torch.Tensor:
        return torch.from_numpy(golden[f"{case}.{name}"]).double()

    kernel, noise = get("kernel"), get("noise")
    conv = ConvBayes(
        kernel.shape[1],
        kernel.shape[0],
        kernel.shape[2],
        stride=meta["stride"],
        padding=meta["padding"],
        lam=meta["lam"],
        samples=meta["samples"],
    ).double()
    conv.load_state_dict({"weight": kernel, "bias": torch.zeros(len(kernel)).double()})
    mu, sigma = conv.moments(get("x"))
    np.testing.assert_allclose(mu.detach(), get("mean"), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(sigma.detach(), get("std"), rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose((mu + noise.mean(0) * sigma).detach(), get("sampled_mean"), rtol=1e-7, atol=1e-9)
    assert len(noise) == meta["samples"]


def test_draws_have_the_mean_of_s_samples_in_distribution() -> None:
    torch.manual_seed(0)
    conv = ConvBayes(2, 1, lam=0.5, samples=4)
    mu, sigma = torch.full((200_000,), 3.0), torch.full((200_000,), 2.0)
    y = conv.draw(mu, sigma)
    assert y.mean().item() == pytest.approx(3, abs=0.02)
    assert y.std().item() == pytest.approx(2 / 4**0.5, rel=0.01)


def test_the_kernels_gradient_goes_through_both_moments_and_is_finite_at_no_features() -> None:
    conv = ConvBayes(3, 2, lam=0.5)
    for x in (torch.zeros(1, 3, 5, 5), torch.randn(1, 3, 5, 5)):
        conv.zero_grad()
        sigma = conv.moments(x)[1]
        sigma.sum().backward()
        assert conv.weight.grad.isfinite().all()
    assert conv.weight.grad.abs().sum() > 0
    assert torch.autograd.gradcheck(conv.double().moments, torch.randn(1, 3, 4, 4).double().requires_grad_())


def test_features_that_would_overflow_as_halves() -> None:
    conv = ConvBayes(3, 2)
    with torch.autocast("cpu", torch.float16):
        mu, sigma = conv.moments(torch.full((1, 3, 5, 5), 6e4, dtype=torch.float16))
    assert mu.dtype == torch.float32
    assert mu.isfinite().all()
    assert sigma.isfinite().all()


@pytest.mark.parametrize("layers", [1, 3])
def test_rows_come_in_the_order_of_the_head(layers: int) -> None:
    """Image-major, level-major, cells by row, anchors last."""
    branch = Branch(nn.Conv2d(4, 6, 3), 2, layers=layers, lam=0.1)
    features = [torch.randn(3, 4, 5, 6), torch.randn(3, 4, 2, 3)]
    guess = branch(features)
    assert len(guess.mu) == 3 * 2 * (5 * 6 + 2 * 3)
    if layers == 1:
        image, level, row, column, anchor = 2, 1, 1, 2, 1
        index = image * 72 + 60 + (row * 3 + column) * 2 + anchor
        mu, sigma = branch.last.moments(features[level])
        assert guess.mu[index] == mu[image, anchor, row, column]
        assert guess.sigma[index] == sigma[image, anchor, row, column]
    assert len(list(branch.parameters())) == 2 * layers


def test_a_plain_branch_is_certain() -> None:
    guess = Branch(nn.Conv2d(4, 1, 3), 1, lam=0.0)([torch.randn(1, 4, 3, 3)])
    assert torch.equal(guess.mu, guess.logit)
    assert not guess.sigma.any()


def test_correct_is_the_thresholded_prediction() -> None:
    x = torch.tensor([[2.0, -2], [-2, 2], [-2, -2], [0.4, 0.6], [-2, -2]])
    assert predicted(predictions(x)).tolist() == [0, 1, 2, 1, 2]
    softmax = torch.tensor([[2.0, 0, 0], [0.5, 0.4, 0.3]])
    assert predicted(predictions(softmax, softmax=True)).tolist() == [0, 2]
    assert wanted(assignment(torch.tensor([1, 2])), 2).tolist() == [1, 2]
    assert wanted(assignment(torch.tensor([[0.2, 0.7], [0.3, 0.2]])), 2).tolist() == [1, 2]


def test_every_wrong_row_is_harder_than_every_right_one() -> None:
    u = torch.rand(1000, generator=torch.Generator().manual_seed(0))
    right = torch.arange(1000) % 2 == 0
    d = difficulty(u, right)
    assert d[right].max() < 0.5 <= d[~right].min()
    assert d[~right][u[~right].argmin()] == d.max()  # the most confident wrong row is the hardest


def test_the_branch_has_a_loss_of_its_own() -> None:
    guess = Guess(torch.zeros(3), torch.zeros(3), torch.tensor([0.0, 5.0, -5.0], requires_grad=True))
    a = assignment(torch.tensor([0, 1, 1]))
    a.cls_weight = torch.tensor([1.0, 0.0, 2.0])
    loss = own_loss(guess, a, torch.tensor([True, False, False]), torch.tensor(2.0))
    assert loss.item() == pytest.approx((np.log(2) + np.log1p(np.exp(-5))) / 2, rel=1e-5)
    loss.backward()
    assert guess.logit.grad[1] == 0

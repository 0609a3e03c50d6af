"""The machine that rounds otherwise does so by a bit, always alike; what every machine gets exactly is left alone."""

import torch

from tests.rounding import Rounding


def test_last_bits_move_and_only_those() -> None:
    x = torch.randn(4, 7, generator=torch.Generator().manual_seed(0))
    plain = x.exp()
    with Rounding(1):
        once, again, part = x.exp(), x.exp(), x[:2].exp()
    with Rounding(2):
        other = x.exp()
    assert torch.equal(once, again)
    for found in (once, other):
        assert not torch.equal(found, plain)
        torch.testing.assert_close(found, plain, rtol=2.5e-7, atol=0)
    assert not torch.equal(once, other)
    assert not torch.equal(part, once[:2])  # as at the end of a tensor, whose elements are computed one by one


def test_counts_products_and_limits_are_exact() -> None:
    flags, x = torch.tensor([True, False, True]), torch.tensor([-1e4, 0.0, 1e4])
    noise = torch.rand(5, 1, generator=torch.Generator().manual_seed(0))
    with Rounding(1):
        assert flags.float().sum() == 2
        assert x.sigmoid().tolist() == [0, 0.5, 1]
        assert torch.equal(noise.pow(2), noise * noise)
        assert torch.equal(noise.sum(1), noise[:, 0])


def test_gradients_pass() -> None:
    x = torch.tensor([0.3, 0.7], requires_grad=True)
    with Rounding(1):
        x.exp().sum().backward()
    torch.testing.assert_close(x.grad, x.detach().exp())

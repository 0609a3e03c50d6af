"""A machine that rounds otherwise, played by this one: to find tests whose verdict depends on the last bit.

Processors, libraries and thread counts sum in other orders and take other polynomials for ``exp``, so that a float32
result differs in its last bit, and may differ between the middle of a tensor and its end, but not between two equal
calls. Here, results of such functions are moved by up to one step of their last bit, by a pattern that depends on the
seed, the function and the place in a tensor of that size alone.
"""

from __future__ import annotations

import os
import zlib
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

# What libraries are free to compute in an order or by a polynomial of their own. IEEE 754 fixes + - * / and sqrt.
INEXACT = {
    *("conv2d", "linear", "matmul", "__matmul__", "__rmatmul__", "mm", "bmm", "einsum", "group_norm", "batch_norm"),
    *("exp", "log", "log1p", "expm1", "sigmoid", "softmax", "log_softmax", "logsumexp", "softplus", "logsigmoid"),
    *("pow", "__pow__", "__rpow__", "tanh", "erf", "sum", "mean", "cumsum", "interpolate", "norm", "var", "std"),
    *("binary_cross_entropy_with_logits", "binary_cross_entropy", "cross_entropy"),
}


class Rounding(TorchFunctionMode):
    """While it is entered, inexact functions of float32 and float64 tensors end in other last bits.

    Args:
        seed: which machine is played.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed = seed
        self.patterns: dict[tuple[str, int, torch.dtype], Tensor] = {}

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        """Compute, then move the last bit."""
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        if name not in INEXACT or type(out) is not Tensor or out.dtype not in (torch.float32, torch.float64):
            return out
        if out.device.type != "cpu" or not out.numel() or "out" in kwargs or _exact(name, args, kwargs, out):
            return out
        return _Move.apply(out, self.pattern(name, out))

    def pattern(self, name: str, like: Tensor) -> Tensor:
        """Return steps of -1, 0 or 1 in the last bit, as factors, of the shape of ``like``."""
        key = (name, like.numel(), like.dtype)
        if key not in self.patterns:
            g = torch.Generator().manual_seed(zlib.crc32(f"{self.seed} {name} {like.numel()}".encode()))
            steps = torch.randint(-1, 2, (like.numel(),), generator=g)
            self.patterns[key] = 1 + steps * torch.finfo(like.dtype).eps
        return self.patterns[key].view(like.shape)


def _exact(name: str, args: tuple, kwargs: dict, out: Tensor) -> bool:
    """Tell whether every machine gives the same: powers that are products, sums of one value, copied pixels."""
    if name in ("pow", "__pow__"):
        return args[1] in (0.5, 1, 2) if isinstance(args[1], int | float) else False
    if name in ("sum", "mean", "cumsum", "logsumexp"):
        return out.numel() == args[0].numel() and name != "cumsum"
    return name == "interpolate" and "nearest" in (kwargs.get("mode", "nearest"), *args[3:4])


class _Move(torch.autograd.Function):
    """Values move, gradients pass."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, factor: Tensor) -> Tensor:
        """Leave what has few bits, which any order of summing gives: counts, 0, 1 and their halves."""
        few = (value * 4096).frac() == 0
        return torch.where(few, value, value * factor)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


def played() -> AbstractContextManager:
    """Return what plays the machine that ``SSOD_TEST_ROUNDING`` names; nothing where it names none."""
    seed = os.environ.get("SSOD_TEST_ROUNDING")
    return nullcontext() if seed is None else Rounding(int(seed))


def unplayed() -> AbstractContextManager:
    """Return what ends the play, in a process that was forked in the middle of it and is to be as one of its own."""
    return nullcontext() if os.environ.get("SSOD_TEST_ROUNDING") is None else torch._C.DisableTorchFunction()

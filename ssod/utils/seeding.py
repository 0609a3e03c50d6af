"""Randomness as a pure function of what it is for.

Nothing here keeps state: the same ``(seed, stream, index, step)`` gives the same numbers on any worker, rank or
restart, so that neither the number of workers nor the moment of a crash can change a run.
"""

import hashlib
import random

import numpy as np
import torch
from torch import Tensor

_MASK63 = (1 << 63) - 1


def key(*parts: int | str) -> int:
    """Hash ``parts`` to one integer in ``[0, 2**63)``. ``key(1, 2)`` and ``key("1", 2)`` differ."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") & _MASK63


def generator(*parts: int | str) -> np.random.Generator:
    """Return a NumPy generator that depends on ``parts`` alone."""
    return np.random.Generator(np.random.Philox(key(*parts)))


def uniform(keys: Tensor, rows: Tensor) -> Tensor:
    """Return one number in [0, 1) for every (key, row), on the tensors' own device and without a generator.

    A detector samples anchors and proposals with it: the draw depends on the image's key and on the row's number
    inside its image, so two ranks with half a batch each draw what one process with the whole batch draws.

    Args:
        keys: int64, any shape, e.g. ``view.keys[p.image]``.
        rows: int64, broadcastable to ``keys``.

    Returns:
        float32 of the broadcast shape, with 24 random bits.
    """
    x = keys ^ (rows * -7046029254386353131)  # 2**64 / golden ratio; int64 products wrap, which is what is wanted
    for shift, factor in ((30, -4658895280553007687), (27, -7723592293110705685)):  # splitmix64's finaliser
        x = (x ^ ((x >> shift) & ((1 << (64 - shift)) - 1))) * factor
    x = x ^ ((x >> 31) & ((1 << 33) - 1))
    return (x & 0xFFFFFF).to(torch.float32) / float(1 << 24)


def seed_step(seed: int, step: int, rank: int) -> None:
    """Seed every global generator from what a step is, not from what came before it.

    The package itself draws from none of them; dropout and the like do. Neither an interruption nor an evaluation in
    between can then change what a step draws, and no generator has a state worth saving.
    """
    number = key(seed, "step", step, rank)
    random.seed(number)
    np.random.seed(number % 2**32)  # noqa: NPY002  the global state is what third parties draw from
    torch.manual_seed(number)

"""The global random generators, which only third parties draw from."""

import random

import numpy as np
import torch

from ssod import seeding


def seed_step(seed: int, step: int, rank: int) -> None:
    """Seed every global generator from what a step is, not from what came before it.

    The package itself draws from none of them; dropout and the like do. Neither an interruption nor an evaluation in
    between can then change what a step draws, and no generator has a state worth saving.
    """
    key = seeding.key(seed, "step", step, rank)
    random.seed(key)
    np.random.seed(key % 2**32)  # noqa: NPY002  the global state is what third parties draw from
    torch.manual_seed(key)

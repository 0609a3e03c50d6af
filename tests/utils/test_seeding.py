"""What a step draws depends on the step alone."""

import random

import numpy as np
import torch

from ssod.utils.seeding import seed_step


def draws(seed: int, step: int, rank: int) -> tuple[float, ...]:
    seed_step(seed, step, rank)
    return random.random(), float(np.random.rand()), float(torch.rand(()))  # noqa: NPY002


def test_the_same_step_draws_the_same_whatever_came_before() -> None:
    first = draws(1, 5, 0)
    torch.rand(100), np.random.rand(7), random.random()  # noqa: NPY002
    assert draws(1, 5, 0) == first


def test_seed_step_and_rank_all_matter() -> None:
    streams = [draws(*key) for key in ((1, 5, 0), (2, 5, 0), (1, 6, 0), (1, 5, 1))]
    for numbers in zip(*streams):
        assert len(set(numbers)) == 4

"""Real training steps that learn nothing and leave nothing behind, to be timed."""

from __future__ import annotations

import time

import torch

from ssod.engine.stepper import Stepper
from ssod.engine.train_config import TrainConfig
from ssod.methods.base import Method
from ssod.utils.signals import Signals


def rehearsal(method: Method, cfg: TrainConfig) -> Stepper:
    """Return what makes the steps of a run, at a learning rate of 0.

    What a step costs does not depend on the rate, and without one the untrained weights cannot diverge while they are
    timed.
    """
    return Stepper(method, cfg.model_copy(update={"lr": 0.0}), Signals())


def now(device: torch.device) -> float:
    """Return the time at which ``device`` has done all that was asked of it, in seconds."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()

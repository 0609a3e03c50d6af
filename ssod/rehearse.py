"""Real training steps that learn nothing and leave nothing behind, to be timed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from ssod.engine.runfolder import RunFolder
from ssod.engine.signals import Signals
from ssod.engine.train_config import TrainConfig
from ssod.engine.trainer import Trainer
from ssod.engine.window import Clock
from ssod.methods.base import Method
from ssod.structures import Batch

Batches = Callable[[int], Iterator[Batch]]


def rehearsal(method: Method, cfg: TrainConfig, batches: Batches) -> Trainer:
    """Return a trainer whose ``train_step`` does all that a step of ``fit`` does, at a learning rate of 0.

    Nothing is written: the run folder is never entered and the log has no lines. What a step costs does not depend on
    the rate, and without one the untrained weights cannot diverge while they are timed.
    """
    trainer = Trainer(
        method,
        cfg.model_copy(update={"lr": 0.0}),
        batches=batches,
        evaluate=None,
        folder=RunFolder(Path("rehearsal")),
        identity={},
        card={},
    )
    # What `fit` enters for a whole run.
    trainer.clock, trainer.signals, trainer.log = Clock(), Signals(), _Silent()
    return trainer


def now(device: torch.device) -> float:
    """Return the time at which ``device`` has done all that was asked of it, in seconds."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


class _Silent:
    """A log that nobody reads; a step that is skipped tells it so."""

    def say(self, text: str) -> None:
        """Say nothing."""

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"a rehearsal never calls log.{name}")

"""What a run is made of besides its method: all that the loop is given, in the order in which it asks for it."""

from collections.abc import Collection, Generator, Sequence
from typing import Any, Protocol

import numpy as np

from ssod.engine.checkpointing.burn_in import BurnIn
from ssod.engine.checkpointing.run_dir import RunFolder
from ssod.engine.stepper import Method
from ssod.structures import Batch, Detector


class RunParts(Protocol):
    """The parts of one run; ``ssod.build.Parts`` makes them from a config.

    Attributes:
        folder: the run's folder, entered.
        identity: what a checkpoint must agree on; see ``resume_check.check``.
        allow_change: keys of ``identity`` that may differ from the checkpoint's.
        card: of the model file; see ``model_file.save``.
        evaluates: whether there is anything to evaluate on; without it ``evaluate``, ``diagnose`` and ``pictures`` are
            never called.
        burn_in: when it ends, what decides it, and whose the run begins with.
    """

    folder: RunFolder
    identity: dict[str, Any]
    allow_change: Collection[str]
    card: dict[str, Any]
    evaluates: bool
    burn_in: BurnIn

    def begin(self) -> Sequence[str]:
        """Write to the folder what says what runs, and return lines for the log.

        Called before the first step of this process, when nothing stands in its way any more.
        """

    def batches(self, start: int, ahead: int = 0) -> Generator[Batch, None, None]:
        """Yield ``train.accumulate`` micro-batches for step ``start`` and for every later one; the loop closes it.

        Unlabelled images come so many steps, ``ahead``, before ``burn_in.ends``.
        """

    def phase(self, step: int) -> str:
        """Name what a step does, for the log: ``burn-in 336/2000``, ``ssod``."""

    def evaluate(self, detector: Detector) -> dict[str, float]:
        """Return the metrics of a detector in eval mode, fractions in 0..1."""

    def diagnose(self, step: int, method: Method) -> dict[str, float]:
        """Look at the method after an evaluation of its teacher; the result is logged and read by nothing else."""

    def pictures(self, step: int) -> dict[str, np.ndarray]:
        """Return what trackers show of that evaluation, [H, W, 3] uint8 by name; called if there is one, on rank 0."""

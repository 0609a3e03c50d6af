"""Who teaches: models that follow the student, each in its own way.

All of them start as a copy of the student, are always in eval mode and never have gradients.
"""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor, nn

from ssod.methods.config import EmaConfig
from ssod.structures import Detector, Output, View


class Ema(nn.Module):
    """A moving average of the student: the teacher of almost every method.

    Parameters are averaged, buffers are copied: batch-norm statistics are averages already, and averaging counters or
    anchors is wrong. ``torch.optim.swa_utils.AveragedModel`` does the same but reads its step count back from the
    device at every update; here the caller, who knows the step, passes it.

    Args:
        student: the detector to follow.
        decay: share of the teacher kept at each step.
        warm_up: cap the decay at ``1 - 1 / (t + 1)``, a plain running mean until ``decay`` is reached, so that a random
            initialisation never lingers (Mean Teacher's and Consistent-Teacher's schedule).
        start: until this step the teacher is a plain copy of the student.
    """

    def __init__(self, student: Detector, *, decay: float, warm_up: bool, start: int) -> None:
        super().__init__()
        self.model: Detector = deepcopy(student).requires_grad_(False).eval()
        self.share, self.warm_up, self.start = decay, warm_up, start

    def train(self, mode: bool = True) -> Ema:
        """Stay in eval mode: a teacher with live batch-norm or dropout gives labels that depend on its batch."""
        return super().train(False)

    def predict(self, view: View) -> Output:
        """Look at a view."""
        return self.model.predict(view)

    def decay(self, step: int) -> float:
        """Return the share of the teacher that the update after step number ``step`` keeps."""
        if step < self.start:
            return 0.0
        return min(self.share, 1 - 1 / (step + 2)) if self.warm_up else self.share

    def after_step(self, student: Detector, step: int) -> None:
        """Follow the student as step number ``step`` left it."""
        self.move(student, self.decay(step))

    def after_skip(self, student: Detector, step: int) -> None:
        """Follow the student over a step that was skipped; an average waits for the next one."""

    @torch.no_grad()
    def move(self, student: Detector, decay: float) -> None:
        """Move to ``decay * teacher + (1 - decay) * student``; 0 copies bit for bit, 1 leaves buffers alone, too."""
        if decay == 1:
            return
        mine: list[Tensor] = list(self.model.parameters())
        theirs: list[Tensor] = list(student.parameters())
        if decay == 0:
            torch._foreach_copy_(mine, theirs)
        else:
            torch._foreach_lerp_(mine, theirs, 1 - decay)
        buffers = list(self.model.buffers())
        if buffers:
            torch._foreach_copy_(buffers, list(student.buffers()))


class Copy(Ema):
    """A copy of the student, renewed every so many steps from the end of burn-in on; before, an average.

    The second of the three teachers that Humble Teacher compares (arXiv:2106.10456, table 5).

    Args:
        every: steps between two copies.
        burn_in: the first step with pseudo-labels.
    """

    def __init__(self, student: Detector, *, every: int, burn_in: int, decay: float, warm_up: bool, start: int) -> None:
        super().__init__(student, decay=decay, warm_up=warm_up, start=start)
        self.every, self.burn_in = every, burn_in

    def decay(self, step: int) -> float:
        """See ``Ema.decay``."""
        if step < self.burn_in:
            return super().decay(step)
        return 0.0 if (step + 1 - self.burn_in) % self.every == 0 else 1.0

    def after_skip(self, student: Detector, step: int) -> None:
        """Make the copy that falls on a skipped step; else it would wait for as many steps as lie between two."""
        if step >= self.burn_in:
            self.move(student, self.decay(step))


class Frozen(Ema):
    """A teacher that stays as burn-in left it; before, an average (arXiv:2106.10456, table 5).

    Args:
        burn_in: the first step with pseudo-labels.
    """

    def __init__(self, student: Detector, *, burn_in: int, decay: float, warm_up: bool, start: int) -> None:
        super().__init__(student, decay=decay, warm_up=warm_up, start=start)
        self.burn_in = burn_in

    def decay(self, step: int) -> float:
        """See ``Ema.decay``."""
        return super().decay(step) if step < self.burn_in else 1.0


def build_teacher(student: Detector, cfg: EmaConfig, burn_in: int) -> Ema:
    """Return the teacher that ``cfg`` describes.

    Args:
        student: the detector to follow.
        cfg: the config section.
        burn_in: the first step with pseudo-labels; 0 where there are none.
    """
    average = {"decay": cfg.decay, "warm_up": cfg.warm_up, "start": burn_in if cfg.start is None else cfg.start}
    if cfg.rule == "copy":
        return Copy(student, every=cfg.every or 1, burn_in=burn_in, **average)
    return Frozen(student, burn_in=burn_in, **average) if cfg.rule == "never" else Ema(student, **average)

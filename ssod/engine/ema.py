"""The exponential moving average of a student: the teacher of almost every method."""

from copy import deepcopy
from typing import Literal

import torch
from torch import nn

Rule = Literal["ema", "copy", "never"]


class EMA(nn.Module):
    """A copy of a model that follows it slowly.

    Parameters are averaged, buffers are copied: batch-norm statistics are averages already, and averaging counters or
    anchors is wrong. ``torch.optim.swa_utils.AveragedModel`` does the same but reads its step count back from the
    device at every update; here the caller, who knows the step, passes the decay.

    The teacher is always in eval mode and never has gradients.
    """

    def __init__(self, student: nn.Module) -> None:
        super().__init__()
        self.model = deepcopy(student).requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "EMA":
        """Stay in eval mode: a teacher with live batch-norm or dropout gives labels that depend on its batch."""
        return super().train(False)

    @torch.no_grad()
    def update(self, student: nn.Module, decay: float) -> None:
        """Move to ``decay * teacher + (1 - decay) * student``; 0 copies bit for bit, 1 leaves buffers alone, too."""
        if decay == 1:
            return
        mine, theirs = list(self.model.parameters()), list(student.parameters())
        if decay == 0:
            torch._foreach_copy_(mine, theirs)
        else:
            torch._foreach_lerp_(mine, theirs, 1 - decay)
        buffers = list(self.model.buffers())
        if buffers:
            torch._foreach_copy_(buffers, list(student.buffers()))

    def predict(self, *args: object, **kwargs: object) -> object:
        """``predict`` of the averaged model."""
        return self.model.predict(*args, **kwargs)


def decay_by_rule(rule: Rule, every: int | None, updates: int, decay: float) -> float:
    """Return the decay of an update after burn-in (Humble Teacher, arXiv:2106.10456, table 5).

    Args:
        rule: ``ema`` averages at every step; ``copy`` makes the teacher a copy of the student every so many steps and
            leaves it alone in between; ``never`` leaves it as it was when burn-in ended.
        every: steps between two copies.
        updates: optimiser steps made since burn-in ended, the one before this update included; from 1.
        decay: of the average.
    """
    if rule == "ema":
        return decay
    return 0.0 if rule == "copy" and updates % every == 0 else 1.0


def warm_decay(decay: float, updates: int) -> float:
    """Return ``min(decay, 1 - 1 / (updates + 1))``: a plain running mean until ``decay`` is reached.

    With 0 earlier updates it is 0, a copy, so that a random initialisation never lingers (Mean Teacher's and
    Consistent-Teacher's schedule).
    """
    return min(decay, 1 - 1 / (updates + 1))

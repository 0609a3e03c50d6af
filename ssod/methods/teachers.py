"""Who teaches: models that follow the student, each in its own way, and those that know from elsewhere.

``Ema``, ``Copy`` and ``Stopped`` start as a copy of the student; one of them is what is measured and exported, and
labels, too, unless a ``FromFile`` or a ``Frozen`` does. Models are always in eval mode and never have gradients.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from ssod.losses.weighting.context import Context
from ssod.methods.ema_config import EmaConfig, cap, grown
from ssod.structures import Assignment, Clusters, Detector, Output, Predictions, Rank, Targets, View, move_targets
from ssod.structures.ragged import select
from ssod.utils.on_device import copy_where, lerp_by


class Ema(nn.Module):
    """A moving average of the student: the teacher of almost every method.

    Parameters are averaged, buffers are copied: batch-norm statistics are averages already (with ``buffers`` they are
    averaged, too), and averaging counters or anchors is wrong. ``torch.optim.swa_utils.AveragedModel`` does the same
    but reads its step count back from the device at every update; here the caller, who knows the step, passes it.

    Args:
        student: the detector to follow.
        decay: share of the teacher kept at each step.
        warm_up: cap the decay at ``1 - 1 / (t + 1)``, a plain running mean until ``decay`` is reached, so that a random
            initialisation never lingers (Mean Teacher's and Consistent-Teacher's schedule).
        start: until this step the teacher is a plain copy of the student.
        gamma, growth: other warm-ups; see ``EmaConfig``.
        buffers: not None = average those buffers that are floats, too; see ``EmaConfig``.
        every: steps between two moves.
    """

    def __init__(
        self,
        student: Detector,
        *,
        decay: float,
        warm_up: bool,
        start: int,
        gamma: float | None = None,
        growth: float | None = None,
        buffers: str | None = None,
        every: int = 1,
    ) -> None:
        super().__init__()
        self.model: Detector = deepcopy(student).requires_grad_(False).eval()
        self.share, self.warm_up, self.start = decay, warm_up, start
        self.gamma, self.growth, self.interval = gamma, growth, every
        self.averages_buffers = buffers is not None

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
        if (step + 1) % self.interval:
            return 1.0
        if not self.warm_up:
            return self.share
        if self.growth is not None:
            return grown(self.share, step, self.growth)
        return min(self.share, cap(step, self.gamma))

    def after_step(self, student: Detector, step: int, skipped: Tensor | None = None) -> None:
        """Follow the student as step number ``step`` left it; see ``Supervised.after_step``."""
        self.move(student, self.decay(step), skipped)

    def after_skip(self, student: Detector, step: int) -> None:
        """Follow the student over a step that was skipped; an average waits for the next one."""

    @torch.no_grad()
    def move(self, student: Detector, decay: float, stays: Tensor | None = None) -> None:
        """Move to ``decay * teacher + (1 - decay) * student``; 0 copies bit for bit, 1 leaves buffers alone, too.

        Args:
            student: whom to follow.
            decay: share of the teacher that is kept.
            stays: [] on the device, 1 where the decay is to be 1 after all, else 0.
        """
        if decay == 1:
            return
        mine: list[Tensor] = list(self.model.parameters())
        theirs: list[Tensor] = list(student.parameters())
        buffers = list(zip(self.model.buffers(), student.buffers()))
        if self.averages_buffers:
            floats = [pair for pair in buffers if pair[0].is_floating_point()]
            mine += [each for each, _ in floats]
            theirs += [each for _, each in floats]
            buffers = [pair for pair in buffers if not pair[0].is_floating_point()]
        own, other = [each for each, _ in buffers], [each for _, each in buffers]
        if stays is not None:
            lerp_by((1 - stays) * (1 - decay), mine, theirs)
            copy_where(stays == 0, own, other)
            return
        if decay == 0:
            torch._foreach_copy_(mine, theirs)
        else:
            torch._foreach_lerp_(mine, theirs, 1 - decay)
        if buffers:
            torch._foreach_copy_(own, other)


class Copy(Ema):
    """A copy of the student, renewed every so many steps from the end of burn-in on; before, an average.

    The second of the three teachers that Humble Teacher compares (arXiv:2106.10456, table 5).

    Args:
        every: steps between two copies.
        burn_in: the first step with pseudo-labels.
        average: how it follows before, see ``Ema``.
    """

    def __init__(self, student: Detector, *, every: int, burn_in: int, **average: Any) -> None:
        super().__init__(student, **average)
        self.every, self.burn_in = every, burn_in

    def decay(self, step: int) -> float:
        """See ``Ema.decay``."""
        if step < self.burn_in:
            return super().decay(step)
        return 0.0 if (step + 1 - self.burn_in) % self.every == 0 else 1.0

    def after_step(self, student: Detector, step: int, skipped: Tensor | None = None) -> None:
        """See ``Ema.after_step``; a copy is made of what the student is, also where it was to stay as it was."""
        super().after_step(student, step, skipped if step < self.burn_in else None)

    def after_skip(self, student: Detector, step: int) -> None:
        """Make the copy that falls on a skipped step; else it would wait for as many steps as lie between two."""
        if step >= self.burn_in:
            self.move(student, self.decay(step))


class Stopped(Ema):
    """An average that stops moving when burn-in ends (arXiv:2106.10456, table 5).

    Args:
        burn_in, average: as in ``Copy``.
    """

    def __init__(self, student: Detector, *, burn_in: int, **average: Any) -> None:
        super().__init__(student, **average)
        self.burn_in = burn_in

    def decay(self, step: int) -> float:
        """See ``Ema.decay``."""
        return super().decay(step) if step < self.burn_in else 1.0


@dataclass
class FileOutput:
    """What a file says about N images: boxes, and nothing else; see ``structures.Output``.

    Attributes:
        boxes: N Targets with scores, in the view's pixels.
        known: N, whether the file has an entry for the image.
    """

    boxes: list[Targets]
    known: list[bool]
    stages: dict[str, Predictions] = field(default_factory=dict)
    proposals: None = None
    pyramid: list[Tensor] = field(default_factory=list)

    def detections(self, score: float | None = None, rank: Rank | None = None) -> list[Targets]:
        """Return the boxes, those above ``score`` where it is given."""
        if rank is not None:
            raise TypeError("a file of boxes has no maps to be ranked anew; needs_maps of the method should say so")
        if score is None:
            return self.boxes
        return select(self.boxes, torch.cat([t.confidence() for t in self.boxes]) > score)

    def clusters(self) -> Clusters:
        """Answer nothing: a file has what suppression left."""
        raise TypeError("a file of boxes has no candidates; needs_maps of the method should say so")

    def score(self, boxes: list[Tensor]) -> Predictions:
        """Answer nothing: a file has not seen the image."""
        raise TypeError("a file of boxes cannot say what is in others; needs_maps of the method should say so")


class Frozen(nn.Module):
    """A detector that was trained before, and never changes.

    Its weights are in the checkpoints, so that who goes on needs no other file.

    Args:
        detector: with its weights.
    """

    until: int | None = None

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.model: Detector = detector.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Frozen:
        """Stay in eval mode."""
        return super().train(False)

    def predict(self, view: View) -> Output:
        """Look at a view."""
        return self.model.predict(view)


class FromFile(nn.Module):
    """Boxes that are known beforehand: of another detector, of a foundation model, of people.

    They are on the device as one table, and in no checkpoint: who goes on reads the file again.

    Args:
        ids: I ids of the images with an entry, as ``View.ids`` has them.
        table: the boxes of all images, one after the other, the best first, with scores, in pixels of the original.
        starts: [I + 1], the first row of each image in ``table``, and its length.
        until: the first step at which the average labels; None = never.
    """

    boxes: Tensor
    labels: Tensor
    scores: Tensor | None
    weight: Tensor | None

    def __init__(
        self, ids: Sequence[int | str], table: Targets, starts: Sequence[int], until: int | None = None
    ) -> None:
        super().__init__()
        self.until = until
        self.rows = {id: slice(*ends) for id, ends in zip(ids, pairwise(starts))}
        for name in ("boxes", "labels", "scores", "weight"):
            self.register_buffer(name, getattr(table, name), persistent=False)

    def predict(self, view: View) -> FileOutput:
        """Return the boxes of the view's images, in its pixels; those that have left it are dropped."""
        table = Targets(self.boxes, self.labels, self.scores, weight=self.weight)
        stored = [table[self.rows.get(id, slice(0))] for id in view.ids]
        moved = move_targets(stored, view.matrix, view.sizes)
        return FileOutput(moved, [id in self.rows for id in view.ids])


def ignore_unknown(stage: str, p: Predictions, a: Assignment, ctx: Context) -> Assignment:
    """Let rows of an image without an entry in the teacher's file learn nothing: it is not known to be empty."""
    if not isinstance(ctx.teacher, FileOutput) or all(ctx.teacher.known):
        return a
    known = torch.tensor(ctx.teacher.known).to(p.image.device, non_blocking=True)[p.image].to(a.cls_weight)
    return replace(a, cls_weight=a.cls_weight * known, box_weight=a.box_weight * a.each_side(known))


def build_teacher(student: Detector, cfg: EmaConfig, burn_in: int) -> Ema:
    """Return the teacher that ``cfg`` describes.

    Args:
        student: the detector to follow.
        cfg: the config section.
        burn_in: the first step with pseudo-labels; 0 where there are none.
    """
    average = cfg.model_dump(exclude={"rule", "every"}) | {"start": burn_in if cfg.start is None else cfg.start}
    if cfg.rule == "copy":
        return Copy(student, every=cfg.every or 1, burn_in=burn_in, **average)
    if cfg.rule == "never":
        return Stopped(student, burn_in=burn_in, **average)
    return Ema(student, every=cfg.every or 1, **average)

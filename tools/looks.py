"""The looks that a training step takes, noted while it is made, and taken once more with nothing around them.

A look is one forward pass of a detector on a view, with or without gradient. No table says which looks a method takes:
whoever asks one of its detectors is noted. So mirror images, copies at half the size, mixed and pasted pictures count
as they were in that very step, with their own sizes, and labels that are looked up cost no pass.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ssod.engine.stepper import Stepper
from ssod.structures import Detector, Output, Targets, View
from ssod.utils.device import autocast
from ssod.utils.given import given


@dataclass
class Look:
    """A forward pass of a detector.

    Attributes:
        detector: who looks.
        view: at what.
        grad: whether with gradient.
        labels: the boxes that its rows were first asked for; None where no box was.
        taught: whether a gradient came back to its dense maps.
        searched: whether its proposals were found.
        asked: of two stages, the boxes [R, 4] and their images [R] that the second was asked about by anyone but the
            sampling of rows, and whether with gradient.
    """

    detector: Detector
    view: View
    grad: bool
    labels: list[Targets] | None = None
    taught: bool = False
    searched: bool = False
    asked: list[tuple[Tensor, Tensor, bool]] = field(default_factory=list)

    def again(self, precision: str) -> None:
        """Look once more: forward, and with gradient losses and backward, too.

        Rows learn ``labels``. Of one stage those that were asked for no box, but taught, learn that all is background;
        of two stages the mean of the maps, and of each answer about boxes, stands in for a loss.
        """
        with autocast(self.view.images.device, precision), torch.set_grad_enabled(self.grad):
            out: Any = self.detector.predict(self.view)  # two stages have more than an Output
            losses = self.answers(out)
            if self.grad:
                losses += self.lessons(out)
        if losses:
            torch.stack(losses).sum().backward()

    def answers(self, out: Any) -> list[Tensor]:
        """Find proposals and ask the second stage, as the step did; return what has a gradient to give."""
        if self.searched:
            _ = out.found  # found when read
        losses = []
        for boxes, image, grad in self.asked:
            with torch.set_grad_enabled(grad):
                p = self.detector.roi_rows(out.features, boxes, image, self.view.sizes)
            losses += [p.logits.float().sum() + p.deltas.float().sum()] if grad else []
        return losses

    def lessons(self, out: Output) -> list[Tensor]:
        """Return the losses of its rows."""
        labels = self.labels
        if labels is None and not self.taught:
            return []
        if labels is None and "rpn" in out.stages:
            return [p.logits.float().sum() + p.deltas.float().sum() for p in out.stages.values()]
        if labels is None:
            labels = [Targets.empty(self.view.images.new_zeros(1).float()) for _ in self.view.sizes]
        return list(self.detector.reduce(self.detector.assign(out, labels)).values())


class Looks:
    """Notes the looks of the steps of a stepper, while it is told to.

    The looks without gradient that parts of a step take to hear of each other (``engine.micro_batches``) are the loop's
    and not noted; those of teachers are, which are kept from there.

    Args:
        stepper: its method's detectors are watched from now on.

    Attributes:
        taken: the looks of the last step that was noted.
    """

    def __init__(self, stepper: Stepper) -> None:
        self.taken: list[Look] = []
        self._on = self._listens = False
        self._samples = 0
        self._of: dict[int, Look] = {}  # by the identity of an output and of its pyramid; both live when they are asked
        for detector in [m for m in stepper.method.modules() if isinstance(m, Detector)]:
            for name in ("predict", "assign", "assign_both", "roi_rows"):
                inner = getattr(detector, name, None)
                if inner is not None:
                    setattr(detector, name, partial(getattr(self, f"_{name}"), detector, inner))
        # type: ignore because one method is replaced by itself plus a note.
        stepper.look = partial(self._listen, stepper.look)  # type: ignore

    @contextmanager
    def noted(self) -> Generator[None, None, None]:
        """Note the looks inside in the place of earlier ones."""
        self.taken, self._of, self._on = [], {}, True
        try:
            yield
        finally:
            self._on = False
            self._of.clear()

    def words(self) -> str:
        """Say who looked at how many images of which size: ``2 of 2 x 320 x 320``."""
        kinds = Counter((each.detector.training, each.grad, tuple(each.view.images.shape)) for each in self.taken)
        found = []
        for (student, grad, (n, _, height, width)), count in kinds.items():
            way = "forward and backward" if grad else "forward"
            found.append(f"{'student' if student else 'teacher'} {way} {count} of {n} x {height} x {width}")
        return "; ".join(found)

    def _listen(self, inner: Callable[..., None], *args: Any) -> None:
        self._listens = True
        try:
            inner(*args)
        finally:
            self._listens = False

    def _predict(self, detector: Detector, inner: Callable[[View], Any], view: View) -> Any:
        out = inner(view)
        if not self._on:
            return out
        look = Look(detector, view, torch.is_grad_enabled())
        if not (self._listens and detector.training):
            self.taken.append(look)
        self._of[id(out)] = look
        for p in out.stages.values() if look.grad else ():
            for rows in (p.logits, p.deltas):
                rows.register_hook(partial(_teach, look))
        if "rpn" in out.stages:
            self._of[id(out.features)] = look
            out.search = partial(_search, look, out.search)
        return out

    def _assign(self, detector: Detector, inner: Callable[..., Any], out: Any, cls: list[Targets], *args: Any) -> Any:
        look = self._of.get(id(out))
        if self._on and look is not None and look.labels is None:
            look.labels = cls
        self._samples += 1
        try:
            return inner(out, cls, *args)
        finally:
            self._samples -= 1

    _assign_both = _assign  # the sure boxes are what its rows learn for certain

    def _roi_rows(
        self, detector: Detector, inner: Callable[..., Any], features: Any, boxes: Tensor, image: Tensor, sizes: Tensor
    ) -> Any:
        if self._on and not self._samples:
            look = given(self._of.get(id(features)), "a pyramid is that of a look")
            look.asked.append((boxes.detach(), image, torch.is_grad_enabled()))
        return inner(features, boxes, image, sizes)


def _teach(look: Look, gradient: Tensor) -> None:
    look.taught = True


def _search(look: Look, inner: Callable[[], Any]) -> Any:
    look.searched = True
    return inner()

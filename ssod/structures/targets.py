"""The boxes of one image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ssod.structures.mapped import Mapped
from ssod.utils.given import given


@dataclass
class Targets(Mapped):
    """The boxes of one image; ground truth, detections and pseudo-labels alike.

    Attributes:
        boxes: [M, 4] float.
        labels: [M] int64 in ``0..K-1``.
        scores: [M] confidence, or None for ground truth.
        probs: [M, K] soft label, or None for hard ones; what its rows lack to 1 is background.
        weight: [M] trust in the box, None = 1. Weight 0 is an *ignore region*: a prior matched to it learns neither
            object nor background (COCO's crowds are read as that).
        box_std: [M, 4] logit of the deviation of each side, as the detector that found the box predicts it; or None.
        box_weight: [M] trust in the box's place alone, None = 1; 0 = it teaches its class, and no place.
        quality: [M] in 0..1, what a teacher's quality branch says of the box, for a method that asks it; or None. A
            union of boxes forgets it.
        open: [K] bool, classes of which the image may have further boxes that nobody labelled; None = there are none.
            It is about the image, and stays what it is when boxes are chosen.
    """

    boxes: Tensor
    labels: Tensor
    scores: Tensor | None = None
    probs: Tensor | None = None
    weight: Tensor | None = None
    box_std: Tensor | None = None
    box_weight: Tensor | None = None
    quality: Tensor | None = None
    open: Tensor | None = None

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, keep: Tensor | slice) -> Targets:
        if isinstance(keep, Tensor) and keep.dtype == torch.bool:
            keep = keep.nonzero().squeeze(1)  # waits for the device, and would for every field
        return replace(replace(self, open=None).map(lambda t: t[keep]), open=self.open)

    @staticmethod
    def empty(like: Tensor) -> Targets:
        """No boxes, on the device and of the float type of ``like``; never a sentinel box."""
        return Targets(like.new_zeros((0, 4)), torch.zeros(0, dtype=torch.long, device=like.device))

    def soft(self, num_classes: int) -> Tensor:
        """Return [M, K] class targets: ``probs`` when there are any, else one-hot labels."""
        if self.probs is not None:
            return self.probs
        return F.one_hot(self.labels, num_classes).to(self.boxes.dtype)

    def trust(self) -> Tensor:
        """Return [M] weights, 1 where none were given."""
        return torch.ones_like(self.boxes[:, 0]) if self.weight is None else self.weight

    def deviation(self) -> Tensor:
        """Return ``box_std`` [M, 4]; sides of boxes without it, which are ground truth, have no deviation."""
        return torch.full_like(self.boxes, -torch.inf) if self.box_std is None else self.box_std

    def box_trust(self) -> Tensor:
        """Return [M] box weights, 1 where none were given."""
        return torch.ones_like(self.boxes[:, 0]) if self.box_weight is None else self.box_weight

    def confidence(self) -> Tensor:
        """Return [M] scores of detections or of pseudo-labels.

        Raises:
            TypeError: the boxes are ground truth.
        """
        return given(self.scores, "these boxes are ground truth and have no scores")


def open_classes(targets: Sequence[Targets], num_classes: int) -> Tensor | None:
    """Return [N, K] bool: the classes of which each image may have boxes that nobody labelled; None = nowhere any."""
    if all(t.open is None for t in targets):
        return None
    return torch.stack([t.labels.new_zeros(num_classes).bool() if t.open is None else t.open for t in targets])


def join(parts: Sequence[Targets]) -> Targets:
    """Return the union of some boxes of one image; truth counts as 1 among boxes with a score.

    A class is open where it is open for some of them.
    """
    scored, soft = (any(getattr(t, name) is not None for t in parts) for name in ("scores", "probs"))
    kept = ("weight", "box_std", "box_weight")
    weighed, uncertain, placed = (any(getattr(t, name) is not None for t in parts) for name in kept)
    classes = next((t.probs.shape[1] for t in parts if t.probs is not None), 0)
    scores = [torch.ones_like(t.boxes[:, 0]) if t.scores is None else t.scores for t in parts]
    return Targets(
        torch.cat([t.boxes for t in parts]),
        torch.cat([t.labels for t in parts]),
        torch.cat(scores) if scored else None,
        torch.cat([t.soft(classes) for t in parts]) if soft else None,
        torch.cat([t.trust() for t in parts]) if weighed else None,
        torch.cat([t.deviation() for t in parts]) if uncertain else None,
        torch.cat([t.box_trust() for t in parts]) if placed else None,
        open=_either([t.open for t in parts if t.open is not None]),
    )


def _either(open: list[Tensor]) -> Tensor | None:
    return torch.stack(open).any(0) if open else None

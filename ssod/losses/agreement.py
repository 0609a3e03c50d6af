"""How far what one model says about an image is from what it says about its mirror image, row by row.

Unlike the distances of ``consistency``, neither side is a teacher's, and gradients reach both. Everything computes in
float32 or better. (CSD: Jeong et al., Consistency-based Semi-supervised Learning for Object Detection, NeurIPS 2019)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ssod.losses.consistency import distribution, in_parts, js_terms, offset_errors
from ssod.losses.elements import upcast
from ssod.structures import Predictions
from ssod.utils.collective import mean_count

FLOOR = 1e-7  # the released code adds it to each probability, and does not normalise again

# Probabilities of outcomes [R, O], those of both looks -> [R].
Divergence = Callable[[Tensor, Tensor], Tensor]


def symmetric_kl(a: Tensor, b: Tensor) -> Tensor:
    """Half of KL(b || a) + KL(a || b), [R]; what stands first in each is held fixed (released code)."""
    a, b = a + FLOOR, b + FLOOR
    return (_kl(b.detach(), a) + _kl(a.detach(), b)) / 2


def jensen_shannon(a: Tensor, b: Tensor) -> Tensor:
    """Jensen-Shannon divergence, [R], at most ln 2 per distribution; both sides learn (paper)."""
    return js_terms(a, b).sum(-1)


# What a config may name.
DIVERGENCES: dict[str, Divergence] = {"kl": symmetric_kl, "js": jensen_shannon}


def outcomes(probs: Tensor, softmax: bool) -> Tensor:
    """Return [R, O]: the classes and background of a softmax head; of a sigmoid head each class and its absence."""
    return probs if softmax else torch.cat([probs, 1 - probs], -1)


@dataclass
class Pair:
    """Rows of images, and what the mirror images say about the same rows; both with gradient.

    Attributes:
        p: what is said about the images.
        probs: [R, K] of a sigmoid head; [R, K + 1] with background last of a softmax head.
        deltas: [R, C, 4] encoded boxes, as they are in the image itself (``Coder.mirror``).
        quality: [R] probability of the quality branch, or None.
        known: [R] bool, about which rows the mirror image says something; None = about all.
    """

    p: Predictions
    probs: Tensor
    deltas: Tensor
    quality: Tensor | None = None
    known: Tensor | None = None

    @torch.no_grad()
    def foreground(self, score: float) -> Tensor:
        """Return [R] bool: rows that are left when background is eliminated, by what the image itself says.

        Those of a softmax head whose likeliest class is likelier than background; those of a sigmoid head that give
        some class more than ``score``.
        """
        logits = upcast(self.p.logits)
        likely = logits[:, :-1].amax(-1) > logits[:, -1] if self.p.softmax else logits.amax(-1).sigmoid() > score
        return likely if self.known is None else likely & self.known

    def distances(self, divergence: Divergence) -> dict[str, Tensor]:
        """Return ``cls``, ``box`` and, with a quality branch, ``quality``, [R] each."""
        p = self.p

        def classes(logits: Tensor, other: Tensor) -> Tensor:
            own = distribution(upcast(logits), p.softmax)
            return divergence(outcomes(own, p.softmax), outcomes(other, p.softmax))

        found = {
            "cls": in_parts(classes, p.logits, self.probs),
            "box": offset_errors(p, self.deltas).square().mean(-1),
        }
        if p.quality is not None and self.quality is not None:
            own = upcast(p.quality).sigmoid()
            found["quality"] = divergence(*(outcomes(q[:, None], False) for q in (own, self.quality)))
        return found


def agreement(pairs: Sequence[Pair], kept: Sequence[Tensor], divergence: Divergence) -> dict[str, Tensor]:
    """Return the mean distances over the rows that are kept, ``cls``, ``box`` and perhaps ``quality``; 0 without any.

    Args:
        pairs: of one head, e.g. of labelled and of unlabelled images; the mean is over both, and over all ranks.
        kept: [R] bool of each.
        divergence: of the classes.
    """
    total = mean_count(torch.stack([rows.sum() for rows in kept]).sum().float())
    parts = [pair.distances(divergence) for pair in pairs]
    sums = ({name: torch.where(rows, d, 0.0).sum() for name, d in part.items()} for part, rows in zip(parts, kept))
    first, *more = sums
    return {name: torch.stack([value, *(part[name] for part in more)]).sum() / total for name, value in first.items()}


def _kl(target: Tensor, probs: Tensor) -> Tensor:
    return (target * (target.log() - probs.log())).sum(-1)

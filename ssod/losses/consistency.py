"""How far a student is from what its teacher believes, row by row: ``(predictions, targets) -> [R]``, unreduced.

Unlike the losses of ``classify`` and ``box``, which compare with boxes, these compare with another model's output for
the same rows, soft as it is. Everything computes in float32 or better and from the student's logits, so that values and
gradients are finite for |logit| up to 1e4. Soft targets have no gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ssod.losses.elements import upcast
from ssod.losses.sigmoid import PART
from ssod.structures import Predictions
from ssod.structures.boxes import IdentityCoder
from ssod.utils.collective import mean_count
from ssod.utils.given import given

Normalizer = Literal["rows", "foreground"]


@dataclass
class SoftTargets:
    """What a teacher believes about R rows.

    Attributes:
        probs: [R, K] of a sigmoid head; [R, K + 1] with background last of a softmax head.
        deltas: [R, C, 4] encoded boxes, C = 1 (class-agnostic) or K.
        quality: [R] probability of the quality branch, or None.
        softmax: whether a row of ``probs`` is one distribution, and not K of them.
    """

    probs: Tensor
    deltas: Tensor
    quality: Tensor | None = None
    softmax: bool = False

    @staticmethod
    @torch.no_grad()
    def of(p: Predictions) -> SoftTargets:
        """Take predictions as they are."""
        quality = None if p.quality is None else upcast(p.quality).sigmoid()
        return SoftTargets(distribution(upcast(p.logits), p.softmax), upcast(p.deltas), quality, p.softmax)

    def mean(self, other: SoftTargets) -> SoftTargets:
        """Average with other soft targets of the same rows."""
        quality = None if self.quality is None else (self.quality + other.known_quality()) / 2
        return SoftTargets((self.probs + other.probs) / 2, (self.deltas + other.deltas) / 2, quality, self.softmax)

    def where(self, keep: Tensor, other: SoftTargets) -> SoftTargets:
        """Take the rows ``keep`` [R] from here and the rest from ``other``."""
        quality = None if self.quality is None else torch.where(keep, self.quality, other.known_quality())
        probs = torch.where(keep[:, None], self.probs, other.probs)
        deltas = torch.where(keep[:, None, None], self.deltas, other.deltas)
        return SoftTargets(probs, deltas, quality, self.softmax)

    def hard(self) -> SoftTargets:
        """Make the classes certain: the likeliest one of a softmax head, those above 0.5 of a sigmoid head."""
        if self.softmax:
            probs = F.one_hot(self.probs.argmax(-1), self.probs.shape[1]).to(self.probs)
        else:
            probs = (self.probs > 0.5).to(self.probs)
        return SoftTargets(probs, self.deltas, self.quality, self.softmax)

    def known_quality(self) -> Tensor:
        """Return ``quality``.

        Raises:
            TypeError: there is none.
        """
        return given(self.quality, "one of two heads has a quality branch, the other has none")

    def foreground(self) -> Tensor:
        """Return [R], the probability of the likeliest class."""
        return (self.probs[:, :-1] if self.softmax else self.probs).amax(-1)


# ---- classes -------------------------------------------------------------------------------------------------------

ClassDistance = Callable[[Predictions, SoftTargets], Tensor]


def mse(p: Predictions, t: SoftTargets) -> Tensor:
    """Squared distance of the probabilities, summed over a row's classes (Mean Teacher, arXiv:1703.01780)."""
    return _by_parts(partial(mse_elements, softmax=p.softmax), p, t)


def kl(p: Predictions, t: SoftTargets) -> Tensor:
    """Kullback-Leibler divergence KL(teacher || student) (Humble Teacher, arXiv:2106.10456, Sec. 3).

    Over K classes and background for a softmax head; for a sigmoid head of a Bernoulli variable per class, summed.
    """
    return _by_parts(kl_softmax_elements if p.softmax else kl_elements, p, t)


def js(p: Predictions, t: SoftTargets) -> Tensor:
    """Jensen-Shannon divergence, at most ln 2 per distribution; a row of a sigmoid head sums K of them."""
    return _by_parts(js_softmax_elements if p.softmax else js_elements, p, t)


# What a config may name.
DISTANCES: dict[str, ClassDistance] = {"mse": mse, "kl": kl, "js": js}


# ---- boxes and quality ---------------------------------------------------------------------------------------------


def l2(p: Predictions, t: SoftTargets, squared: bool = False) -> Tensor:
    """Euclidean distance of all C * 4 encoded outputs of a row; its gradient is 0 where they agree.

    A head that answers with boxes in pixels is compared in sides of its priors.
    """
    error = offset_errors(p, t.deltas)
    return error.square().sum(-1) if squared else torch.linalg.vector_norm(error, dim=-1)


def offset_errors(p: Predictions, deltas: Tensor) -> Tensor:
    """Return [R, C * 4], how far encoded boxes are from others [R, C, 4] of the same rows; see ``l2`` about pixels."""
    error = upcast(p.deltas) - deltas
    if isinstance(p.coder, IdentityCoder):
        error = error / (p.priors[:, 2:] - p.priors[:, :2]).repeat(1, 2)[:, None]
    return error.flatten(1)


def quality_kl(p: Predictions, t: SoftTargets) -> Tensor:
    """Bernoulli divergence of the quality branch (centerness or IoU)."""
    return kl_elements(upcast(given(p.quality, "this head has no quality branch")), t.known_quality())


# ---- from rows to losses -------------------------------------------------------------------------------------------


def distill(
    stage: str, p: Predictions, t: SoftTargets, distance: ClassDistance, *, squared: bool, normalizer: Normalizer
) -> dict[str, Tensor]:
    """Return the losses ``cls``, ``box`` and, with a quality branch, ``quality`` of one stage; ``rpn_cls`` and so on.

    Args:
        stage: ``dense``, ``rpn`` or ``roi``.
        p: the student's rows.
        t: what the teacher believes about them.
        distance: of the classes.
        squared: of the boxes: square the L2 distance.
        normalizer: ``rows`` averages over all rows, background and all. ``foreground`` weighs a row's box and quality
            with the teacher's probability of its likeliest class and divides all losses by the sum of these weights, at
            least 1: of 20 000 dense rows a few dozen mean an object, and an average over all of them is nearly 0.
    """
    weight = t.foreground() if normalizer == "foreground" else torch.ones_like(t.probs[:, 0])
    total = mean_count(weight.sum())
    losses = {"cls": distance(p, t).sum() / total, "box": (l2(p, t, squared) * weight).sum() / total}
    if p.quality is not None:
        losses["quality"] = (quality_kl(p, t) * weight).sum() / total
    return {f"rpn_{name}": loss for name, loss in losses.items()} if stage == "rpn" else losses


# ---- formulas on tensors -------------------------------------------------------------------------------------------


def distribution(logits: Tensor, softmax: bool) -> Tensor:
    """Return probabilities of the shape of ``logits``: of K + 1 classes, or of K independent ones."""
    return logits.softmax(-1) if softmax else logits.sigmoid()


def mse_elements(logits: Tensor, target: Tensor, softmax: bool = False) -> Tensor:
    """Squared error of every probability."""
    return (distribution(logits, softmax) - target).square()


def kl_elements(logits: Tensor, target: Tensor) -> Tensor:
    """Bernoulli divergence of every element."""
    entropy = -torch.xlogy(target, target) - torch.xlogy(1 - target, 1 - target)
    return F.binary_cross_entropy_with_logits(logits, target, reduction="none") - entropy


def kl_softmax_elements(logits: Tensor, target: Tensor) -> Tensor:
    """Terms of the divergence of each row, [R, K + 1]; a single one may be negative."""
    return torch.xlogy(target, target) - target * logits.log_softmax(-1)


def js_elements(logits: Tensor, target: Tensor) -> Tensor:
    """Jensen-Shannon divergence of every Bernoulli variable."""
    return js_terms(logits.sigmoid(), target) + js_terms((-logits).sigmoid(), 1 - target)


def js_softmax_elements(logits: Tensor, target: Tensor) -> Tensor:
    """Terms of the divergence of each row, [R, K + 1]."""
    return js_terms(logits.softmax(-1), target)


def js_terms(a: Tensor, b: Tensor) -> Tensor:
    """Return what each outcome adds to the Jensen-Shannon divergence of probabilities; either may have a gradient."""
    # A floor, because the derivative of x log x is infinite at 0, where a saturated softmax does arrive.
    tiny = torch.finfo(a.dtype).tiny
    a, b = a.clamp(min=tiny), b.clamp(min=tiny)
    log_mean = ((a + b) / 2).log()
    return (a * (a.log() - log_mean) + b * (b.log() - log_mean)) / 2


def _by_parts(elements: Callable[[Tensor, Tensor], Tensor], p: Predictions, t: SoftTargets) -> Tensor:
    """Apply a formula and sum over the columns, [R]; many rows go through it in parts, computed anew for the gradient.

    A dense head has some 200 000 rows an image, and a formula keeps several arrays of its logits' size.
    """

    def rows(logits: Tensor, target: Tensor) -> Tensor:
        return elements(upcast(logits), target).sum(-1)

    return in_parts(rows, p.logits, t.probs)


def in_parts(rows: Callable[[Tensor, Tensor], Tensor], logits: Tensor, target: Tensor) -> Tensor:
    """Apply a formula of rows to [R, columns] twice, part by part where they are many; see ``_by_parts``."""
    size = max(1, PART // logits.shape[1])
    if len(logits) <= size:
        return rows(logits, target)
    parts = zip(logits.split(size), target.split(size))
    return torch.cat([checkpoint(rows, *part, use_reentrant=False, preserve_rng_state=False) for part in parts])

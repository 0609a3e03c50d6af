"""Class losses of softmax heads as row functions: ``(predictions, assignment) -> [R]``, unweighted and unreduced.

Logits are [R, K + 1] with background last. ``p_y`` is the softmax probability of the row's class or of background. A
soft target [R, K] counts each class by its share, what it lacks to 1 is background's, and the loss is
``sum_k t_k loss(k)``. Everything is computed from logits in float32 or better; |logit| up to 1e4 is finite.

A row without a box, in an image whose labels are incomplete, is background or of a class that is open there
(``Assignment.open``): the probabilities of these are added, and their sum is asked for as background's is elsewhere.
That is the cross entropy of what is known; Cermelli et al. 2020, "Modeling the Background", add up background and the
classes that a data set does not label in the same way, for segmentation.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ssod.losses.elements import NonNegative, Positive, Share, modulator, upcast
from ssod.structures import Assignment, Predictions, unknown

NOWHERE = -1e4  # a logit whose probability is 0


def cross_entropy(p: Predictions, a: Assignment) -> Tensor:
    """``-log p_y`` over K classes and background; slope ``p - t`` (Girshick 2015, "Fast R-CNN", sec. 2.3)."""
    logits = known(p, a)
    if a.cls.ndim == 1:
        return F.cross_entropy(logits, a.cls, reduction="none")
    return -(with_background(a.cls.to(logits)) * logits.log_softmax(-1)).sum(-1)


def softmax_focal(p: Predictions, a: Assignment, gamma: NonNegative = 1.5) -> Tensor:
    """``-(1 - p_y)^gamma log p_y``, no alpha (Unbiased Teacher v1, Liu et al. 2021, released code).

    Slope in the true logit: -1 towards hard rows, 0 like ``(1 - p_y)^(gamma + 1)`` towards easy ones.
    """
    return asked(lambda logp, rest: -modulator(-logp.expm1(), gamma) * logp, p, a)


def softmax_focal_star(p: Predictions, a: Assignment, gamma: Positive = 2.0, beta: float = 1.0) -> Tensor:
    """``-log(sigmoid(gamma x_y + beta)) / gamma`` of the log-odds ``x_y = log(p_y / (1 - p_y))``.

    The form of Lin et al. 2017, appendix, whose ``x_t`` is a log-odds too; no alpha. Slope in the true logit:
    -1 towards hard rows, 0 like ``exp(-gamma x_y)`` towards easy ones.
    """
    return asked(lambda logp, rest: F.softplus(-(gamma * (logp - rest) + beta)) / gamma, p, a)


def softmax_focal_ratio(p: Predictions, a: Assignment, gamma: NonNegative = 2.0, max_factor: Positive = 1e3) -> Tensor:
    """``-min(((1 - p_y) / p_y)^gamma, max_factor) log p_y``, no alpha; see ``elements.focal_ratio_elements``.

    Slope in the true logit: ``-max_factor`` towards hard rows, 0 like ``exp(-(gamma + 1) x_y)`` towards easy ones.
    """
    limit = math.log(max_factor)
    return asked(lambda logp, rest: -(gamma * (rest - logp)).clamp(max=limit).exp() * logp, p, a)


def softmax_anchor(p: Predictions, a: Assignment, delta: Share = 0.05, gamma: NonNegative = 0.5) -> Tensor:
    """``-log p_y - sum_{j != y} (1 + p_j - q*)^gamma log(1 - p_j)``, ``q* = p_y - delta`` (Ryou et al. 2019).

    Background is a class like the others. The gradient goes through ``q*`` too (see ``elements.anchor_elements``).
    Towards hard rows the slope is that of cross entropy plus at most ``(2 + delta)^gamma`` for the winning class,
    towards easy ones it is 0.
    """
    logits = known(p, a)
    logp = logits.log_softmax(-1)
    target, prob = targets(a, logp), logp.exp()
    true = (target * prob).sum(-1, keepdim=True)
    other = (1 - target) * modulator(1 + prob - (true - delta), gamma) * log_rest(logits)
    return -(target * logp + other).sum(-1)


def softmax_label_smoothing(p: Predictions, a: Assignment, eps: Share = 0.1) -> Tensor:
    """Cross entropy with the target ``(1 - eps) t + eps / (K + 1)`` (Szegedy et al. 2016, sec. 7).

    The minimum is at that target: no logit is driven to infinity.
    """
    logp = known(p, a).log_softmax(-1)
    target = (1 - eps) * targets(a, logp) + eps / logp.shape[1]
    if a.open is not None:  # what is added up is asked for as a whole
        added, single = unknown(a, p.image), target[:, :-1]
        nothing = target[:, -1:] + torch.where(added, single, 0.0).sum(-1, keepdim=True)
        target = torch.cat([single.masked_fill(added, 0), nothing], -1)
    return -(target * logp).sum(-1)


# ---- shared --------------------------------------------------------------------------------------------------------


def asked(loss: Callable[[Tensor, Tensor], Tensor], p: Predictions, a: Assignment) -> Tensor:
    """Return ``sum_k t_k loss(log p_k, log(1 - p_k))``, [R]; hard labels cost one column."""
    logits = known(p, a)
    logp, rest = logits.log_softmax(-1), log_rest(logits)
    if a.cls.ndim == 1:
        return loss(logp.gather(1, a.cls[:, None]), rest.gather(1, a.cls[:, None]))[:, 0]
    return (with_background(a.cls.to(logp)) * loss(logp, rest)).sum(-1)


def known(p: Predictions, a: Assignment) -> Tensor:
    """Return logits [R, K + 1] of what is known: open classes of a row without a box are added to background's."""
    logits = upcast(p.logits)
    if a.open is None:
        return logits
    added = unknown(a, p.image)
    one_of = torch.cat([added, torch.ones_like(added[:, :1])], -1)
    nothing = logits.masked_fill(~one_of, -torch.inf).logsumexp(-1, keepdim=True)
    return torch.cat([logits[:, :-1].masked_fill(added, NOWHERE), nothing], -1)


def log_rest(logits: Tensor) -> Tensor:
    """Return ``log(1 - softmax(logits))``, [R, C], C at least 2, with all digits also where the softmax is 1."""
    logp = logits.log_softmax(-1)
    top = F.one_hot(logits.argmax(-1), logits.shape[1]).bool()
    others = logits.masked_fill(top, -torch.inf).logsumexp(-1, keepdim=True) - logits.logsumexp(-1, keepdim=True)
    # No class but the likeliest has more than one half. A clamp would do, but its slope at its end differs by torch.
    most = math.log(0.5)
    below = torch.log1p(-torch.where(top | (logp > most), most, logp).exp())
    return torch.where(top, others, below)


def targets(a: Assignment, like: Tensor) -> Tensor:
    """Return [R, K + 1] targets in the type of ``like`` [R, K + 1]."""
    if a.cls.ndim == 2:
        return with_background(a.cls.to(like))
    return torch.zeros_like(like).scatter_(1, a.cls[:, None], 1.0)


def with_background(target: Tensor) -> Tensor:
    """[R, K] -> [R, K + 1]: append what each row lacks to 1."""
    return torch.cat([target, (1 - target.sum(-1, keepdim=True)).clamp(min=0)], -1)

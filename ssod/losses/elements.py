"""Class losses as formulas on tensors: logits and targets of one shape in, one number per element out, [R, K] or any.

Notation: ``x`` logit, ``p = sigmoid(x)``, ``t`` target in [0, 1]. For a hard target ``x_t = x`` where ``t = 1`` and
``-x`` where ``t = 0``, ``p_t = sigmoid(x_t)``, and ``alpha_t`` is ``alpha`` or ``1 - alpha``; ``alpha = -1`` leaves it
out. Unless a docstring says otherwise, a soft target weighs the two hard losses by ``t`` and ``1 - t``. A row is hard
where ``x_t`` goes to minus infinity and easy where it goes to infinity.

Half precision is raised to float32. Logarithms are taken of logits, never of probabilities, so that values and
gradients are finite for |x| up to 1e4.
"""

import math
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

# What a config may set a parameter to.
Share = Annotated[float, Field(ge=0, le=1)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Alpha = Annotated[float, Field(ge=-1, le=1)]


def bce_elements(logits: Tensor, target: Tensor) -> Tensor:
    """``-log p_t`` (Lin et al. 2017, eq. 1); slope -1 towards hard rows, 0 like ``exp(-x_t)`` towards easy ones."""
    logits = upcast(logits)
    return F.binary_cross_entropy_with_logits(logits, target.to(logits), reduction="none")


def balanced_bce_elements(logits: Tensor, target: Tensor, alpha: float = 0.25) -> Tensor:
    """``-alpha_t log p_t`` (Lin et al. 2017, eq. 3); slopes are ``alpha_t`` times those of ``bce_elements``."""
    return balance(target, alpha) * bce_elements(logits, target)


def focal_elements(logits: Tensor, target: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """``-alpha_t (1 - p_t)^gamma log p_t`` (Lin et al. 2017, eq. 5).

    A soft target enters ``p_t = t p + (1 - t)(1 - p)`` itself. For ``t = 1`` the slope is
    ``alpha (1-p)^gamma (gamma p log p + p - 1)``: ``-alpha`` towards hard rows, 0 like ``(1-p)^(gamma+1)`` towards easy
    ones.
    """
    logits = upcast(logits)
    target = target.to(logits)
    # 1 - p_t as a sum of two sigmoids keeps its digits on the easy side, where 1 - sigmoid(x) would round to 0.
    wrong = logits.sigmoid() * (1 - target) + (-logits).sigmoid() * target
    return balance(target, alpha) * modulator(wrong, gamma) * bce_elements(logits, target)


def focal_star_elements(
    logits: Tensor, target: Tensor, alpha: float = 0.25, gamma: float = 2.0, beta: float = 1.0
) -> Tensor:
    """``-alpha_t log(sigmoid(gamma x_t + beta)) / gamma`` (Lin et al. 2017, appendix).

    Convex: the slope runs from ``-alpha_t`` (hard) to 0 like ``exp(-gamma x_t - beta)`` (easy).
    """
    logits = upcast(logits)
    target = target.to(logits)
    positive = F.softplus(-(gamma * logits + beta))
    negative = F.softplus(gamma * logits - beta)
    return balance(target, alpha) * (target * positive + (1 - target) * negative) / gamma


def focal_ratio_elements(
    logits: Tensor, target: Tensor, alpha: float = 0.25, gamma: float = 2.0, max_factor: float = 1e3
) -> Tensor:
    """``-alpha_t min(((1 - p_t) / p_t)^gamma, max_factor) log p_t``: "focal loss*" of Zheng and Li.

    Their "Modification of Focal Loss in Object Detection" is a course project, and no paper. The factor is
    ``exp(-gamma x_t)``: below 1 where the row is right, above where it is wrong. It grows without bound with the error,
    so it is held at ``max_factor`` (our choice); from there on the slope is ``-alpha_t max_factor``. Towards easy rows
    it is 0 like ``exp(-(gamma + 1) x_t)``. Not the FL* of Lin et al., which is ``focal_star``.
    """
    logits = upcast(logits)
    target = target.to(logits)
    limit = math.log(max_factor)
    positive = (-gamma * logits).clamp(max=limit).exp() * F.softplus(-logits)
    negative = (gamma * logits).clamp(max=limit).exp() * F.softplus(logits)
    return balance(target, alpha) * (target * positive + (1 - target) * negative)


def quality_focal_elements(logits: Tensor, target: Tensor, beta: float = 2.0) -> Tensor:
    """``|t - p|^beta BCE(x, t)`` for a soft target (Li et al. 2020, "Generalized Focal Loss", eq. 2).

    Value and slope are 0 at ``p = t``; the slope goes to ``-t^(beta + 1)`` where p goes to 0, and to
    ``(1 - t)^(beta + 1)`` where p goes to 1.
    """
    logits = upcast(logits)
    target = target.to(logits)
    return modulator((target - logits.sigmoid()).abs(), beta) * bce_elements(logits, target)


def varifocal_elements(logits: Tensor, target: Tensor, alpha: float = 0.75, gamma: float = 2.0) -> Tensor:
    """``t BCE(x, t)`` where ``t > 0``, else ``alpha p^gamma BCE(x, 0)`` (Zhang et al. 2021, "VarifocalNet", eq. 2).

    Only background is focal: its slope is 0 towards easy and ``alpha`` towards hard rows. Elsewhere the slope is
    ``t (p - t)``.
    """
    logits = upcast(logits)
    target = target.to(logits)
    factor = torch.where(target > 0, target, alpha * modulator(logits.sigmoid(), gamma))
    return factor * bce_elements(logits, target)


def anchor_elements(logits: Tensor, target: Tensor, delta: float = 0.05, gamma: float = 0.5) -> Tensor:
    """``-log p_y`` for the true class y, ``-(1 + p_j - q*)^gamma log(1 - p_j)`` for every other class j, [R, K].

    ``q* = p_y - delta`` (Ryou et al. 2019, "Anchor Loss"): a class that scores higher than the true one weighs more
    than in cross entropy, one that scores lower weighs less. A row without a true class is anchored at its probability
    of background, ``p_y = 1 - max_j p_j`` (our choice: the paper has no background). The gradient goes through ``q*``
    too, as the printed formula has it; the released code detaches and clamps ``q*``. The factor lies in
    [delta^gamma, (2 + delta)^gamma]: the slope in ``x_j`` goes to that factor on the hard side, to 0 on the easy one.
    """
    logits = upcast(logits)
    target = target.to(logits)
    p = logits.sigmoid()
    nothing = (1 - target.sum(-1, keepdim=True)).clamp(min=0)
    true = (target * p).sum(-1, keepdim=True) + nothing * (1 - p.amax(-1, keepdim=True))
    factor = modulator(1 + p - (true - delta), gamma)
    return target * F.softplus(-logits) + (1 - target) * factor * F.softplus(logits)


def equalization_elements(logits: Tensor, target: Tensor, frequency: Tensor, lam: float = 1.76e-3) -> Tensor:
    """``w_j BCE(x_j, t_j)``, ``w_j = 1 - E T_j (1 - t_j)`` (Tan et al. 2020, "Equalization Loss", sec. 3), [R, K].

    ``T_j`` is 1 for a rare class, whose ``frequency`` [K] (share of images that have it) is below ``lam``; E is 1 on
    foreground rows. A rare class gets no gradient from foreground rows of other classes; else it is BCE.
    """
    logits = upcast(logits)
    if frequency.shape != logits.shape[-1:]:
        raise ValueError(f"frequencies of {len(frequency)} classes for rows of {logits.shape[-1]}")
    target = target.to(logits)
    foreground = (target.sum(-1, keepdim=True) > 0).to(logits)
    rare = (frequency < lam).to(logits)
    return (1 - foreground * rare * (1 - target)) * bce_elements(logits, target)


def label_smoothing_elements(logits: Tensor, target: Tensor, eps: float = 0.1) -> Tensor:
    """``BCE(x, (1 - eps) t + eps / K)``, [R, K] (Szegedy et al. 2016, sec. 7).

    The slope is p less that target, 0 at ``p = (1 - eps) t + eps / K``: no logit is driven to infinity. With one class
    K counts as 2 (our choice), object or not; ``eps / 1`` would smooth background alone.
    """
    return bce_elements(logits, (1 - eps) * target + eps / max(target.shape[-1], 2))


# ---- shared --------------------------------------------------------------------------------------------------------


def balance(target: Tensor, alpha: float) -> Tensor | float:
    """``alpha t + (1 - alpha)(1 - t)``, or 1 for a negative alpha."""
    return 1.0 if alpha < 0 else alpha * target + (1 - alpha) * (1 - target)


def modulator(wrong: Tensor, gamma: float) -> Tensor:
    """``wrong ** gamma``, with a finite gradient at 0 also for 0 < gamma < 1: rows at 0 get none."""
    return wrong.clamp(min=torch.finfo(wrong.dtype).tiny) ** gamma


def upcast(x: Tensor) -> Tensor:
    """Half precision becomes float32; float32 and float64 stay what they are."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x

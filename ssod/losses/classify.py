"""Class losses as row functions: ``(predictions, assignment) -> [R]``, unweighted and unreduced.

The ``*_elements`` functions below them are the formulas on plain tensors. All compute in float32 or better and from
logits, so that values and gradients are finite for |logit| up to 1e4. Soft class targets are [R, K] and what a row
lacks to 1 is background (``ssod.structures.Assignment``).
"""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ssod.structures import Assignment, Predictions

Elements = Callable[[Tensor, Tensor], Tensor]

PART = 1 << 23  # elements of a part, see `by_parts`


def bce(p: Predictions, a: Assignment) -> Tensor:
    """Binary cross entropy, summed over the classes of a row."""
    return by_parts(bce_elements, p, a)


def focal(p: Predictions, a: Assignment, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Sigmoid focal loss, summed over the classes of a row (Lin et al. 2017, eq. 5).

    Args:
        p: predictions of a sigmoid head.
        a: their assignment.
        alpha: weight of the positive class, 1 - alpha of the negative; -1 = no weighting.
        gamma: exponent of the modulating factor; 0 is (balanced) cross entropy.
    """
    return by_parts(partial(focal_elements, alpha=alpha, gamma=gamma), p, a)


def quality_focal(p: Predictions, a: Assignment, beta: float = 2.0) -> Tensor:
    """Quality focal loss, ``|target - p|^beta * BCE``, summed over the classes of a row (Li et al. 2020, eq. 2)."""
    return by_parts(partial(quality_focal_elements, beta=beta), p, a)


def cross_entropy(p: Predictions, a: Assignment) -> Tensor:
    """Softmax cross entropy over K classes and background."""
    logits = upcast(p.logits)
    if a.cls.ndim == 1:
        return F.cross_entropy(logits, a.cls, reduction="none")
    return -(with_background(a.cls.to(logits)) * logits.log_softmax(-1)).sum(-1)


def softmax_focal(p: Predictions, a: Assignment, gamma: float = 1.5) -> Tensor:
    """``(1 - p_y)^gamma * CE`` over K classes and background, without alpha (Unbiased Teacher, released code).

    A soft target counts each class by its share: ``sum_k t_k (1 - p_k)^gamma (-log p_k)``.
    """
    logp = upcast(p.logits).log_softmax(-1)
    if a.cls.ndim == 1:
        logp = logp.gather(1, a.cls[:, None])
        target = torch.ones_like(logp)
    else:
        target = with_background(a.cls.to(logp))
    return -(target * modulator(-logp.expm1(), gamma) * logp).sum(-1)


def quality_bce(p: Predictions, a: Assignment) -> Tensor:
    """Binary cross entropy of the quality branch (centerness or IoU) on foreground rows, [rows with fg]."""
    rows = a.fg.nonzero().squeeze(1)
    logits = upcast(p.quality[rows])
    return F.binary_cross_entropy_with_logits(logits, a.quality[rows].to(logits), reduction="none")


# What a config may name, by kind of head.
SIGMOID = {"bce": bce, "focal": focal, "quality_focal": quality_focal}
SOFTMAX = {"cross_entropy": cross_entropy, "softmax_focal": softmax_focal}
QUALITY = {"bce": quality_bce}


# ---- formulas on tensors -------------------------------------------------------------------------------------------


def bce_elements(logits: Tensor, target: Tensor) -> Tensor:
    """Binary cross entropy of every element."""
    return F.binary_cross_entropy_with_logits(logits, target, reduction="none")


def focal_elements(logits: Tensor, target: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Sigmoid focal loss of every element; ``target`` in [0, 1], of the shape of ``logits``."""
    logits = upcast(logits)
    target = target.to(logits)
    # 1 - p_t as a sum of two sigmoids keeps its digits on the easy side, where 1 - sigmoid(x) would round to 0.
    wrong = logits.sigmoid() * (1 - target) + (-logits).sigmoid() * target
    loss = modulator(wrong, gamma) * bce_elements(logits, target)
    return loss if alpha < 0 else loss * (alpha * target + (1 - alpha) * (1 - target))


def quality_focal_elements(logits: Tensor, target: Tensor, beta: float = 2.0) -> Tensor:
    """Quality focal loss of every element; ``target`` in [0, 1], of the shape of ``logits``."""
    logits = upcast(logits)
    target = target.to(logits)
    loss = bce_elements(logits, target)
    return modulator((target - logits.sigmoid()).abs(), beta) * loss


def modulator(wrong: Tensor, gamma: float) -> Tensor:
    """``wrong ** gamma``, with a finite gradient at 0 also for 0 < gamma < 1: rows at 0 get none."""
    return wrong.clamp(min=torch.finfo(wrong.dtype).tiny) ** gamma


def by_parts(elements: Elements, p: Predictions, a: Assignment) -> Tensor:
    """Apply a formula to logits and class targets [R, K] and sum over the classes, [R].

    A dense head has some 200 000 rows an image, and a formula keeps ten arrays of [R, K] for its gradient. So rows go
    through it in parts, which keep their logits only and are computed again in the backward pass.
    """

    def rows(logits: Tensor, cls: Tensor) -> Tensor:
        logits = upcast(logits)
        return elements(logits, class_targets(cls, logits)).sum(-1)

    size = max(1, PART // p.logits.shape[1])
    if len(p) <= size:
        return rows(p.logits, a.cls)
    parts = zip(p.logits.split(size), a.cls.split(size))
    return torch.cat([checkpoint(rows, *part, use_reentrant=False, preserve_rng_state=False) for part in parts])


def class_targets(cls: Tensor, logits: Tensor) -> Tensor:
    """Return [R, K] targets in the type of ``logits``, from integers (K = background) or from soft ones."""
    if cls.ndim == 2:
        return cls.to(logits)
    r, k = logits.shape
    return logits.new_zeros(r, k + 1).scatter_(1, cls[:, None], 1.0)[:, :k]


def with_background(target: Tensor) -> Tensor:
    """[R, K] -> [R, K + 1]: append what each row lacks to 1."""
    return torch.cat([target, (1 - target.sum(-1, keepdim=True)).clamp(min=0)], -1)


def upcast(x: Tensor) -> Tensor:
    """Half precision becomes float32; float32 and float64 stay what they are."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x

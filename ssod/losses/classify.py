"""Class losses as row functions: ``(predictions, assignment) -> [R]``, unweighted and unreduced.

The ``*_elements`` functions below them are the formulas on plain tensors. All compute in float32 or better and from
logits, so that values and gradients are finite for |logit| up to 1e4. Soft class targets are [R, K] and what a row
lacks to 1 is background (``ssod.structures.Assignment``).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ssod.structures import Assignment, Predictions


def bce(p: Predictions, a: Assignment) -> Tensor:
    """Binary cross entropy, summed over the classes of a row."""
    logits = upcast(p.logits)
    return F.binary_cross_entropy_with_logits(logits, soft_targets(p, a), reduction="none").sum(-1)


def focal(p: Predictions, a: Assignment, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Sigmoid focal loss, summed over the classes of a row (Lin et al. 2017, eq. 5).

    Args:
        p: predictions of a sigmoid head.
        a: their assignment.
        alpha: weight of the positive class, 1 - alpha of the negative; -1 = no weighting.
        gamma: exponent of the modulating factor; 0 is (balanced) cross entropy.
    """
    return focal_elements(p.logits, soft_targets(p, a), alpha, gamma).sum(-1)


def quality_focal(p: Predictions, a: Assignment, beta: float = 2.0) -> Tensor:
    """Quality focal loss, ``|target - p|^beta * BCE``, summed over the classes of a row (Li et al. 2020, eq. 2)."""
    return quality_focal_elements(p.logits, soft_targets(p, a), beta).sum(-1)


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


def focal_elements(logits: Tensor, target: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Sigmoid focal loss of every element; ``target`` in [0, 1], of the shape of ``logits``."""
    logits = upcast(logits)
    target = target.to(logits)
    # 1 - p_t as a sum of two sigmoids keeps its digits on the easy side, where 1 - sigmoid(x) would round to 0.
    wrong = logits.sigmoid() * (1 - target) + (-logits).sigmoid() * target
    loss = modulator(wrong, gamma) * F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return loss if alpha < 0 else loss * (alpha * target + (1 - alpha) * (1 - target))


def quality_focal_elements(logits: Tensor, target: Tensor, beta: float = 2.0) -> Tensor:
    """Quality focal loss of every element; ``target`` in [0, 1], of the shape of ``logits``."""
    logits = upcast(logits)
    target = target.to(logits)
    loss = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return modulator((target - logits.sigmoid()).abs(), beta) * loss


def modulator(wrong: Tensor, gamma: float) -> Tensor:
    """``wrong ** gamma``, with a finite gradient at 0 also for 0 < gamma < 1: rows at 0 get none."""
    return wrong.clamp(min=torch.finfo(wrong.dtype).tiny) ** gamma


def soft_targets(p: Predictions, a: Assignment) -> Tensor:
    """Return [R, K] class targets in the float type of the (upcast) logits."""
    soft = a.soft(p.num_classes) if a.cls.ndim == 1 else a.cls
    return soft.to(upcast(p.logits[:0]))


def with_background(target: Tensor) -> Tensor:
    """[R, K] -> [R, K + 1]: append what each row lacks to 1."""
    return torch.cat([target, (1 - target.sum(-1, keepdim=True)).clamp(min=0)], -1)


def upcast(x: Tensor) -> Tensor:
    """Half precision becomes float32; float32 and float64 stay what they are."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x

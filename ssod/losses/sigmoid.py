"""Class losses of sigmoid heads as row functions: ``(predictions, assignment) -> [R]``, unweighted and unreduced.

Each sums a formula of ``ssod.losses.elements`` over the K classes of a row. All compute in float32 or better and from
logits, so that values and gradients are finite for |logit| up to 1e4. Soft class targets are [R, K] and what a row
lacks to 1 is background (``ssod.structures.Assignment``). Formulas, sources and slopes stand with the formulas.
"""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ssod.losses.elements import (
    Alpha,
    NonNegative,
    Positive,
    Share,
    anchor_elements,
    balanced_bce_elements,
    bce_elements,
    equalization_elements,
    focal_elements,
    focal_ratio_elements,
    focal_star_elements,
    label_smoothing_elements,
    quality_focal_elements,
    upcast,
    varifocal_elements,
)
from ssod.losses.softmax import (
    NOWHERE,
    cross_entropy,
    softmax_anchor,
    softmax_focal,
    softmax_focal_ratio,
    softmax_focal_star,
    softmax_label_smoothing,
)
from ssod.structures import Assignment, Formula, Predictions, unknown
from ssod.utils.given import given

Elements = Callable[[Tensor, Tensor], Tensor]

PART = 1 << 23  # elements of a part, see `by_parts`


def bce(p: Predictions, a: Assignment) -> Tensor:
    """Binary cross entropy, ``-log p_t``, summed over the classes of a row."""
    return by_parts(bce_elements, p, a)


def balanced_bce(p: Predictions, a: Assignment, alpha: Share = 0.25) -> Tensor:
    """``-alpha_t log p_t``, summed over the classes of a row (Lin et al. 2017, eq. 3)."""
    return by_parts(partial(balanced_bce_elements, alpha=alpha), p, a)


def focal(p: Predictions, a: Assignment, alpha: Alpha = 0.25, gamma: NonNegative = 2.0) -> Tensor:
    """Sigmoid focal loss, summed over the classes of a row (Lin et al. 2017, eq. 5).

    Args:
        p: predictions of a sigmoid head.
        a: their assignment.
        alpha: weight of the positive class, 1 - alpha of the negative; -1 = no weighting.
        gamma: exponent of the modulating factor; 0 is (balanced) cross entropy.
    """
    return by_parts(partial(focal_elements, alpha=alpha, gamma=gamma), p, a)


def focal_star(p: Predictions, a: Assignment, alpha: Alpha = 0.25, gamma: Positive = 2.0, beta: float = 1.0) -> Tensor:
    """``-alpha_t log(sigmoid(gamma x_t + beta)) / gamma``, summed over classes (Lin et al. 2017, appendix)."""
    return by_parts(partial(focal_star_elements, alpha=alpha, gamma=gamma, beta=beta), p, a)


def focal_ratio(
    p: Predictions, a: Assignment, alpha: Alpha = 0.25, gamma: NonNegative = 2.0, max_factor: Positive = 1e3
) -> Tensor:
    """``-alpha_t ((1 - p_t) / p_t)^gamma log p_t``, summed over classes; the factor is held at ``max_factor``."""
    return by_parts(partial(focal_ratio_elements, alpha=alpha, gamma=gamma, max_factor=max_factor), p, a)


def quality_focal(p: Predictions, a: Assignment, beta: NonNegative = 2.0) -> Tensor:
    """Quality focal loss, ``|target - p|^beta * BCE``, summed over the classes of a row (Li et al. 2020, eq. 2).

    As published its target is the IoU of the predicted box: add the weighting ``iou_target``.
    """
    return by_parts(partial(quality_focal_elements, beta=beta), p, a)


def varifocal(p: Predictions, a: Assignment, alpha: NonNegative = 0.75, gamma: NonNegative = 2.0) -> Tensor:
    """Varifocal loss: ``q BCE(x, q)``, background ``alpha p^gamma BCE(x, 0)`` (Zhang et al. 2021, eq. 2).

    As published its target is the IoU of the predicted box: add the weighting ``iou_target``.
    """
    return by_parts(partial(varifocal_elements, alpha=alpha, gamma=gamma), p, a)


def anchor(p: Predictions, a: Assignment, delta: Share = 0.05, gamma: NonNegative = 0.5) -> Tensor:
    """Anchor loss: classes that outscore the true one weigh more than in BCE (Ryou et al. 2019)."""
    return by_parts(partial(anchor_elements, delta=delta, gamma=gamma), p, a)


def equalization(p: Predictions, a: Assignment, lam: NonNegative = 1.76e-3, *, frequency: Tensor) -> Tensor:
    """BCE that spares rare classes the gradient of other classes' foreground (Tan et al. 2020).

    Args:
        p: predictions of a sigmoid head.
        a: their assignment.
        lam: a class is rare below this frequency.
        frequency: [K] share of the labelled images that have the class; training counts it.
    """
    return by_parts(partial(equalization_elements, frequency=frequency, lam=lam), p, a)


def label_smoothing(p: Predictions, a: Assignment, eps: Share = 0.1) -> Tensor:
    """BCE with the target ``(1 - eps) t + eps / K``, summed over classes (Szegedy et al. 2016, sec. 7)."""
    return by_parts(partial(label_smoothing_elements, eps=eps), p, a)


def quality_bce(p: Predictions, a: Assignment) -> Tensor:
    """Binary cross entropy of the quality branch: centerness or IoU on foreground rows, objectness on all.

    As FCOS (Tian et al. 2019) and YOLO have it. The slope is p less the target, -1 and 1 at most. One number for each
    of ``a.quality_rows``.
    """
    rows = a.quality_rows
    logits = upcast(given(p.quality, "this head has no quality branch")[rows])
    target = given(a.quality, "the quality branch is asked for nothing")[rows].to(logits)
    return F.binary_cross_entropy_with_logits(logits, target, reduction="none")


# What a config may name, by kind of head.
SIGMOID: dict[str, Formula] = {
    "bce": bce,
    "balanced_bce": balanced_bce,
    "focal": focal,
    "focal_star": focal_star,
    "focal_ratio": focal_ratio,
    "quality_focal": quality_focal,
    "varifocal": varifocal,
    "anchor": anchor,
    "equalization": equalization,
    "label_smoothing": label_smoothing,
}
SOFTMAX: dict[str, Formula] = {
    "cross_entropy": cross_entropy,
    "softmax_focal": softmax_focal,
    "focal_star": softmax_focal_star,
    "focal_ratio": softmax_focal_ratio,
    "anchor": softmax_anchor,
    "label_smoothing": softmax_label_smoothing,
}
QUALITY: dict[str, Formula] = {"bce": quality_bce}


# ---- from rows of classes to one number a row ----------------------------------------------------------------------


def by_parts(elements: Elements, p: Predictions, a: Assignment) -> Tensor:
    """Apply a formula to logits and class targets [R, K] and sum over the classes, [R].

    A dense head has some 200 000 rows an image, and a formula keeps ten arrays of [R, K] for its gradient. So rows go
    through it in parts, which keep their logits only and are computed again in the backward pass.

    What nobody knows of a row (``Assignment.open``) costs nothing and has no gradient, also in a formula that compares
    the classes of a row.
    """

    def rows(logits: Tensor, cls: Tensor, image: Tensor) -> Tensor:
        logits = upcast(logits)
        if a.open is None:
            return elements(logits, class_targets(cls, logits)).sum(-1)
        left_out = unknown(a, image, cls)
        logits = logits.masked_fill(left_out, NOWHERE)
        return elements(logits, class_targets(cls, logits)).masked_fill(left_out, 0).sum(-1)

    size = max(1, PART // p.logits.shape[1])
    if len(p) <= size:
        return rows(p.logits, a.cls, p.image)
    parts = zip(p.logits.split(size), a.cls.split(size), p.image.split(size))
    return torch.cat([checkpoint(rows, *part, use_reentrant=False, preserve_rng_state=False) for part in parts])


def class_targets(cls: Tensor, logits: Tensor) -> Tensor:
    """Return [R, K] targets in the type of ``logits``, from integers (K = background) or from soft ones."""
    if cls.ndim == 2:
        return cls.to(logits)
    r, k = logits.shape
    return logits.new_zeros(r, k + 1).scatter_(1, cls[:, None], 1.0)[:, :k]

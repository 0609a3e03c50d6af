"""Two Gaussians per class, all classes at once: where do the scores of true boxes begin? (arXiv:2209.01589, Sec. 3.4)

A class's recent scores are modelled as a mixture of a "negative" and a "positive" Gaussian, fitted by expectation
maximisation (EM); the threshold is one of the scores assigned to the positive one. scikit-learn's ``GaussianMixture``
is the definition, with what the released code sets: weights start at (1/2, 1/2), means at the lowest and the highest
score, **precisions at 1**, and all else at its default. Start and tolerance are part of the algorithm: scores lie in
[0, 1], so both Gaussians start wide and EM often stops after three iterations, near the mean of all scores; run to
convergence it would give other, higher thresholds.

Axes: K classes (rows), S slots of a bank, 2 components, the second of which is the positive one.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Policy = Literal["high", "middle", "component"]
Backend = Literal["batched", "sklearn"]

MIN_SCORES = 4  # fewer say nothing about two Gaussians
TOLERANCE = 1e-3  # of the mean log-likelihood
MAX_ITER = 100
FLOOR = 1e-6  # added to every variance
# Iterations between two looks at who has converged: each look waits for the device.
LOOK_EVERY = 4


@dataclass
class Mixtures:
    """One mixture per row, float64.

    Attributes:
        means: [K, 2].
        variances: [K, 2].
        weights: [K, 2].
        bound: [K] mean log-likelihood at the last E-step, that is before the last M-step.
        iterations: [K] int64.
    """

    means: Tensor
    variances: Tensor
    weights: Tensor
    bound: Tensor
    iterations: Tensor

    def __getitem__(self, rows: Tensor) -> Mixtures:
        return Mixtures(*(value[rows] for value in vars(self).values()))

    def write(self, rows: Tensor, new: Mixtures) -> None:
        """Replace ``rows`` [R] by those of ``new``."""
        for mine, theirs in zip(vars(self).values(), vars(new).values()):
            mine[rows] = theirs

    def log_densities(self, scores: Tensor) -> Tensor:
        """Return [2, K, S]: the log of each component's weighted density at ``scores`` [K, S]."""
        mean, variance, weight = (value.T[:, :, None] for value in (self.means, self.variances, self.weights))
        # Scaled first, subtracted second, as scikit-learn does it: rounding decides banks of nearly equal scores.
        scale = 1 / variance.sqrt()
        return (-0.5 * (math.log(2 * math.pi) + (scores * scale - mean * scale).square()) + scale.log()) + weight.log()


@torch.no_grad()
def fit(scores: Tensor, valid: Tensor, rows: Tensor) -> Mixtures:
    """Fit a mixture to each row, as ``GaussianMixture`` does to each alone.

    Rows that have converged leave the computation, which every ``LOOK_EVERY`` iterations costs one wait for the device.

    Args:
        scores: [K, S] float64.
        valid: [K, S] bool, which slots hold a score.
        rows: [K] bool, which rows to fit; each needs a valid slot. The others keep the start of EM, without meaning.
    """
    found = _start(scores, valid)
    going = rows.clone()
    for done in range(0, MAX_ITER, LOOK_EVERY):
        index = going.nonzero().squeeze(1)
        if not len(index):
            break
        x, mask, part = scores[index], valid[index].to(scores.dtype), found[index]
        active = torch.ones_like(going[index])
        for _ in range(min(LOOK_EVERY, MAX_ITER - done)):
            new = _iterate(x, mask, part)
            part, active = _keep(active, new, part), active & ((new.bound - part.bound).abs() >= TOLERANCE)
        found.write(index, part)
        going[index] = active
    return found


def _start(scores: Tensor, valid: Tensor) -> Mixtures:
    low = scores.masked_fill(~valid, math.inf).amin(1)
    high = scores.masked_fill(~valid, -math.inf).amax(1)
    means = torch.stack([low, high], 1)
    return Mixtures(
        means=means,
        variances=torch.ones_like(means),
        weights=torch.full_like(means, 0.5),
        bound=torch.full_like(low, -math.inf),
        iterations=torch.zeros(len(scores), dtype=torch.long, device=scores.device),
    )


def _iterate(x: Tensor, mask: Tensor, m: Mixtures) -> Mixtures:
    """One E-step and one M-step on [R, S]; ``mask`` is 1 where there is a score."""
    log_densities = m.log_densities(x)
    log_total = torch.logaddexp(log_densities[0], log_densities[1])
    share = (log_densities - log_total).exp() * mask
    mass = share.sum(2) + 10 * torch.finfo(x.dtype).eps
    means = (share * x).sum(2) / mass
    variances = (share * (x - means[:, :, None]).square()).sum(2) / mass + FLOOR
    return Mixtures(
        means=means.T,
        variances=variances.T,
        weights=(mass / mass.sum(0)).T,
        bound=(log_total * mask).sum(1) / mask.sum(1),
        iterations=m.iterations + 1,
    )


def _keep(active: Tensor, new: Mixtures, old: Mixtures) -> Mixtures:
    """Take ``new`` where ``active`` [R]."""
    pairs = zip(vars(new).values(), vars(old).values())
    return Mixtures(*(torch.where(active[:, None] if n.ndim == 2 else active, n, o) for n, o in pairs))


def fit_sklearn(scores: Tensor, valid: Tensor, rows: Tensor) -> Mixtures:
    """Do what ``fit`` does, one class after the other, with scikit-learn itself, on the CPU."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    found = _start(scores.cpu(), valid.cpu())
    for row in rows.nonzero().squeeze(1).tolist():
        x = scores[row][valid[row]].cpu().numpy().reshape(-1, 1)
        mixture = GaussianMixture(
            2, weights_init=[0.5, 0.5], means_init=[[x.min()], [x.max()]], precisions_init=[[[1.0]], [[1.0]]]
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # 100 iterations are the rule, not a failure
            mixture.fit(x)
        values = (mixture.means_, mixture.covariances_, mixture.weights_, mixture.lower_bound_, mixture.n_iter_)
        for mine, value in zip(vars(found).values(), values):
            mine[row] = torch.as_tensor(value).reshape(mine[row].shape)
    return Mixtures(*(value.to(scores.device) for value in vars(found).values()))


@torch.no_grad()
def thresholds(
    bank: Tensor, rows: Tensor, *, policy: Policy = "high", fallback: float = 0.0, backend: Backend = "batched"
) -> Tensor:
    """Return [K] float64 thresholds, to be exceeded; where ``rows`` is false they have no meaning.

    Of the scores that are likelier under the positive component than under the negative one, each with its weight:

    - ``high``: the one where the density of the whole mixture is largest (released, and used everywhere there),
    - ``middle``: the lowest,
    - ``component``: the one where the density of the positive component is largest.

    Two scores can tie exactly, e.g. in a symmetric bank or a bank of one pair of values: then rounding decides, and
    float32 may decide otherwise than the float64 used here.

    Args:
        bank: [K, S] scores in any order, 0 = empty slot.
        rows: [K] bool, classes to fit.
        policy: which score is the threshold.
        fallback: threshold of a class with fewer than ``MIN_SCORES`` scores, or none that is likelier positive.
        backend: ``batched``, or ``sklearn`` for one ``GaussianMixture`` per class.
    """
    # Apple's GPUs have no float64.
    scores = bank.cpu().double() if bank.device.type == "mps" else bank.double()
    valid = scores > 0
    rows = rows.to(scores.device) & (valid.sum(1) >= MIN_SCORES)
    mixtures = (fit if backend == "batched" else fit_sklearn)(scores, valid, rows)
    log_densities = mixtures.log_densities(scores)
    positive = valid & (log_densities[1] > log_densities[0]) & rows[:, None]
    if policy == "middle":
        chosen = scores.masked_fill(~positive, math.inf).amin(1)
    else:
        density = torch.logaddexp(log_densities[0], log_densities[1]) if policy == "high" else log_densities[1]
        best = density.masked_fill(~positive, -math.inf).argmax(1, keepdim=True)
        chosen = scores.gather(1, best).squeeze(1)
    return torch.where(positive.any(1), chosen, fallback).to(bank.device)

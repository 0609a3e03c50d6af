"""An auxiliary Bayesian branch that says how uncertain a row is, and weights made of it (Li et al., ICIP 2020).

A branch exists in training only. It stands beside the class output of a stage and reads what that reads: the class
tower of a one-stage head, the map behind the shared convolution of a proposal network, the vector of a RoI. It says of
every row whether there is an object: one logit a row, so that its uncertainty is one number a row. (The paper leaves
open what the branch predicts beside a class head; one logit costs a hundredth of what K would.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssod.structures import Assignment, Predictions

C = math.sqrt(math.pi * math.log(2) / 2)
# Variance of a kernel over its squared mean, where a config is silent. The paper names none; this one is provisional,
# chosen by how far U spreads on NEU-DET, after 1500 labelled steps of the small RetinaNet and 500 of the small Faster
# R-CNN. At 0.01 its standard deviation is below 0.001 in every stage, so that each wrong row counts three times as much
# as each right one. At 1 it is 0.01 to 0.03 on wrong rows and on Faster R-CNN's right ones, and 0.006 on RetinaNet's
# right ones, nearly all of them sure background. More spreads it further, but from 3 on the proposal network is less
# sure of right rows than of wrong ones.
LAM = 1.0


@dataclass
class Guess:
    """What the branch says of R rows.

    Attributes:
        mu: [R] mean of the logit over the prior of the kernel.
        sigma: [R] its standard deviation.
        logit: [R] one draw, the mean of S samples; what the branch's own loss reads.
    """

    mu: Tensor
    sigma: Tensor
    logit: Tensor


class ConvBayes(nn.Module):
    """A convolution whose kernel is a random variable, ``w ~ N(k, lam k^2)`` (eq. 1).

    For features x the output is normal with ``mu = conv(x, k) + bias`` and ``sigma = sqrt(conv(x^2, lam k^2))``. A draw
    is ``Y = 1/S sum_s (mu + eps_s sigma)``, and the mean of S standard normals is drawn at once, as ``N(0, 1/S)``. With
    ``lam = 0`` it is a plain convolution. Computes in float32 also under autocast, where ``x^2`` would overflow.

    Args:
        inputs: channels of x.
        outputs: channels of the result.
        kernel: side of the kernel.
        stride: of the convolution.
        padding: of the convolution; None keeps the size at stride 1.
        lam: variance of the kernel over its squared mean.
        samples: S.
        bias: initial bias, the logit of the share of positive rows.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 3,
        *,
        stride: int = 1,
        padding: int | None = None,
        lam: float = LAM,
        samples: int = 8,
        bias: float = 0.0,
    ) -> None:
        super().__init__()
        self.stride, self.padding = stride, kernel // 2 if padding is None else padding
        self.lam, self.samples = lam, samples
        self.weight = nn.Parameter(torch.empty(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.full((outputs,), bias))
        nn.init.normal_(self.weight, std=0.01)

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[N, inputs, H, W] -> mu and sigma, each [N, outputs, H', W']; sigma has no gradient where it is 0."""
        with torch.autocast(x.device.type, enabled=False):
            x = x.to(self.weight)
            mu = F.conv2d(x, self.weight, self.bias, self.stride, self.padding)
            if self.lam == 0:
                return mu, torch.zeros_like(mu)
            variance = F.conv2d(x**2, self.lam * self.weight**2, None, self.stride, self.padding)
            return mu, variance.clamp(min=1e-20).sqrt()

    def draw(self, mu: Tensor, sigma: Tensor) -> Tensor:
        """Return Y; torch's generator is seeded at every step, from what the step is."""
        return mu if self.lam == 0 else mu + sigma * torch.randn_like(mu) / math.sqrt(self.samples)

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, H, W] -> Y [N, outputs, H', W']."""
        return self.draw(*self.moments(x))


class Branch(nn.Module):
    """ConvBayes layers to one logit per row, shared by all levels; their kernels are as large as the class output's.

    Args:
        beside: the layer that says the class logits: a convolution, or a linear layer, whose kernel is 1 x 1.
        per_cell: rows per cell.
        share: of positive rows, at which its probabilities begin.
        lam: see ``ConvBayes``; 0 = plain convolutions.
        samples: see ``ConvBayes``.
        layers: how many; all but the last keep the channels and end in a ReLU.
    """

    def __init__(
        self,
        beside: nn.Conv2d | nn.Linear,
        per_cell: int,
        *,
        share: float = 0.01,
        lam: float = LAM,
        samples: int = 8,
        layers: int = 1,
    ) -> None:
        super().__init__()
        channels, kernel = beside.weight.shape[1], 1 if isinstance(beside, nn.Linear) else beside.weight.shape[2]
        make = partial(ConvBayes, channels, kernel=kernel, lam=lam, samples=samples)
        self.hidden = nn.ModuleList(make(outputs=channels) for _ in range(layers - 1))
        self.last = make(outputs=per_cell, bias=math.log(share / (1 - share)))

    def forward(self, features: list[Tensor]) -> Guess:
        """Levels [N, channels, h, w], or one [R, channels] -> a guess for each row of the stage, in its order."""
        parts = []
        for x in features:
            if x.ndim == 2:
                x = x[:, :, None, None]
            for layer in self.hidden:
                x = layer(x).relu()
            mu, sigma = self.last.moments(x)
            parts.append([_rows(m) for m in (mu, sigma, self.last.draw(mu, sigma))])
        return Guess(*(torch.cat(level, 1).flatten() for level in zip(*parts)))


def _rows(x: Tensor) -> Tensor:
    """[N, A, h, w] -> [N, h * w * A]."""
    return x.permute(0, 2, 3, 1).flatten(1)


def own_loss(guess: Guess, a: Assignment, objects: Tensor, normalizer: Tensor) -> Tensor:
    """Binary cross entropy of the branch, object or not, summed over the rows that count, over ``normalizer`` [].

    The paper leaves open what it divides by. Our choice is a running mean of the objects' rows of a batch, of labelled
    and of pseudo-labelled ones apart (``counts.RunningObjects``): a batch without objects then costs what others do.

    Args:
        guess: of R rows.
        a: their assignment.
        objects: [R] bool, rows that are asked for some class.
        normalizer: what to divide by, [].
    """
    loss = F.binary_cross_entropy_with_logits(guess.logit, objects.to(guess.logit), reduction="none")
    return (loss * (a.cls_weight > 0)).sum() / normalizer


# ---- from the moments to weights -----------------------------------------------------------------------------------


def bald(mu: Tensor, sigma: Tensor) -> Tensor:
    """What would be learnt about the kernel from a row's label: mutual information in bits, of any shape (eq. 2).

    ``h(Phi(mu / sqrt(sigma^2 + 1))) - C / sqrt(sigma^2 + C^2) exp(-mu^2 / (2 (sigma^2 + C^2)))`` with
    ``C = sqrt(pi ln 2 / 2)`` and h the binary entropy in bits. ``sigma`` is a standard deviation; where the paper says
    variance, its eq. 1 makes a deviation. In [-0.003, 1): the second term is an approximation. 0 at ``sigma = 0``; 0
    with slope 0 for large ``|mu|``; towards 1 for large ``sigma``.
    """
    z = mu / (sigma**2 + 1).sqrt()
    ln_p, ln_q = torch.special.log_ndtr(z), torch.special.log_ndtr(-z)
    entropy = -(ln_p.exp() * ln_p + ln_q.exp() * ln_q) / math.log(2)
    wide = sigma**2 + C**2
    return entropy - C / wide.sqrt() * (-(mu**2) / (2 * wide)).exp()


def difficulty(uncertainty: Tensor, correct: Tensor) -> Tensor:
    """``U / 2`` where the main branch is correct, ``(1 - U) / 2 + 1 / 2`` elsewhere (eq. 3).

    Args:
        uncertainty: U = sigmoid(BALD), in [0, 1], any shape.
        correct: bool of that shape.

    Returns:
        Below 1/2 for every correct row, above it for every wrong one; a confident wrong row is the hardest.
    """
    return torch.where(correct, 0.5 * uncertainty, 1 - 0.5 * uncertainty)


def predicted(p: Predictions) -> Tensor:
    """Return [R] int64: the class whose probability is above 1/2, K (background) where none is."""
    best, label = p.probs().max(-1)
    return torch.where(best > 0.5, label, p.num_classes)


def wanted(a: Assignment, num_classes: int) -> Tensor:
    """Return [R] int64: the class that a row is asked for, K where that is background or no class has half the mass."""
    if a.cls.ndim == 1:
        return a.cls
    best, label = a.cls.max(-1)
    return torch.where(best > 0.5, label, num_classes)

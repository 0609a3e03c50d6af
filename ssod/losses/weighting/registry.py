"""Weight of each row: reweighters, ``(stage, predictions, assignment, context) -> assignment``, and their table.

Each returns a new assignment; none changes which box a row is asked for. Where a paper says which rows learn a box, its
rule does (``candidates``), and an assigner takes the place of a one-stage detector's. A reweighter multiplies the
weights that it finds outside of ``no_grad``: they may carry the gradient of a learnt weighting before it (``carl``,
``sample_weighting``). ``RULES`` says for which stages a reweighter is made: ``dense`` is a one-stage detector's only
stage, ``rpn`` and ``roi`` are those of a two-stage detector.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ssod.assign.top_iou import TOP
from ssod.losses.elements import BelowOne, NonNegative, Positive, Share
from ssod.losses.weighting.background import background_reliability, score
from ssod.losses.weighting.context import Context, Reweight, objects, overlap, own_probability, positives
from ssod.losses.weighting.pisa import carl, isr_n, isr_p
from ssod.losses.weighting.sample_weighting import SampleWeighting
from ssod.losses.weighting.uncertainty import ConvBayesBranch, Count, PlainBranch, Uncertainty
from ssod.structures import Assignment, Predictions
from ssod.structures.boxes import paired_iou
from ssod.structures.ragged import rank_within
from ssod.utils.collective import mean_over_ranks


def ohem(stage: str, p: Predictions, a: Assignment, ctx: Context, ratio: Positive = 3.0) -> Assignment:
    """Of the background only the rows with the largest class loss count (Shrivastava et al. 2016).

    ``ratio`` times as many per image as there are positives, and ``ratio`` in an image without any.
    """
    with torch.no_grad():
        loss = ctx.loss(stage, "cls")(p, a)
        foreground = positives(p, a)
        rank = rank_within(p.image, torch.where(objects(p, a) | (a.cls_weight == 0), -torch.inf, loss))
        count = torch.zeros(p.num_images, device=loss.device).index_add(0, p.image, foreground.float())
        keep = foreground | (rank < ratio * count.clamp(min=1)[p.image])
    return replace(a, cls_weight=a.cls_weight * keep)


def cleanliness(
    stage: str,
    p: Predictions,
    a: Assignment,
    ctx: Context,
    alpha: Share = 0.75,
    gamma: NonNegative = 1.0,
    top: Count = TOP,
    limit: BelowOne = 0.99,
) -> Assignment:
    """Positives are asked for how clean they are, ``c = alpha IoU + (1 - alpha) p``, and count by it (Li et al. 2020).

    On a one-stage detector each object's candidates are the ``top`` rows whose priors overlap it most, whatever the
    IoU, and all others are background: ``assign.top_iou`` says which, in the place of ``detector.assigner`` and on the
    images that are weighted. The second stage of a two-stage detector has a sample of proposals: there, and with a
    method that assigns rows itself, they are the ``top`` of the rows that the object was given, and the rest of these
    become background.

    IoU is that of the decoded box, p the row's own class probability. c becomes the soft class target; class and box
    weights are ``(alpha f(IoU) + (1 - alpha) f(p))^gamma``, ``f(x) = 1 / (1 - x)``, scaled to mean 1 over the
    candidates of all ranks (our choice). x is held at ``limit``, as f has a pole at 1.

    The released code has 30 candidates where the paper has 40, stretches c to a range of its own in each image, and
    leaves the sum of each loss as it was; here it is the paper.
    """
    rows = objects(p, a).nonzero().squeeze(1)
    with torch.no_grad():
        near, prob = overlap(p, a, rows), own_probability(p, a, rows)
        candidate = rank_within(a.matches()[rows], prior_overlap(p, a, rows)) < top
        clean = (alpha * near + (1 - alpha) * prob) * candidate
        weight = (alpha / (1 - near.clamp(max=limit)) + (1 - alpha) / (1 - prob.clamp(max=limit))) ** gamma
        count, total = mean_over_ranks(torch.stack([candidate.sum().to(weight), (weight * candidate).sum()]))
        weight = weight * (count / total.clamp(min=1e-12))
    return replace(
        a,
        cls=a.soft(p.num_classes).index_put((rows, a.labels()[rows]), clean),
        cls_weight=a.cls_weight.index_put((rows,), a.cls_weight[rows] * torch.where(candidate, weight, 1.0)),
        box_weight=a.box_weight.index_put((rows,), a.box_weight[rows] * a.each_side(weight) * a.each_side(candidate)),
    )


@torch.no_grad()
def iou_target(stage: str, p: Predictions, a: Assignment, ctx: Context) -> Assignment:
    """Positives are asked for the IoU of their decoded box, the target of quality focal and varifocal loss."""
    rows = objects(p, a).nonzero().squeeze(1)
    near = overlap(p, a, rows)
    return replace(a, cls=a.soft(p.num_classes).index_put((rows, a.labels()[rows]), near))


def prior_overlap(p: Predictions, a: Assignment, rows: Tensor) -> Tensor:
    """Return the IoU [M] of each row's prior with the box that it should predict."""
    return paired_iou(p.priors[rows], a.box[rows])


@dataclass(frozen=True)
class Rule:
    """What a config may name under ``weighting``.

    Attributes:
        make: a reweighter, or a class of them that learns or remembers; its parameters are those with defaults.
        stages: where it works.
        pseudo: whether it needs pseudo-labels.
        softens: whether it sets soft class targets.
        matched: whether it asks which box a row is matched to.
        branch: whether it needs the auxiliary branch.
        candidates: whether it says itself which rows of a one-stage detector learn an object, see ``candidates.py``.
    """

    make: Callable
    stages: tuple[str, ...]
    pseudo: bool = False
    softens: bool = False
    matched: bool = False
    branch: bool = False
    candidates: bool = False

    @property
    def learns(self) -> bool:
        """Whether ``make`` is a class."""
        return isinstance(self.make, type)


@dataclass(frozen=True)
class Weighting:
    """A weighting as a config wants it: its rule, and what it does where the rule says that it works."""

    rule: Rule
    weigh: Reweight

    def __call__(self, stage: str, p: Predictions, a: Assignment, ctx: Context) -> Assignment:
        """See ``context.Reweight``."""
        return self.weigh(stage, p, a, ctx) if stage in self.rule.stages else a


RULES = {
    "ohem": Rule(ohem, ("dense", "roi")),
    "isr_p": Rule(isr_p, ("dense", "roi"), matched=True),
    "isr_n": Rule(isr_n, ("roi",)),
    "carl": Rule(carl, ("dense", "roi")),
    "cleanliness": Rule(cleanliness, ("dense", "roi"), softens=True, matched=True, candidates=True),
    "iou_target": Rule(iou_target, ("dense",), softens=True, matched=True),
    "sample_weighting": Rule(SampleWeighting, ("dense", "roi")),
    "uncertainty": Rule(Uncertainty, ("dense", "rpn", "roi"), branch=True),
    "conv_bayes": Rule(ConvBayesBranch, ("dense", "rpn", "roi"), branch=True),
    "plain_conv": Rule(PlainBranch, ("dense", "rpn", "roi"), branch=True),
    "score": Rule(score, ("dense", "rpn", "roi"), pseudo=True, matched=True),
    "background_reliability": Rule(background_reliability, ("dense", "roi"), pseudo=True),
}

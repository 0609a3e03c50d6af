"""Prime samples: what counts is a row's rank among those that compete with it (Cao et al. 2020, "PISA").

Three reweighters of R rows, see ``context.Reweight``. Rows compete, and weights are scaled, among those of one process
and one micro-batch, as released: unlike all else that is divided by a count, they depend on how a batch is shared.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torchvision.ops import batched_nms, box_iou

from ssod.losses.elements import NonNegative, Positive, Share, modulator
from ssod.losses.weighting.context import Context, objects, overlap, own_probability, positives
from ssod.structures import Assignment, Predictions
from ssod.structures.ragged import rank_within


def isr_p(
    stage: str, p: Predictions, a: Assignment, ctx: Context, bias: Share = 0.0, gamma: NonNegative = 2.0
) -> Assignment:
    """Positives count by their rank in IoU, inside their object first (Cao et al. 2020, ISR-P).

    IoU-HLR: rows are ranked by the IoU of their decoded box among those of the same object; the bests of all objects
    come before all seconds, and equals are ordered by IoU; r counts inside a class from 0. ``u = (n_max - r) / n_max``,
    n_max the rows of the largest class, ``w = ((1 - bias) u + bias)^gamma``. Weights are then scaled by one number so
    that the summed class loss of positives is what it was.
    """
    with torch.no_grad():
        rows = positives(p, a).nonzero().squeeze(1)
        place = hierarchy(a.matches()[rows], overlap(p, a, rows), a.labels()[rows])
        weight = importance(place, a.labels()[rows], p.num_classes, bias, gamma)
    return weighted(stage, p, a, ctx, rows, weight)


def isr_n(
    stage: str,
    p: Predictions,
    a: Assignment,
    ctx: Context,
    bias: Share = 0.0,
    gamma: NonNegative = 0.5,
    nms: Share = 0.5,
) -> Assignment:
    """Negatives count by their rank in score, inside their cluster first (Cao et al. 2020, ISR-N).

    Score-HLR: negatives of an image and of one likeliest class form clusters, the groups that suppression at overlap
    ``nms`` makes; ranks and weights as for ``isr_p``, but for the exponent: the released Faster R-CNN has 0.5 for
    negatives and 2 for positives. The summed class loss of negatives stays what it was.
    """
    with torch.no_grad():
        rows = (~objects(p, a) & (a.cls_weight > 0)).nonzero().squeeze(1)
        score, label = p.probs()[rows].max(-1)
        deltas = p.deltas[rows, torch.zeros_like(label) if p.deltas.shape[1] == 1 else label].float()
        boxes = p.coder.decode(deltas, p.priors[rows])
        groups = clusters(boxes, score, p.image[rows] * p.num_classes + label, nms)
        weight = importance(hierarchy(groups, score, label), label, p.num_classes, bias, gamma)
    return weighted(stage, p, a, ctx, rows, weight)


def carl(
    stage: str, p: Predictions, a: Assignment, ctx: Context, bias: Share = 0.2, gamma: Positive = 1.0
) -> Assignment:
    """The box loss counts by the row's own class probability, with gradient into the score (Cao et al. 2020, CARL).

    ``c = ((1 - bias) p + bias)^gamma`` over its mean. Minimising the box loss then raises the score of well-placed rows
    and lowers that of others. A quality branch, which shares the box weights, is weighted alike. A row without a class,
    which is asked for a place alone, keeps its weight.
    """
    rows = a.fg_rows
    known = objects(p, a)[rows]
    c = modulator((1 - bias) * own_probability(p, a, rows) + bias, gamma)
    c = torch.where(known, c * (known.sum() / (c * known).sum().clamp(min=1e-12)), 1.0)
    return replace(a, box_weight=a.box_weight.index_put((rows,), a.box_weight[rows] * a.each_side(c.to(a.box_weight))))


# ---- ranks ---------------------------------------------------------------------------------------------------------


def hierarchy(group: Tensor, value: Tensor, label: Tensor) -> Tensor:
    """Return hierarchical local ranks [M] int64: by rank inside ``group``, then by ``value``, counted per ``label``.

    Args:
        group: [M] int64, what a row competes in: its object, or its cluster.
        value: [M] in [0, 1].
        label: [M] int64.
    """
    local = rank_within(group, value)
    return rank_within(label, value - 2 * local)


def importance(place: Tensor, label: Tensor, num_classes: int, bias: float, gamma: float) -> Tensor:
    """``((1 - bias) u + bias)^gamma`` with ``u = (n_max - r) / n_max``, [M] float32."""
    one = torch.ones(len(label), device=label.device)
    most = one.new_zeros(num_classes).index_add(0, label, one)
    u = 1 - place / most.amax().clamp(min=1)
    return ((1 - bias) * u + bias) ** gamma


def weighted(stage: str, p: Predictions, a: Assignment, ctx: Context, rows: Tensor, weight: Tensor) -> Assignment:
    """Multiply the class weights of ``rows`` [M] by ``weight`` [M], scaled so that their summed loss stays as it is.

    The sum is that of the detector's class loss, where a row counts for less the more positives its image has if the
    normalizer is the image's.
    """
    with torch.no_grad():
        share = a.cls_weight / ctx.normalizer(stage, p, a)
        loss = ctx.loss(stage, "cls")(p[rows], _take(a, rows)) * share[rows]
        scale = loss.sum() / (weight * loss).sum().clamp(min=torch.finfo(loss.dtype).tiny)
        factor = weight * torch.where(loss.sum() > 0, scale, 1.0)
    return replace(a, cls_weight=a.cls_weight.index_put((rows,), a.cls_weight[rows] * factor))


def _take(a: Assignment, rows: Tensor) -> Assignment:
    return Assignment(a.cls[rows], a.cls_weight[rows], a.box[rows], a.box_weight[rows], open=a.open)


def clusters(boxes: Tensor, score: Tensor, group: Tensor, threshold: float) -> Tensor:
    """Return [M] int64: which kept box each box belongs to after suppression inside its group."""
    kept = batched_nms(boxes, score, group, threshold)
    near = box_iou(boxes, boxes[kept]) - 2.0 * (group[:, None] != group[kept])
    near[kept, torch.arange(len(kept), device=kept.device)] = 2.0
    return near.argmax(1) if len(kept) else kept

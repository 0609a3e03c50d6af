"""Row weights that a teacher gives: the score of a pseudo-label, and how surely a row is background.

Both are reweighters of R rows, see ``context.Reweight``.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ssod.losses.weighting.context import Context
from ssod.structures import Assignment, Output, Predictions, View
from ssod.structures.boxes import clip, compose, warp
from ssod.utils.collective import mean_over_ranks, shares


def score(stage: str, p: Predictions, a: Assignment, ctx: Context) -> Assignment:
    """Rows with a pseudo-box count by its score, in class and box losses; background rows count in full."""
    scores = torch.cat([t.boxes.new_ones(len(t)) if t.scores is None else t.scores.float() for t in ctx.matchable()])
    lookup = torch.cat([scores, scores.new_ones(1)])
    matched = a.matches()
    factor = lookup[torch.where(matched >= 0, matched, len(scores))]
    return replace(a, cls_weight=a.cls_weight * factor, box_weight=a.box_weight * a.each_side(factor))


def background_reliability(stage: str, p: Predictions, a: Assignment, ctx: Context) -> Assignment:
    """Background rows count by the teacher's probability of background (Xu et al. 2021, "Soft Teacher", sec. 3.2).

    On a two-stage detector the teacher looks at the very boxes of the rows. On a dense one its row of the same level
    and anchor answers, in the cell that the row's prior falls into: exact where views are aligned, near where they are
    not. Background of a sigmoid head is one minus its best class. Weights, those of foreground rows (1) included, are
    scaled to mean 1 over the rows that count, on all ranks, which turns a mean over rows into the released code's
    weighted mean; a sum of weights below 1 counts as 1.
    """
    with torch.no_grad():
        if stage == "roi":
            seen = roi_rows(p, ctx.teacher, ctx.view, ctx.batch.weak)
        else:
            seen = dense_rows(p, ctx.teacher.stages[stage], ctx.view, ctx.batch.weak)
        asked = a.cls < p.num_classes if a.cls.ndim == 1 else a.cls.sum(-1) > 0
        factor = torch.where(asked, 1.0, background(seen))
        counted = (a.cls_weight > 0).to(factor)
        rows, weights = mean_over_ranks(torch.stack([counted.sum(), (factor * counted).sum()]))
        factor = factor * (rows / weights.clamp(min=1 / shares()))
    return replace(a, cls_weight=a.cls_weight * factor)


def background(p: Predictions) -> Tensor:
    """Return [R], the probability that there is no object."""
    return p.logits.float().softmax(-1)[:, -1] if p.softmax else 1 - p.probs().amax(-1)


def roi_rows(p: Predictions, teacher: Output, here: View, there: View) -> Predictions:
    """Return what the teacher, who saw the view ``there``, says of the boxes of rows in the view ``here``."""
    boxes = clip(warp(p.priors, transfer(here, there)[p.image]), there.sizes[p.image])
    return teacher.score(list(boxes.view(p.num_images, -1, 4)))  # every image has the same number of rows


def dense_rows(p: Predictions, theirs: Predictions, here: View, there: View) -> Predictions:
    """Return the teacher's row at the place of each row of ``p``: same image, level and anchor, nearest cell.

    The priors of a level are a regular grid, so that the first one and the stride say which cell a point falls into.
    """
    n, each = p.num_images, len(theirs) // p.num_images
    mine = warp(p.priors, transfer(here, there)[p.image]).view(n, -1, 4)
    center = (mine[..., :2] + mine[..., 2:]) / 2
    index, start = [], 0
    for part, rows, stride, (high, wide) in zip(center.split(p.levels, 1), theirs.levels, theirs.strides, theirs.grids):
        first = (theirs.priors[start, :2] + theirs.priors[start, 2:]) / 2
        cell = ((part - first) / stride).round()
        column, row = cell[..., 0].clamp(0, wide - 1), cell[..., 1].clamp(0, high - 1)
        anchors = rows // (high * wide)
        which = torch.arange(part.shape[1], device=cell.device) % anchors
        index.append(start + (row * wide + column).long() * anchors + which)
        start += rows
    offset = torch.arange(n, device=p.image.device)[:, None] * each
    return theirs[(torch.cat(index, 1) + offset).flatten()]


def transfer(here: View, there: View) -> Tensor:
    """Return [N, 3, 3], pixels of one view to pixels of another of the same images, both of which are whole."""
    if here.pieces is not None or there.pieces is not None:
        raise TypeError("no matrix leads into a view that was cut; the config should have refused it")
    return compose(there.matrix, torch.linalg.inv_ex(here.matrix).inverse)

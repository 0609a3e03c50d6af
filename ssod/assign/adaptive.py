"""Assignment by prediction: Consistent-Teacher's adaptive sample assignment (Wang et al. 2023, Sec. 3.1).

A row takes the box that it already predicts best, so the assignment follows the network instead of fixed overlaps.
With p the class probabilities of a row and b its decoded box (both without gradient), a row inside some box costs box B
of class c

    class_weight * sum_k focal(p_k, [k = c]) - iou_weight * ln(IoU(b, B) + 1e-7) + distance_weight * 10**d

where d is the distance of the two centers in strides of the row's level. Box B takes the k rows that cost it least,
k = the sum of its ``topk`` largest IoUs, cut to an integer, at least 1. A row that several boxes take goes to the box
that it costs least, of all boxes. Every other row is background; there is no band of ignored overlaps.

Class targets stay hard. The IoU of a positive row with its box, q, is the weight of its box loss, and every loss is
divided by the sum of q over all ranks, at least 1.

What differs from the released code: it computes ``10**d`` in float32, which is infinite beyond 38 strides and makes the
choice there arbitrary; here the term grows linearly beyond 35 strides, so that nearer stays cheaper.
"""

import math
from dataclasses import replace
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from ssod.assign.center import in_padded_image, per_row
from ssod.assign.matches import BACKGROUND, IGNORED, from_matches
from ssod.structures import Assignment, Predictions, Targets
from ssod.structures.boxes import area
from ssod.utils.collective import mean_count
from ssod.utils.schema import Section


class AdaptiveConfig(Section):
    """Rows learn the boxes that they already predict best (Consistent-Teacher)."""

    name: Literal["adaptive"] = "adaptive"
    "The assigner."
    topk: int = Field(13, ge=1)
    "A box takes as many rows as the sum of its this many largest IoUs says, cut to an integer, at least 1."
    class_weight: float = Field(1.0, ge=0)
    "Factor of the class cost: focal loss of all classes of the row."
    iou_weight: float = Field(2.0, ge=0)
    "Factor of the box cost, -ln IoU; published: 2 for parts of COCO and for VOC, 3 for all of COCO."
    distance_weight: float = Field(0.001, ge=0)
    "Factor of the distance cost, 10 to the power of the distance between centers in strides; 0 switches it off."
    inside: Literal["any", "matched"] = "any"
    """Rows that may be taken: with their center inside any box, as released, so that a box too small to hold a center
    takes a row of another box; or inside the very box that takes them."""
    divisor: int = Field(32, ge=1)
    "Rows whose center lies beyond their image, padded to a multiple of this, learn nothing."


class AdaptiveAssigner:
    """Boxes take the rows that predict them best; see the module's page, and ``AdaptiveConfig`` for the arguments."""

    def __init__(
        self,
        topk: int = 13,
        class_weight: float = 1.0,
        iou_weight: float = 2.0,
        distance_weight: float = 0.001,
        inside: Literal["any", "matched"] = "any",
        divisor: int = 32,
    ) -> None:
        self.topk, self.inside, self.divisor = topk, inside, divisor
        self.class_weight, self.iou_weight, self.distance_weight = class_weight, iou_weight, distance_weight

    @torch.no_grad()
    def __call__(self, p: Predictions, targets: list[Targets]) -> Assignment:
        """Assign the rows of a dense head (the same number of rows per image) to the boxes of N images.

        Boxes of weight 0 take no row; a row inside one that no other box takes is ignored.
        """
        stride = per_row(p, p.strides)
        points = (p.priors[:, :2] + p.priors[:, 2:]).view(p.num_images, -1, 2) / 2
        pairs = zip(points, in_padded_image(p, self.divisor), targets)
        matches, candidates = zip(*(self.candidates(center, exists, t) for center, exists, t in pairs))
        # Only these rows are decoded and compared: a box seldom covers the image. All images wait for the device once.
        candidates = torch.stack(candidates)
        rows = candidates.flatten().nonzero().squeeze(1)
        qualities = torch.zeros_like(points[..., 0])
        for i, some in enumerate(rows.split(candidates.sum(1).tolist())):
            if len(some):
                own = some - i * len(stride)
                index, qualities[i, own] = self.image(p[some], points[i, own], stride[own], targets[i])
                matches[i][own] = torch.where(index >= 0, index, matches[i][own])
        a = from_matches(list(matches), targets, p.num_classes)
        quality = qualities.flatten()
        normalizer = mean_count(quality.sum())
        return replace(
            a, box_weight=a.box_weight * quality, normalizer=dict.fromkeys(("cls", "box", "quality"), normalizer)
        )

    @staticmethod
    def candidates(points: Tensor, exists: Tensor, t: Targets) -> tuple[Tensor, Tensor]:
        """Return what the rows of one image are without a match, -1 or -2 [P], and which of them may be taken, [P]."""
        match = torch.where(exists, BACKGROUND, IGNORED)
        if not len(t):
            return match, torch.zeros_like(exists)
        inside = strictly_inside(points, t.boxes.float()) & exists  # [M, P]
        trusted = (t.trust() > 0)[:, None]
        match = torch.where((inside & ~trusted).any(0), IGNORED, match)
        return match, (inside & trusted).any(0)

    def image(self, p: Predictions, points: Tensor, stride: Tensor, t: Targets) -> tuple[Tensor, Tensor]:
        """Match the candidates ``p`` of one image to its boxes; arguments and result as of ``match``."""
        return self.match(points, stride, p.logits.float(), p.boxes(), t.boxes.float(), t.labels, t.trust())

    def match(
        self,
        points: Tensor,
        stride: Tensor,
        logits: Tensor,
        decoded: Tensor,
        boxes: Tensor,
        labels: Tensor,
        trust: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Match V candidate rows to M boxes, in the type of ``logits``.

        Args:
            points: [V, 2] centers.
            stride: [V] pixels per cell.
            logits: [V, K].
            decoded: [V, 4] predicted boxes.
            boxes: [M, 4], M > 0.
            labels: [M].
            trust: [M], boxes of 0 take nothing; None = all take.

        Returns:
            [V] int64 index of the box or -1, and [V] its IoU, 0 without a box.
        """
        cost, iou = self.costs(points, stride, logits, decoded, boxes, labels)
        refused = torch.zeros_like(cost, dtype=torch.bool) if trust is None else (trust == 0)[:, None].expand_as(cost)
        if self.inside == "matched":
            refused = refused | ~strictly_inside(points, boxes)
        cost, iou = cost.masked_fill(refused, math.inf), iou.masked_fill(refused, 0)
        return take(cost, iou, self.topk)

    def costs(
        self, points: Tensor, stride: Tensor, logits: Tensor, decoded: Tensor, boxes: Tensor, labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return what each row costs each box, and their IoU, both [M, V]; arguments as for ``match``."""
        iou = overlaps(boxes.to(decoded), decoded)
        cost = class_cost(logits, labels).mul_(self.class_weight)
        cost.sub_((iou + 1e-7).log_(), alpha=self.iou_weight)
        if self.distance_weight:
            cost.add_(distance_cost(points, stride, boxes.to(decoded)), alpha=self.distance_weight)
        return cost, iou


# ---- terms on tensors ----------------------------------------------------------------------------------------------


def strictly_inside(points: Tensor, boxes: Tensor) -> Tensor:
    """Return [M, V] bool: whether points [V, 2] lie inside boxes [M, 4] and not on their border."""
    x, y = points.unbind(1)
    x1, y1, x2, y2 = boxes[:, :, None].unbind(1)
    return (x > x1) & (x < x2) & (y > y1) & (y < y2)


def overlaps(a: Tensor, b: Tensor) -> Tensor:
    """Return the IoU of every pair, [A, B]; 0 where a box is empty or inverted, also with itself."""
    ax1, ay1, ax2, ay2 = a[:, :, None].unbind(1)
    bx1, by1, bx2, by2 = b.unbind(1)
    inter = (torch.minimum(ax2, bx2) - torch.maximum(ax1, bx1)).clamp_(min=0)
    inter *= (torch.minimum(ay2, by2) - torch.maximum(ay1, by1)).clamp_(min=0)
    return inter / (area(a)[:, None] + area(b) - inter).clamp_(min=1e-6)


def class_cost(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the focal loss (alpha 0.25, gamma 2) of rows [V, K] if they were of class ``labels`` [M], [M, V].

    It is summed over all classes, so that confidence in a wrong class costs as well: what the row would cost as
    background, plus what asking for the one class changes. Nothing of size [M, V, K] is made.
    """
    background = logits.sigmoid().square_().mul_(0.75).mul_(F.softplus(logits)).sum(1)
    asked = logits.t()[labels]  # [M, V]
    return background + 0.25 * (-asked).sigmoid().square_() * F.softplus(-asked) - _negative(asked)


def _negative(logits: Tensor) -> Tensor:
    return 0.75 * logits.sigmoid().square_() * F.softplus(logits)


def distance_cost(points: Tensor, stride: Tensor, boxes: Tensor) -> Tensor:
    """Return ``10**d`` for the distance d between points [V, 2] and the centers of boxes [M, 4] in strides [V], [M, V].

    Beyond 10**35 (in float32; the type's largest power less three) it goes on linearly, with the distance over that
    of 35 strides as the factor: it stays finite for thousands of strides and keeps its order.
    """
    center = (boxes[:, :2] + boxes[:, 2:]) / 2
    x, y = points.unbind(1)
    d = torch.hypot(x - center[:, :1], y - center[:, 1:]) / stride
    reach = math.floor(math.log10(torch.finfo(d.dtype).max)) - 3.0
    return (d.clamp(max=reach) * math.log(10)).exp_() * (d / reach).clamp_(min=1)


def take(cost: Tensor, iou: Tensor, topk: int) -> tuple[Tensor, Tensor]:
    """Let M boxes take the rows that cost them least.

    Args:
        cost: [M, V]; infinite = may not be taken.
        iou: [M, V].
        topk: overlaps that say how many rows a box takes; never more than these.

    Returns:
        [V] int64 index of the box or -1, and [V] its IoU, 0 without a box.
    """
    most = min(topk, cost.shape[1])
    k = iou.topk(most, 1).values.sum(1).int().clamp(min=1)  # [M]
    value, row = cost.topk(most, 1, largest=False)
    taken = (torch.arange(most, device=cost.device) < k[:, None]) & value.isfinite()
    chosen = torch.zeros_like(cost, dtype=torch.bool).scatter_(1, row, taken)
    count = chosen.sum(0)
    box = torch.where(count > 1, cost.argmin(0), chosen.byte().argmax(0))
    quality = iou.gather(0, box[None])[0]
    return torch.where(count > 0, box, BACKGROUND), torch.where(count > 0, quality, 0)

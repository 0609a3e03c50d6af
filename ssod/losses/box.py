"""Box losses as row functions: ``(predictions, assignment) -> [rows with fg]``, unweighted.

``l1``, ``smooth_l1`` and ``nll`` compare encoded boxes (deltas): the sum over the four, or, where the assignment weighs
sides, the four, [rows with fg, 4]. The IoU family compares decoded boxes. All compute in float32 or better.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ssod.losses.elements import NonNegative, Positive, upcast
from ssod.structures import Assignment, Formula, Predictions
from ssod.structures.boxes import area, paired_iou
from ssod.utils.given import given


def l1(p: Predictions, a: Assignment) -> Tensor:
    """Absolute error of the encoded box, ``sum |d - d*|``, as in torchvision's RetinaNet; slope 1 at any error."""
    deltas, target = encoded(p, a)
    return sides((deltas - target).abs(), a)


def smooth_l1(p: Predictions, a: Assignment, beta: Positive = 1 / 9) -> Tensor:
    """Huber loss over ``beta`` of the encoded box (Girshick 2015, "Fast R-CNN", eq. 3, there with ``beta = 1``).

    ``e^2 / (2 beta)`` below ``beta``, ``e - beta / 2`` above: slope 0 at no error, 1 at large ones.
    """
    deltas, target = encoded(p, a)
    return sides(F.smooth_l1_loss(deltas, target, beta=beta, reduction="none"), a)


def iou(p: Predictions, a: Assignment) -> Tensor:
    """``1 - IoU``, in [0, 1] (Rezatofighi et al. 2019, algorithm 2); no gradient where the boxes do not meet."""
    return 1 - paired_iou(*decoded(p, a))


def giou(p: Predictions, a: Assignment, smooth: NonNegative = 0.0) -> Tensor:
    """``1 - GIoU``, in [0, 2] (Rezatofighi et al. 2019, algorithm 1).

    ``GIoU = IoU - (hull - union) / hull``: boxes that do not meet are drawn together, the less the farther apart: as
    one over the squared distance. Like that of IoU, the slope does not fade near a perfect box. ``smooth`` areas of the
    prior are added to intersection and union, of the IoU alone (FCOS's released code, where a prior is a square of a
    stride: 1).
    """
    return giou_pairs(*decoded(p, a), more=smooth * area(p.priors[a.fg_rows]) if smooth else 0.0)


def diou(p: Predictions, a: Assignment) -> Tensor:
    """``1 - IoU + squared center distance / squared diagonal of the hull`` (Zheng et al. 2020, eq. 7).

    In [0, 2]. Boxes that do not meet are drawn together by their centers, the less the farther apart (as one over the
    squared distance); near a perfect box the slope is that of IoU, which does not fade.
    """
    return diou_pairs(*decoded(p, a))


def ciou(p: Predictions, a: Assignment) -> Tensor:
    """DIoU plus ``alpha v`` for the aspect ratio (Zheng et al. 2020, eq. 8 to 11).

    ``v = 4 / pi^2 (atan(w* / h*) - atan(w / h))^2``, ``alpha = v / (1 - IoU + v)`` without gradient. The slope of
    ``alpha v`` fades with v, and while boxes overlap little; the rest is DIoU's.
    """
    return ciou_pairs(*decoded(p, a))


def nll(
    p: Predictions, a: Assignment, floor: Positive = 1e-2, smooth: NonNegative = 0.0, iou_slope: bool = False
) -> Tensor:
    """``IoU sum(e^2 / (2 s^2) + log s)`` plus a constant: a normal with a predicted deviation, after Liu et al. 2022.

    Unbiased Teacher v2's are ``s = sigmoid(box_std)``, one for each of the four encoded numbers, and the constant
    ``2 log 2 pi``; ``e`` are the errors of these numbers. The IoU is that of predicted and true box. The released FCOS
    adds 1 to intersection and union, in squared strides: ``smooth`` is what to add, in areas of the prior. The released
    Faster R-CNN lets the IoU learn, too: ``iou_slope``. Ours are: the numbers are our heads' deltas, and ``s`` is held
    above ``floor``, where the slope in ``box_std`` ends. The slope in a delta is ``IoU e / s^2``. It is a box loss, or,
    as theirs is, one that stands beside it (``detector.loss.spread``).
    """
    deltas, target = encoded(p, a)
    box_std = given(p.box_std, "this head predicts no deviation of its boxes")
    log_s = F.logsigmoid(upcast(box_std[a.fg_rows])).clamp(min=math.log(floor)).to(deltas)
    terms = (deltas - target) ** 2 * (-2 * log_s).exp() / 2 + log_s
    with torch.set_grad_enabled(iou_slope and torch.is_grad_enabled()):
        pair = decoded(p, a)
        overlap = overlap_of(*pair, smooth * area(p.priors[a.fg_rows])) if smooth else paired_iou(*pair)
    if a.box_weight.ndim == 2:
        return overlap[:, None] * (terms + math.log(2 * math.pi) / 2)
    return overlap * (terms.sum(-1) + 2 * math.log(2 * math.pi))


# What a config may name; the second table for heads that predict a deviation.
BOX: dict[str, Formula] = {"l1": l1, "smooth_l1": smooth_l1, "iou": iou, "giou": giou, "diou": diou, "ciou": ciou}
BOX_STD: dict[str, Formula] = BOX | {"nll": nll}
# ... of which this one may stand beside the box loss.
SPREAD: dict[str, Formula] = {"nll": nll}
# ... and for heads whose rows are boxes in pixels: what is encoded is nothing that they predict.
ALIGNED: dict[str, Formula] = {name: loss for name, loss in BOX.items() if name not in ("l1", "smooth_l1")}


# ---- formulas on tensors -------------------------------------------------------------------------------------------


def giou_pairs(boxes: Tensor, target: Tensor, eps: float = 1e-7, *, more: Tensor | float = 0.0) -> Tensor:
    """GIoU loss of pairs [R, 4]: torchvision's, but in [0, 2] also where corners of ``boxes`` changed places.

    An aligned head predicts such boxes, and every assigner but ``adaptive`` may ask one to learn. torchvision's loss,
    and mmdetection's, multiply two negative sides to a positive area and measure the hull between the wrong corners:
    it falls without bound as the box grows inside out. Here such a box has no area, and the hull holds its corners.
    ``more`` [R] is added to intersection and union of the IoU.
    """
    inter, union = shared(boxes, target)
    hull = span(boxes, target).prod(-1)
    return 1 - (inter + more) / (union + more + eps) + (hull - union) / (hull + eps)


def overlap_of(boxes: Tensor, target: Tensor, more: Tensor) -> Tensor:
    """Return the IoU [R] of pairs [R, 4] with ``more`` [R] added to intersection and union."""
    inter, union = shared(boxes, target)
    return (inter + more) / (union + more)


def diou_pairs(boxes: Tensor, target: Tensor, eps: float = 1e-7) -> Tensor:
    """DIoU loss of pairs [R, 4]: torchvision's, but with the hull of ``giou_pairs``, so that it stays below 3."""
    inter, union = shared(boxes, target)
    apart = (boxes[:, :2] + boxes[:, 2:] - target[:, :2] - target[:, 2:]) / 2
    return 1 - inter / (union + eps) + apart.square().sum(-1) / (span(boxes, target).square().sum(-1) + eps)


def shared(boxes: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return the areas [R] of intersection and union of pairs [R, 4]; a box inside out has none."""
    size = boxes[:, 2:] - boxes[:, :2]
    own = torch.where((size >= 0).all(-1), size.prod(-1), 0.0)  # not clamped, which has no slope at 0
    both = torch.minimum(boxes[:, 2:], target[:, 2:]) - torch.maximum(boxes[:, :2], target[:, :2])
    inter = torch.where((both > 0).all(-1), both.prod(-1), 0.0)
    return inter, own + area(target) - inter


def span(boxes: Tensor, target: Tensor) -> Tensor:
    """Return [R, 2]: width and height of what holds all corners of ``boxes`` [R, 4] and the box ``target`` [R, 4]."""
    first, second = boxes[:, :2], boxes[:, 2:]
    upright = first <= second  # not minimum and maximum, which share the gradient where a side is 0
    low, high = torch.where(upright, first, second), torch.where(upright, second, first)
    return torch.maximum(high, target[:, 2:]) - torch.minimum(low, target[:, :2])


def ciou_pairs(boxes: Tensor, target: Tensor, eps: float = 1e-7) -> Tensor:
    """CIoU loss of pairs [R, 4]; the trade-off factor is a constant.

    torchvision's is NaN for a box without width and height, which FCOS's clamped distances do produce; heights are
    floored here.
    """
    size, wanted = boxes[:, 2:] - boxes[:, :2], target[:, 2:] - target[:, :2]
    angle = torch.atan(size[:, 0] / size[:, 1].clamp(min=eps))
    v = 4 / math.pi**2 * (torch.atan(wanted[:, 0] / wanted[:, 1].clamp(min=eps)) - angle) ** 2
    with torch.no_grad():
        alpha = v / (1 - paired_iou(boxes, target, eps) + v + eps)
    return diou_pairs(boxes, target, eps) + alpha * v


def sides(terms: Tensor, a: Assignment) -> Tensor:
    """Return the terms of the four encoded numbers [F, 4] as they are where sides have weights, else their sum [F]."""
    return terms if a.box_weight.ndim == 2 else terms.sum(-1)


def encoded(p: Predictions, a: Assignment) -> tuple[Tensor, Tensor]:
    """Return predicted and wanted deltas [rows with fg, 4]."""
    deltas, priors, boxes = foreground(p, a)
    return deltas, p.coder.encode(boxes, priors)


def decoded(p: Predictions, a: Assignment) -> tuple[Tensor, Tensor]:
    """Return predicted and wanted boxes [rows with fg, 4]."""
    deltas, priors, boxes = foreground(p, a)
    return p.coder.decode(deltas, priors), boxes


def foreground(p: Predictions, a: Assignment) -> tuple[Tensor, Tensor, Tensor]:
    """Return deltas (of each row's class), priors and wanted boxes of the foreground rows, each [rows with fg, 4]."""
    rows = a.fg_rows
    column = torch.zeros_like(rows) if p.deltas.shape[1] == 1 else a.labels()[rows]
    deltas = upcast(p.deltas[rows, column])
    return deltas, p.priors[rows].to(deltas), a.box[rows].to(deltas)

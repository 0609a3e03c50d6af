"""Box losses as row functions: ``(predictions, assignment) -> [rows with fg]``, unweighted.

``l1``, ``smooth_l1`` and ``nll`` compare encoded boxes (deltas), summed over the four; the IoU family compares decoded
boxes. Everything is computed in float32 or better.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import distance_box_iou_loss, generalized_box_iou_loss

from ssod.boxes import paired_iou
from ssod.losses.elements import Positive, upcast
from ssod.structures import Assignment, Predictions


def l1(p: Predictions, a: Assignment) -> Tensor:
    """Absolute error of the encoded box, ``sum |d - d*|``, as in torchvision's RetinaNet; slope 1 at any error."""
    deltas, target = encoded(p, a)
    return (deltas - target).abs().sum(-1)


def smooth_l1(p: Predictions, a: Assignment, beta: Positive = 1 / 9) -> Tensor:
    """Huber loss over ``beta`` of the encoded box (Girshick 2015, "Fast R-CNN", eq. 3, there with ``beta = 1``).

    ``e^2 / (2 beta)`` below ``beta``, ``e - beta / 2`` above: slope 0 at no error, 1 at large ones.
    """
    deltas, target = encoded(p, a)
    return F.smooth_l1_loss(deltas, target, beta=beta, reduction="none").sum(-1)


def iou(p: Predictions, a: Assignment) -> Tensor:
    """``1 - IoU``, in [0, 1] (Rezatofighi et al. 2019, algorithm 2); no gradient where the boxes do not meet."""
    return 1 - paired_iou(*decoded(p, a))


def giou(p: Predictions, a: Assignment) -> Tensor:
    """``1 - GIoU``, in [0, 2] (Rezatofighi et al. 2019, algorithm 1).

    ``GIoU = IoU - (hull - union) / hull``: boxes that do not meet are drawn together, the less the farther apart: as
    one over the squared distance. Like that of IoU, the slope does not fade near a perfect box.
    """
    return generalized_box_iou_loss(*decoded(p, a))


def diou(p: Predictions, a: Assignment) -> Tensor:
    """``1 - IoU + squared centre distance / squared diagonal of the hull`` (Zheng et al. 2020, eq. 7).

    In [0, 2]. Boxes that do not meet are drawn together by their centres, the less the farther apart (as one over the
    squared distance); near a perfect box the slope is that of IoU, which does not fade.
    """
    return distance_box_iou_loss(*decoded(p, a))


def ciou(p: Predictions, a: Assignment) -> Tensor:
    """DIoU plus ``alpha v`` for the aspect ratio (Zheng et al. 2020, eq. 8 to 11).

    ``v = 4 / pi^2 (atan(w* / h*) - atan(w / h))^2``, ``alpha = v / (1 - IoU + v)`` without gradient. The slope of
    ``alpha v`` fades with v, and while boxes overlap little; the rest is DIoU's.
    """
    return ciou_pairs(*decoded(p, a))


def nll(p: Predictions, a: Assignment, floor: Positive = 1e-2) -> Tensor:
    """``IoU sum(e^2 / (2 s^2) + log s)`` plus a constant, of a normal with a predicted deviation (Liu et al. 2022).

    Unbiased Teacher v2's box loss: ``s = sigmoid(spread)`` for each of the four encoded numbers, ``e`` their errors,
    the IoU of the predicted box without gradient; the constant is theirs, ``2 log 2 pi``. ``s`` is held above ``floor``
    (our choice), where the slope in the spread ends; the slope in a delta is ``IoU e / s^2``.
    """
    deltas, target = encoded(p, a)
    log_s = F.logsigmoid(upcast(p.spread[a.fg.nonzero().squeeze(1)])).clamp(min=math.log(floor)).to(deltas)
    terms = (deltas - target) ** 2 * (-2 * log_s).exp() / 2 + log_s
    with torch.no_grad():
        overlap = paired_iou(*decoded(p, a))
    return overlap * (terms.sum(-1) + 2 * math.log(2 * math.pi))


# What a config may name; the second table for heads that predict a spread.
BOX = {"l1": l1, "smooth_l1": smooth_l1, "iou": iou, "giou": giou, "diou": diou, "ciou": ciou}
SPREAD = BOX | {"nll": nll}
# ... and for heads whose rows are boxes in pixels: what is encoded is nothing that they predict.
ALIGNED = {name: loss for name, loss in BOX.items() if name not in ("l1", "smooth_l1")}


# ---- formulas on tensors -------------------------------------------------------------------------------------------


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
    return distance_box_iou_loss(boxes, target, eps=eps) + alpha * v


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
    rows = a.fg.nonzero().squeeze(1)
    column = torch.zeros_like(rows) if p.deltas.shape[1] == 1 else a.labels()[rows]
    deltas = upcast(p.deltas[rows, column])
    return deltas, p.priors[rows].to(deltas), a.box[rows].to(deltas)

"""Box losses as row functions: ``(predictions, assignment) -> [rows with fg]``, unweighted.

``l1`` and ``smooth_l1`` compare encoded boxes (deltas), summed over the four; the IoU family compares decoded boxes.
Everything is computed in float32 or better.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import distance_box_iou_loss, generalized_box_iou_loss

from ssod.boxes import paired_iou
from ssod.losses.classify import upcast
from ssod.structures import Assignment, Predictions


def l1(p: Predictions, a: Assignment) -> Tensor:
    """Absolute error of the encoded box."""
    deltas, target = encoded(p, a)
    return (deltas - target).abs().sum(-1)


def smooth_l1(p: Predictions, a: Assignment, beta: float = 1 / 9) -> Tensor:
    """Huber loss over ``beta`` of the encoded box: quadratic below ``beta``, slope 1 above (Fast R-CNN)."""
    deltas, target = encoded(p, a)
    return F.smooth_l1_loss(deltas, target, beta=beta, reduction="none").sum(-1)


def iou(p: Predictions, a: Assignment) -> Tensor:
    """``1 - IoU``, in [0, 1]; no gradient where the boxes do not meet."""
    return 1 - paired_iou(*decoded(p, a))


def giou(p: Predictions, a: Assignment) -> Tensor:
    """``1 - GIoU``, in [0, 2] (Rezatofighi et al. 2019)."""
    return generalized_box_iou_loss(*decoded(p, a))


def diou(p: Predictions, a: Assignment) -> Tensor:
    """``1 - IoU + squared centre distance / squared diagonal of the hull`` (Zheng et al. 2020)."""
    return distance_box_iou_loss(*decoded(p, a))


def ciou(p: Predictions, a: Assignment) -> Tensor:
    """DIoU plus a term for the aspect ratio (Zheng et al. 2020)."""
    return ciou_pairs(*decoded(p, a))


# What a config may name.
BOX = {"l1": l1, "smooth_l1": smooth_l1, "iou": iou, "giou": giou, "diou": diou, "ciou": ciou}


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

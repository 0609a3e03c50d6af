"""Boxes: areas, overlaps, warps by 3x3 matrices, and the two ways to encode a box against a prior.

Boxes are [..., 4] ``x1, y1, x2, y2``. Everything here is differentiable unless it says otherwise.
"""

import math
from typing import Protocol

import torch
from torch import Tensor
from torchvision.ops import box_iou


class Coder(Protocol):
    """From boxes to what a head regresses, given a prior, and back.

    Attributes:
        sides: whether each of the four numbers tells where one side is, left, top, right, bottom.
    """

    sides: bool

    def encode(self, boxes: Tensor, priors: Tensor) -> Tensor:
        """[R, 4] boxes, [R, 4] priors -> [R, 4] deltas."""
        ...

    def decode(self, deltas: Tensor, priors: Tensor) -> Tensor:
        """[R, 4] deltas, [R, 4] priors -> [R, 4] boxes."""
        ...

    def mirror(self, deltas: Tensor, width: Tensor) -> Tensor:
        """Deltas [R, ..., 4] -> what they are in the mirror image, ``width`` [R] pixels wide, with mirrored priors."""
        ...


class DeltaCoder:
    """Center shift over prior size, log of size ratio (R-CNN, RetinaNet). Equals torchvision's ``BoxCoder``.

    As in torchvision and detectron2, dw and dh are held from above alone. mmdetection, and with it the released
    Mean-Teacher and Consistent-Teacher, holds them from below as well: a side of a box there is no less than 1/62.5 of
    its prior's.

    Args:
        shift: factor of dx and dy. ``shift=10, size=5`` is the field's "std (.1, .1, .2, .2)".
        size: factor of dw and dh.
        clip: largest dw, dh, so that ``exp`` cannot overflow.
    """

    sides = False

    def __init__(self, shift: float = 1.0, size: float = 1.0, clip: float = math.log(1000 / 16)) -> None:
        self.shift, self.size, self.clip = shift, size, clip

    def encode(self, boxes: Tensor, priors: Tensor) -> Tensor:
        """See ``Coder.encode``. The boxes must have positive sides."""
        size, target = priors[..., 2:] - priors[..., :2], boxes[..., 2:] - boxes[..., :2]
        shift = (boxes[..., :2] + boxes[..., 2:] - priors[..., :2] - priors[..., 2:]) / 2 / size
        return torch.cat([shift * self.shift, (target / size).log() * self.size], -1)

    def decode(self, deltas: Tensor, priors: Tensor) -> Tensor:
        """See ``Coder.decode``."""
        size = priors[..., 2:] - priors[..., :2]
        center = (priors[..., :2] + priors[..., 2:]) / 2 + deltas[..., :2] / self.shift * size
        half = (deltas[..., 2:] / self.size).clamp(max=self.clip).exp() * size / 2
        return torch.cat([center - half, center + half], -1)

    def mirror(self, deltas: Tensor, width: Tensor) -> Tensor:
        """See ``Coder.mirror``: dx changes its sign."""
        return torch.cat([-deltas[..., :1], deltas[..., 1:]], -1)


class LtrbCoder:
    """Distances from the prior's center to the four sides, in strides (FCOS).

    Equals torchvision's ``BoxLinearCoder(normalize_by_size=True)`` where a prior is a square whose side is its stride.

    Args:
        strides: side of a prior, in strides.
    """

    sides = True

    def __init__(self, strides: float = 1.0) -> None:
        self.strides = strides

    def encode(self, boxes: Tensor, priors: Tensor) -> Tensor:
        """See ``Coder.encode``; a side that the center lies beyond comes out negative."""
        center, unit = self._center_and_unit(priors)
        return torch.cat([center - boxes[..., :2], boxes[..., 2:] - center], -1) / unit

    def decode(self, deltas: Tensor, priors: Tensor) -> Tensor:
        """See ``Coder.decode``."""
        center, unit = self._center_and_unit(priors)
        deltas = deltas * unit
        return torch.cat([center - deltas[..., :2], center + deltas[..., 2:]], -1)

    def mirror(self, deltas: Tensor, width: Tensor) -> Tensor:
        """See ``Coder.mirror``: left and right change places."""
        left, top, right, bottom = deltas.unbind(-1)
        return torch.stack([right, top, left, bottom], -1)

    def _center_and_unit(self, priors: Tensor) -> tuple[Tensor, Tensor]:
        size = (priors[..., 2:] - priors[..., :2]).repeat(*[1] * (priors.ndim - 1), 2)
        return (priors[..., :2] + priors[..., 2:]) / 2, size / self.strides


class SideCoder:
    """How far each side moves, over the prior's width or height (Unbiased Teacher v2, Faster R-CNN).

    As released, the size has one pixel added where a box is encoded, and not where it is decoded.

    Args:
        scale: factor of the four numbers.
    """

    sides = True

    def __init__(self, scale: float = 10.0) -> None:
        self.scale = scale

    def encode(self, boxes: Tensor, priors: Tensor) -> Tensor:
        """See ``Coder.encode``."""
        return self.scale * (boxes - priors) / (self._size(priors) + 1)

    def decode(self, deltas: Tensor, priors: Tensor) -> Tensor:
        """See ``Coder.decode``; sides may change places."""
        return priors + deltas / self.scale * self._size(priors)

    def mirror(self, deltas: Tensor, width: Tensor) -> Tensor:
        """See ``Coder.mirror``: left and right change places, and their signs."""
        left, top, right, bottom = deltas.unbind(-1)
        return torch.stack([-right, top, -left, bottom], -1)

    @staticmethod
    def _size(priors: Tensor) -> Tensor:
        return (priors[..., 2:] - priors[..., :2]).repeat(*[1] * (priors.ndim - 1), 2)


class IdentityCoder:
    """Boxes as they are, for heads that answer with boxes (``ssod.detectors.heads.fam3d``)."""

    sides = True

    def encode(self, boxes: Tensor, priors: Tensor) -> Tensor:
        """Return ``boxes``."""
        return boxes

    def decode(self, deltas: Tensor, priors: Tensor) -> Tensor:
        """Return ``deltas``."""
        return deltas

    def mirror(self, deltas: Tensor, width: Tensor) -> Tensor:
        """See ``Coder.mirror``: the mirrored boxes."""
        return mirror(deltas, width.view(-1, *[1] * (deltas.ndim - 1)))


def area(boxes: Tensor) -> Tensor:
    """Return [...] areas; negative sides count as 0."""
    return (boxes[..., 2:] - boxes[..., :2]).relu().prod(-1)  # slope 0 at 0 in every torch; clamp's is 0 or 1


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Return [A, B] intersection over union of every pair (torchvision's ``box_iou``)."""
    return box_iou(a, b)


def paired_iou(a: Tensor, b: Tensor, eps: float = 1e-7) -> Tensor:
    """Return [R] intersection over union of ``a[i]`` with ``b[i]``; 0 where both are empty."""
    inter = area(torch.cat([torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:])], -1))
    return inter / (area(a) + area(b) - inter).clamp(min=eps)


def compose(a: Tensor, b: Tensor) -> Tensor:
    """Return the product of matrices [..., 3, 3], ``b`` applied first; exact under autocast, which ``@`` is not."""
    return (a[..., :, :, None] * b[..., None, :, :]).sum(-2)


def warp(boxes: Tensor, matrix: Tensor) -> Tensor:
    """Map boxes [M, 4] by matrices [3, 3] or [M, 3, 3]; return the axis-aligned hulls of their four corners."""
    x1, y1, x2, y2 = boxes.unbind(1)  # a list as an index would be copied to the device, and waited for
    x, y = torch.stack([x1, x2, x1, x2], 1), torch.stack([y1, y1, y2, y2], 1)
    row = matrix.to(boxes.dtype).expand(len(boxes), 3, 3)[:, :, :, None]  # [M, 3, 3, 1]
    u, v, w = (row[:, i, 0] * x + row[:, i, 1] * y + row[:, i, 2] for i in range(3))
    u, v = u / w, v / w
    return torch.stack([u.amin(1), v.amin(1), u.amax(1), v.amax(1)], -1)


def warp_sides(values: Tensor, matrix: Tensor) -> Tensor:
    """Carry a number for each side of a box [M, 4] to the side that it becomes, by matrices [M, 3, 3].

    A flip changes left and right, a quarter turn left and top; of other turns, the side that is nearer.
    """
    part = matrix.to(values.dtype)[:, :2, :2]
    turned = part[:, 0, 1].abs() > part[:, 0, 0].abs()  # x comes from y
    left, top, right, bottom = values.unbind(1)
    across, down = torch.stack([left, right], 1), torch.stack([top, bottom], 1)
    turned = turned[:, None]
    across, down = torch.where(turned, down, across), torch.where(turned, across, down)
    x = torch.where(turned, part[:, 0, 1:], part[:, 0, :1])
    y = torch.where(turned, part[:, 1, :1], part[:, 1, 1:])
    across, down = (torch.where(sign < 0, of.flip(1), of) for sign, of in ((x, across), (y, down)))
    return torch.stack([across[:, 0], down[:, 0], across[:, 1], down[:, 1]], 1)


def mirror(boxes: Tensor, width: Tensor) -> Tensor:
    """Mirror boxes [..., 4] about the vertical axis of an image ``width`` pixels wide, [] or [..., 1]."""
    return torch.cat([width - boxes[..., 2:3], boxes[..., 1:2], width - boxes[..., :1], boxes[..., 3:]], -1)


def clip(boxes: Tensor, sizes: Tensor) -> Tensor:
    """Clip boxes [M, 4] to ``sizes`` [2] or [M, 2], (height, width)."""
    limit = sizes.flip(-1).to(boxes.dtype)
    limit = torch.cat([limit, limit], -1)
    return torch.minimum(boxes.clamp(min=0), limit)

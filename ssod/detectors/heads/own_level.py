"""Heads of which each level has its own, with objectness and YOLO's bounded boxes (Efficient Teacher, Sec. 3.1)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.retinanet import RetinaNetHead

from ssod.detectors.heads.fam3d import bias_of, to_rows
from ssod.losses.elements import upcast


class LevelHead(RetinaNetHead):
    """torchvision's RetinaNet head, under torchvision's names, for one level, with objectness beside the box branch.

    It begins as YOLO does: an image of 640 pixels has eight objects, and the odds of each class are 0.6 / (K - 0.99).

    Args:
        channels: of the features.
        num_classes: K.
        anchors: [A, 2] width and height in pixels.
        stride: pixels per cell.
        norm_layer: of the towers.
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        anchors: Sequence[tuple[float, float]],
        stride: int,
        norm_layer: Callable[..., nn.Module] | None = None,
    ) -> None:
        super().__init__(channels, len(anchors), num_classes, norm_layer=norm_layer)
        self.objectness = nn.Conv2d(channels, len(anchors), 3, padding=1)
        nn.init.normal_(self.objectness.weight, std=0.01)
        nn.init.constant_(bias_of(self.objectness), math.log(8 / (640 / stride) ** 2))
        nn.init.constant_(bias_of(self.classification_head.cls_logits), math.log(0.6 / (num_classes - 0.99)))
        self.register_buffer("reach", stride / torch.tensor(anchors, dtype=torch.float32), persistent=False)

    def level(self, x: Tensor) -> dict[str, Tensor]:
        """[N, channels, h, w] -> ``cls_logits``, ``bbox_regression``, ``bbox_ctrness`` and what the first one read."""
        read, box = self.classification_head.conv(x), self.regression_head.conv(x)
        return {
            "cls_logits": to_rows(self.classification_head.cls_logits(read), self.classification_head.num_classes),
            "bbox_regression": bounded(to_rows(self.regression_head.bbox_reg(box), 4), self.reach),
            "bbox_ctrness": to_rows(self.objectness(box), 1),
            "cls_features": read,
        }


class LevelHeads(nn.ModuleList):
    """One ``LevelHead`` a level."""

    def forward(self, features: list[Tensor]) -> dict[str, Any]:
        """Return what the levels say, one after another; ``cls_features`` is a list."""
        said = [cast(LevelHead, head).level(x) for head, x in zip(self, features)]
        joined = {name: torch.cat([s[name] for s in said], 1) for name in said[0] if name != "cls_features"}
        return joined | {"cls_features": [s["cls_features"] for s in said]}


def bounded(outputs: Tensor, reach: Tensor) -> Tensor:
    """Turn YOLO's box outputs into ``boxes.DeltaCoder``'s deltas, in float32 or better.

    YOLO's center is ``2 sigmoid(x) - 0.5`` cells from the corner of its cell, which is ``2 sigmoid(x) - 1`` from the
    middle, where the anchor has its center; width and height are the anchor's times ``(2 sigmoid(x))^2``. So a center
    is less than a stride away, and a side less than four times the anchor's. As deltas they are shifts over the size of
    the anchor and logarithms, and whatever compares deltas can read them.

    Args:
        outputs: [N, cells * A, 4].
        reach: [A, 2], the stride over width and height of the anchors of a cell.
    """
    x = upcast(outputs).unflatten(1, (-1, len(reach)))
    shift = (2 * x[..., :2].sigmoid() - 1) * reach
    return torch.cat([shift, 2 * (math.log(2) + F.logsigmoid(x[..., 2:]))], -1).flatten(1, 2)

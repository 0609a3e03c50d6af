"""torchvision's heads, under torchvision's names, that also tell what their class output reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.fcos import FCOSClassificationHead
from torchvision.models.detection.retinanet import RetinaNetClassificationHead, RetinaNetHead

from ssod.detectors.heads.fam3d import to_rows


class RetinaHead(RetinaNetHead):
    """torchvision's RetinaNet head, with what the class output reads."""

    def forward(self, features: list[Tensor]) -> dict[str, Any]:
        """Return what torchvision's head does, and ``cls_features``."""
        return classify(self.classification_head, features) | {"bbox_regression": self.regression_head(features)}


def classify(branch: RetinaNetClassificationHead | FCOSClassificationHead, features: list[Tensor]) -> dict[str, Any]:
    """Return ``cls_logits``, [N, rows, K], and ``cls_features``, which they are read from, [N, C, h, w] a level."""
    read = [branch.conv(x) for x in features]
    return {"cls_logits": each(branch.cls_logits, read, branch.num_classes), "cls_features": read}


def each(layer: nn.Module, maps: Sequence[Tensor], width: int) -> Tensor:
    """Apply a layer to the map of each level and lay out its outputs as rows, [N, rows, width]."""
    return torch.cat([to_rows(layer(x), width) for x in maps], 1)

"""Heads that also say how sure they are of each side of a box: four more outputs, which the box loss ``nll`` learns.

Unbiased Teacher v2 (Liu et al. 2022) predicts them from the box tower. They serve in training only: detections do not
depend on them, and carry them (``Targets.box_std``). They begin near a deviation of one half, ``sigmoid(0)``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from ssod.detectors.heads.fam3d import bias_of
from ssod.detectors.heads.towers import RetinaHead, classify, each
from ssod.losses.build import LossSpec, pick
from ssod.structures import RowLoss
from ssod.utils.errors import SsodError
from ssod.utils.schema import Switch

BoxStd = Switch


class BoxStdHead(RetinaHead):
    """torchvision's RetinaNet head, under torchvision's names, with a deviation for each side of each box."""

    def __init__(
        self,
        channels: int,
        per_cell: int,
        num_classes: int,
        norm_layer: Callable[..., nn.Module] | None = None,
    ) -> None:
        super().__init__(channels, per_cell, num_classes, norm_layer=norm_layer)
        # Weights on disk have the name ``spread``.
        self.spread = box_std_layer(channels, per_cell)

    def forward(self, features: list[Tensor]) -> dict[str, Any]:
        """Return what torchvision's head does, ``cls_features``, and ``bbox_std``, [N, rows, 4]."""
        towers = [self.regression_head.conv(x) for x in features]
        return classify(self.classification_head, features) | {
            "bbox_regression": each(self.regression_head.bbox_reg, towers, 4),
            "bbox_std": each(self.spread, towers, 4),
        }


def box_std_layer(channels: int, per_cell: int) -> nn.Conv2d:
    """Return the convolution from a box tower to deviations, as logits."""
    layer = nn.Conv2d(channels, 4 * per_cell, 3, padding=1)
    nn.init.normal_(layer.weight, std=0.01)
    nn.init.zeros_(bias_of(layer))
    return layer


def spread_rows(predicted: bool, spec: LossSpec | None) -> dict[str, RowLoss]:
    """Return the row loss ``spread``, which stands beside the box loss; nothing where a config names none.

    Args:
        predicted: whether the head predicts deviations.
        spec: ``detector.loss.spread``.

    Raises:
        SsodError: no head predicts them, or the loss is none of theirs.
    """
    if spec is None:
        return {}
    if not predicted:
        problem = "no head predicts how uncertain a side is"
        raise SsodError("config", "detector.loss.spread", problem, "write detector.spread: true, or remove it")
    return {"spread": pick(spec, "spread", "detector.loss.spread")}

"""Predictions and assignments made by hand."""

import torch
from torch import Tensor, nn

from ssod.detectors.heads.fam3d import to_rows
from ssod.structures import Assignment, Predictions


class Plain:
    """A coder whose deltas are the boxes."""

    def encode(self, boxes: Tensor, priors: Tensor) -> Tensor:
        return boxes

    def decode(self, deltas: Tensor, priors: Tensor) -> Tensor:
        return deltas


def predictions(logits: Tensor, deltas: Tensor | None = None, softmax: bool = False, **more: object) -> Predictions:
    r = len(logits)
    deltas = logits.new_zeros(r, 1, 4) if deltas is None else deltas
    image = torch.zeros(r, dtype=torch.long)
    return Predictions(
        logits, deltas, logits.new_zeros(r, 4), image, torch.tensor([[100, 100]]), Plain(), softmax, **more
    )


def assignment(cls: Tensor, box: Tensor | None = None, weight: Tensor | None = None) -> Assignment:
    r = len(cls)
    box = torch.zeros(r, 4) if box is None else box
    weight = torch.ones(r) if weight is None else weight
    return Assignment(cls, torch.ones(r), box, weight)


def logits_of(layer: nn.Module, p: Predictions) -> Tensor:
    """What a class layer says of what it read, [R, columns]."""
    if isinstance(layer, nn.Linear):
        return layer(*p.cls_features)
    return torch.cat([to_rows(layer(x), p.logits.shape[1]) for x in p.cls_features], 1).flatten(0, 1)

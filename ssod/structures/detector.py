"""What a detector answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ssod.structures.clusters import Clusters
from ssod.structures.images import View
from ssod.structures.rows import Assigned, Assignment, Kind, Predictions, Rank, RowLoss
from ssod.structures.targets import Targets, join

# (predictions of a dense head, the boxes of N images) -> what each row should have predicted.
Assigner = Callable[[Predictions, list[Targets]], Assignment]


class Output(Protocol):
    """What a detector saw in a view."""

    @property
    def stages(self) -> dict[str, Predictions]:
        """Its dense maps: ``dense``, or ``rpn``."""
        ...

    @property
    def proposals(self) -> list[Tensor] | None:
        """N x [P_i, 4] without gradient, best first, for ``score``; None with one stage."""
        ...

    @property
    def pyramid(self) -> list[Tensor]:
        """The feature map of each level, [N, channels, h, w]."""
        ...

    def detections(self, score: float | None = None, rank: Rank | None = None) -> list[Targets]:
        """Decode, threshold and suppress; N Targets with scores, clipped to the images.

        ``score`` replaces the configured threshold, ``rank`` the detector's own ranking of the same maps.
        """
        ...

    def clusters(self) -> Clusters:
        """Return ``detections()``, and which of the boxes that were suppressed belong to each."""
        ...

    def score(self, boxes: list[Tensor]) -> Predictions:
        """Say what is in these boxes, N tensors [M_i, 4]; row ``j`` of image ``i`` answers for box ``j``."""
        ...


class Priors(nn.Module):
    """The priors of a canvas: (height, width) and the (height, width) in cells of each level -> [rows, 4].

    Attributes:
        per_cell: priors of a cell.
    """

    per_cell: int


class Detector(nn.Module):
    """Answers four questions: predict, assign, reduce, and how losses are divided. It knows no teacher and no method.

    Attributes:
        num_classes: K.
        backbone: images to a pyramid.
        anchors: the priors of its dense rows.
        rows: its own row losses by name.
        weights: factor of each loss by name.
        assigner: which of its dense rows should predict which box; None where rows are sampled (two stages).
        sides: whether each box output tells where one side is (``boxes.Coder``).
        pretrained_heads: whether pyramid and heads have weights from a file, too.
        half_size: whether it can look at a ``View.half_size``.
        objectness: whether its dense rows have an objectness, see ``Predictions``.
        with_quality: asks the quality branch for what it is asked for where nobody says it; None where rows have an
            objectness, or no quality at all.
        strides: pixels per cell of each level of its dense rows.
        central: whether the loss of a whole box counts by its row's centerness, and is divided by the sum of that.
        floor: no detection can be had that scores less; 0 where ``detections`` may be asked for any score.
    """

    num_classes: int
    backbone: nn.Module
    anchors: Priors
    rows: dict[str, RowLoss]
    weights: dict[str, float]
    assigner: Assigner | None = None
    sides: bool = False
    pretrained_heads: bool = False
    half_size: bool = False
    objectness: bool = False
    with_quality: Callable[[Predictions, Assignment], Assignment] | None = None
    strides: tuple[int, ...] = ()
    central: bool = False
    floor: float = 0.0

    @property
    def device(self) -> torch.device:
        """Where images are handed to it: where its weights lie."""
        return next(self.parameters()).device

    @property
    def body(self) -> nn.Module:
        """What is below the pyramid: that is all that an image classifier's weights are for."""
        raise NotImplementedError

    @property
    def cls_layers(self) -> Mapping[str, nn.Conv2d | nn.Linear]:
        """The layer of each stage that says the class logits; what it reads is ``Predictions.cls_features``."""
        raise NotImplementedError

    @property
    def kinds(self) -> Mapping[str, Kind]:
        """The row losses of this head by name, and what each must be made for."""
        raise NotImplementedError

    def predict(self, view: View) -> Output:
        """Look at a view. No losses, no resizing; batch-norm follows ``train()`` / ``eval()``."""
        raise NotImplementedError

    def assign(self, out: Any, cls: list[Targets], box: list[Targets] | None = None, assigner: Any = None) -> Assigned:
        """Say what each row should have predicted.

        Args:
            out: what it saw in N images.
            cls: the boxes that teach classes.
            box: the boxes that teach places; None = those of ``cls``. The proposal network learns both from ``cls``.
            assigner: in the place of the detector's. With one stage it is an ``Assigner``; with two it says what the
                second stage samples from, (out, targets) -> (boxes [N, C, 4], the target of each [N, C], -1 none, -2
                ignored).
        """
        raise NotImplementedError

    def assign_both(
        self, out: Any, sure: list[Targets], unsure: list[Targets], assigner: Assigner | None = None
    ) -> Assigned:
        """Say what each row should have predicted where some boxes are surer than others.

        A row of an unsure box is asked for it like any other; what such rows learn is the caller's to decide. Here all
        boxes are assigned together; a sample takes rows of sure boxes first.

        Args:
            out: what it saw in N images.
            sure: N Targets.
            unsure: N Targets. ``matched`` counts the unsure boxes of an image behind its sure ones.
            assigner: see ``assign``.
        """
        return self.assign(out, [join(pair) for pair in zip(sure, unsure)], None, assigner)

    def reduce(
        self,
        assigned: Assigned,
        rows: Mapping[str, RowLoss] | None = None,
        factors: Mapping[str, float] | None = None,
    ) -> dict[str, Tensor]:
        """Turn assignments into scalar losses: cls, box, quality, spread, rpn_cls, rpn_box, as the detector has them.

        Args:
            assigned: from ``assign``, or what a method made of it.
            rows: replace single row losses by name; the detector's own serve where it is silent.
            factors: of single losses by name, on top of the detector's own.
        """
        raise NotImplementedError

    def cls_normalizer(self, stage: str, p: Predictions, a: Assignment) -> Tensor:
        """Return what ``reduce`` divides the class loss of rows by, [] or [R], up to a factor that all rows share."""
        raise NotImplementedError

"""What RetinaNet and FCOS share: pixels to rows, rows to losses, rows to detections."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.backbone_utils import BackboneWithFPN

from ssod.assign.quality import QUALITIES, Quality, with_centerness
from ssod.assign.two_sets import with_boxes_of
from ssod.detectors.anchors import grid_of
from ssod.detectors.backbones import Normalise
from ssod.detectors.decode import DecodeConfig, Detections, Rule, detect
from ssod.detectors.decode import rank as own_rank
from ssod.detectors.half_size import HalfSizePyramid, pyramid_of
from ssod.detectors.heads.fam3d import Align, to_rows
from ssod.detectors.nearest import nearest_row
from ssod.structures import (
    Assigned,
    Assigner,
    Assignment,
    Clusters,
    Detector,
    Kind,
    Predictions,
    Priors,
    Rank,
    RowLoss,
    Targets,
    View,
)
from ssod.structures.boxes import Coder, IdentityCoder
from ssod.utils.collective import mean_count
from ssod.utils.given import given


@dataclass
class DenseOutput:
    """What a one-stage detector saw in N images.

    Attributes:
        stages: ``{"dense": predictions}``, image-major, level-major inside an image.
        features: the pyramid, one [N, channels, h, w] per level.
        decode: the detector's settings.
        rule: how rows become detections.
        proposals: None, see ``structures.Output``.
    """

    stages: dict[str, Predictions]
    features: list[Tensor]
    decode: DecodeConfig
    rule: Rule = detect
    proposals: None = None

    @property
    def pyramid(self) -> list[Tensor]:
        """The feature map of each level."""
        return self.features

    @torch.no_grad()
    def detect(self, score: float | None = None, rank: Rank | None = None, *, clusters: bool = False) -> Detections:
        """Return padded detections of fixed size; see ``structures.Output.detections``, and ``decode.Rule``."""
        p = self.stages["dense"]
        cfg = self.decode if score is None else self.decode.model_copy(update={"score": score})
        return self.rule(p, (rank or own_rank)(p), p.levels, cfg, clusters=clusters)

    def detections(self, score: float | None = None, rank: Rank | None = None) -> list[Targets]:
        """Return N Targets with scores, clipped to the images, sorted by score."""
        return self.detect(score, rank).to_targets()

    def clusters(self) -> Clusters:
        """See ``structures.Output``."""
        return self.detect(clusters=True).to_clusters()

    def score(self, boxes: list[Tensor]) -> Predictions:
        """Answer for any boxes, N tensors [M_i, 4], by the row whose decoded box overlaps each of them most.

        A dense head has no answer for boxes that it was not asked about, so this is an approximation: the row decodes
        to a box near the one given, not to it. A box that no row overlaps gets the row with the nearest center.
        """
        p = self.stages["dense"]
        with torch.no_grad():
            decoded = p.boxes().view(p.num_images, -1, 4)
            rows = [nearest_row(d, b.to(d)) + i * len(d) for i, (d, b) in enumerate(zip(decoded, boxes))]
        return p[torch.cat(rows)]


class Dense(Detector):
    """A one-stage detector.

    Args:
        backbone: images to a pyramid.
        head: torchvision's head: list of levels to ``cls_logits``, ``bbox_regression``, ``cls_features`` and perhaps
            ``bbox_ctrness`` and ``bbox_std``.
        anchors: the priors.
        coder: the meaning of the head's deltas.
        num_classes: K.
        strides: pixels per cell of each level.
        assigner: (predictions, targets) -> assignment.
        rows: row loss by name.
        weights: factor of each loss by name.
        normalizer: (predictions, [R] bool) -> [] or [R]: ``normalizer_per_image`` or ``normalizer_of_batch``.
        decode: thresholds and sizes of detection.
        rule: how rows become detections.
        box_kind: what the box loss must be made for.
        level_scale: multiply the deltas of each level by a learnt scalar (Mean-Teacher RetinaNet, FCOS v1).
        normalise: (images, sizes) -> images as the backbone wants them; None = ImageNet's mean and deviation.
        align: moves the decoded boxes of a head that also returns ``towers``; the rows' deltas then are boxes.
        quality: what the quality branch, if there is one, is asked for.
        central: whether the loss of a whole box counts by its row's centerness, and is divided by the sum of that.
    """

    backbone: BackboneWithFPN
    head: Any  # with torchvision's names, or detectron2's
    assigner: Assigner
    with_quality: Callable[[Predictions, Assignment], Assignment]

    def __init__(
        self,
        backbone: BackboneWithFPN,
        head: nn.Module,
        anchors: Priors,
        coder: Coder,
        *,
        num_classes: int,
        strides: tuple[int, ...],
        assigner: Assigner,
        rows: dict[str, RowLoss],
        weights: dict[str, float],
        normalizer: Callable[[Predictions, Tensor], Tensor],
        decode: DecodeConfig,
        rule: Rule = detect,
        box_kind: Kind = "box",
        level_scale: bool = False,
        normalise: nn.Module | None = None,
        align: Align | None = None,
        quality: Quality = "centerness",
        central: bool = False,
    ) -> None:
        super().__init__()
        self.normalise = Normalise() if normalise is None else normalise
        self.backbone, self.head, self.anchors = backbone, head, anchors
        self.coder, self.sides, self.num_classes, self.strides = coder, coder.sides, num_classes, strides
        self.half_size = isinstance(backbone, HalfSizePyramid)
        self.assigner, self.rows, self.weights, self.decode = assigner, rows, weights, decode
        self.normalizer_of, self.rule, self.box_kind = normalizer, rule, box_kind
        self.level_scale = nn.Parameter(torch.ones(len(strides))) if level_scale else None
        self.align, self.with_quality, self.central = align, QUALITIES[quality], central

    def predict(self, view: View) -> DenseOutput:
        """Look at a view; batch-norm follows ``train()`` / ``eval()``."""
        images = self.normalise(view.images, view.sizes)
        features = list(pyramid_of(self.backbone, images, view.half_size).values())
        return DenseOutput({"dense": self.rows_of(features, view)}, features, self.decode, self.rule)

    def rows_of(self, features: list[Tensor], view: View) -> Predictions:
        """Run the head and flatten it: rows are image-major, level-major inside an image."""
        heads = self.heads(features)
        grids = [grid_of(f) for f in features]
        levels = tuple(h * w * self.anchors.per_cell for h, w in grids)
        deltas = heads["bbox_regression"]
        if self.level_scale is not None:
            parts = zip(deltas.split(levels, 1), self.level_scale)
            deltas = torch.cat([part * scale for part, scale in parts], 1)
        n = view.images.shape[0]
        priors = self.anchors(view.images.shape[-2:], grids)
        coder = self.coder
        if self.align is not None:
            deltas, coder = self.aligned(self.align, heads["towers"], deltas, priors, grids), IdentityCoder()
        quality, box_std = heads.get("bbox_ctrness"), heads.get("bbox_std")
        return Predictions(
            logits=heads["cls_logits"].flatten(0, 1),
            deltas=deltas.flatten(0, 1)[:, None],
            priors=priors.repeat(n, 1),
            image=torch.arange(n, device=priors.device).repeat_interleave(priors.shape[0]),
            sizes=view.sizes,
            coder=coder,
            quality=None if quality is None else quality.flatten(),
            objectness=self.objectness,
            levels=levels,
            strides=self.strides,
            grids=tuple(grids),
            box_std=None if box_std is None else box_std.flatten(0, 1),
            cls_features=heads["cls_features"],
        )

    def heads(self, features: list[Tensor]) -> dict[str, Any]:
        """Run the head: ``cls_logits``, ``bbox_regression`` and what else it has, [N, rows, K | 4 | ...].

        ``cls_features`` is a list with what the class output read on each level, ``towers``, of a head whose boxes are
        aligned, one with the features of all convolutions.
        """
        return self.head(features)

    def aligned(
        self, align: Align, towers: list[Tensor], deltas: Tensor, priors: Tensor, grids: list[tuple[int, int]]
    ) -> Tensor:
        """Decode deltas [N, P, 4] of one prior per cell and align the boxes; [N, P, 4] float32 boxes in pixels."""
        boxes = self.coder.decode(deltas.float(), priors).split([h * w for h, w in grids], 1)
        maps = [b.transpose(1, 2).unflatten(2, grid) / s for b, grid, s in zip(boxes, grids, self.strides)]
        return torch.cat([to_rows(b * s, 4) for b, s in zip(align(towers, maps), self.strides)], 1)

    @property
    def body(self) -> nn.Module:
        """What is below the pyramid."""
        return self.backbone.body

    @property
    def cls_layers(self) -> dict[str, nn.Conv2d | nn.Linear]:
        """The layer that says the class logits."""
        return {"dense": self.head.classification_head.cls_logits}

    @property
    def kinds(self) -> dict[str, Kind]:
        """The row losses of this head by name, and what each must be made for."""
        kinds: dict[str, Kind] = {"cls": "sigmoid", "box": self.box_kind}
        if "quality" in self.rows:
            kinds["quality"] = "quality"
        return kinds

    def assign(
        self, out: DenseOutput, cls: list[Targets], box: list[Targets] | None = None, assigner: Assigner | None = None
    ) -> Assigned:
        """See ``structures.Detector``."""
        p, assigner = out.stages["dense"], assigner or self.assigner
        a = assigner(p, cls)
        return {"dense": (p, a if box is None else with_boxes_of(a, assigner(p, box)))}

    def reduce(
        self,
        assigned: Assigned,
        rows: Mapping[str, RowLoss] | None = None,
        factors: Mapping[str, float] | None = None,
    ) -> dict[str, Tensor]:
        """Return the scalar losses ``cls``, ``box`` and, where the detector has them, ``quality`` and ``spread``."""
        p, a = assigned["dense"]
        rows, factors = self.rows | dict(rows or {}), factors or {}
        q = a.quality_of or a
        if p.quality is not None and q.quality is None:
            q = self.with_quality(p, q)
            a = a if a.quality_of else q
        fg = a.fg_rows
        normalizer = {name: n.expand(len(p)) for name, n in self.normalizers(p, a).items()}
        losses = {
            "cls": (rows["cls"](p, a) * a.cls_weight / normalizer["cls"]).sum(),
            "box": self.box_loss(p, a, rows["box"], normalizer["box"]),
        }
        if p.quality is not None:
            losses["quality"] = (q.weighed_quality(rows["quality"](p, q)) / normalizer["quality"][q.quality_rows]).sum()
        if "spread" in rows:
            losses["spread"] = (a.weighed_box(rows["spread"](p, a)) / normalizer["box"][fg]).sum()
        if p.box_std is not None:  # a loss that does not read it leaves it without gradient, and DDP wants one
            losses["box"] = losses["box"] + 0 * p.box_std.sum()
        return {name: loss * (self.weights[name] * factors.get(name, 1.0)) for name, loss in losses.items()}

    def box_loss(self, p: Predictions, a: Assignment, loss: RowLoss, normalizer: Tensor) -> Tensor:
        """Return the scalar box loss; ``normalizer`` [R] divides it unless centerness does."""
        rows = a.weighed_box(loss(p, a))
        total = a.normalizer.get("centerness")
        if not self.central or a.box_weight.ndim == 2 or ("box" in a.normalizer and total is None):
            return (rows / normalizer[a.fg_rows]).sum()
        near = given(with_centerness(p, a).quality, "rows have a centerness")[a.fg_rows]
        return (rows * near).sum() / (mean_count(near.sum(), least=1e-6) if total is None else total)

    def cls_normalizer(self, stage: str, p: Predictions, a: Assignment) -> Tensor:
        """See ``structures.Detector``; changes nothing, unlike the ``normalizers`` of a subclass that remembers."""
        given = a.normalizer.get("cls")
        return self.normalizer_of(p, positives(a, p.num_classes)) if given is None else given

    def normalizers(self, p: Predictions, a: Assignment) -> dict[str, Tensor]:
        """Return what each loss is divided by, [] or [R]."""
        if a.normalizer.keys() >= {"cls", "box", "quality"}:
            return a.normalizer
        box = self.normalizer_of(p, a.fg)
        quality = box if a.quality_of is None else self.normalizer_of(p, a.quality_of.fg)
        cls = self.normalizer_of(p, positives(a, p.num_classes))
        return {"cls": cls, "box": box, "quality": quality} | a.normalizer


def positives(a: Assignment, num_classes: int) -> Tensor:
    """Return [R] bool: rows that are asked for some class and count."""
    some = a.cls < num_classes if a.cls.ndim == 1 else a.cls.sum(-1) > 0
    return some & (a.cls_weight > 0)


def normalizer_per_image(p: Predictions, positive: Tensor) -> Tensor:
    """RetinaNet's normalizer (torchvision): positives of the row's own image, at least 1, times the images."""
    counts = positive.view(p.num_images, -1).sum(1).float()  # a dense head has as many rows in every image
    return counts.clamp(min=1)[p.image] * p.num_images  # of this part, and all parts have as many


def normalizer_of_batch(p: Predictions, positive: Tensor) -> Tensor:
    """FCOS's normalizer: positives of the whole batch, at least 1, as each rank's share of them."""
    return mean_count(positive.sum().float())

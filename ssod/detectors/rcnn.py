"""What two-stage detectors share: proposals, rows sampled from both stages, rows to losses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.rpn import concat_box_prediction_layers

from ssod.assign.iou import IoUAssigner
from ssod.assign.matches import BACKGROUND, IGNORED, from_matches
from ssod.assign.sample import balanced, mask
from ssod.assign.two_sets import classes_beside_boxes
from ssod.detectors.anchors import grid_of
from ssod.detectors.decode import DecodeConfig, Rule
from ssod.detectors.half_size import HalfSizePyramid, pyramid_of
from ssod.detectors.roi_sample import draw_of, pool, sure_first
from ssod.detectors.two_stage import Candidates, TwoStageOutput, propose
from ssod.structures import Assigned, Assignment, Detector, Kind, Predictions, Priors, RowLoss, Targets, View, join
from ssod.structures.boxes import Coder, DeltaCoder
from ssod.utils.collective import mean_count
from ssod.utils.schema import Section

# The row losses of this detector by name, and what each must be made for.
KINDS: dict[str, Kind] = {"cls": "softmax", "box": "box", "rpn_cls": "sigmoid", "rpn_box": "box"}


Most = Annotated[int, Field(ge=1, le=100_000)]


class RpnConfig(Section):
    """The proposal network."""

    high: float = Field(0.7, ge=0, le=1)
    "An anchor that overlaps a box at least this much is foreground."
    low: float = Field(0.3, ge=0, le=1)
    "An anchor that overlaps every box less than this is background."
    rows: int = Field(256, ge=1, le=100_000)
    "Anchors sampled per image."
    fraction: float = Field(0.5, ge=0, le=1)
    "Largest share of foreground among them."
    before: tuple[Most, Most] = (2000, 1000)
    "Best anchors of each level that enter suppression, in training and in evaluation."
    after: tuple[Most, Most] = (2000, 1000)
    "Proposals per image, in training and in evaluation."
    nms: float = Field(0.7, ge=0, le=1)
    "Of two anchors of a level that overlap more than this, the lower score is dropped."


class RoiConfig(Section):
    """The head that classifies boxes."""

    iou: float = Field(0.5, ge=0, le=1)
    "A proposal that overlaps a box at least this much is foreground, else background."
    rows: int = Field(512, ge=1, le=100_000)
    "Proposals sampled per image; the labelled boxes are among the candidates."
    fraction: float = Field(0.25, ge=0, le=1)
    "Largest share of foreground among them."
    size: int = Field(7, ge=1, le=100)
    "Cells per side that a box is pooled to."
    hidden: int = Field(1024, ge=1, le=1 << 16)
    "Width of the two hidden layers."
    scale: float = Field(224.0, gt=0)
    "Side of a box that is pooled from level 4 (FPN eq. 1); lower it for small images."
    pooling: Literal["adaptive"] | None = None
    """`adaptive` moves samples by half a pixel and takes as many as a cell has (detectron2's ROIAlignV2); by default
    four a cell (torchvision)."""


class Rcnn(Detector):
    """A two-stage detector without its heads: a subclass says what they are, ``rpn_head`` and ``roi_rows``.

    Args:
        normalise: (images, sizes) -> images as the backbone wants them.
        backbone: images to a pyramid, features by name.
        anchors: priors of the proposal network.
        strides: pixels per cell of each level.
        rpn: thresholds and sizes of the proposal network.
        roi: those of the second stage.
        roi_coder: the meaning of the second stage's deltas.
        decode: thresholds and sizes of detection.
        rule: how proposals become detections.
        num_classes: K.
        rows: row loss by name: cls, box, rpn_cls, rpn_box.
        weights: factor of each loss by name.
    """

    backbone: BackboneWithFPN

    def __init__(
        self,
        normalise: nn.Module,
        backbone: BackboneWithFPN,
        anchors: Priors,
        *,
        strides: tuple[int, ...],
        rpn: RpnConfig,
        roi: RoiConfig,
        roi_coder: Coder,
        decode: DecodeConfig,
        rule: Rule,
        num_classes: int,
        rows: dict[str, RowLoss],
        weights: dict[str, float],
    ) -> None:
        super().__init__()
        self.normalise, self.backbone, self.anchors = normalise, backbone, anchors
        self.num_classes, self.strides = num_classes, strides
        self.rule, self.half_size = rule, isinstance(backbone, HalfSizePyramid)
        self.rpn_cfg, self.roi_cfg, self.decode, self.rows, self.weights = rpn, roi, decode, rows, weights
        self.rpn_coder, self.roi_coder, self.sides = DeltaCoder(), roi_coder, roi_coder.sides
        self.rpn_assigner = IoUAssigner(rpn.high, rpn.low, allow_low_quality=True)
        self.roi_assigner = IoUAssigner(roi.iou, roi.iou, allow_low_quality=False)

    def rpn_head(self, features: list[Tensor]) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Return logits [N, A, h, w], deltas [N, 4 A, h, w] and what both read, [N, C, h, w], of each level.

        A is the number of anchors a cell.
        """
        raise NotImplementedError

    def roi_rows(self, features: dict[str, Tensor], boxes: Tensor, image: Tensor, sizes: Tensor) -> Predictions:
        """Run the RoI head on boxes [R, 4] of images [R]."""
        raise NotImplementedError

    @property
    def body(self) -> nn.Module:
        """What is below the pyramid."""
        return self.backbone.body

    @property
    def kinds(self) -> dict[str, Kind]:
        """``KINDS``."""
        return KINDS

    # ---- looking ---------------------------------------------------------------------------------------------------

    def predict(self, view: View) -> TwoStageOutput:
        """Look at a view; proposals are found when asked for, more of them under ``train()`` than under ``eval()``."""
        features = pyramid_of(self.backbone, self.normalise(view.images, view.sizes), view.half_size)
        p = self.rpn_rows(list(features.values()), view)
        cfg, mode = self.rpn_cfg, 0 if self.training else 1
        search = partial(propose, p, cfg.before[mode], cfg.after[mode], cfg.nms)
        return TwoStageOutput({"rpn": p}, features, search, view.keys, self.roi_rows, self.decode, self.rule)

    def rpn_rows(self, features: list[Tensor], view: View) -> Predictions:
        """Run the proposal network and flatten it."""
        logits, deltas, read = self.rpn_head(features)
        logits, deltas = concat_box_prediction_layers(logits, deltas)
        n, grids = view.images.shape[0], [grid_of(f) for f in features]
        priors = self.anchors(view.images.shape[-2:], grids)
        return Predictions(
            logits=logits,
            deltas=deltas[:, None],
            priors=priors.repeat(n, 1),
            image=torch.arange(n, device=priors.device).repeat_interleave(priors.shape[0]),
            sizes=view.sizes,
            coder=self.rpn_coder,
            levels=tuple(h * w * self.anchors.per_cell for h, w in grids),
            strides=self.strides,
            grids=tuple(grids),
            cls_features=read,
        )

    # ---- learning --------------------------------------------------------------------------------------------------

    def assign(
        self, out: TwoStageOutput, cls: list[Targets], box: list[Targets] | None = None, assigner: Candidates = None
    ) -> Assigned:
        """Sample rows of both stages and say what they should have predicted; runs the RoI head on its sample.

        Boxes to regress have a sample of their own, behind the other one; ``assigner`` stands in for ``candidates``.
        """
        p = out.stages["rpn"]
        boxes, roi = self.assign_roi(out, cls, assigner)
        if box is not None:
            more, regressed = self.assign_roi(out, box, assigner)
            normalizer = self.normalizer_of("roi", p, (regressed.cls_weight > 0) | regressed.fg)
            boxes = [torch.cat(pair) for pair in zip(boxes, more)]
            roi = classes_beside_boxes(roi, regressed, len(boxes), sum(map(len, cls)), self.num_classes)
            roi = replace(roi, normalizer={"box": normalizer})
        return {"rpn": (p, self.assign_rpn(p, out.keys, cls)), "roi": (out.score(boxes), roi)}

    @torch.no_grad()
    def assign_rpn(self, p: Predictions, keys: Tensor, targets: list[Targets]) -> Assignment:
        """Ask the anchors whether there is an object; those not sampled weigh nothing."""
        a = self.rpn_assigner(p, [_objects(t) for t in targets])
        matched = a.matches().view(p.num_images, -1)
        draw = draw_of(keys, matched)
        index, valid = balanced(matched >= 0, matched == BACKGROUND, draw, self.rpn_cfg.rows, self.rpn_cfg.fraction)
        chosen = mask(index, valid, matched.shape[1]).flatten()
        return replace(a, cls_weight=a.cls_weight * chosen, box_weight=a.box_weight * chosen)

    @torch.no_grad()
    def assign_roi(
        self, out: TwoStageOutput, targets: list[Targets], candidates: Candidates = None
    ) -> tuple[list[Tensor], Assignment]:
        """Sample among proposals and labelled boxes, or others: the boxes of each image, and what is in them.

        Every image gets the same number of rows, so that nothing waits for the device; rows that could not be filled
        weigh nothing.
        """
        boxes, matches = (candidates or self.candidates)(out, targets)
        cfg = self.roi_cfg
        index, valid = balanced(matches >= 0, matches == BACKGROUND, draw_of(out.keys, matches), cfg.rows, cfg.fraction)
        boxes = boxes.gather(1, index[..., None].expand(-1, -1, 4))
        matches = torch.where(valid, matches.gather(1, index), IGNORED)
        return list(boxes), from_matches(list(matches), targets, self.num_classes)

    def candidates(self, out: TwoStageOutput, targets: list[Targets]) -> tuple[Tensor, Tensor]:
        """Return proposals followed by labelled boxes [N, C, 4], and the target of each [N, C], -1 none, -2 ignored.

        Padding and what lies on an ignore region is ignored.
        """
        boxes, real = pool(out.found, targets)
        matches = []
        for b, there, t in zip(boxes, real, targets):
            match = torch.where(there, self.roi_assigner.match(b, t.boxes), IGNORED)
            if t.weight is not None and len(t):
                match = torch.where((match >= 0) & (t.weight[match.clamp(min=0)] == 0), IGNORED, match)
            matches.append(match)
        return boxes, torch.stack(matches)

    def assign_both(
        self, out: TwoStageOutput, sure: list[Targets], unsure: list[Targets], assigner: object = None
    ) -> Assigned:
        """See ``structures.Detector``; the second stage matches its rows to both sets of boxes apart."""
        p, both = out.stages["rpn"], [join(pair) for pair in zip(sure, unsure)]
        boxes, roi = sure_first(out, sure, both, self.roi_assigner, self.roi_cfg.rows, self.roi_cfg.fraction)
        roi = from_matches(roi, both, self.num_classes)
        return {"rpn": (p, self.assign_rpn(p, out.keys, both)), "roi": (out.score(boxes), roi)}

    def reduce(
        self,
        assigned: Assigned,
        rows: Mapping[str, RowLoss] | None = None,
        factors: Mapping[str, float] | None = None,
    ) -> dict[str, Tensor]:
        """Return the scalar losses ``cls``, ``box``, ``rpn_cls``, ``rpn_box``, each over the rows sampled.

        ``spread`` is among them where the detector has that loss.
        """
        rows, factors = self.rows | dict(rows or {}), factors or {}
        losses = {}
        for stage, prefix in (("roi", ""), ("rpn", "rpn_")):
            p, a = assigned[stage]
            normalizer = {name: n.expand(len(p)) for name, n in self.normalizers(stage, p, a).items()}
            fg = a.fg_rows
            losses[f"{prefix}cls"] = (rows[f"{prefix}cls"](p, a) * a.cls_weight / normalizer["cls"]).sum()
            losses[f"{prefix}box"] = (a.weighed_box(rows[f"{prefix}box"](p, a)) / normalizer["box"][fg]).sum()
            if p.box_std is not None:  # see Dense.reduce
                losses["box"] = losses["box"] + 0 * p.box_std.sum()
            if stage == "roi" and "spread" in rows:
                losses["spread"] = (a.weighed_box(rows["spread"](p, a)) / normalizer["box"][fg]).sum()
        return {name: loss * (self.weights[name] * factors.get(name, 1.0)) for name, loss in losses.items()}

    def cls_normalizer(self, stage: str, p: Predictions, a: Assignment) -> Tensor:
        """See ``structures.Detector``."""
        return self.normalizers(stage, p, a)["cls"]

    def normalizers(self, stage: str, p: Predictions, a: Assignment) -> dict[str, Tensor]:
        """Return what the losses ``cls`` and ``box`` of ``stage`` are divided by, [] or [R]; the same by default."""
        if a.normalizer.keys() >= {"cls", "box"}:
            return a.normalizer
        counted = a.cls_weight > 0
        if "box" not in a.normalizer:  # else boxes have rows of their own
            counted = counted | a.fg
        return dict.fromkeys(("cls", "box"), self.normalizer_of(stage, p, counted)) | a.normalizer

    def normalizer_of(self, stage: str, p: Predictions, counted: Tensor) -> Tensor:
        """Return what losses of ``stage`` are divided by: this rank's share of all ``counted`` rows, [R] bool; []."""
        return mean_count(counted.sum().float())


def _objects(t: Targets) -> Targets:
    """The same boxes, of the one class "object"; a soft label's mass is how much of an object it is.

    Where any class is open, objects are.
    """
    probs = None if t.probs is None else t.probs.sum(-1, keepdim=True)
    open = None if t.open is None else t.open.any(0, keepdim=True)
    of_one = {"probs": probs, "weight": t.weight, "box_weight": t.box_weight, "open": open}
    return Targets(t.boxes, torch.zeros_like(t.labels), **of_one)

"""detectron2's RetinaNet and FCOS (Lin et al. 2017; Tian et al. 2019) as our one-stage detector."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssod.assign.build import pick_assigner
from ssod.assign.center import CenterAssigner
from ssod.assign.iou import IoUAssigner
from ssod.detectors.d2.config import FIELD, D2FcosConfig, D2RetinaNetConfig
from ssod.detectors.d2.model import D2Model, build_model
from ssod.detectors.d2.parts import D2Anchors, Pixels, assert_levels, body_of, box_loss, delta_coder, loss
from ssod.detectors.decode import DecodeConfig, clip_last
from ssod.detectors.dense import Dense, DenseOutput, normalizer_of_batch, positives
from ssod.detectors.heads.towers import each
from ssod.structures import Assigned, Assigner, Assignment, Predictions, RowLoss, Targets
from ssod.structures.boxes import Coder, LtrbCoder
from ssod.utils.collective import shares, sum_over_ranks
from ssod.utils.errors import SsodError


class RunningNormalizer(nn.Module):
    """detectron2's normalizer: a running mean of the positives of a batch, in a buffer, so that it resumes.

    The batch is that of all ranks (there each rank has its own mean), so that ranks divide a batch and not its mean.

    Args:
        start: its value before the first batch.
        momentum: share of the old value that stays.
    """

    def __init__(self, start: float, momentum: float = 0.9) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("value", torch.tensor(float(start)))

    @torch.no_grad()
    def forward(self, positive: Tensor) -> Tensor:
        """Take in a batch's positives [R] bool, under ``train()`` only; return the normalizer, []."""
        if self.training:
            self.value.lerp_(sum_over_ranks(positive.sum().float()).clamp(min=1), 1 - self.momentum)
        return self.share()

    def share(self) -> Tensor:
        """Return the normalizer, [], as it is: this rank's share of the mean; a copy."""
        return self.value / shares()


class D2Dense(Dense):
    """A detectron2 one-stage model. Its weights keep detectron2's names.

    Args:
        model: detectron2's RetinaNet or FCOS.
        normalizer: divide by a ``running`` mean of the positives, or by those of the ``batch``.
        assigner: another assigner than detectron2's.
    """

    backbone: D2Model
    head: D2Model
    anchors: D2Anchors
    normalise: Pixels

    def __init__(self, model: D2Model, normalizer: str, assigner: Assigner | None = None) -> None:
        fcos = type(model).__name__ == "FCOS"
        shapes = model.backbone.output_shape()
        assert_levels(list(shapes), model.head_in_features)
        model.backbone.out_channels = shapes[model.head_in_features[0]].channels
        rows: dict[str, RowLoss] = {
            "cls": loss("focal", "sigmoid", alpha=model.focal_loss_alpha, gamma=model.focal_loss_gamma),
            "box": loss("giou", "box") if fcos else box_loss(model.box_reg_loss_type, model.smooth_l1_beta),
        }
        if fcos:
            rows["quality"] = loss("bce", "quality")
        super().__init__(
            model.backbone,
            model.head,
            D2Anchors(model.anchor_generator),
            ltrb_coder(model.box2box_transform) if fcos else delta_coder(model.box2box_transform),
            num_classes=model.num_classes,
            strides=tuple(shapes[name].stride for name in model.head_in_features),
            assigner=assigner or own_assigner(model),
            rows=rows,
            weights=dict.fromkeys(rows, 1.0),
            normalizer=normalizer_of_batch,
            decode=DecodeConfig(
                score=model.test_score_thresh,
                nms=model.test_nms_thresh,
                per_level=model.test_topk_candidates,
                detections=model.max_detections_per_image,
                clip="last",
            ),
            rule=clip_last,
            normalise=Pixels(model, bgr=getattr(model, "input_format", "BGR") == "BGR"),
        )
        self.normalizer = RunningNormalizer(300.0 if fcos else 100.0) if normalizer == "running" else None

    @property
    def body(self) -> nn.Module:
        """What is below the pyramid."""
        return body_of(self.backbone)

    def heads(self, features: list[Tensor]) -> dict[str, Any]:
        """Run the layers of detectron2's ``RetinaNetHead`` or ``FCOSHead``; see ``Dense.heads``."""
        head = self.head
        read, box = ([tower(x) for x in features] for tower in (head.cls_subnet, head.bbox_subnet))
        out = {
            "cls_logits": each(head.cls_score, read, self.num_classes),
            "bbox_regression": each(head.bbox_pred, box, 4),
            "cls_features": read,
        }
        if hasattr(head, "ctrness"):  # FCOS, whose distances are clamped where they are decoded
            out["bbox_regression"] = F.relu(out["bbox_regression"])
            out["bbox_ctrness"] = each(head.ctrness, box, 1)
        return out

    @property
    def cls_layers(self) -> dict[str, nn.Conv2d | nn.Linear]:
        """The layer that says the class logits."""
        return {"dense": self.head.cls_score}

    def assign(
        self, out: DenseOutput, cls: list[Targets], box: list[Targets] | None = None, assigner: Assigner | None = None
    ) -> Assigned:
        """See ``Dense.assign``. Pseudo-labels (they have scores) leave the running mean alone and are divided by it.

        While a teacher is unsure there are few or none, and taking those counts in would make it, and with it the
        losses of the labelled images, a matter of the teacher's threshold.
        """
        p, a = super().assign(out, cls, box, assigner)["dense"]
        if self.normalizer is not None and any(t.scores is not None for t in cls):
            a = replace(a, normalizer=dict.fromkeys(("cls", "box", "quality"), self.normalizer.share()))
        return {"dense": (p, a)}

    def normalizers(self, p: Predictions, a: Assignment) -> dict[str, Tensor]:
        """Return what each loss is divided by, [] or [R]."""
        if a.normalizer or self.normalizer is None:
            return super().normalizers(p, a)
        return dict.fromkeys(("cls", "box", "quality"), self.normalizer(positives(a, p.num_classes) | a.fg))


def own_assigner(model: D2Model) -> Assigner:
    """Return detectron2's rule as one of our assigners."""
    if type(model).__name__ == "FCOS":
        return CenterAssigner(model.center_sampling_radius)
    return iou_assigner(model.anchor_matcher)


def iou_assigner(matcher: Any) -> IoUAssigner:
    """Return our assigner for a detectron2 ``Matcher`` of background, ignored, foreground.

    Raises:
        SsodError: other labels.
    """
    low, *rest = [t for t in matcher.thresholds if abs(t) != float("inf")]
    if matcher.labels not in ([0, -1, 1], [0, 1]) or len(rest) != len(matcher.labels) - 2:
        raise SsodError("config", FIELD, f"IOU_LABELS {matcher.labels}", "use [0, -1, 1] or [0, 1]")
    return IoUAssigner(rest[0] if rest else low, low, allow_low_quality=matcher.allow_low_quality_matches)


def ltrb_coder(transform: Any) -> Coder:
    """Return our coder for detectron2's ``Box2BoxTransformLinear``."""
    if not transform.normalize_by_size:
        raise SsodError("config", FIELD, "distances are not divided by the stride", "use normalize_by_size=True")
    return LtrbCoder()


def build_d2_dense(cfg: D2RetinaNetConfig | D2FcosConfig, num_classes: int) -> D2Dense:
    """Return detectron2's RetinaNet or FCOS with random weights; raises as ``build_model`` does."""
    assigner = None if cfg.assigner is None else pick_assigner(cfg.assigner)
    return D2Dense(build_model(cfg, num_classes), cfg.normalizer, assigner)

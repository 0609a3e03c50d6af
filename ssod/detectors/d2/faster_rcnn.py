"""detectron2's Faster R-CNN with a feature pyramid (Ren et al. 2015; Lin et al. 2017) as our two-stage detector."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torchvision.ops import roi_align

from ssod.detectors.d2.config import FIELD, D2FasterRcnnConfig
from ssod.detectors.d2.dense import iou_assigner
from ssod.detectors.d2.model import D2Model, build_model
from ssod.detectors.d2.parts import D2Anchors, Pixels, assert_levels, body_of, box_loss, clip_first, delta_coder, loss
from ssod.detectors.decode import DecodeConfig
from ssod.detectors.rcnn import Rcnn, RoiConfig, RpnConfig
from ssod.detectors.roi_pool import in_order
from ssod.structures import Predictions
from ssod.utils.errors import SsodError


class D2FasterRcnn(Rcnn):
    """A detectron2 ``GeneralizedRCNN`` with boxes only. Its weights keep detectron2's names.

    Args:
        model: detectron2's model.
    """

    backbone: D2Model
    anchors: D2Anchors
    normalise: Pixels
    proposal_generator: D2Model
    roi_heads: D2Model

    def __init__(self, model: D2Model) -> None:
        refuse_unknown(model)
        shapes = model.backbone.output_shape()
        rpn, roi = model.proposal_generator, model.roi_heads
        box = roi.box_predictor
        assert_levels(list(shapes), rpn.in_features)
        assert_levels(list(shapes)[: len(roi.box_in_features)], roi.box_in_features)
        model.backbone.out_channels = shapes[rpn.in_features[0]].channels
        rpn_match, roi_match = iou_assigner(rpn.anchor_matcher), iou_assigner(roi.proposal_matcher)
        super().__init__(
            Pixels(model, bgr=model.input_format in (None, "BGR")),
            model.backbone,
            D2Anchors(rpn.anchor_generator),
            strides=tuple(shapes[name].stride for name in rpn.in_features),
            rpn=RpnConfig(
                rows=rpn.batch_size_per_image,
                fraction=rpn.positive_fraction,
                before=(rpn.pre_nms_topk[True], rpn.pre_nms_topk[False]),
                after=(rpn.post_nms_topk[True], rpn.post_nms_topk[False]),
                nms=rpn.nms_thresh,
            ),
            roi=RoiConfig(rows=roi.batch_size_per_image, fraction=roi.positive_fraction),
            roi_coder=delta_coder(box.box2box_transform),
            decode=DecodeConfig(
                score=box.test_score_thresh,
                nms=box.test_nms_thresh,
                per_level=most_candidates(rpn.post_nms_topk[False], roi.num_classes, box.test_score_thresh),
                detections=box.test_topk_per_image,
            ),
            rule=clip_first,
            num_classes=roi.num_classes,
            rows={
                "cls": loss("cross_entropy", "softmax"),
                "box": box_loss(box.box_reg_loss_type, box.smooth_l1_beta),
                "rpn_cls": loss("bce", "sigmoid"),
                "rpn_box": box_loss(rpn.box_reg_loss_type, rpn.smooth_l1_beta),
            },
            weights={
                "cls": box.loss_weight.get("loss_cls", 1.0),
                "box": box.loss_weight.get("loss_box_reg", 1.0),
                "rpn_cls": rpn.loss_weight.get("loss_rpn_cls", 1.0),
                "rpn_box": rpn.loss_weight.get("loss_rpn_loc", 1.0),
            },
        )
        self.rpn_coder = delta_coder(rpn.box2box_transform)
        self.rpn_assigner, self.roi_assigner = rpn_match, roi_match
        self.proposal_generator, self.roi_heads = rpn, roi

    @property
    def body(self) -> nn.Module:
        """What is below the pyramid."""
        return body_of(self.backbone)

    @property
    def cls_layers(self) -> dict[str, nn.Conv2d | nn.Linear]:
        """The layers that say object or not, and the classes."""
        rpn, roi = self.proposal_generator.rpn_head, self.roi_heads.box_predictor
        return {"rpn": rpn.objectness_logits, "roi": roi.cls_score}

    def rpn_head(self, features: list[Tensor]) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """See ``Rcnn.rpn_head``; the layers of detectron2's ``StandardRPNHead``, the only one that it has."""
        head = self.proposal_generator.rpn_head
        read = [head.conv(x) for x in features]
        return [head.objectness_logits(x) for x in read], [head.anchor_deltas(x) for x in read], read

    def roi_rows(self, features: dict[str, Tensor], boxes: Tensor, image: Tensor, sizes: Tensor) -> Predictions:
        """Run the RoI head on boxes [R, 4] of images [R]."""
        roi = self.roi_heads
        pooled = self.pool([features[name] for name in roi.box_in_features], boxes, image)
        read = roi.box_head(pooled).flatten(1)  # a box head of convolutions alone returns maps
        logits, deltas = roi.box_predictor(read)
        return Predictions(
            logits=logits,
            deltas=deltas.unflatten(1, (-1, 4)),
            priors=boxes,
            image=image,
            sizes=sizes,
            coder=self.roi_coder,
            softmax=True,
            cls_features=[read],
        )

    def pool(self, features: list[Tensor], boxes: Tensor, image: Tensor) -> Tensor:
        """Pyramid, [R, 4], [R] -> [R, C, size, size], as detectron2's ``ROIPooler`` does.

        That one takes its boxes image by image, in a list whose length an export fixes, and rounds them to the type of
        the features: under autocast to eight bits, which moves a box by pixels.
        """
        pooler = self.roi_heads.box_pooler
        side = (boxes[:, 2:] - boxes[:, :2]).prod(1).sqrt()
        level = torch.floor(pooler.canonical_level + torch.log2(side / pooler.canonical_box_size + 1e-8))
        level = level.clamp(pooler.min_level, pooler.max_level) - pooler.min_level
        regions = torch.cat([image[:, None].to(boxes), boxes], 1)
        rows = [(level == i).nonzero().squeeze(1) for i in range(len(features))]
        parts = [
            roi_align(feature, regions[r], align.output_size, align.spatial_scale, align.sampling_ratio, align.aligned)
            for feature, align, r in zip(features, pooler.level_poolers, rows)
        ]
        return in_order(parts, rows, boxes.shape[0])

    def normalizer_of(self, stage: str, p: Predictions, counted: Tensor) -> Tensor:
        """See ``Rcnn.normalizer_of``; what the proposal network divides by does not depend on the sample."""
        if stage != "rpn":
            return super().normalizer_of(stage, p, counted)
        return torch.full((), float(self.rpn_cfg.rows * p.num_images), device=p.logits.device)


def most_candidates(proposals: int, num_classes: int, score: float) -> int:
    """Return how many (proposal, class) pairs can be above ``score``: of softmax classes, fewer than 1 / ``score``."""
    return proposals * min(num_classes, math.ceil(1 / max(score, 1e-3)))


def refuse_unknown(model: D2Model) -> None:
    """Raise ``SsodError`` where a model is more, or other, than a Faster R-CNN with a pyramid."""
    rpn, roi = model.proposal_generator, model.roi_heads
    problem = ""
    if type(rpn).__name__ != "RPN" or type(roi).__name__ != "StandardROIHeads":
        problem = f"has {type(rpn).__name__} and {type(roi).__name__}; needed are RPN and StandardROIHeads"
    elif roi.mask_on or roi.keypoint_on:
        problem = "has masks or keypoints; needed are boxes only"
    elif roi.box_predictor.use_sigmoid_ce or roi.train_on_pred_boxes or not roi.proposal_append_gt:
        problem = "has sigmoid classes, trains on predicted boxes, or leaves labelled boxes out of the proposals"
    elif rpn.anchor_boundary_thresh >= 0 or rpn.min_box_size > 0:
        problem = "drops anchors beyond the border, or small proposals"
    if problem:
        raise SsodError("config", FIELD, problem, "see COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml")


def build_d2_faster_rcnn(cfg: D2FasterRcnnConfig, num_classes: int) -> D2FasterRcnn:
    """Return detectron2's Faster R-CNN with random weights; raises as ``build_model`` does."""
    return D2FasterRcnn(build_model(cfg, num_classes))

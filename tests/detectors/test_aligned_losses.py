"""Losses of the aligned head under adaptive assignment: the released code's numbers, through our own detector."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from ssod.assign.adaptive import AdaptiveAssigner
from ssod.detectors.build import build
from ssod.detectors.dense import Dense, DenseOutput
from ssod.structures import Predictions, Targets
from ssod.structures.boxes import IdentityCoder
from tests.detectors.reference import config
from tests.detectors.test_fam3d import HEAD
from tests.paths import golden_path

GOLDEN = np.load(golden_path("consistent_teacher_head_loss.npz"), allow_pickle=False)
CASES = json.loads(str(GOLDEN["cases_json"]))
# Predictions decode in float32, whatever the weights are.
NEAR, NEAR_GRADIENT = {"rtol": 1e-4, "atol": 1e-5}, {"rtol": 1e-3, "atol": 1e-5}


def golden(case: dict, name: str) -> Tensor:
    return torch.from_numpy(GOLDEN[f"{case['id']}.{name}"])


def levels(case: dict, name: str) -> list[Tensor]:
    return [golden(case, f"l{i}.{name}") for i in range(len(case["strides"]))]


def flat(maps: list[Tensor]) -> Tensor:
    """Maps [N, C, h, w] of each level -> [R, C], image-major."""
    return torch.cat([m.flatten(2).transpose(1, 2) for m in maps], 1).flatten(0, 1)


def detector(case: dict) -> Dense:
    changes = {"assigner": {"name": "adaptive", "topk": case["topk"], "iou_weight": case["iou_factor"]}}
    loss = {"cls": "focal", "box": {"name": "giou", "weight": 2}}
    return build(config("retinanet", **HEAD | {"loss": loss}, align="3d", **changes), case["num_classes"])


def rows(case: dict, probs: list[Tensor], boxes: list[Tensor]) -> Predictions:
    """What the head would have said: logits of the probabilities, boxes in pixels."""
    pixels, n = [b * s for b, s in zip(boxes, case["strides"])], case["images"]
    grids = [tuple(b.shape[2:]) for b in boxes]
    priors = detector(case).anchors(case["image_hw"], grids)
    return Predictions(
        flat([p.logit() for p in probs]).float(),
        flat(pixels)[:, None].float(),
        priors.repeat(n, 1),
        torch.arange(n).repeat_interleave(len(priors)),
        torch.stack([golden(case, f"i{i}.pad_hw") for i in range(n)]),
        IdentityCoder(),
        levels=tuple(h * w for h, w in grids),
        strides=tuple(case["strides"]),
    )


@pytest.mark.parametrize("case", CASES, ids=lambda c: c["name"])
def test_assignment_losses_and_gradients_are_the_released_ones(case: dict) -> None:
    model, n = detector(case), case["images"]
    assert isinstance(model.assigner, AdaptiveAssigner)
    probs = [x.requires_grad_() for x in levels(case, "class_prob")]
    boxes = [x.requires_grad_() for x in levels(case, "boxes_grid")]
    out = DenseOutput({"dense": rows(case, probs, boxes)}, [], model.decode)
    targets = [Targets(golden(case, f"i{i}.gt_boxes").float(), golden(case, f"i{i}.gt_labels")) for i in range(n)]
    assigned = model.assign(out, targets)
    a = assigned["dense"][1]

    exists = torch.cat(levels(case, "label_weight"), 1).flatten() > 0
    labels = torch.cat(levels(case, "labels"), 1).flatten()
    assert torch.equal(a.cls_weight > 0, exists)
    assert torch.equal(a.cls[exists], labels[exists])
    torch.testing.assert_close(a.box_weight.double(), torch.cat(levels(case, "quality"), 1).flatten(), **NEAR)
    wanted = torch.cat(levels(case, "box_target"), 1).flatten(0, 1)
    torch.testing.assert_close(a.box[a.fg].double(), wanted[a.fg], **NEAR)
    assert float(a.normalizer["cls"]) == pytest.approx(float(golden(case, "normaliser")), rel=1e-4)

    losses = model.reduce(assigned)
    for name, loss in losses.items():
        torch.testing.assert_close(loss.double(), golden(case, f"loss_{name}"), **NEAR)
    sum(losses.values()).backward()
    for i, (x, y) in enumerate(zip(probs, boxes)):
        torch.testing.assert_close(x.grad, golden(case, f"l{i}.grad_class_prob"), **NEAR_GRADIENT)
        torch.testing.assert_close(y.grad, golden(case, f"l{i}.grad_boxes_grid"), **NEAR_GRADIENT)


@pytest.mark.parametrize("case", CASES, ids=lambda c: c["name"])
def test_given_the_same_weights_the_losses_agree_in_float64(case: dict) -> None:
    """The assigner computes overlaps in float32; the losses compute in the type of the rows."""
    model = detector(case)
    p = rows(case, levels(case, "class_prob"), levels(case, "boxes_grid"))
    exact = flat([x.logit() for x in levels(case, "class_prob")])
    deltas = flat([b * s for b, s in zip(levels(case, "boxes_grid"), case["strides"])])[:, None]
    p = replace(p, logits=exact, deltas=deltas)
    targets = [Targets(golden(case, f"i{i}.gt_boxes"), golden(case, f"i{i}.gt_labels")) for i in range(case["images"])]
    out = DenseOutput({"dense": p}, [], model.decode)
    ((_, a),) = model.assign(out, targets).values()
    quality = torch.cat(levels(case, "quality"), 1).flatten()
    norm = dict.fromkeys(("cls", "box"), golden(case, "normaliser"))
    losses = model.reduce({"dense": (p, replace(a, box_weight=quality, normalizer=norm))})
    for name, loss in losses.items():
        torch.testing.assert_close(loss, golden(case, f"loss_{name}"), rtol=1e-6, atol=1e-8)

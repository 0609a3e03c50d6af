"""DSL: the released code's numbers through our functions, and what its three kinds of images share."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from ssod.methods.base import Labels, Method
from ssod.pseudo_labels.class_balance import ClassBalance
from ssod.structures import Batch, Predictions, Pseudo, Targets, View
from ssod.structures.boxes import LtrbCoder, clip
from ssod.transforms.half_copy import half_boxes, half_copy
from tests.paths import golden_path
from tests.test_methods import detector, method, view

FILE = np.load(golden_path("dsl.npz"), allow_pickle=False)
CASES = json.loads(str(FILE["cases_json"]))
CENTRAL = {"fcos": {"points": "middle", "box_weight": "centerness"}}


def named(kind: str) -> list:
    return [pytest.param(case, id=case["name"]) for case in CASES if case["kind"] == kind]


def array(case: dict, name: str) -> Tensor:
    return torch.from_numpy(FILE[f"{case['id']}.{name}"])


def close(got: Tensor, wanted: Tensor, rtol: float = 1e-4, atol: float = 1e-5) -> None:
    torch.testing.assert_close(got.detach().double(), wanted.double(), rtol=rtol, atol=atol)


def balance(classes: int, floor: float = 0.1) -> ClassBalance:
    return ClassBalance(classes, floor=floor, lowest=0.3, rise=0.05, power=0.05)


def scored(boxes: Tensor, labels: Tensor, scores: Tensor) -> Targets:
    return Targets(boxes.float(), labels, scores.float())


# ---- the released code's numbers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("case", named("threshold"))
def test_thresholds_of_several_epochs(case: dict) -> None:
    """A class without a counted box has none afterwards, counts all of its boxes, and is divided by the lowest."""
    thresholds = balance(case["num_classes"], floor=0.0)
    for epoch in range(case["epochs"]):
        scores, labels, image = (array(case, f"t{epoch}.{name}") for name in ("scores", "labels", "image"))
        images = [
            scored(torch.zeros(int((image == i).sum()), 4), labels[image == i], scores[image == i])
            for i in image.unique()
        ]
        for few in (images[:2], images[2:]):
            thresholds.see(few)
        thresholds.choose()
        wanted = array(case, f"t{epoch}.threshold")
        close(thresholds.values, wanted.nan_to_num(0))
        close(thresholds.thresholds(), wanted.nan_to_num(0.3))
        assert not thresholds.count.any()


@pytest.mark.parametrize("case", named("split"))
def test_labels_and_boxes_in_doubt(case: dict) -> None:
    """Sides of a pixel are none here, and what is below the lower limit is nothing; there it becomes a label."""
    thresholds = balance(case["num_classes"])
    thresholds.values.copy_(array(case, "threshold").nan_to_num(0))
    found = scored(*(array(case, name) for name in ("boxes", "labels", "scores")))
    here = replace(view(0, n=1), sizes=array(case, "image_hw")[None])
    labels = thresholds.divide([found]).move(here, here)
    wanted, low = array(case, "positive_boxes"), found.boxes[found.scores < case["low"]].double()
    wide = (wanted[:, 2:] - wanted[:, :2] > 1).all(1)
    kept = wide & ~(wanted[:, None] == low).all(2).any(1)
    close(labels.cls[0].boxes, clip(wanted[kept], here.sizes[0]))
    assert torch.equal(labels.cls[0].labels, array(case, "positive_labels")[kept])
    close(labels.unsure[0].boxes, array(case, "ignore_boxes"))


@pytest.mark.parametrize("case", named("half_image"))
def test_half_image_golden(case: dict) -> None:
    image = array(case, "image").float()
    whole = View(image[None], torch.tensor([image.shape[1:]]), torch.eye(3)[None], torch.zeros(1))
    half = half_copy(whole)
    close(half.images[0], array(case, "image_out"))
    boxes = [Targets(array(case, name), torch.zeros(len(array(case, name)))) for name in ("boxes", "ignore_boxes")]
    labels = half_boxes(Pseudo(boxes[:1], unsure=boxes[1:]))
    close(labels.cls[0].boxes, array(case, "boxes_out"))
    close(labels.unsure[0].boxes, array(case, "ignore_out"))


def level(case: dict, number: int, name: str) -> Tensor:
    return array(case, f"l{number}.{name}")


def rows(maps: list[Tensor]) -> Tensor:
    """[N, C, H, W] of each level -> [R, C], image-major."""
    return torch.cat([m.flatten(2).transpose(1, 2) for m in maps], 1).flatten(0, 1)


def predictions(case: dict, m: Method, maps: dict[str, list[Tensor]], image: int) -> SimpleNamespace:
    grids = [tuple(x.shape[-2:]) for x in maps["logits"]]
    size = torch.tensor([case["image_hw"]])
    priors = m.student.anchors(tuple(case["image_hw"]), grids)
    logits, ltrb, quality = (rows([x[image : image + 1] for x in maps[name]]) for name in maps)
    image_of = torch.zeros(len(priors), dtype=torch.long)
    levels = tuple(h * w for h, w in grids)
    p = Predictions(
        logits,
        ltrb[:, None],
        priors,
        image_of,
        size,
        LtrbCoder(),
        quality=quality[:, 0],
        levels=levels,
        strides=tuple(case["strides"]),
        grids=tuple(grids),
    )
    return SimpleNamespace(stages={"dense": p}, proposals=None)


def targets(case: dict, image: int, ignore: bool = False) -> Targets:
    if ignore:
        boxes = array(case, f"i{image}.ignore_boxes").float()
        return Targets(boxes, torch.zeros(len(boxes), dtype=torch.long), torch.full((len(boxes),), 0.2))
    boxes, labels = array(case, f"i{image}.boxes").float(), array(case, f"i{image}.labels")
    return Targets(boxes, labels, torch.full((len(boxes),), 0.9))


def staged(case: dict, m: Method) -> tuple[Batch, dict[str, list[Tensor]], list[dict]]:
    """A batch of the file's images, its maps in the place of what the student says, and what is asked of them."""
    names = {"logits": "logits", "ltrb": "ltrb_strides", "quality": "centerness_logit"}
    count = len(case["strides"])
    maps = {own: [level(case, i, name).clone().requires_grad_() for i in range(count)] for own, name in names.items()}
    said = iter([predictions(case, m, maps, i) for i in range(3)])
    asked: list[dict] = []
    reduce = m.student.reduce
    m.student.predict = lambda view: next(said)
    m.student.reduce = lambda assigned, *more: asked.append(dict(assigned)) or reduce(assigned, *more)
    m.labels = lambda *_: Labels(SimpleNamespace(), Pseudo([targets(case, 1)], unsure=[targets(case, 1, ignore=True)]))
    here = View(
        torch.zeros(1, 3, *case["image_hw"]), torch.tensor([case["image_hw"]]), torch.eye(3)[None], torch.zeros(1)
    )
    truth = replace(targets(case, 0), scores=None)
    return Batch(replace(here, targets=[truth]), {"weak": here, "strong": here}), maps, asked


@pytest.mark.parametrize("case", [c for c in named("fcos_loss") if c.values[0]["batch"] == 3])
def test_losses_of_three_images(case: dict) -> None:
    """A whole step: cells in doubt, one divisor for all three images, weights that multiply terms, both scales."""
    m = method("dsl", detector("fcos", case["num_classes"], CENTRAL), slow=100 if case["consistency_weight"] < 1 else 0)
    data, maps, asked = staged(case, m)
    losses = m(data, 50)
    for own, name in {"cls": "cls", "box": "box", "quality": "centerness"}.items():
        close(losses[f"sup/{own}"] + losses[f"unsup/{own}"], array(case, f"loss_{name}"), rtol=1e-4)
    close(losses["unsup/consistency"], array(case, "loss_consistency"))
    for i, of in enumerate(asked):
        _, a = of["dense"]
        count = range(len(case["strides"]))
        ignored, labels = (torch.cat([level(case, at, x)[i].flatten() for at in count]) for x in ("ignored", "labels"))
        assert torch.equal(a.cls, labels)
        assert torch.equal(a.cls_weight == 0, ignored & (labels == case["num_classes"]))
    sum(losses.values()).backward()
    for own, name in {"logits": "logits", "ltrb": "ltrb", "quality": "centerness"}.items():
        for i, x in enumerate(maps[own]):
            grad = torch.zeros_like(x) if x.grad is None else x.grad
            close(grad, level(case, i, f"grad_{name}"), rtol=1e-3)

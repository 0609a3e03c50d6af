"""Mixing, labels of the moment and co-rectify equal what the released code of Instant-Teaching computes."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.ops import batched_nms, nms

from ssod.losses.sigmoid import cross_entropy
from ssod.pseudo_labels import nms_once
from ssod.pseudo_labels.co_rectify import co_rectify, rectify_once
from ssod.pseudo_labels.label_mass import harden_labels
from ssod.pseudo_labels.nms_once import at_least, confident
from ssod.structures import Assignment, Predictions, Pseudo, Targets, View
from ssod.structures.boxes import IdentityCoder, clip, compose, warp
from ssod.transforms.mix import Recipe, mix
from tests.paths import golden_path

FILE = np.load(golden_path("instant_teaching.npz"), allow_pickle=False)
CASES = json.loads(str(FILE["cases_json"]))
CLOSE = {"rtol": 1e-4, "atol": 1e-5}  # of an implementation in float32


def cases(kind: str) -> pytest.MarkDecorator:
    chosen = [case for case in CASES if case["kind"] == kind]
    return pytest.mark.parametrize("case", chosen, ids=[case["name"] for case in chosen])


def values(case: dict) -> dict[str, Tensor]:
    prefix = case["id"] + "."
    return {k.removeprefix(prefix): torch.from_numpy(FILE[k]) for k in FILE.files if k.startswith(prefix)}


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual.double(), expected.double(), **CLOSE)


def test_an_inverted_box_is_no_label_of_the_moment() -> None:
    """An aligned head predicts such boxes; moved into another view they would come out as good ones."""
    boxes = torch.tensor([[30.0, 5, 20, 15], [20, 15, 30, 5], [30, 15, 20, 5], [0, 0, 10, 10]])
    sizes, image = torch.tensor([[40, 40]]), torch.zeros(4, dtype=torch.long)
    p = Predictions(torch.full((4, 2), 3.0), boxes[:, None], boxes.abs(), image, sizes, IdentityCoder())
    (found,) = confident(p, 0.5)
    assert found.boxes.tolist() == [[0, 0, 10, 10]] * 2  # a row stands for both of its classes


def test_images_are_suppressed_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Suppression compares all pairs: together, a batch would cost the square of its images in time and memory."""
    pairs = []
    counted = lambda boxes, *rest: (pairs.append(len(boxes)), batched_nms(boxes, *rest))[1]  # noqa: E731
    monkeypatch.setattr(nms_once, "batched_nms", counted)
    boxes = torch.tensor([[0.0, 0, 10, 10], [1, 0, 11, 10], [0, 0, 10, 10], [50, 50, 60, 60], [50, 51, 60, 61]])
    scores = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.7, 0.95], [0.6, 0.3], [0.9, 0.1]])
    image = torch.tensor([0, 0, 2, 2, 2])
    found = nms_once.suppress(boxes, scores, scores > 0.5, image, 3, 0.5)
    assert pairs == [2, 0, 4]
    assert [t.scores.tolist() for t in found] == [scores[[0], 0].tolist(), [], [*scores[[2, 4, 2], [1, 0, 0]].tolist()]]
    assert [t.labels.tolist() for t in found] == [[0], [], [1, 0, 0]]


def test_a_box_above_the_border_meets_none_of_another_class() -> None:
    boxes = torch.tensor([[100.0, 0, 110, 10], [-11, -111, -1, -101]])  # 111 apart, largest coordinate 110
    (found,) = nms_once.suppress(boxes, torch.eye(2), torch.eye(2) > 0, torch.zeros(2, dtype=torch.long), 1, 0.5)
    assert len(found) == 2


@pytest.mark.parametrize("rows", [20, 400])
def test_classes_are_suppressed_apart(rows: int) -> None:
    """Few pairs and many (for which torchvision has another way), boxes beyond the borders on all sides."""
    g = torch.Generator().manual_seed(0)
    corner = torch.rand(rows, 2, generator=g) * 300 - 150
    boxes = torch.cat([corner, corner + 1 + torch.rand(rows, 2, generator=g) * 80], 1)
    scores = torch.rand(rows, 7, generator=g)
    image = torch.zeros(rows, dtype=torch.long)
    (found,) = nms_once.suppress(boxes, scores, scores > 0.3, image, 1, 0.5, most=10_000)
    assert found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)
    for label in range(7):
        mine = (scores[:, label] > 0.3).nonzero().squeeze(1)
        kept = mine[nms(boxes[mine], scores[mine, label], 0.5)]
        assert torch.equal(found.boxes[found.labels == label], boxes[kept])


def test_every_case_is_used() -> None:
    assert len(CASES) == 21
    assert {case["kind"] for case in CASES} == {"mixup", "mosaic", "soft_ce", "instant_label", "co_rectify"}


# ---- mixup and mosaic ----------------------------------------------------------------------------------------------


def whole_view(images: Tensor, targets: list[Targets] | None = None) -> View:
    """A view without padding; the pixels may be normalised ones, as the released code mixes them."""
    n = len(images)
    sizes = torch.tensor([images.shape[-2:]] * n)
    return View(images, sizes, torch.eye(3).repeat(n, 1, 1), torch.arange(n), targets=targets)


@pytest.mark.parametrize("case", [c for c in CASES if c["kind"] in ("mixup", "mosaic")], ids=lambda c: c["name"])
def test_pixels_boxes_and_soft_labels_of_a_mixed_image(case: dict) -> None:
    v, k = values(case), case["num_classes"]
    mosaic = case["kind"] == "mosaic"
    recipe = Recipe(
        mixup=torch.tensor([not mosaic]),
        mosaic=torch.tensor([mosaic]),
        share=torch.ones(1, dtype=torch.float64) if mosaic else v["lam"][None],
        across=torch.tensor([case.get("split") == "left_right"]),
        cut=torch.tensor([case.get("cut", 0)]),
        center=torch.zeros(1, 2, dtype=torch.long),
        turn=torch.zeros(1, dtype=torch.long),
    )
    labeled = whole_view(v["image_labeled"][None], [Targets(v["boxes_labeled"], v["labels_labeled"])])
    pseudo = Pseudo([Targets(v["boxes_unlabeled"], v["labels_unlabeled"])])
    view, labels = mix(whole_view(v["image_unlabeled"][None]), pseudo, labeled, [[0]], recipe, k)
    torch.testing.assert_close(view.images[0], v["image_out"], rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(labels.cls[0].boxes, v["boxes_out"], rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(labels.cls[0].probs, v["targets_out"][:, :k], rtol=1e-6, atol=1e-8)
    assert not v["targets_out"][:, k].any()  # the mass that is missing is given to no class


@cases("soft_ce")
def test_mass_as_a_weight_is_the_released_class_loss(case: dict) -> None:
    """Hard labels whose weight is the mass: -sum(target * log p) over all rows."""
    v, k = values(case), case["num_classes"]
    logits = v["logits"].clone().requires_grad_()
    some = v["targets"][:, :k].sum(1) > 0
    a = Assignment(v["targets"][:, :k], torch.ones(len(some)), torch.zeros(len(some), 4), some.double())
    a = harden_labels(replace(a, matched=some.long() - 1), k, by_mass=True)
    assert a.cls.ndim == 1
    p = Predictions(logits, logits.new_zeros(len(some), k, 4), a.box, torch.zeros(len(some)), None, None, softmax=True)
    loss = (cross_entropy(p, a) * a.cls_weight).sum() / len(some)
    loss.backward()
    torch.testing.assert_close(loss.detach(), v["loss"], rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(logits.grad, v["grad_logits"], rtol=1e-5, atol=1e-8)


def test_a_box_without_box_weight_is_a_box() -> None:
    """The adaptive assigner weighs a box loss by its overlap, which is 0 where the row decodes to another place."""
    cls, weight = torch.tensor([[0.0, 0.3], [0.0, 0.3], [0.0, 0.0], [0.0, 0.0]]), torch.tensor([1.0, 1, 1, 0])
    matched = torch.tensor([0, 0, -1, -2])
    a = Assignment(cls, weight, torch.zeros(4, 4), torch.tensor([0.8, 0, 0, 0]), matched=matched)
    by_mass = harden_labels(a, 2, by_mass=True)
    assert by_mass.cls.tolist() == [1, 1, 2, 2]
    torch.testing.assert_close(by_mass.cls_weight, torch.tensor([0.3, 0.3, 1, 0]))
    assert harden_labels(a, 2).cls.tolist() == [1, 1, 2, 2]
    assert harden_labels(a, 2).cls_weight is weight
    assert harden_labels(by_mass, 2, by_mass=True) is by_mass


# ---- labels of the moment ------------------------------------------------------------------------------------------


class _AsTheyAre:
    """A coder whose deltas are the boxes."""

    def encode(self, boxes: Tensor, priors: Tensor) -> Tensor:
        return boxes

    def decode(self, deltas: Tensor, priors: Tensor) -> Tensor:
        return deltas


def roi_rows(probs: Tensor, boxes: Tensor, size: Tensor) -> Predictions:
    image = torch.zeros(len(boxes), dtype=torch.long)
    return Predictions(probs.log(), boxes[:, None], boxes, image, size[None].long(), _AsTheyAre(), softmax=True)


def placed(v: dict[str, Tensor], name: str) -> View:
    """A view by its size, scale and flip."""
    (height, width), (x, y, _, _) = v[f"{name}_hw"], v[f"{name}_scale_xyxy"]
    matrix = torch.diag(torch.stack([x, y, torch.ones_like(x)]))
    if v[f"{name}_flip"]:
        mirror = torch.eye(3, dtype=matrix.dtype)
        mirror[0, 0], mirror[0, 2] = -1, width
        matrix = compose(mirror, matrix)
    return View(torch.zeros(1), torch.stack([height, width])[None], matrix[None].float(), torch.zeros(1))


def compare(found: list[Targets], weak: View, strong: View, v: dict[str, Tensor], suffix: str, tau: float) -> None:
    """What suppression left, then what becomes a label; both in the pixels of the student's view.

    As released, boxes are clamped at 0 alone; here a box is clipped to the image and dropped when a side is at most a
    pixel, so the expected boxes are, too.
    """
    transfer = compose(strong.matrix, torch.linalg.inv(weak.matrix))[0]
    close(warp(found[0].boxes, transfer), v[f"nms_boxes{suffix if suffix else '_strong'}"])
    close(found[0].scores, v[f"nms_scores{suffix}"])
    assert torch.equal(found[0].labels, v[f"nms_labels{suffix}"])

    kept = Pseudo(at_least(found, tau)).move(weak, strong).cls[0]
    expected = clip(v[f"boxes_out{suffix}"], strong.sizes[0])
    wide = (expected[:, 2:] - expected[:, :2]).amin(1) > 1
    close(kept.boxes, expected[wide])
    close(kept.scores, v[f"scores_out{suffix}"][wide])
    assert torch.equal(kept.labels, v[f"labels_out{suffix}"][wide])


@cases("instant_label")
def test_labels_of_the_moment(case: dict) -> None:
    v = values(case)
    p = roi_rows(v["roi_probs"], v["roi_boxes"], v["weak_hw"])
    found = confident(p, case["tau"], overlap=case["nms_iou"], secondary=True)
    (kept,), (sure,) = at_least(found, case["tau"]), confident(p, case["tau"], overlap=case["nms_iou"])
    assert all(torch.equal(getattr(kept, name), getattr(sure, name)) for name in ("boxes", "labels", "scores"))
    compare(found, placed(v, "weak"), placed(v, "strong"), v, "", case["tau"])


class _Model:
    """Answers the questions that the golden file has answers for, in their order, and checks them."""

    def __init__(self, v: dict[str, Tensor], *calls: str) -> None:
        self.v, self.calls = v, list(calls)

    def score(self, boxes: list[Tensor]) -> Predictions:
        if not self.calls:
            assert not len(boxes[0])
            return roi_rows(torch.zeros(0, 4), boxes[0], self.v["weak_hw"])
        name = self.calls.pop(0)
        close(boxes[0], self.v[f"{name}.proposals"])
        return roi_rows(self.v[f"{name}.probs"], self.v[f"{name}.boxes"], self.v["weak_hw"])


@cases("co_rectify")
def test_two_models_correct_each_other(case: dict) -> None:
    v, tau = values(case), case["tau"]
    asked = {m: [f"call{i}_head_{c}" for i, c in enumerate(case["calls"], 1) if c == m] for m in "ab"}
    a, b = _Model(v, *asked["a"]), _Model(v, *asked["b"])
    found = [
        confident(roi_rows(v[f"roi_probs_{m}"], v[f"roi_boxes_{m}"], v["weak_hw"]), tau, secondary=True) for m in "ab"
    ]
    for_a, for_b = co_rectify(a, b, *found, case["num_classes"])
    assert not a.calls
    assert not b.calls
    weak = placed(v, "weak")
    compare(for_a, weak, placed(v, "strong_a"), v, "_a", tau)
    compare(for_b, weak, placed(v, "strong_b"), v, "_b", tau)


class _Peer:
    """Says the same of every box that it is asked about: class probabilities, background last, and the box."""

    def __init__(self, probs: list[float], box: list[float]) -> None:
        self.probs, self.box = torch.tensor(probs), torch.tensor(box)

    def score(self, boxes: list[Tensor]) -> Predictions:
        n, images = sum(map(len, boxes)), len(boxes)
        image = torch.repeat_interleave(torch.arange(images), torch.tensor([len(b) for b in boxes]))
        # Each class has a box of its own: the second one's is that of the first, moved by 1.
        deltas = torch.stack([self.box, self.box + 1]).expand(n, 2, 4)
        sizes = torch.tensor([[30, 40]] * images)
        return Predictions(self.probs.log().expand(n, 3), deltas, torch.cat(boxes), image, sizes, _AsTheyAre(), True)


def test_the_paper_s_round_is_one_average() -> None:
    """c* = (c + c^r) / 2 and t* = (c t + c^r t^r) / (c + c^r), with the peer's word on the class that was found."""
    boxes = torch.tensor([[4.0, 4, 20, 20], [10, 10, 30, 29]])
    found = [
        Targets(boxes, torch.tensor([0, 1]), torch.tensor([0.9, 0.6])),
        Targets(boxes[:0], torch.tensor([]).long()),
    ]
    found[1].scores = torch.zeros(0)
    first, second = rectify_once(found, _Peer([0.3, 0.6, 0.1], [8.0, 8, 24, 32]))
    assert len(second) == 0
    assert first.labels.tolist() == [0, 1]
    torch.testing.assert_close(first.scores, torch.tensor([0.6, 0.6]))
    mine, theirs = boxes[0], torch.tensor([8.0, 8, 24, 30])  # clipped to the image
    torch.testing.assert_close(first.boxes[0], (0.9 * mine + 0.3 * theirs) / 1.2)
    torch.testing.assert_close(first.boxes[1], (boxes[1] + torch.tensor([9.0, 9, 25, 30])) / 2)

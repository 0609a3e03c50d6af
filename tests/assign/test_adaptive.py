"""Adaptive sample assignment: the released code's numbers, and what must hold whatever the numbers."""

import json
from collections import Counter
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ssod.assign.adaptive import AdaptiveAssigner, AdaptiveConfig, class_cost, distance_cost, overlaps, strictly_inside
from ssod.assign.build import pick_assigner
from ssod.assign.quality import with_centerness
from ssod.losses.sigmoid import focal_elements
from ssod.structures import Predictions, Targets
from ssod.structures.boxes import IdentityCoder
from tests.parts import together
from tests.paths import golden_path

GOLDEN = np.load(golden_path("consistent_teacher_assigner.npz"), allow_pickle=False)
CASES = json.loads(str(GOLDEN["cases_json"]))
NEAR = {torch.float64: {"rtol": 1e-6, "atol": 1e-8}, torch.float32: {"rtol": 1e-4, "atol": 1e-5}}


# ---- the released code's numbers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", NEAR, ids=str)
@pytest.mark.parametrize("case", CASES, ids=lambda c: c["name"])
def test_costs_and_matches_are_the_released_ones(case: dict, dtype: torch.dtype) -> None:
    """Also in float32 where the released code overflows and its float64 result is the only one that means something."""

    def read(name: str) -> Tensor:
        return torch.from_numpy(GOLDEN[f"{case['id']}.{name}"])

    places, probs = read("prior_cx_cy_stride").to(dtype), read("class_probs")
    boxes, labels = read("gt_boxes").to(dtype), read("gt_labels")
    rows = read("valid_mask").nonzero().squeeze(1)
    if len(boxes):
        assert torch.equal(strictly_inside(places[:, :2], boxes).any(0), read("valid_mask"))
    match, quality = torch.full((len(places),), -1), torch.zeros(len(places), dtype=dtype)
    if len(rows):
        assign = AdaptiveAssigner(topk=case["topk"], iou_weight=case["iou_factor"])
        some = places[rows, :2], places[rows, 2], probs.logit().to(dtype)[rows], read("decoded_boxes").to(dtype)[rows]
        cost, iou = assign.costs(*some, boxes, labels)
        torch.testing.assert_close(iou, read("iou_valid").t().to(dtype), **NEAR[dtype])
        assert cost.isfinite().all()
        wanted, near = read("cost_valid").t(), NEAR[dtype]
        if dtype == torch.float32:  # the power amplifies rounding, and is not what we add beyond 35 strides
            near, some_way = {**near, "rtol": 1e-3}, wanted < 1e31
            wanted, cost = wanted[some_way], cost[some_way]
        torch.testing.assert_close(cost, wanted.to(dtype), **near)
        match[rows], quality[rows] = assign.match(*some, boxes, labels)
    assert torch.equal(match + 1, read("assigned_gt"))
    torch.testing.assert_close(quality, read("assigned_iou").to(dtype), **NEAR[dtype])
    assert float(quality.sum()) == pytest.approx(case["sum_iou"], rel=1e-6)


# ---- on the rows of a head -----------------------------------------------------------------------------------------


def head(
    n: int = 1, k: int = 3, per_cell: int = 1, seed: int = 0, side: int = 128, quality: bool = False
) -> Predictions:
    """Rows of strides 8 and 16 on a square canvas, whose boxes are the priors, shaken."""
    g, rows, levels = torch.Generator().manual_seed(seed), [], []
    for s in (8, 16):
        y, x = torch.meshgrid(*[torch.arange(0, side, s)] * 2, indexing="ij")
        center = torch.stack([x, y], -1).view(-1, 1, 2).expand(-1, per_cell, -1).reshape(-1, 2).float()
        half = torch.linspace(3, 4, per_cell).repeat(len(center) // per_cell)[:, None] * s
        rows.append(torch.cat([center - half, center + half], 1))
        levels.append(len(center))
    priors = torch.cat(rows).repeat(n, 1)
    deltas = priors + 6 * torch.randn(priors.shape, generator=g)
    logits = torch.randn(len(priors), k, generator=g) - 2
    image = torch.arange(n).repeat_interleave(sum(levels))
    sizes, strides = torch.tensor([[side, side]] * n), (8, 16)
    p = Predictions(logits, deltas[:, None], priors, image, sizes, IdentityCoder())
    p = replace(p, levels=tuple(levels), strides=strides)
    return replace(p, quality=torch.zeros(len(priors))) if quality else p


BOXES = torch.tensor([[10.0, 12, 60, 70], [40, 40, 110, 100], [90, 8, 120, 40]])


def truth(**changes: Tensor) -> Targets:
    return Targets(BOXES, torch.tensor([1, 2, 0]), **changes)


@pytest.mark.parametrize("per_cell", [1, 9])
def test_class_targets_are_hard_box_weights_are_overlaps_and_they_are_the_normalizer(per_cell: int) -> None:
    p = head(2, per_cell=per_cell)
    a = AdaptiveAssigner()(p, [truth(), Targets.empty(BOXES)])
    fg = a.matched >= 0
    assert set(a.matched[fg].tolist()) == {0, 1, 2}
    assert torch.equal(a.cls[fg], truth().labels[a.matched[fg]])
    assert (a.cls[~fg] == 3).all()
    assert (a.cls_weight == 1).all()
    assert not fg[len(p) // 2 :].any()
    iou = overlaps(BOXES, p.boxes())
    torch.testing.assert_close(a.box_weight[fg], iou[a.matched[fg], fg.nonzero().squeeze(1)])
    assert (a.box_weight[~fg] == 0).all()
    assert a.normalizer["cls"] > 1
    torch.testing.assert_close(a.normalizer["cls"], a.box_weight.sum())
    assert torch.equal(a.box[fg], BOXES[a.matched[fg]])
    assert a.quality is None


def test_the_class_cost_is_the_focal_loss_of_every_class() -> None:
    logits, labels = 3 * torch.randn(50, 7, generator=torch.Generator().manual_seed(0)), torch.tensor([3, 0, 6])
    target = torch.nn.functional.one_hot(labels, 7).float()
    wanted = focal_elements(logits.expand(3, 50, 7), target[:, None].expand(3, 50, 7)).sum(-1)
    torch.testing.assert_close(class_cost(logits, labels), wanted)
    assert class_cost(torch.tensor([[1e4, -1e4]]), torch.tensor([0, 1])).isfinite().all()


def test_the_distance_cost_is_finite_and_keeps_its_order() -> None:
    boxes = torch.tensor([[-4.0, -4, 4, 4]])
    d = torch.cat([torch.linspace(0, 30, 100), torch.linspace(30, 3000, 1000)[1:]])
    cost = distance_cost(torch.stack([8 * d, 0 * d], 1), torch.full_like(d, 8), boxes)[0]
    torch.testing.assert_close(cost[:100].double(), 10 ** d[:100].double(), rtol=1e-4, atol=0)
    assert cost.isfinite().all()
    assert (cost[1:] > cost[:-1]).all()


def test_inside_any_or_inside_the_very_box() -> None:
    """A box too small to hold a center takes a row of another box, or none."""
    p = head()
    boxes = torch.cat([BOXES[:1], torch.tensor([[57.0, 66, 59, 69], [15, 67, 15, 67]])])
    targets = [Targets(boxes, torch.tensor([0, 1, 2]))]
    any_box, own_box = (AdaptiveAssigner(inside=word)(p, targets) for word in ("any", "matched"))
    assert set(any_box.matched.tolist()) == {-1, 0, 1, 2}
    assert (any_box.matched == 1).sum() == (any_box.matched == 2).sum() == 1
    assert set(own_box.matched.tolist()) == {-1, 0}
    a = AdaptiveAssigner(inside="matched")(p, [truth()])
    center = (p.priors[:, :2] + p.priors[:, 2:]) / 2
    fg = a.matched >= 0
    assert strictly_inside(center, BOXES)[a.matched[fg], fg.nonzero().squeeze(1)].all()
    assert set(a.matched[fg].tolist()) == {0, 1, 2}


def test_no_candidate_no_box_and_boxes_without_area() -> None:
    tiny, flat = torch.tensor([[9.0, 9, 11, 11]]), torch.tensor([[40.0, 40, 40, 40]])
    for boxes in (tiny, flat, BOXES[:0]):
        a = AdaptiveAssigner()(head(), [Targets(boxes, torch.zeros(len(boxes), dtype=torch.long))])
        assert not a.fg.any()
        assert (a.matched == -1).all()
        assert a.normalizer["cls"] == 1
    everywhere = AdaptiveAssigner()(replace(head(), deltas=torch.zeros(len(head()), 1, 4)), [truth()])
    assert everywhere.normalizer["cls"] == 1  # no overlap at all; a box still takes its cheapest row
    assert (everywhere.matched >= 0).sum() == 3
    assert everywhere.box_weight.isfinite().all()


def test_one_class() -> None:
    a = AdaptiveAssigner()(head(k=1), [Targets(BOXES, torch.zeros(3, dtype=torch.long))])
    assert a.fg.any()
    assert (a.cls[a.fg] == 0).all()


def test_an_ignore_region_takes_nothing_and_its_rows_teach_nothing() -> None:
    p = head()
    center = (p.priors[:, :2] + p.priors[:, 2:]) / 2
    a = AdaptiveAssigner()(p, [truth(weight=torch.tensor([1.0, 0, 1]))])
    region = strictly_inside(center, BOXES[1:2])[0]
    assert not (a.matched == 1).any()
    assert set(a.matched[region].tolist()) <= {-2, 0, 2}
    assert (a.cls_weight[region & (a.matched == -2)] == 0).all()
    assert (a.matched[~region] != -2).all()
    alone = AdaptiveAssigner()(p, [truth()[[0, 2]]])
    assert torch.equal(a.matched == 0, alone.matched == 0)
    assert torch.equal(a.matched == 2, alone.matched == 1)
    assert a.normalizer["cls"] == alone.normalizer["cls"]


def test_trust_scales_and_does_not_choose() -> None:
    full = AdaptiveAssigner()(head(), [truth()])
    half = AdaptiveAssigner()(head(), [truth(weight=torch.tensor([0.5, 1, 1]))])
    assert torch.equal(full.matched, half.matched)
    first = full.matched == 0
    torch.testing.assert_close(half.box_weight[first], full.box_weight[first] / 2)
    torch.testing.assert_close(half.cls_weight[first], full.cls_weight[first] / 2)
    torch.testing.assert_close(half.box_weight[~first], full.box_weight[~first])
    assert full.normalizer["cls"] == half.normalizer["cls"]


def test_rows_beyond_the_padded_image_learn_nothing() -> None:
    p = replace(head(), sizes=torch.tensor([[60, 97]]))
    center = (p.priors[:, :2] + p.priors[:, 2:]) / 2
    a = AdaptiveAssigner()(p, [Targets(BOXES[:1], torch.tensor([0]))])
    beyond = (center[:, 1] >= 64) | (center[:, 0] >= 128)
    assert torch.equal(a.matched == -2, beyond)
    assert torch.equal(a.cls_weight == 0, beyond)


class Calls(TorchDispatchMode):
    """Counts the operators that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count[func.overloadpacket] += 1
        return func(*args, **(kwargs or {}))


def test_all_images_wait_for_the_device_together() -> None:
    """``nonzero`` makes a GPU's program wait: once for the batch, not once an image."""
    one = head()
    r = len(one)
    rows = {name: torch.cat([getattr(one, name)] * 3) for name in ("logits", "deltas", "priors")}
    p = replace(one, **rows, image=torch.arange(3).repeat_interleave(r), sizes=one.sizes.repeat(3, 1))
    targets = [truth(), Targets.empty(BOXES), truth()]
    with Calls() as calls:
        a = AdaptiveAssigner()(p, targets)
    assert calls.count[torch.ops.aten.nonzero] == 1
    alone = AdaptiveAssigner()(one, [truth()])
    assert torch.equal(a.matched[:r], alone.matched)
    assert torch.equal(a.box_weight[2 * r :], alone.box_weight)
    assert not a.fg[r : 2 * r].any()


def test_soft_labels_reach_the_rows() -> None:
    probs = torch.tensor([[0.0, 0.6, 0.1], [0, 0, 0.9], [1, 0, 0]])
    a = AdaptiveAssigner()(head(), [truth(probs=probs)])
    assert torch.equal(a.cls[a.fg], probs[a.matched[a.fg]])


def test_fcos_keeps_its_centerness_targets() -> None:
    p = head(quality=True)
    a = with_centerness(p, AdaptiveAssigner()(p, [truth()]))
    assert a.quality.shape == a.cls.shape
    assert ((a.quality[a.fg] >= 0) & (a.quality[a.fg] <= 1)).all()
    assert (a.quality[a.fg] > 0).any()


def test_half_precision_predictions_give_the_same_assignment() -> None:
    p = head()
    rounded = replace(p, logits=p.logits.bfloat16(), deltas=p.deltas.bfloat16())
    exact = replace(p, logits=rounded.logits.float(), deltas=rounded.deltas.float())
    with torch.autocast("cpu", torch.bfloat16):
        a = AdaptiveAssigner()(rounded, [truth()])
    b = AdaptiveAssigner()(exact, [truth()])
    assert torch.equal(a.matched, b.matched)
    assert a.box_weight.dtype == a.normalizer["cls"].dtype == torch.float32


def test_ranks_share_one_normalizer() -> None:
    """Each rank divides by the mean of the ranks' sums, also the rank that has no box; their sum is at least 1."""

    def normalizers(*targets: Targets) -> list[float]:
        assigned, _ = together([partial(AdaptiveAssigner(), head(), [t]) for t in targets])
        return [float(a.normalizer["cls"]) for a in assigned]

    alone = AdaptiveAssigner()(head(), [truth()]).normalizer["cls"]
    assert alone > 2
    assert normalizers(truth(), Targets.empty(BOXES)) == [float(alone) / 2] * 2
    assert normalizers(*[Targets.empty(BOXES)] * 4) == [0.25] * 4


def test_options_do_what_they_say() -> None:
    def positives(**changes: object) -> Tensor:
        assign = pick_assigner(AdaptiveConfig(**changes))
        return assign(head(), [truth()]).matched

    plain = positives()
    assert ((positives(topk=1) >= 0).sum()) == 3
    for changes in ({"class_weight": 50}, {"iou_weight": 0.1}, {"distance_weight": 10}, {"distance_weight": 0}):
        assert not torch.equal(positives(**changes), plain), changes

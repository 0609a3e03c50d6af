from dataclasses import replace
from functools import partial

import pytest
import torch
from pydantic import TypeAdapter
from torchvision.models.detection._utils import Matcher
from torchvision.ops import box_iou

from ssod.assign.build import AssignerConfig, pick_assigner
from ssod.assign.center import CenterAssigner
from ssod.assign.iou import IoUAssigner
from ssod.assign.matches import from_matches
from ssod.assign.quality import with_centerness
from ssod.structures import Predictions, Targets
from ssod.structures.boxes import LtrbCoder


def random_boxes(n: int, seed: int, size: float = 60) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    start = torch.rand(n, 2, generator=g) * 100
    return torch.cat([start, start + 4 + torch.rand(n, 2, generator=g) * size], 1)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("low_quality", [True, False])
def test_iou_rule_is_torchvisions(seed: int, low_quality: bool) -> None:
    priors, boxes = random_boxes(400, seed).round(), random_boxes(7, seed + 100).round()
    priors[200:] = priors[:200]  # ties
    wanted = Matcher(0.5, 0.4, allow_low_quality_matches=low_quality)(box_iou(boxes, priors))
    assert torch.equal(IoUAssigner(0.5, 0.4, low_quality).match(priors, boxes), wanted)


def test_a_box_that_meets_no_prior_takes_none() -> None:
    priors = torch.tensor([[0.0, 0, 10, 10], [20, 0, 30, 10]])
    boxes = torch.tensor([[0.0, 0, 10, 10], [500, 500, 510, 510]])
    assert IoUAssigner(0.5, 0.4).match(priors, boxes).tolist() == [0, -1]


def test_every_box_takes_its_best_priors_however_poor() -> None:
    priors = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10], [50, 50, 60, 60]])
    assert IoUAssigner(0.7, 0.3).match(priors, torch.tensor([[0.0, 0, 10, 2]])).tolist() == [0, 0, -1]


def own(*given: float, **more: object) -> IoUAssigner:
    """The assigner of ``claim: own``."""
    return pick_assigner(TypeAdapter(AssignerConfig).validate_python({"name": "iou", "claim": "own", **more}))


def test_a_claimed_prior_learns_the_box_that_claims_it() -> None:
    """The first prior overlaps the first box most, but it is the best that the second box has: by mmdetection's rule
    the second box takes it, by torchvision's the first."""
    priors = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [40, 40, 50, 50]])
    boxes = torch.tensor([[0.0, 0, 10, 9], [0, 2, 10, 12]])
    overlap = box_iou(boxes, priors)
    assert overlap[:, 0].tolist() == pytest.approx([0.9, 2 / 3])
    assert overlap.argmax(1).tolist() == [1, 0]
    assert IoUAssigner(0.5, 0.4).match(priors, boxes).tolist() == [0, 0, -1]
    assert own().match(priors, boxes).tolist() == [1, 0, -1]
    assert own().match(priors, boxes.flip(0)).tolist() == [0, 1, -1]


def test_of_several_that_claim_a_prior_the_last_has_it_and_ties_are_all_claimed() -> None:
    priors = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10], [20, 0, 30, 10]])
    boxes = torch.tensor([[0.0, 0, 10, 4], [0, 0, 10, 3], [20, 0, 30, 9], [0, 0, 4, 10]])
    assert IoUAssigner(0.5, 0.4).match(priors, boxes).tolist() == [0, 0, 2]
    assert own().match(priors, boxes).tolist() == [3, 3, 2]
    assert own().match(priors, boxes[:3]).tolist() == [1, 1, 2]


def test_a_box_that_meets_no_prior_claims_none() -> None:
    """Not as in mmdetection, where its best overlap is 0, and it claims every prior that overlaps it by 0: all."""
    priors = torch.tensor([[0.0, 0, 10, 10], [20, 0, 30, 10]])
    boxes = torch.tensor([[0.0, 0, 10, 10], [500, 500, 510, 510]])
    assert own().match(priors, boxes).tolist() == [0, -1]
    assert own().match(priors, boxes[1:]).tolist() == [-1, -1]
    assert own().match(priors, boxes[:0]).tolist() == [-1, -1]


def test_what_is_ignored_takes_no_prior_from_a_box_that_counts() -> None:
    p = points(((8, 8), (4, 4)), (8, 16))
    boxes = torch.tensor([[10.0, 10, 22, 22], [11, 11, 23, 23]])  # both are best met by the same prior
    alone = own()(p, [Targets(boxes[:1], torch.tensor([0]))])
    both = own()(p, [Targets(boxes, torch.tensor([0, 0]), weight=torch.tensor([1.0, 0]))])
    assert int(alone.fg.sum()) == int(both.fg.sum()) == 1
    assert torch.equal(alone.fg, both.fg)
    assert (own()(p, [Targets(boxes, torch.tensor([0, 1]))]).cls[both.fg] == 1).all()  # else the last takes it


@pytest.mark.parametrize("seed", range(8))
def test_claims_by_the_book(seed: int) -> None:
    """Box after box writes its name on the priors that overlap it best."""
    priors, boxes = random_boxes(400, seed).round(), random_boxes(30, seed + 100).round()
    priors[200:] = priors[:200]  # ties
    overlap = box_iou(boxes, priors)
    wanted = IoUAssigner(allow_low_quality=False).match(priors, boxes)
    for number, row in enumerate(overlap):
        wanted[row == row.max()] = number
    assert torch.equal(own().match(priors, boxes), wanted)
    assert not torch.equal(IoUAssigner().match(priors, boxes), wanted)


@pytest.mark.parametrize("claim", [True, "own"])
@pytest.mark.parametrize("seed", range(4))
def test_priors_beyond_the_padded_image_are_as_if_they_were_not(seed: int, claim: bool | str) -> None:
    """Also where one of them would be the best of some box, which then takes the best that is left."""
    p = replace(points(((16, 16), (8, 8)), (8, 16), n=2), sizes=torch.tensor([[60, 97], [128, 128]]))
    targets = [Targets(random_boxes(6, seed + i), torch.zeros(6, dtype=torch.long)) for i in range(2)]
    center = (p.priors[:, :2] + p.priors[:, 2:]) / 2
    beyond = (p.image == 0) & ((center[:, 1] >= 64) | (center[:, 0] >= 128))
    assert beyond.any()
    assigner = partial(IoUAssigner, own=claim == "own")
    exact, plain = assigner(divisor=32)(p, targets), assigner()(p, targets)
    assert (exact.matched[beyond] == -2).all()
    assert (exact.cls_weight[beyond] == 0).all()
    assert not exact.fg[beyond].any()
    there = ~beyond & (p.image == 0)
    assert torch.equal(exact.matched[there], assigner().match(p.priors[there], targets[0].boxes))
    assert torch.equal(exact.matched[p.image == 1], plain.matched[p.image == 1])
    assert plain.fg[beyond].any()
    nothing = assigner(divisor=32)(p, [Targets.empty(p.priors)] * 2)
    assert torch.equal(nothing.matched == -2, beyond)


def points(sizes: tuple[tuple[int, int], ...], strides: tuple[int, ...], n: int = 1) -> Predictions:
    """FCOS's priors on a canvas, level by level."""
    rows = []
    for (h, w), s in zip(sizes, strides):
        y, x = torch.meshgrid(torch.arange(h) * s, torch.arange(w) * s, indexing="ij")
        center = torch.stack([x, y], -1).view(-1, 2).float()
        rows.append(torch.cat([center - s / 2, center + s / 2], 1))
    priors = torch.cat(rows).repeat(n, 1)
    levels = tuple(len(r) for r in rows)
    image = torch.arange(n).repeat_interleave(sum(levels))
    r = len(priors)
    return Predictions(
        torch.zeros(r, 2),
        torch.zeros(r, 1, 4),
        priors,
        image,
        torch.tensor([[64, 64]] * n),
        LtrbCoder(),
        quality=torch.zeros(r),
        levels=levels,
        strides=strides,
    )


@pytest.mark.parametrize("spelling", ["center", "centre"])
def test_both_spellings_of_the_center_rule_are_one_config(spelling: str) -> None:
    """What is written, in checkpoints, too, is the spelling that old ones have."""
    kind = TypeAdapter(AssignerConfig)
    for value in (spelling, {"name": spelling}, {"name": spelling, "radius": 1.5}):
        assert kind.dump_python(kind.validate_python(value)) == "centre"
    wider = kind.validate_python({"name": spelling, "radius": 2})
    assert kind.dump_python(wider) == {"name": "centre", "radius": 2.0}
    assert isinstance(pick_assigner(wider), CenterAssigner)


def test_center_rule_by_hand() -> None:
    p = points(((8, 8), (4, 4)), (8, 16))
    a = CenterAssigner()(p, [Targets(torch.tensor([[8.0, 8, 40, 40]]), torch.tensor([1]))])
    center = (p.priors[:, :2] + p.priors[:, 2:]) / 2
    # Level 1 takes points within 12 pixels of (24, 24), inside the box; their farthest side is below 64.
    assert sorted(map(tuple, center[a.fg].tolist())) == sorted((x, y) for x in (16.0, 24, 32) for y in (16.0, 24, 32))
    assert (a.cls[a.fg] == 1).all()
    assert (a.cls[~a.fg] == 2).all()
    a = with_centerness(p, a)
    best = a.quality[(center == 24).all(1) & a.fg]
    assert best.tolist() == [1.0]
    corner = a.quality[(center == 16).all(1) & a.fg]
    assert corner.item() == pytest.approx(8 / 24)


def test_the_smallest_box_wins_a_point_and_the_level_fits_the_size() -> None:
    p = points(((16, 16), (8, 8)), (8, 16))
    boxes = torch.tensor([[0.0, 0, 100, 100], [40, 40, 56, 56], [0, 0, 126, 126]])
    a = CenterAssigner()(p, [Targets(boxes, torch.tensor([0, 1, 0]))])
    second = torch.arange(len(p)) >= p.levels[0]
    center = (p.priors[:, :2] + p.priors[:, 2:]) / 2
    shared = (center == 48).all(1) & ~second
    assert a.matched[shared].tolist() == [1]
    assert set(a.matched[a.fg & ~second].tolist()) == {0, 1}
    assert a.matched[(center == 48).all(1) & second].tolist() == [2]
    reach = torch.maximum(center - 0, 126 - center).amax(1)
    assert (reach[a.matched == 2] > 64).all()


@pytest.mark.parametrize("assigner", [IoUAssigner(), CenterAssigner()])
def test_no_boxes_anywhere(assigner) -> None:
    p = points(((4, 4), (2, 2)), (16, 32), n=2)
    a = assigner(p, [Targets.empty(torch.zeros(1))] * 2)
    assert not a.fg.any()
    assert (a.cls == 2).all()
    assert (a.cls_weight == 1).all()
    assert (a.matched == -1).all()


def test_from_matches_hard() -> None:
    boxes = torch.tensor([[0.0, 0, 4, 4], [0, 0, 8, 8]])
    targets = [
        Targets(boxes, torch.tensor([2, 0])),
        Targets.empty(boxes),
        Targets(boxes[:1] + 1, torch.tensor([1])),
    ]
    a = from_matches([torch.tensor([1, -1, 0]), torch.tensor([-1, -2]), torch.tensor([0, -2])], targets, 3)
    assert a.cls.tolist() == [0, 3, 2, 3, 3, 1, 3]
    assert a.cls_weight.tolist() == [1, 1, 1, 1, 0, 1, 0]
    assert a.box_weight.tolist() == [1, 0, 1, 0, 0, 1, 0]
    assert a.matched.tolist() == [1, -1, 0, -1, -2, 2, -2]
    assert a.box[5].tolist() == [1, 1, 5, 5]


def test_weight_zero_is_an_ignore_region_and_other_weights_scale() -> None:
    boxes = torch.tensor([[0.0, 0, 4, 4], [0, 0, 8, 8]])
    targets = [
        Targets(boxes, torch.tensor([0, 1]), weight=torch.tensor([0.0, 0.5])),
        Targets(boxes, torch.tensor([0, 1])),
    ]
    a = from_matches([torch.tensor([0, 1, -1]), torch.tensor([0, 1, -2])], targets, 2)
    assert a.cls_weight.tolist() == [0, 0.5, 1, 1, 1, 0]
    assert a.box_weight.tolist() == [0, 0.5, 0, 1, 1, 0]
    assert a.cls.tolist() == [2, 1, 2, 0, 1, 2]
    assert a.matched.tolist() == [-2, 1, -1, 2, 3, -2]


def test_one_soft_label_makes_every_row_soft() -> None:
    boxes = torch.tensor([[0.0, 0, 4, 4]])
    targets = [
        Targets(boxes, torch.tensor([0]), probs=torch.tensor([[0.6, 0.3]])),
        Targets(boxes, torch.tensor([1])),
        Targets.empty(boxes),
    ]
    a = from_matches([torch.tensor([0, -1]), torch.tensor([0]), torch.tensor([-1])], targets, 2)
    torch.testing.assert_close(a.cls, torch.tensor([[0.6, 0.3], [0, 0], [0, 1], [0, 0]]))
    assert a.labels()[:1].tolist() == [0]

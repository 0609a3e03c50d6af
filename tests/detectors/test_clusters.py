"""Which boxes suppression took for the sake of which detection, and how far they spread."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from ssod.detectors.d2.parts import clip_first
from ssod.detectors.decode import DecodeConfig, Detections, clip_last, detect, suppress, without_empty
from ssod.pseudo_labels.nms_spread import cluster_spread
from ssod.structures import Clusters, Targets
from ssod.structures.boxes import clip, iou
from tests.detectors.test_decode import cloud
from tests.paths import golden_path
from tests.test_methods import DETECTORS, detector, view
from tests.waits import Waits

FILE = np.load(golden_path("s4od_formulas.npz"), allow_pickle=False)
CASES = [case for case in json.loads(str(FILE["cases_json"])) if case["kind"] == "nms_unc"]


def array(case: dict, name: str, dtype: torch.dtype = torch.float64) -> Tensor:
    found = torch.from_numpy(FILE[f"{case['id']}.{name}"])
    return found.to(dtype) if found.is_floating_point() else found


# ---- our reading of the paper in numbers ---------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_nms_unc_golden(case: dict, dtype: torch.dtype) -> None:
    """A padded candidate stands behind the given ones, as behind those of every detector."""
    boxes, scores, labels = (array(case, name, dtype) for name in ("boxes", "scores", "labels"))
    padded = [torch.cat([x, x.new_zeros(1, *x.shape[1:])])[None] for x in (boxes, scores, labels)]
    found = suppress(*padded, 5, case["nms_iou"], 40, clusters=True)
    kept, owner = array(case, "kept_index"), array(case, "owner")
    m = len(kept)
    mine = found.owner[0, :-1]
    assert found.owner[0, -1] == -1
    assert torch.equal(found.scores[0, :m], scores[kept].float() if dtype == torch.float32 else scores[kept])
    assert torch.equal(kept[mine], owner)
    spread, members = cluster_spread(found.to_clusters())
    rtol, atol = (1e-6, 1e-8) if dtype == torch.float64 else (1e-4, 1e-5)
    torch.testing.assert_close(spread.double(), array(case, "uncertainty"), rtol=rtol, atol=atol)
    torch.testing.assert_close(spread.double().mean(1), array(case, "mean_uncertainty"), rtol=rtol, atol=atol)
    assert torch.equal(members, array(case, "members"))


# ---- whose a candidate is ------------------------------------------------------------------------------------------


def by_hand(b: Tensor, s: Tensor, g: Tensor, threshold: float, count: int) -> tuple[list[int], list[int]]:
    """Return the boxes kept of one image and the place of each candidate's owner among them, one after the other."""
    order = [int(i) for i in s.argsort(descending=True, stable=True) if s[i] > 0]
    overlap, kept, owner = iou(b.double(), b.double()), [], [-1] * len(b)
    for i in order:
        over = [k for k in kept if g[k] == g[i] and overlap[k, i] > threshold]
        owner[i] = over[0] if over else i
        kept += [] if over else [i]
    kept = kept[:count]
    return kept, [kept.index(k) if k in kept else -1 for k in owner]


@pytest.mark.parametrize(("n", "c", "k", "count"), [(1, 64, 1, 100), (3, 160, 3, 100), (3, 160, 3, 7), (2, 40, 3, 100)])
def test_a_candidate_belongs_to_the_first_box_that_suppresses_it(n: int, c: int, k: int, count: int) -> None:
    boxes, scores, groups = cloud(n, c, k, extent=300)
    scores = scores * (scores > 0.2)
    if count == 100:  # of several with one score the first candidate counts; at a cut any of them may be left
        scores = (scores * 16).round() / 16
    plain, found = (suppress(boxes, scores, groups, k, 0.3, count, clusters=on) for on in (False, True))
    assert plain.owner is plain.candidates is None
    assert all(torch.equal(a, b) for a, b in zip(plain[:3], found[:3]))
    assert found.candidates is boxes
    taken = 0
    for i in range(n):
        kept, owner = by_hand(boxes[i], scores[i], groups[i], 0.3, count)
        there = (found.scores[i] > 0).sum()
        assert there == len(kept)
        # Where scores are equal, rows of detections may stand in another order: boxes are compared.
        got = found.owner[i]
        assert torch.equal(got >= 0, torch.tensor(owner) >= 0)
        rows = (got >= 0).nonzero().squeeze(1)
        assert torch.equal(found.boxes[i, got[rows]], boxes[i, torch.tensor(kept)[torch.tensor(owner)[rows]]])
        taken += len(rows) - len(kept)
    assert taken > 0
    if count == 7:
        assert ((found.owner < 0) & (scores > 0)).any()  # suppressed by an eighth box


def test_boxes_without_area_have_themselves() -> None:
    boxes = torch.tensor([[[5.0, 5, 5, 9], [5, 5, 5, 9], [0, 0, 10, 10]]])
    found = suppress(
        boxes, torch.tensor([[0.9, 0.8, 0.7]]), torch.zeros(1, 3, dtype=torch.long), 1, 0.5, 5, clusters=True
    )
    assert found.owner.tolist() == [[0, 1, 2]]
    assert cluster_spread(found.to_clusters())[1].tolist() == [1, 1, 1]


@pytest.mark.parametrize("rule", [detect, clip_last, clip_first])
@pytest.mark.parametrize("net", ["retinanet", "fcos"])
def test_clusters_are_those_of_the_detections_whatever_the_rule(net: str, rule: object) -> None:
    out = detector(net).eval().predict(view(0))
    out = replace(out, rule=rule, decode=DecodeConfig(score=0.2, nms=0.1, detections=40))
    plain, clusters = out.detections(), out.clusters()
    assert out.detect().owner is None
    for a, b in zip(plain, clusters.detections):
        assert torch.equal(a.boxes, b.boxes)
        assert torch.equal(a.scores, b.scores)
        assert torch.equal(a.labels, b.labels)
    spread, members = cluster_spread(clusters)
    assert len(spread) == len(members) == sum(map(len, plain))
    assert (members > 1).any()
    start = 0
    for i, t in enumerate(clusters.detections):
        height, width = view(0).sizes[i].tolist()
        for j in range(len(t)):
            mine = clusters.boxes[i, clusters.owner[i] == j].double()
            assert len(mine) == members[start + j]
            cut = mine.clone()
            cut[:, 0::2], cut[:, 1::2] = mine[:, 0::2].clamp(0, width), mine[:, 1::2].clamp(0, height)
            assert (cut.float() == t.boxes[j]).all(1).any()  # itself is among them
            mean = mine.mean(0)
            size = torch.stack([mean[2] - mean[0], mean[3] - mean[1]]).clamp(min=1).repeat(2)
            hand = mine.std(0, correction=0) / size
            torch.testing.assert_close(spread[start + j].double(), hand, rtol=1e-5, atol=1e-6)
        start += len(t)


def test_faster_rcnn_has_clusters_of_its_second_stage() -> None:
    out = detector("faster_rcnn").eval().predict(view(0))
    plain, clusters = out.detections(), out.clusters()
    assert all(torch.equal(a.boxes, b.boxes) for a, b in zip(plain, clusters.detections))
    members = cluster_spread(clusters)[1]
    assert len(members) == sum(map(len, plain)) > 0
    assert (members >= 1).all()


def test_what_moves_to_the_end_takes_its_cluster_along() -> None:
    """Cut at the border, the best box has no area left: it goes, and owners of the others follow them."""
    boxes = torch.tensor(
        [[[-20.0, 5, -10, 15], [-21, 5, -11, 15], [40, 40, 60, 60], [41, 40, 61, 60], [10, 10, 30, 30]]]
    )
    scores, groups = torch.tensor([[0.9, 0.8, 0.7, 0.6, 0.5]]), torch.zeros(1, 5, dtype=torch.long)
    found = suppress(boxes, scores, groups, 1, 0.5, 6, clusters=True)

    left = without_empty(found._replace(boxes=clip(found.boxes, torch.tensor([[100, 100]])[:, None])))
    clusters = left.to_clusters()
    assert [t.scores.tolist() for t in clusters.detections] == [pytest.approx([0.7, 0.5])]
    assert clusters.owner[0, 2:].tolist() == [0, 0, 1]
    assert (clusters.owner[0, :2] >= 2).all()
    assert cluster_spread(clusters)[1].tolist() == [2, 1]


# ---- spread --------------------------------------------------------------------------------------------------------


def clusters_of(*groups: list[list[float]]) -> Clusters:
    """One image; the first box of each group is the detection."""
    boxes = torch.tensor([b for group in groups for b in group])[None]
    owner = torch.tensor([i for i, group in enumerate(groups) for _ in group])[None]
    first = torch.tensor([group[0] for group in groups])
    scores = torch.linspace(0.9, 0.5, len(groups))
    return Clusters([Targets(first, torch.zeros(len(groups), dtype=torch.long), scores)], boxes, owner)


def test_a_spread_is_relative_to_the_mean_box_and_to_one_pixel_at_least() -> None:
    wide = [[0.0, 0, 40, 20], [4, 0, 44, 20]]
    tiny = [[10.0, 10, 10.25, 10.25], [10.5, 10, 10.75, 10.25]]
    spread, members = cluster_spread(clusters_of(wide, tiny, [[50.0, 50, 60, 60]]))
    assert members.tolist() == [2, 2, 1]
    torch.testing.assert_close(spread, torch.tensor([[0.05, 0, 0.05, 0], [0.25, 0, 0.25, 0], [0.0, 0, 0, 0]]))


def test_far_from_the_corner_nothing_is_lost() -> None:
    near = [[0.0, 0, 30, 20], [0.125, 0, 30, 20]]
    far = [[x + 8192 for x in box] for box in near]
    one, two = (cluster_spread(clusters_of(group))[0] for group in (near, far))
    torch.testing.assert_close(one, two, rtol=1e-6, atol=0)


def test_no_detection_has_no_spread() -> None:
    nothing = Clusters([Targets.empty(torch.zeros(1))] * 2, torch.zeros(2, 3, 4), torch.full((2, 3), -1))
    spread, members = cluster_spread(nothing)
    assert spread.shape == (0, 4)
    assert members.shape == (0,)


@pytest.mark.parametrize("net", DETECTORS)
def test_clusters_add_no_wait(net: str) -> None:
    out = detector(net).eval().predict(view(0))
    if net == "faster_rcnn":
        out.found  # noqa: B018  # proposals are searched once
    with Waits() as plain:
        out.detections()
    with Waits() as more:
        clusters = out.clusters()
    assert (more.masks, more.copies) == (plain.masks, plain.copies)
    with Waits() as waits:
        cluster_spread(clusters)
    assert (waits.masks, waits.copies) == (0, 0)


def test_detections_without_clusters_say_so() -> None:
    bare = Detections(torch.zeros(1, 1, 4), torch.zeros(1, 1), torch.zeros(1, 1, dtype=torch.long))
    with pytest.raises(TypeError, match="without their clusters"):
        bare.to_clusters()

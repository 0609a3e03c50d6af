"""Which detections are right, one after the other, and the threshold of best F1."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import Tensor

from ssod.pseudo_labels.best_f1 import BestF1, best_thresholds, grid
from ssod.pseudo_labels.greedy_match import greedy_match
from ssod.structures import Targets
from ssod.structures.boxes import iou
from tests.parts import together
from tests.paths import golden_path
from tests.waits import Waits

FILE = np.load(golden_path("s4od_formulas.npz"), allow_pickle=False)
CASES = [case for case in json.loads(str(FILE["cases_json"])) if case["kind"] == "dsat"]


def array(case: dict, name: str, dtype: torch.dtype = torch.float64) -> Tensor:
    found = torch.from_numpy(FILE[f"{case['id']}.{name}"])
    return found.to(dtype) if found.is_floating_point() else found


def images_of(case: dict, dtype: torch.dtype) -> tuple[list[Targets], list[Targets], list[Tensor]]:
    """Return detections and truth of each image, and which rows of the case an image's detections are."""
    boxes, scores, wanted = (array(case, name, dtype) for name in ("boxes", "scores", "gt_boxes"))
    labels, image, classes, where = (array(case, name) for name in ("labels", "image", "gt_labels", "gt_image"))
    number = 1 + max([0, *image.tolist(), *where.tolist()])
    rows = [(image == i).nonzero().squeeze(1) for i in range(number)]
    detections = [Targets(boxes[r], labels[r], scores[r]) for r in rows]
    return detections, [Targets(wanted[where == i], classes[where == i]) for i in range(number)], rows


# ---- our reading of the paper in numbers ---------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_dsat_golden(case: dict, dtype: torch.dtype) -> None:
    detections, truth, rows = images_of(case, dtype)
    right, counts = greedy_match(detections, truth, case["iou"])
    assert torch.equal(right, array(case, "true_positive")[torch.cat(rows)])
    assert counts.all()
    torch.testing.assert_close(grid(torch.zeros((), dtype=torch.float64)), array(case, "grid"), rtol=1e-15, atol=0)
    best = BestF1(case["num_classes"], start=case["fallback"], overlap=case["iou"])
    best.count(detections, truth)
    assert best.images == len(truth)
    f1 = 2 * best.right.double() / (best.found + best.wanted[:, None])
    wanted = array(case, "f1")
    known = ~wanted.isnan()
    torch.testing.assert_close(f1[known], wanted[known], rtol=1e-6, atol=1e-8)
    assert torch.equal(best.wanted > 0, known.all(1))
    best.choose()
    torch.testing.assert_close(best.values, array(case, "threshold").float(), rtol=1e-6, atol=0)


# ---- matching ------------------------------------------------------------------------------------------------------


def one_after_the_other(found: Targets, truth: Targets, least: float) -> list[bool]:
    free, right = [True] * len(truth), [False] * len(found)
    overlap = iou(found.boxes, truth.boxes)
    for d in found.scores.argsort(descending=True, stable=True).tolist():
        best = [
            float(overlap[d, g]) if free[g] and truth.labels[g] == found.labels[d] else -1.0 for g in range(len(truth))
        ]
        if best and max(best) >= least:
            right[d], free[best.index(max(best))] = True, False
    return right


def crowded(seed: int, count: int, boxes: int, classes: int = 2) -> tuple[Targets, Targets]:
    """Detections that many boxes would do for, so that who comes first decides."""
    g = torch.Generator().manual_seed(seed)
    corner = torch.rand(boxes, 2, generator=g) * 25
    wanted = torch.cat([corner, corner + 20 + torch.rand(boxes, 2, generator=g) * 15], 1)
    near = wanted[torch.randint(0, boxes, (count,), generator=g)] if boxes else torch.rand(count, 4, generator=g)
    near = near + torch.randn(count, 4, generator=g) * 4
    scores = (torch.rand(count, generator=g) * 16).round() / 16  # some are equal
    labels = torch.randint(0, classes, (count + boxes,), generator=g)
    return Targets(near, labels[:count], scores), Targets(wanted, labels[count:])


@pytest.mark.parametrize("least", [0.3, 0.5, 0.75])
def test_all_at_once_is_one_after_the_other(least: float) -> None:
    pairs = [crowded(seed, *sizes) for seed, sizes in enumerate([(60, 12), (3, 30), (40, 1), (0, 4), (7, 0), (90, 25)])]
    detections, truth = map(list, zip(*pairs))
    right, counts = greedy_match(detections, truth, least)
    assert right.tolist() == [hit for d, t in pairs for hit in one_after_the_other(d, t, least)]
    assert 10 < right.sum() < len(right) - 10
    assert counts.all()
    alone = [greedy_match([d], [t], least)[0] for d, t in pairs]
    assert torch.equal(torch.cat(alone), right)


def test_a_chain_of_detections_that_like_what_is_taken_takes_as_many_rounds() -> None:
    """Each likes the box of the one before better than its own, and gets its own."""
    n = 8
    wanted = torch.tensor([[5.0 * i, 0, 5.0 * i + 30, 20] for i in range(n)])
    found = wanted - torch.tensor([3.0, 0, 3, 0])
    found[0] = wanted[0]
    scores = torch.linspace(0.9, 0.2, n)
    labels = torch.zeros(n, dtype=torch.long)
    turned = torch.arange(n).flip(0)
    d, t = Targets(found[turned], labels, scores[turned]), Targets(wanted, labels)
    assert (iou(found, wanted).argmax(1)[1:] == torch.arange(n - 1)).all()
    assert greedy_match([d], [t], 0.6)[0].tolist() == one_after_the_other(d, t, 0.6) == [True] * n


def test_a_crowd_is_no_box_to_find_and_what_lies_in_it_does_not_count() -> None:
    truth = Targets(
        torch.tensor([[0.0, 0, 20, 20], [40, 40, 100, 100]]), torch.tensor([0, 0]), weight=torch.tensor([1.0, 0])
    )
    boxes = torch.tensor([[0.0, 0, 20, 20], [50, 50, 60, 60], [95, 95, 115, 115], [50, 50, 60, 60], [60, 0, 80, 20]])
    found = Targets(boxes, torch.tensor([0, 0, 0, 1, 0]), torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5]))
    right, counts = greedy_match([found], [truth], 0.5)
    assert right.tolist() == [True, False, False, False, False]
    assert counts.tolist() == [True, False, True, True, True]  # the fourth is of another class
    best = BestF1(2, start=0.5, overlap=0.5)
    best.count([found], [truth])
    assert best.wanted.tolist() == [1, 0]
    assert best.found[:, 0].tolist() == [3, 1]
    assert best.right[:, 0].tolist() == [1, 0]


# ---- thresholds ----------------------------------------------------------------------------------------------------


def test_scores_above_the_grid_leave_it_at_its_lowest() -> None:
    detections, truth = map(list, zip(*(crowded(seed, 20, 6, classes=1) for seed in range(3))))
    high = [Targets(t.boxes, t.labels, 0.96 + 0.01 * t.scores) for t in detections]
    best = BestF1(1, start=0.5, overlap=0.5)
    best.count(high, truth)
    best.choose()
    assert best.values.tolist() == pytest.approx([0.05])


def test_of_equal_f1_the_lowest_wins_and_it_is_compared_exactly() -> None:
    """1 / 3 of large numbers is 1 / 3; one more right is more, however large the numbers."""
    found, right = torch.zeros(2, 19, dtype=torch.long), torch.zeros(2, 19, dtype=torch.long)
    found[0, 3], right[0, 3] = 2 * 10**6, 10**6
    found[0, 7], right[0, 7] = 10**6, 600_000  # less
    found[0, 9], right[0, 9] = 2 * 10**6, 10**6
    found[1, 4], right[1, 4] = 2 * 10**8, 10**8
    found[1, 8], right[1, 8] = 2 * 10**8, 10**8 + 1
    values = best_thresholds(found, right, torch.tensor([10**6, 10**8]), 0.5)
    assert values.tolist() == pytest.approx([0.20, 0.45])


def test_a_score_at_the_threshold_counts_and_passes() -> None:
    box = torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 30]])
    found, truth = Targets(box, torch.zeros(2).long(), torch.tensor([0.75, 0.25])), Targets(box, torch.zeros(2).long())
    best = BestF1(1, start=0.5, overlap=0.5)
    best.count([found], [truth])
    assert best.found[0].tolist() == [2] * 5 + [1] * 10 + [0] * 4
    best.choose()
    assert (found.scores >= best.values[found.labels]).all()


def test_a_choice_forgets_what_was_counted_and_waits_for_images() -> None:
    detections, truth = map(list, zip(*(crowded(seed, 20, 6) for seed in range(3))))
    best = BestF1(2, start=0.4, overlap=0.5)
    best.choose()
    assert best.values.tolist() == pytest.approx([0.4, 0.4])  # nothing was looked at
    best.count(detections, truth)
    best.choose()
    first = best.values.clone()
    assert (first != 0.4).any()
    assert not any(x.any() for x in (best.found, best.right, best.wanted, best.images))
    best.choose()
    assert torch.equal(best.values, first)
    best.count([Targets(t.boxes, t.labels, t.scores)[:0] for t in detections], truth)  # now nothing is found
    best.choose()
    assert best.values.tolist() == pytest.approx([0.4, 0.4])


def test_parts_of_a_step_count_as_one() -> None:
    """Three parts, one of them with nothing in it: sums of counts are whole numbers again."""
    pairs = [crowded(seed, *sizes) for seed, sizes in enumerate([(60, 12), (0, 0), (90, 25)])]
    whole = BestF1(2, start=0.5, overlap=0.5)
    whole.count(*map(list, zip(*pairs)))
    parts = [BestF1(2, start=0.5, overlap=0.5) for _ in pairs]

    def part(best: BestF1, d: Targets, t: Targets) -> None:
        for value in (best.found, best.right, best.wanted, best.images):  # what the engine does before each run
            value.zero_()
        best.count([d], [t])

    together([lambda best=best, d=d, t=t: part(best, d, t) for best, (d, t) in zip(parts, pairs)])
    for best in parts:
        assert all(torch.equal(a, b) for a, b in zip(best.state_dict().values(), whole.state_dict().values()))


def test_counting_and_choosing_wait_for_nothing() -> None:
    detections, truth = map(list, zip(*(crowded(seed, 20, 6) for seed in range(3))))
    best = BestF1(2, start=0.5, overlap=0.5)
    with Waits() as waits:
        best.count(detections, truth)
        best.choose()
    assert (waits.masks, waits.copies) == (0, 0)

"""Evaluation in columns gives, to the last bit, what pycocotools and VOC's own loop give."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from ssod.evaluation import greedy
from ssod.evaluation.coco import NAMES, coco_metrics
from ssod.evaluation.columns import Found, Wanted
from ssod.evaluation.greedy import IOUS
from ssod.evaluation.matching import match
from ssod.evaluation.precision import curves
from ssod.evaluation.voc import voc_metrics
from tests.amount import examples
from tests.evaluation import oracles
from tests.evaluation.golden import COCO, coco_case

Set = tuple[dict[str, Any], list[dict]]


def random_set(seed: int, images: int = 4, classes: int = 5) -> Set:
    """Return a set of small images: crowds, areas of the file's own, equal scores, equal boxes, classes without any.

    Half of the sets have boxes on a grid, so that overlaps are equal to each other and to thresholds.
    """
    rng = np.random.default_rng(seed)
    ids = [int(i) for i in rng.permutation(1000)[:images]]
    ids = [f"{i}.jpg" if rng.random() < 0.6 else i for i in ids] if seed % 3 == 0 else ids
    categories = [int(i) for i in rng.permutation(90)[:classes]]
    on_grid, tied = rng.random() < 0.5, rng.random() < 0.5

    def box() -> list[float]:
        corner, sides = rng.random(2) * 60, rng.random(2) * rng.choice([20, 60, 150]) + 1
        return [*(np.round(corner / 4) * 4), *(np.ceil(sides / 4) * 4)] if on_grid else [*corner, *sides]

    def moved(old: list[float]) -> list[float]:
        if rng.random() < 0.3:
            return old
        new = np.array(old) + (rng.integers(-1, 2, 4) * 4 if on_grid else rng.normal(0, 4, 4))
        return [*new[:2], *np.maximum(new[2:], 1)]

    truth, results = [], []
    for image in ids:
        some = [int(k) for k in rng.choice(categories[1:] or categories, rng.integers(0, 9))]
        here: list[dict] = [{"image_id": image, "category_id": k, "bbox": box()} for k in some]
        for row in here:
            row |= {"iscrowd": 1} if rng.random() < 0.2 else {}
            row |= {"difficult": 1} if rng.random() < 0.2 else {}
            row |= {"area": float(rng.choice([1, 900, 1024, 5000, 9216, 20000]))} if rng.random() < 0.3 else {}
        truth += here
        for _ in range(rng.integers(0, 30)):
            near = here[rng.integers(len(here))] if here and rng.random() < 0.7 else None
            label = near["category_id"] if near and rng.random() < 0.8 else int(rng.choice(categories))
            score = float(rng.integers(1, 6) / 5 if tied else rng.random())
            bbox = [float(x) for x in (moved(near["bbox"]) if near else box())]
            results.append({"image_id": image, "category_id": label, "bbox": bbox, "score": score})
    results = [results[i] for i in rng.permutation(len(results))]
    named = [{"id": k, "name": f"class {k}"} for k in categories]
    return {"images": [{"id": i} for i in ids], "annotations": truth, "categories": named}, results


def compare(truth: dict[str, Any], results: list[dict], limits: tuple[int, ...]) -> None:
    """Every value of precision and recall, and the numbers made of them, are pycocotools' own."""
    theirs = oracles.coco(truth, results, list(limits))
    found, wanted = Found.of_results(results, truth), Wanted.of(truth, sort=True)
    for m in range(len(limits)):
        ours = curves(found, wanted, limits[: m + 1])
        assert np.array_equal(ours.precision, theirs.eval["precision"][..., m])
        assert np.array_equal(ours.recall, theirs.eval["recall"][..., : m + 1])
    numbers = coco_metrics(truth, found, limits[-1])
    # pycocotools finds its numbers by the limits 1, 10, 100 alone; it says -1 where there is none.
    if limits == (1, 10, 100):
        assert [-1 if math.isnan(numbers[name]) else numbers[name] for name in NAMES] == theirs.stats.tolist()


@pytest.mark.parametrize("case", COCO["cases"], ids=lambda c: c["name"])
def test_precision_of_the_golden_cases(case: dict) -> None:
    truth, results = coco_case(case)
    known = {category["id"] for category in truth["categories"]}
    truth = {**truth, "annotations": [row for row in truth["annotations"] if row["category_id"] in known]}
    compare(truth, [row for row in results if row["category_id"] in known], (1, 10, 100))


def test_precision_of_a_thousand_classes() -> None:
    """Each class of a set is a case of its own: they share nothing but images."""
    for seed in range(20):
        compare(*random_set(seed, 4, 50), (1, 10, 100))


def test_precision_of_many_sets() -> None:
    for seed in range(100, 100 + examples(150)):
        limits = ((1, 10, 100), (1, 2, 3), (2, 5, 12))[seed % 3]
        compare(*random_set(seed, 1 + seed % 7, 1 + seed % 6), limits)


def opened(truth: dict[str, Any], seed: int) -> dict[str, Any]:
    """Say of half of the images that some classes are incomplete, of a few that all are."""
    rng, names = np.random.default_rng(seed), [category["name"] for category in truth["categories"]]
    said = [True if rng.random() < 0.2 else [name for name in names if rng.random() < 0.4] for _ in truth["images"]]
    images = [
        image | ({"incomplete": open} if rng.random() < 0.5 else {}) for image, open in zip(truth["images"], said)
    ]
    return {**truth, "images": images}


def test_incomplete_labels_are_judged_as_in_lvis() -> None:
    changed = 0
    for seed in range(examples(20)):
        truth, results = random_set(seed)
        some = opened(truth, seed)
        compare(some, results, (1, 10, 100))
        changed += coco_metrics(some, results)["AP"] != coco_metrics(truth, results)["AP"]
    assert changed > 5


def test_parts_of_the_pairs_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    truth, results = random_set(1, 5, 2)
    whole = [coco_metrics(truth, results), voc_metrics(truth, results)]
    for most in (1, 7):
        monkeypatch.setattr(greedy, "_PAIRS", most)
        assert repr([coco_metrics(truth, results), voc_metrics(truth, results)]) == repr(whole)


@pytest.mark.parametrize("eleven_points", [False, True])
def test_voc_is_the_walk_down_the_scores(eleven_points: bool) -> None:
    for seed in range(25):
        truth, results = random_set(seed)
        theirs = oracles.voc(truth, results, eleven_points)
        ours = voc_metrics(truth, results, eleven_points=eleven_points)
        for category, values in zip(truth["categories"], theirs):
            assert repr(ours[f"AP/{category['name']}"]) == repr(float(np.mean(values)))
            assert repr(ours[f"AP50/{category['name']}"]) == repr(values[0])


@pytest.mark.parametrize("metric", ["coco", "voc"])
def test_the_table_says_what_each_detection_found(metric: str) -> None:
    """By hand: a hit, a second hit on the same box, a hit on a crowd, a miss; the last two images have nothing."""
    box, crowd, away = [0.0, 0, 10, 10], [50.0, 0, 20, 20], [80.0, 80, 5, 5]
    truth = {
        "images": [{"id": i} for i in (4, 2, 7)],
        "categories": [{"id": 9, "name": "a"}, {"id": 3, "name": "b"}],
        "annotations": [
            {"image_id": 2, "category_id": 3, "bbox": bbox, "iscrowd": flag} for bbox, flag in ((box, 0), (crowd, 1))
        ],
    }
    rows = [(box, 0.9), (box, 0.8), (crowd, 0.7), (away, 0.6)]
    results = [{"image_id": 2, "category_id": 3, "bbox": bbox, "score": score} for bbox, score in rows[::-1]]
    table = match(truth, results, metric)
    assert table.ids == ([2, 4, 7] if metric == "coco" else [4, 2, 7])
    assert table.image.tolist() == [table.ids.index(2)] * 4
    assert table.label.tolist() == [1] * 4
    assert table.right.all(1).tolist() == [True, False, False, False]
    assert (~table.counted).all(1).tolist() == [False, False, True, False]
    assert table.iou.tolist() == [1, 1, 0, 0]
    assert table.wanted.sum(0).tolist() == [0, 1]
    assert table.right.shape == (4, len(IOUS))


def test_shares_of_ranks_are_joined() -> None:
    truth, results = random_set(5, 4, 3)
    whole = Found.of_results(results, truth)
    ids = [image["id"] for image in truth["images"]]
    shares = [[row for row in results if ids.index(row["image_id"]) % 2 == rank] for rank in (0, 1)]
    joined = Found.joined([Found.of_results(share, truth) for share in shares])
    assert len(joined) == len(whole)
    assert repr(coco_metrics(truth, joined)) == repr(coco_metrics(truth, whole))
    assert len(Found.of_images([])) == len(Found.joined([Found.of_images([])])) == 0


def test_an_image_that_is_not_listed_is_refused() -> None:
    truth, results = random_set(2)
    with pytest.raises(KeyError, match="absent"):
        coco_metrics(truth, [*results, {**results[0], "image_id": "absent"}])

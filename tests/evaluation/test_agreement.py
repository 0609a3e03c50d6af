"""Labels against their corrections: shares by hand, and an interval that holds the share as often as it says."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ssod.evaluation.agreement import ALL, Agreement, Z, agreement, wilson


def truth() -> dict:
    boxes = [(1, 1, [0, 0, 10, 10]), (1, 1, [50, 0, 10, 10]), (2, 2, [0, 0, 10, 10])]
    return {
        "images": [{"id": 1}, {"id": 2}],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}, {"id": 3, "name": "cow"}],
        "annotations": [
            {"id": i, "image_id": image, "category_id": k, "bbox": box, "iscrowd": 0}
            for i, (image, k, box) in enumerate(boxes, 1)
        ],
    }


def row(image: int, category: int, box: list[float], score: float = 1.0) -> dict:
    return {"image_id": image, "category_id": category, "bbox": box, "score": score}


def test_by_hand() -> None:
    labels = [
        row(1, 1, [0, 0, 10, 10]),  # right
        row(1, 1, [1, 0, 10, 10]),  # the same object again
        row(1, 2, [50, 0, 10, 10]),  # of another class
        row(2, 2, [4, 0, 10, 10]),  # IoU 6 / 14
        row(2, 3, [90, 90, 5, 5]),  # there is no cow
    ]
    found = agreement(truth(), labels)
    assert found == [
        Agreement("cat", 2, 1, 2),
        Agreement("dog", 2, 0, 1),
        Agreement("cow", 1, 0, 0),
        Agreement(ALL, 5, 1, 3),
    ]
    assert (found[0].precision, found[0].recall) == (0.5, 0.5)
    assert math.isnan(found[2].recall)
    assert agreement(truth(), [])[-1] == Agreement(ALL, 0, 0, 3)


def test_a_region_to_ignore_makes_no_label_wrong() -> None:
    table = truth()
    table["annotations"][0]["iscrowd"] = 1
    assert agreement(table, [row(1, 1, [2, 2, 5, 5])])[0] == Agreement("cat", 0, 0, 1)


def test_more_boxes_than_coco_counts_are_counted() -> None:
    labels = [row(1, 1, [0, 0, 10, 10])] + [row(1, 1, [200 + i, 200, 1, 1]) for i in range(150)]
    assert agreement(truth(), labels)[0] == Agreement("cat", 151, 1, 2)


@pytest.mark.parametrize(("right", "total"), [(0, 10), (10, 10), (3, 10), (45, 50), (1, 1)])
def test_the_interval_ends_where_the_share_is_so_many_deviations_off(right: int, total: int) -> None:
    low, high = wilson(right, total)
    assert 0 <= low <= right / total <= high <= 1
    for end in (low, high):
        if 0 < end < 1:
            assert abs(right / total - end) == pytest.approx(Z * math.sqrt(end * (1 - end) / total))
    assert all(map(math.isnan, wilson(0, 0)))


def test_the_interval_of_a_share_that_is_printed_everywhere() -> None:
    """Of 10 of 10 the lower end is total / (total + Z^2), by the formula."""
    assert wilson(10, 10)[0] == pytest.approx(10 / (10 + Z**2))
    assert wilson(0, 10)[1] == pytest.approx(Z**2 / (10 + Z**2))


def test_it_holds_the_share_about_as_often_as_it_says() -> None:
    draws = np.random.default_rng(0).binomial(50, 0.9, 4000)
    ends = [wilson(int(right), 50) for right in draws]
    assert 0.92 < np.mean([low <= 0.9 <= high for low, high in ends]) < 0.99

"""Within reach: the formula against every anchor and point there is, by brute force."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from ssod.data.checks.reach import Anchored, Coverage, Points, Seen, Shapes, cover

CANVAS = (100, 70)


def boxes(n: int = 60, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    side = np.exp(rng.uniform(np.log(2), np.log(65), (n, 2)))
    corner = rng.uniform(0, 1, (n, 2)) * np.maximum(np.array(CANVAS) - side, 0)
    return np.concatenate([corner, np.minimum(corner + side, CANVAS)], 1)


def seen(rows: np.ndarray) -> Seen:
    canvas = np.tile(np.array(CANVAS, dtype=np.float64), (len(rows), 1))
    return Seen(rows, canvas, np.arange(len(rows)) % 2)


def cells(stride: float, offset: float) -> list[tuple[float, float]]:
    columns, lines = (range(math.ceil(side / stride)) for side in CANVAS)
    return [((x + offset) * stride, (y + offset) * stride) for x, y in itertools.product(columns, lines)]


def iou(a: np.ndarray, b: np.ndarray) -> float:
    inner = np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None).prod()
    return float(inner / ((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - inner))


@pytest.mark.parametrize("offset", [0.0, 0.5])
def test_the_best_anchor_of_all(offset: float) -> None:
    sides = (((8.0, 8.0), (6.0, 12.0)), ((30.0, 30.0),), ((64.0, 20.0),))
    rule, rows = Anchored((4, 8, 32), sides, offset=offset), boxes()
    anchors = [
        np.array([x - w / 2, y - h / 2, x + w / 2, y + h / 2])
        for stride, level in zip(rule.strides, sides)
        for x, y in cells(stride, offset)
        for w, h in level
    ]
    best = np.array([max(iou(row, anchor) for anchor in anchors) for row in rows])
    np.testing.assert_allclose(rule.overlap(seen(rows)), best, rtol=1e-9)
    assert 0.1 < rule.within(seen(rows)).mean() < 0.9


def test_the_place_on_the_grid_counts() -> None:
    rule = Anchored((16,), (((16.0, 16.0),),))
    on, between = np.array([[8.0, 8, 24, 24]]), np.array([[16.0, 16, 32, 32]])
    assert rule.overlap(seen(on))[0] == pytest.approx(1)
    assert rule.overlap(seen(between))[0] == pytest.approx(64 / (512 - 64))
    assert rule.within(seen(np.concatenate([on, between]))).tolist() == [True, False]


@pytest.mark.parametrize("radius", [1.5, math.inf])
def test_a_point_of_the_right_level(radius: float) -> None:
    """As FCOS assigns: a point inside, near the center, on the level whose range holds the farthest side."""
    rule, rows = Points((4, 8, 16), radius), boxes(200)
    found = []
    for row in rows:
        center = (row[:2] + row[2:]) / 2
        takes = False
        for i, stride in enumerate(rule.strides):
            low, high = 0 if i == 0 else 4 * stride, math.inf if i == 2 else 8 * stride
            for point in map(np.array, cells(stride, 0.0)):
                near = np.abs(point - center).max() < radius * stride
                sides = np.concatenate([point - row[:2], row[2:] - point])
                takes |= bool(near and sides.min() > 0 and low < sides.max() < high)
        found.append(takes)
    assert rule.within(seen(rows)).tolist() == found
    assert 0.1 < np.mean(found) < 1


def test_shapes_alone() -> None:
    rows = np.array([[0.0, 0, 10, 10], [0, 0, 39, 10], [0, 0, 41, 10], [0, 0, 2, 10]])
    assert Shapes(((10.0, 10.0),)).within(seen(rows)).tolist() == [True, True, False, False]


def test_what_is_out_of_reach_is_named() -> None:
    rows = np.array([[8.0, 8, 24, 24], [0, 0, 3, 3], [40, 40, 56, 56], [50, 50, 55, 55]])
    found = cover(seen(rows), Anchored((8,), (((16.0, 16.0),),)), ("bolt", "nut"))
    assert found == Coverage(4, 2, 4.0, "nut", 2, 2)
    assert found.within() == "50 % of 4 boxes"
    assert found.beyond() == "2, median side 4 pixels of the network's input; 'nut' loses most: 2 of 2"


def test_nearly_all_is_not_all() -> None:
    assert Coverage(10_000, 1).within() == "99.9 % of 10000 boxes"
    assert Coverage(10_000, 0).within() == "100 % of 10000 boxes"
    assert Coverage(0, 0).share == 1


def test_a_set_without_boxes() -> None:
    empty = Seen(np.zeros((0, 4)), np.zeros((0, 2)), np.zeros(0, dtype=np.int64))
    for rule in (Anchored((8,), (((16.0, 16.0),),)), Points((8, 16)), Shapes(((10.0, 10.0),))):
        assert cover(empty, rule, ("bolt",)) == Coverage(0, 0)

"""Boxes that a person should look at: each rule at its limit, and pairs against all pairs."""

from __future__ import annotations

import numpy as np
import torch

from ssod.data.checks.odd_boxes import SAME, odd_boxes, two_classes
from ssod.data.formats.records import Classes, Images, Labeled
from ssod.structures.boxes import iou


def labeled(boxes: list[list[list[float]]], labels: list[list[int]], crowd: list[int] = ()) -> Labeled:
    """Return images of 200 x 100 with boxes."""
    counts = [len(own) for own in boxes]
    rows = np.array([box for own in boxes for box in own], np.float32).reshape(-1, 4)
    images = Images(
        "", [f"{i}.png" for i in range(len(boxes))], range(len(boxes)), np.tile([100, 200], (len(boxes), 1))
    )
    return Labeled(
        images, Classes(("a", "b"), (1, 2)), rows, np.array([label for own in labels for label in own], np.int64),
        np.isin(np.arange(len(rows)), crowd), np.zeros(len(rows), bool), np.cumsum([0, *counts]),
    )  # fmt: skip


def test_each_rule_asks_about_its_boxes_the_worst_first() -> None:
    boxes = [[[0, 0, 1.4, 1.4], [0, 0, 1, 1], [0, 0, 1.5, 1.5]], [], [[0, 0, 200, 95], [5, 5, 25, 6], [9, 9, 200, 99]]]
    found = {odd.name: odd for odd in odd_boxes(labeled(boxes, [[0, 0, 0], [], [0, 0, 0]]))}
    assert {name: odd.rows.tolist() for name, odd in found.items()} == {
        "tiny": [1, 0], "huge": [3], "long": [4], "two classes": []
    }  # fmt: skip
    np.testing.assert_allclose(found["long"].values, 20)
    crowds = {odd.name: len(odd.rows) for odd in odd_boxes(labeled(boxes, [[0, 0, 0], [], [0, 0, 0]], list(range(6))))}
    assert set(crowds.values()) == {0}
    assert all(not len(odd.rows) for odd in odd_boxes(labeled([[], []], [[], []])))


def test_two_classes_at_one_place_are_those_of_all_pairs() -> None:
    draw = np.random.default_rng(0)
    boxes, labels = [], []
    for _ in range(30):
        corner = draw.uniform(0, 80, (6, 2))
        own = np.concatenate([corner, corner + draw.uniform(5, 60, (6, 2))], 1)
        own = np.concatenate([own, own + draw.normal(0, 0.7, own.shape), own + draw.normal(0, 2, own.shape)])
        boxes.append(own[draw.permutation(18)].tolist())
        labels.append(draw.integers(0, 2, 18).tolist())
    data = labeled(boxes, labels)
    wanted = set()
    for start, end in zip(data.starts, data.starts[1:]):
        overlap = iou(*[torch.from_numpy(data.boxes[start:end]).double()] * 2).numpy()
        for i, j in zip(*np.nonzero(overlap >= SAME)):
            if i < j and data.labels[start + i] != data.labels[start + j]:
                wanted.add((int(start + i), int(start + j)))
    one, other, overlap = two_classes(data)
    assert {tuple(sorted(pair)) for pair in zip(one.tolist(), other.tolist())} == wanted
    assert len(one) == len(wanted) > 20
    assert (overlap >= SAME).all()

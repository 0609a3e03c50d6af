"""What a sure model doubts in labels: by hand."""

from __future__ import annotations

import numpy as np
import torch

from ssod.data.formats.records import Classes, Images, Labeled
from ssod.inference.model import Detected
from ssod.inference.suspects import doubts

A, B = 0, 1


def asked(
    detected: list[tuple[list[float], int]], order: tuple[int, int] = (A, B)
) -> list[tuple[list[float], int, int]]:
    """Return (box, class, label) of the doubts about the second of two images: an ``a``, a ``b`` and a crowd."""
    boxes = np.array([[0, 0, 9, 9], [10, 10, 30, 30], [50, 10, 70, 30], [100, 0, 200, 100]], np.float32)
    data = Labeled(
        Images("", ["0.png", "1.png"], [0, 1], np.array([[100, 200]] * 2)), Classes(("a", "b"), (1, 2)), boxes,
        np.array([A, A, B, A]), np.array([False, False, False, True]), np.zeros(4, bool), np.array([0, 1, 4]),
    )  # fmt: skip
    sure = Detected(
        torch.tensor([box for box, _ in detected], dtype=torch.float32).reshape(-1, 4),
        torch.tensor([label for _, label in detected], dtype=torch.long), torch.linspace(0.9, 0.8, len(detected)),
    )  # fmt: skip
    return [(list(one.box), one.label, one.row) for one in doubts(data, 1, sure, list(order))]


def test_what_labels_explain_is_not_doubted() -> None:
    assert asked([([11, 10, 30, 30], A), ([50, 12, 70, 30], B), ([110, 10, 150, 60], B), ([14, 14, 34, 34], B)]) == []
    assert asked([]) == []


def test_an_object_without_a_label_and_one_of_another_class() -> None:
    assert asked([([80, 60, 95, 90], B)]) == [([80, 60, 95, 90], B, -1)]
    assert asked([([11, 10, 30, 30], B)]) == [([11, 10, 30, 30], B, 1)]
    assert asked([([11, 10, 30, 30], A)], order=(B, A)) == [([11, 10, 30, 30], B, 1)]  # the model's own order
    assert asked([([11, 10, 30, 30], B), ([10, 10, 30, 30], A)]) == []  # it sees the label's class there, too

"""The threshold of a class is the lowest score from which the asked share of its boxes is right."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ssod.evaluation.cutoffs import Cutoff, cutoffs, lines
from ssod.evaluation.greedy import IOUS
from ssod.evaluation.matching import Matches


def table(scores: list[float], right: list[int], label: list[int], counted: list[int] | None = None) -> Matches:
    """Return the matches of two classes on one image, in any order."""
    order = np.argsort(-np.array(scores), kind="stable")
    wide = np.ones(len(IOUS), bool)
    columns = {
        "image": np.zeros(len(scores), np.int32),
        "label": np.array(label, np.int32)[order],
        "score": np.array(scores, np.float32)[order],
        "iou": np.zeros(len(scores), np.float32),
        "right": np.array(right, bool)[order, None] & wide,
        "counted": np.array(counted or [1] * len(scores), bool)[order, None] & wide,
        "wanted": np.array([[10, 4]], np.int32),
    }
    return Matches([1], ("cat", "dog"), **columns)


def brute(matches: Matches, k: int, precision: float, least: int) -> float | None:
    """Return the lowest score by trying each."""
    rows = (matches.label == k) & matches.counted[:, 0]
    for score in sorted(set(matches.score[rows].tolist())):
        chosen = matches.right[rows & (matches.score >= score), 0]
        if len(chosen) >= least and chosen.mean() >= precision - 1e-12:
            return score
    return None


def test_by_hand() -> None:
    scores = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4]
    first, second = cutoffs(table(scores, [1, 1, 0, 1, 0, 0], [0] * 6), 0.75, least=2)
    assert (first.score, first.precision) == (pytest.approx(0.6), 0.75)
    assert (first.boxes, first.right, first.wanted) == (4, 3, 10)
    assert second.score is None
    assert math.isnan(second.precision)
    assert second.wanted == 4
    assert "0.600" in first.line()


def test_a_class_that_cannot_reach_it_says_how_far_it_comes() -> None:
    found, _ = cutoffs(table([0.9, 0.8, 0.7], [1, 0, 1], [0] * 3), 0.9, least=2)
    assert found == Cutoff("cat", None, pytest.approx(2 / 3), 3, 2, 10)
    assert lines([found], 0.9)[1] == "  cat: none, at most 66.7 % of 3 right"


def test_equal_scores_are_taken_together_and_what_does_not_count_is_passed_over() -> None:
    found, _ = cutoffs(table([0.9, 0.5, 0.5], [1, 1, 0], [0] * 3), 0.9, least=1)
    assert found.score == pytest.approx(0.9)
    found, _ = cutoffs(table([0.9, 0.5, 0.5], [1, 1, 0], [0] * 3, [1, 1, 0]), 0.9, least=1)
    assert found.score == pytest.approx(0.5)
    assert found.boxes == 2


def test_a_few_boxes_are_not_enough() -> None:
    right = [1] * 19
    assert cutoffs(table(np.linspace(0.5, 0.9, 19).tolist(), right, [0] * 19), 0.9)[0].score is None
    assert cutoffs(table(np.linspace(0.5, 0.9, 20).tolist(), [1, *right], [0] * 20), 0.9)[0].score == pytest.approx(0.5)


def test_it_is_what_trying_each_score_gives() -> None:
    rng = np.random.default_rng(0)
    seen = set()
    for trial in range(200):
        n = int(rng.integers(1, 40))
        scores = (rng.integers(1, 12, n) / 12).tolist()
        right = (rng.random(n) < scores).astype(int).tolist()
        matches = table(scores, right, rng.integers(0, 2, n).tolist(), (rng.random(n) < 0.9).astype(int).tolist())
        precision, least = (0.5, 0.8, 1.0)[trial % 3], int(rng.integers(1, 6))
        for k, found in enumerate(cutoffs(matches, precision, least)):
            assert found.score == brute(matches, k, precision, least)
            seen.add(found.score is None)
    assert seen == {True, False}

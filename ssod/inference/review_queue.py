"""Which pseudo-labelled images a person should look at first: those with the most boxes near the score threshold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ssod.utils import atomic
from ssod.utils.plain_text import comma_separated

SHARE = 0.5  # boxes above this share of the threshold are looked at, too


@dataclass(frozen=True)
class Doubt:
    """How unsure the labels of an image are.

    Attributes:
        path: the image.
        doubt: the sum over boxes of how near their scores are to the threshold: 1 on it, 0 at half of it and at 1.
        kept: boxes that became labels.
        below: boxes that just did not.
        lowest: the lowest score of a label; None without a label.
    """

    path: str
    doubt: float
    kept: int
    below: int
    lowest: float | None


def nearness(scores: np.ndarray, threshold: float | np.ndarray) -> np.ndarray:
    """Return how unsure boxes are, [M] in 0..1: 1 on the threshold, falling to 0 at ``SHARE`` of it, and at 1."""
    room = np.where(scores > threshold, 1 - threshold, (1 - SHARE) * threshold)
    return np.clip(1 - np.abs(scores - threshold) / np.maximum(room, 1e-6), 0, 1)


def doubt(path: str, scores: np.ndarray, threshold: float | np.ndarray, kept: np.ndarray | None = None) -> Doubt:
    """Judge an image by all boxes above ``SHARE`` of their threshold.

    Args:
        path: the image.
        scores: [M].
        threshold: of all of them, or [M].
        kept: [M] bool, which became labels; None = those above their threshold.
    """
    kept = scores > threshold if kept is None else kept
    near = nearness(scores, threshold)
    lowest = float(scores[kept].min()) if kept.any() else None
    return Doubt(path, float(near.sum()), int(kept.sum()), int((~kept).sum()), lowest)


def advice(doubts: Sequence[Doubt], threshold: float) -> str:
    """Say what to do where no box scored above ``threshold``."""
    near = sum(d.below for d in doubts)
    fix = "lower --score" if near else "lower --score further, or train the model longer"
    return f"no label: {near} boxes score between {SHARE * threshold:g} and {threshold:g}; {fix}"


def place(target: Path) -> Path:
    """Return the file of the ranking that belongs to labels at ``target``, a folder or a ``.json`` file."""
    if target.suffix != ".json":
        return target / "review.csv"
    return target.with_name("review.csv" if target.name == "instances.json" else f"{target.stem}-review.csv")


def write(path: Path, doubts: Sequence[Doubt]) -> None:
    """Write images as CSV, the most doubtful first.

    Raises:
        SsodError: with code 6 when the disk refuses.
    """
    rows: list[list[object]] = [["rank", "image", "doubt", "labels", "boxes just below", "lowest score"]]
    for rank, d in enumerate(sorted(doubts, key=lambda d: (-d.doubt, d.path)), 1):
        lowest = "" if d.lowest is None else f"{d.lowest:.3f}"
        rows.append([rank, d.path, f"{d.doubt:.3f}", d.kept, d.below, lowest])
    atomic.write_text(path, comma_separated(rows))

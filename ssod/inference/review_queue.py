"""Which pseudo-labelled images a person should look at first: those with the most boxes near the score threshold."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from math import isnan, nan
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


class Doubts:
    """``Doubt`` of many images; each takes 32 bytes beside its path.

    Args:
        doubts: the first of them.
    """

    def __init__(self, doubts: Iterable[Doubt] = ()) -> None:
        self.paths: list[str] = []
        self._doubt, self._lowest = array("d"), array("d")
        self._kept, self._below = array("q"), array("q")
        for one in doubts:
            self.add(one)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, at: int) -> Doubt:
        lowest = self._lowest[at]
        known = None if isnan(lowest) else lowest
        return Doubt(self.paths[at], self._doubt[at], self._kept[at], self._below[at], known)

    def add(self, one: Doubt) -> None:
        """Add that of the next image."""
        self.paths.append(one.path)
        self._doubt.append(one.doubt)
        self._kept.append(one.kept)
        self._below.append(one.below)
        self._lowest.append(nan if one.lowest is None else one.lowest)

    def below(self) -> int:
        """Return how many boxes just did not become labels."""
        return sum(self._below)

    def ranked(self) -> Iterator[Doubt]:
        """Yield them, the most doubtful first; of equal ones by path."""
        by_path = np.array(sorted(range(len(self)), key=self.paths.__getitem__), np.int64)
        doubt = np.array(self._doubt)
        return map(self.__getitem__, by_path[np.argsort(-doubt[by_path], kind="stable")].tolist())


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


def advice(doubts: Doubts, threshold: float) -> str:
    """Say what to do where no box scored above ``threshold``."""
    near = doubts.below()
    fix = "lower --score" if near else "lower --score further, or train the model longer"
    return f"no label: {near} boxes score between {SHARE * threshold:g} and {threshold:g}; {fix}"


def place(target: Path) -> Path:
    """Return the file of the ranking that belongs to labels at ``target``, a folder or a ``.json`` file."""
    if target.suffix != ".json":
        return target / "review.csv"
    return target.with_name("review.csv" if target.name == "instances.json" else f"{target.stem}-review.csv")


def write(path: Path, doubts: Doubts) -> None:
    """Write images as CSV, the most doubtful first.

    Raises:
        SsodError: with code 6 when the disk refuses.
    """
    head = comma_separated([["rank", "image", "doubt", "labels", "boxes just below", "lowest score"]])
    lines = (comma_separated([_row(rank, d)]) for rank, d in enumerate(doubts.ranked(), 1))
    atomic.write(path, lambda file: file.writelines(line.encode() for line in chain([head], lines)))


def _row(rank: int, d: Doubt) -> list[object]:
    lowest = "" if d.lowest is None else f"{d.lowest:.3f}"
    return [rank, d.path, f"{d.doubt:.3f}", d.kept, d.below, lowest]

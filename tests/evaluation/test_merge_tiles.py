"""What is found in the tiles of an image is found once in the image, whole where a tile shows it whole."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ssod.evaluation.merge_tiles import Merging, merge
from ssod.structures import Targets, Tiles

SIZE = (160, 112)  # width, height
TILES = Tiles(size=64, overlap=0.25)
GRID = np.array(TILES.grid(SIZE), dtype=np.float64)


def seen(objects: list[list[float]], scores: list[float], labels: list[int] | None = None) -> list[tuple]:
    """What a perfect detector finds in each tile: what that shows of each object, surer of parts than of whole ones."""
    truth, parts = torch.tensor(objects, dtype=torch.float64), []
    score, label = torch.tensor(scores), torch.tensor(labels or [0] * len(objects))
    for rect in GRID:
        low = torch.maximum(truth[:, :2], torch.from_numpy(rect[:2]))
        high = torch.minimum(truth[:, 2:], torch.from_numpy(rect[2:]))
        there = ((high - low) > 2).all(1)
        part = torch.cat([low, high], 1)
        surer = torch.where((part == truth).all(1), score, score + 0.1)
        parts.append((Targets(part[there], label[there], surer[there]), rect))
    return parts


def test_an_object_in_the_overlap_of_four_tiles_is_one_box() -> None:
    left, top, right, bottom = GRID[0][2] - 12, GRID[0][3] - 12, GRID[0][2] - 4, GRID[0][3] - 4
    parts = seen([[left, top, right, bottom]], [0.5])
    assert sum(len(found) for found, _ in parts) == 4
    found = merge(parts, 0.5, 100)
    assert found.boxes.tolist() == [[left, top, right, bottom]]


@pytest.mark.parametrize("shift", range(0, 40, 4))
def test_a_whole_box_wins_over_its_parts_whatever_their_scores(shift: int) -> None:
    """Wherever it lies; objects that are smaller than the overlap are whole in some tile."""
    boxes = [[30.0 + shift, 25 + shift, 43 + shift, 38 + shift], [90.0 - shift, 20, 98 - shift, 33]]
    found = merge(seen(boxes, [0.6, 0.4]), 0.5, 100)
    assert found.boxes.tolist() == boxes
    assert found.scores.tolist() == pytest.approx([0.6, 0.4])


def test_an_object_that_no_tile_shows_whole_is_joined() -> None:
    found = merge(seen([[20.0, 40, 150, 60]], [0.5]), 0.5, 100)
    assert found.boxes.tolist() == [[20, 40, 150, 60]]


def test_neighbours_and_other_classes_stay() -> None:
    boxes = [[50.0, 50, 60, 60], [60.0, 50, 70, 60], [50.0, 50, 60, 60]]
    found = merge(seen(boxes, [0.5, 0.4, 0.3], [0, 0, 1]), 0.5, 100)
    assert found.boxes.tolist() == boxes
    assert found.labels.tolist() == [0, 0, 1]
    assert len(merge(seen(boxes, [0.5, 0.4, 0.3], [0, 0, 1]), 0.5, 2)) == 2


def test_nothing_found_is_nothing() -> None:
    assert len(merge(seen([[0.0, 0, 1, 1]], [0.5]), 0.5, 100)) == 0


def test_an_image_is_there_with_its_last_tile_and_one_of_one_tile_is_left_alone() -> None:
    merging, parts = Merging(0.5, 1), seen([[5.0, 5, 15, 15], [100.0, 60, 110, 70]], [0.5, 0.6])
    said = [merging.add("a", len(GRID), found, rect) for found, rect in parts]
    assert all(found is None for found in said[:-1])
    assert said[-1] is not None
    assert said[-1].boxes.tolist() == [[100, 60, 110, 70]]
    assert merging.waiting == {}
    two = parts[0][0]
    assert merging.add("b", 1, two, GRID[0]) is two

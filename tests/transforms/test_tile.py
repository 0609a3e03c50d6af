"""Tiles: the grid covers an image, and in training every view of an image begins with the same part of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ssod.data.formats.records import Images
from ssod.structures import Pseudo, Targets, Tiles
from ssod.structures.tiles import shown_share
from ssod.transforms.tile import begin_with_tile, cut
from ssod.transforms.transform import Seen, Setting
from ssod.transforms.views import ViewsConfig
from ssod.utils import seeding
from tests.transforms.common import loaded, make_labeled, picture

TILES = Tiles(size=32, overlap=0.25)


@pytest.mark.parametrize("size", [(32, 32), (20, 31), (33, 32), (97, 61), (160, 32), (31, 200), (129, 128)])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.7])
def test_the_grid_covers_every_pixel_with_the_overlap(size: tuple[int, int], overlap: float) -> None:
    tiles = Tiles(size=32, overlap=overlap)
    seen = np.zeros(size[::-1], int)
    for left, top, right, bottom in tiles.grid(size):
        assert (right - left, bottom - top) == (min(32, size[0]), min(32, size[1]))
        seen[top:bottom, left:right] += 1
    assert (seen >= 1).all()
    assert len(set(tiles.grid(size))) == len(tiles.grid(size)) == tiles.count(np.array([size]))[0]
    for length in size:
        starts = tiles.starts(length)
        assert starts[0] == 0
        assert starts[-1] == max(0, length - 32)
        assert (np.diff(starts) <= 32 * (1 - overlap)).all()
        assert len(starts) == 1 or length - 32 > (len(starts) - 2) * int(32 * (1 - overlap)), "one less would do, too"


def test_an_object_no_larger_than_the_overlap_is_whole_in_some_tile() -> None:
    rng = np.random.default_rng(0)
    side = rng.uniform(1, 8, (300, 2))
    corner = rng.uniform(0, 1, (300, 2)) * (np.array([151, 77]) - side)
    boxes = np.concatenate([corner, corner + side], 1)
    shares = shown_share(boxes, np.array(TILES.grid((151, 77))))
    assert shares.max(0) == pytest.approx(1)


def drawn(boxes: list[list[float]] | None, tiles: Tiles, number: int) -> Seen:
    image = Image.new("RGB", (100, 80))
    targets = None if boxes is None else Targets(torch.tensor(boxes).view(-1, 4), torch.arange(len(boxes)))
    return cut(Seen(image, np.eye(3), targets), tiles, seeding.generator(0, number))


def test_a_tile_around_a_box_shows_all_of_it_as_often_as_stated() -> None:
    box = [[60.5, 30.0, 68.5, 41.0]]
    whole = [len(drawn(box, Tiles(size=32, near_box=1.0), k).boxes()) for k in range(30)]
    assert whole == [1] * 30
    near = [len(drawn(box, Tiles(size=32, near_box=0.5), k).boxes()) for k in range(100)]
    away = [len(drawn(box, Tiles(size=32, near_box=0.0), k).boxes()) for k in range(100)]
    assert 0.5 < np.mean(near) < 0.75
    assert np.mean(away) < 0.3
    corners = {tuple(drawn(None, TILES, k).matrix[:2, 2]) for k in range(100)}
    assert {(0, 0), (-68, -48)} <= {(x, y) for x, y in corners}, "the corners of an image are seen, too"


def test_a_box_that_a_tile_cuts_is_an_object_from_half_of_it_on() -> None:
    box = [[10.0, 10.0, 30.0, 30.0]]
    for k in range(100):
        seen = drawn(box, Tiles(size=32, near_box=0.0), k)
        left, top = -seen.matrix[:2, 2]
        sides = [min(30, start + 32) - max(10, start) for start in (left, top)]
        share, moved = np.prod(sides) / 20**2, seen.boxes()
        assert len(moved) == (min(sides) > 1)  # what is no wider than a pixel is gone
        if len(moved):
            assert moved.trust().tolist() == [share >= 0.5]
            assert moved.boxes.amin() >= 0
            assert moved.boxes.amax() <= 32


def test_an_image_no_larger_than_a_tile_stays_as_it_is() -> None:
    image = picture(32, 30)
    seen = Seen(image, np.eye(3), Targets(torch.tensor([[1.0, 2, 9, 9]]), torch.tensor([0])))
    assert cut(seen, TILES, seeding.generator(0)) is seen


def test_views_and_their_boxes_lie_on_the_same_pixels(tmp_path: Path) -> None:
    """Pseudo-boxes found in the weak view of a tile land in the strong one where an exact crop has them."""
    labeled = make_labeled(tmp_path / "labeled", 4)
    image = picture(200, 150, 7)
    (tmp_path / "more").mkdir()
    image.save(tmp_path / "more" / "one.png")
    unlabeled = Images(str(tmp_path / "more"), ["one.png"], ["one"])
    views = ViewsConfig(
        labeled={"weak": []},
        unlabeled={"weak": [], "strong": [{"resize": {"short": 64}}, {"flip": {"p": 1}}]},
        val=[],
        tiles={"size": 32},
    )
    seen = list(loaded(labeled, unlabeled, views, unlabeled_batch=1, steps=6))
    places = set()
    for batch in seen:
        weak, strong = batch.weak, batch.strong
        left, top = (-weak.matrix[0, :2, 2]).long().tolist()
        places.add((left, top))
        exact = image.crop((left, top, left + 32, top + 32))
        assert torch.equal(weak.images[0].permute(1, 2, 0), torch.from_numpy(np.array(exact)))
        exact = exact.resize((64, 64), Image.Resampling.BILINEAR).transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        away = strong.images[0].permute(1, 2, 0).float() - torch.from_numpy(np.array(exact)).float()
        assert away.abs().mean() < 1.5  # at the border of the tile, where another library rounds
        pseudo = Pseudo([Targets(torch.tensor([[4.0, 8, 20, 24]]), torch.tensor([0]))])
        moved = pseudo.move(weak, strong).cls[0].boxes
        torch.testing.assert_close(moved, torch.tensor([[64.0 - 40, 16, 64 - 8, 48]]), atol=1e-3, rtol=0)
        assert tuple(batch.labeled.images.shape[2:]) == (32, 32)
    assert len(places) > 3
    again = list(loaded(labeled, unlabeled, views, unlabeled_batch=1, start=4, steps=6))
    assert torch.equal(again[0].weak.matrix, seen[4].weak.matrix), "a function of the step"


def test_operations_that_take_other_images_take_tiles_of_them() -> None:
    boxes = Targets(torch.tensor([[50.0, 40, 60, 50]]), torch.tensor([1]))
    setting = Setting(count=9, read=lambda i: (picture(100 + i, 80), boxes))
    seen = Seen(picture(100, 80), np.eye(3), boxes, setting=setting)
    tiles = Tiles(size=32, near_box=1.0)
    first = begin_with_tile(seen, tiles, 0, "labeled", 1, 2)
    others = [first.setting.read(i) for i in (0, 3, 0)]
    for image, targets in others:
        assert image.size == (32, 32)
        assert targets is not None
        assert (targets.boxes[:, 2:] - targets.boxes[:, :2]).tolist() == [[10, 10]]
    assert torch.equal(others[0][1].boxes, others[2][1].boxes), "the same however often it is asked for"
    again = begin_with_tile(seen, tiles, 0, "labeled", 1, 3).setting.read(0)
    assert not torch.equal(again[1].boxes, others[0][1].boxes)

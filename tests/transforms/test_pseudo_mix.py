"""MixPL's pictures: its numbers, boxes where their pixels are, patches and what they hide, and the ring of views."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ssod.structures import Targets, View
from ssod.structures.padded import PaddedBoxes, unpadded
from ssod.transforms.erase_patches import PatchesConfig, erased, hidden_share, patches
from ssod.transforms.mix import GREY
from ssod.transforms.pseudo_mix import corners, mixup, mosaic, partners, room_of_groups, tile_of
from ssod.transforms.resample import along, fit, laid, moved
from ssod.transforms.view_cache import Kept, ViewCache
from tests.parts import together
from tests.waits import Waits

NONE = PatchesConfig(patches=(0, 0))
FULL, EMPTY = torch.tensor(True), torch.tensor(False)
MEAN = torch.tensor(GREY)[:, None, None]


def boxes(*rows: list[list[float]]) -> PaddedBoxes:
    """Boxes of some images, each a list of corners; labels count up, scores are 0.9."""
    made = []
    for image in rows:
        corner = torch.tensor(image).reshape(-1, 4)
        made.append(Targets(corner, torch.arange(len(image)), torch.full((len(image),), 0.9)))
    return PaddedBoxes.of(made)


def painted(sizes: list[tuple[int, int]], box: tuple[int, int, int, int], side: int) -> Tensor:
    """Grey images with one white rectangle, each at the top left of a black square."""
    images = torch.zeros(len(sizes), 3, side, side, dtype=torch.uint8)
    for image, (height, width) in zip(images, sizes):
        image[:, :height, :width] = 50
        image[:, box[1] : box[3], box[0] : box[2]] = 255
    return images


def view(sizes: list[tuple[int, int]], box: tuple[int, int, int, int] = (4, 6, 14, 12), side: int = 64) -> View:
    n = len(sizes)
    images = painted(sizes, box, side)
    return View(images, torch.tensor(sizes), torch.eye(3).repeat(n, 1, 1), torch.arange(n), [*range(n)])


def extent(mask: Tensor) -> list[int]:
    """The smallest box around what is true in [H, W]."""
    y, x = mask.nonzero().unbind(1)
    return [int(x.min()), int(y.min()), int(x.max()) + 1, int(y.max()) + 1]


# ---- the published numbers -----------------------------------------------------------------------------------------


def test_a_mosaic_s_scales_tile_and_corners() -> None:
    sizes = torch.tensor([[800, 1066], [1200, 800], [640, 640], [500, 1333]])
    scaled = fit(sizes, torch.tensor([[613, 447]]).repeat(4, 1))
    assert scaled.tolist() == [[335, 447], [613, 408], [447, 447], [167, 447]]
    scales = torch.minimum(613 / sizes[:, 0], 447 / sizes[:, 1])
    torch.testing.assert_close(scales, torch.tensor([0.41932, 0.51083, 0.69844, 0.33533]), atol=5e-6, rtol=0)
    assert tile_of(scaled[None]).tolist() == [[[624, 448]]]
    assert corners(scaled[None])[0].tolist() == [[1, 289], [448, 11], [1, 624], [448, 624]]


@pytest.mark.parametrize(
    ("rects", "share"),
    [([[10.0, 10, 30, 20], [10, 10, 20, 30]], 1.0), ([[10.0, 10, 30, 20], [10, 20, 20, 21]], 0.525)],
)
def test_where_patches_overlap_they_hide_twice(rects: list, share: float) -> None:
    found = hidden_share(torch.tensor([[[10.0, 10, 30, 30]]]), torch.tensor([rects]))
    assert found.item() == pytest.approx(share)
    assert (found.item() < PatchesConfig().hidden) == (share < 0.7)


# ---- erasing -------------------------------------------------------------------------------------------------------


def test_patches_have_the_image_s_shape_and_lie_inside() -> None:
    cfg, sizes = PatchesConfig(), torch.tensor([[400, 200]]).repeat(3000, 1)
    torch.manual_seed(0)
    rects = patches(torch.rand(3000, cfg.draws), sizes, cfg)
    extents = rects[..., 2:] - rects[..., :2]
    number = (extents.amin(-1) > 0).sum(1)
    assert number.max() == 19
    assert (rects == rects.round()).all()
    assert rects.amin() == 0
    assert (rects[..., 2].amax(), rects[..., 3].amax()) == (200, 400)
    real = extents.amin(-1) > 0
    assert (extents[real][:, 1] - 2 * extents[real][:, 0]).abs().max() <= 1  # both sides are floored
    assert extents.amax((0, 1)).tolist() == [19, 39]
    area = extents.prod(-1).sum(1) / (200 * 400)
    assert area.mean() == pytest.approx(0.033, abs=0.004)  # floored, on a small image; overlaps count twice here
    wanted = PatchesConfig(patches=(3, 5), share=(0.1, 0.1))
    some = patches(torch.rand(3000, wanted.draws), sizes, wanted)
    count = ((some[..., 2:] - some[..., :2]).amin(-1) > 0).sum(1)
    assert count.unique().tolist() == [3, 4, 5]
    assert all((count == n).float().mean() == pytest.approx(1 / 3, abs=0.03) for n in (3, 4, 5))


def test_what_is_erased_has_the_mean_colour_and_nothing_else_changes() -> None:
    images = torch.rand(2, 3, 20, 30)
    rects = torch.tensor([[[2.0, 3, 9, 8], [5, 5, 12, 20]], [[0.0, 0, 0, 0], [4, 4, 4, 4]]])
    found = erased(images, rects)
    mask = torch.zeros(20, 30, dtype=torch.bool)
    mask[3:8, 2:9], mask[5:20, 5:12] = True, True
    assert torch.equal(found[0][:, ~mask], images[0][:, ~mask])
    assert torch.equal(found[0][:, mask], MEAN[:, 0].expand(3, int(mask.sum())))
    assert torch.equal(found[1], images[1])


# ---- scaling -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("old", "new"), [(30, 30), (30, 17), (17, 40), (64, 1), (1, 9)])
def test_nearest_is_torchs_nearest_and_smooth_its_bilinear(old: int, new: int) -> None:
    images = torch.rand(2, 3, old, 8)
    at = torch.arange(new).expand(2, -1)
    sides = torch.tensor([old, old]), torch.tensor([new, new])
    assert torch.equal(along(images, at, *sides, 2), F.interpolate(images, (new, 8), mode="nearest"))
    wanted = F.interpolate(images, (new, 8), mode="bilinear", align_corners=False)
    torch.testing.assert_close(along(images, at, *sides, 2, True), wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("smooth", [False, True])
@pytest.mark.parametrize("mirrored", [False, True])
def test_boxes_lie_where_their_pixels_are(smooth: bool, mirrored: bool) -> None:
    """Scaled by 2 and by 3, mirrored, shifted: the white rectangle is where the box is."""
    sizes, scaled = torch.tensor([[20, 30], [16, 24]]), torch.tensor([[40, 60], [48, 72]])
    images, corner = painted([(20, 30), (16, 24)], (4, 6, 14, 12), 32), torch.tensor([[5, 7], [0, 3]])
    drawn = laid(images, sizes, scaled, corner, (64, 96), mirrored=mirrored, smooth=smooth)
    placed = moved(torch.tensor([[[4.0, 6, 14, 12]]]).repeat(2, 1, 1), sizes, scaled, corner, mirrored=mirrored)
    for image, size, at, box in zip(drawn, scaled, corner, placed[:, 0].tolist()):
        assert extent(image[0] > 0.6) == box
        outside = torch.ones(64, 96, dtype=torch.bool)
        outside[at[1] : at[1] + size[0], at[0] : at[0] + size[1]] = False
        assert torch.equal(image[:, outside], MEAN[:, 0].expand(3, int(outside.sum())))


# ---- mixup ---------------------------------------------------------------------------------------------------------


def draws(n: int, cfg: PatchesConfig, seed: int = 0) -> Tensor:
    return torch.rand(n, 4 + 2 * cfg.draws, generator=torch.Generator().manual_seed(seed))


def kept(sizes: list[tuple[int, int]], side: int = 64) -> Kept:
    box = (10, 2, 20, 8)
    return Kept(painted(sizes, box, side), torch.tensor(sizes), boxes(*[[[*map(float, box)]]] * len(sizes)))


def test_a_mixup_is_the_mean_of_two_pictures_and_has_the_boxes_of_both() -> None:
    first, other = view([(40, 32), (64, 64)]), kept([(20, 30), (64, 32)])
    own = boxes([[4.0, 6, 14, 12]], [[4.0, 6, 14, 12], [0.0, 0, 2, 2]])
    mixed, found = mixup(first, own, other, FULL, draws(2, NONE), NONE, smooth=False)
    assert mixed.images.shape == first.images.shape
    # The canvas of both is 64: the first partner becomes 42 x 64, the second stays; pictures hold both.
    assert mixed.sizes.tolist() == [[42, 64], [64, 64]]
    (one, two) = unpadded([found])[0]
    assert (len(one), len(two)) == (2, 3)
    assert one.labels.tolist() == [0, 0]
    assert (one.trust() == 1).all()  # whole: no share of a mixture
    grey = torch.tensor(50 / 255)
    for image, t in zip(mixed.images, (one, two)):
        for box in (t.boxes[0], t.boxes[-1]):  # its own and the partner's
            x1, y1, x2, y2 = box.round().int().tolist()
            inner = image[0, y1 + 1 : y2 - 1, x1 + 1 : x2 - 1]
            assert (inner > (1 + GREY[0]) / 2 - 0.35).all()  # half white, half whatever is there
            assert (inner >= (1 + min(float(grey), GREY[0])) / 2 - 1e-6).all()
    assert not mixed.images[0, :, 42:].any()  # padding
    assert torch.equal(mixed.keys, first.keys)


def test_without_a_full_cache_images_stay_as_they_are() -> None:
    first, own = view([(40, 32), (64, 64)]), boxes([[4.0, 6, 14, 12]], [])
    mixed, found = mixup(first, own, kept([(20, 30), (64, 32)]), EMPTY, draws(2, NONE), NONE, smooth=True)
    assert torch.equal(mixed.images[0, :, :40, :32], first.images[0, :, :40, :32] / 255)
    assert not mixed.images[0, :, 40:].any()
    assert torch.equal(mixed.images[1], first.images[1] / 255)
    assert torch.equal(mixed.sizes, first.sizes)
    assert [len(t) for t in unpadded([found])[0]] == [1, 0]


def test_partners_are_mirrored_and_places_are_uniform() -> None:
    """Of a small view among large partners: everywhere it fits, and the partner's box on the other side."""
    n = 400
    first, own = view([(16, 16)] * n, (0, 0, 1, 1)), boxes(*[[[2.0, 2, 8, 8]]] * n)
    other = kept([(32, 32)] * n, 32)
    first.images = first.images[..., :32, :32]
    mixed, found = mixup(first, own, other, FULL, draws(n, NONE), NONE, smooth=False)
    rows = found.facts[..., :4]
    assert (mixed.sizes == 32).all()
    assert torch.equal(rows[:, 1], torch.tensor([[12.0, 2, 22, 8]]).repeat(n, 1))
    place = rows[:, 0, :2] - 2
    for axis in (0, 1):
        assert sorted(set(place[:, axis].tolist())) == [*range(17)]
        assert place[:, axis].mean() == pytest.approx(8, abs=0.7)


def test_each_of_a_pair_is_erased_and_loses_what_is_hidden() -> None:
    """Every patch covers the whole image: nothing is left of either, and the picture is the mean colour."""
    cfg = PatchesConfig(patches=(1, 1), share=(1.0, 1.0))
    first, own = view([(64, 64)]), boxes([[4.0, 6, 14, 12]])
    mixed, found = mixup(first, own, kept([(64, 64)]), FULL, draws(1, cfg), cfg, smooth=False)
    torch.testing.assert_close(mixed.images[0], MEAN.expand(3, 64, 64))
    assert not found.real.any()
    cfg, many, n = PatchesConfig(share=(0.0, 0.3)), [(64, 64)] * 200, 200
    own = boxes(*[[[4.0, 6, 14, 12]]] * n)
    mixed, found = mixup(view(many), own, kept(many), FULL, draws(n, cfg), cfg, smooth=False)
    shown = found.real.float().mean(0)
    assert ((shown > 0.3) & (shown < 0.97)).all()
    assert (found.real[:, 0] != found.real[:, 1]).any()  # drawn apart


def test_partners_are_drawn_inside_groups_of_four() -> None:
    order = torch.stack([partners(torch.rand(10)) for _ in range(300)])
    for group in ([0, 1, 2, 3], [4, 5, 6, 7], [8, 9]):
        assert all(sorted(row) == group for row in order[:, group].tolist())
    shares = torch.stack([(order[:, :4] == i).float().mean(0) for i in range(4)])
    assert (shares - 0.25).abs().max() < 0.1
    sizes = torch.tensor([[33, 10], [20, 64], [1, 1], [5, 5], [96, 40]])
    assert room_of_groups(sizes, (96, 96)).tolist() == [[64, 64]] * 4 + [[96, 64]]
    assert room_of_groups(sizes, (50, 60)).tolist() == [[50, 60]] * 4 + [[50, 60]]


# ---- mosaic --------------------------------------------------------------------------------------------------------


def made(target: list[tuple[int, int]], full: Tensor = FULL, smooth: bool = False) -> tuple[View, PaddedBoxes]:
    views = kept([(40, 50), (50, 40), (32, 32), (20, 60)] * len(target))
    u, keys = torch.rand(len(target), 4 * NONE.draws), torch.arange(len(target))
    return mosaic(views, full, target, u, NONE, smooth=smooth, keys=keys, ids=[*range(len(target))])


@pytest.mark.parametrize("smooth", [False, True])
def test_a_mosaic_s_boxes_lie_where_their_pixels_are(smooth: bool) -> None:
    """Scaled by 2: views of (40, 50), (50, 40), (32, 32), (20, 60) into (100, 120)."""
    picture, found = made([(100, 120)], smooth=smooth)
    scaled = [(96, 120), (100, 80), (100, 100), (40, 120)]
    assert fit(torch.tensor([(40, 50), (50, 40), (32, 32), (20, 60)]), torch.tensor([[100, 120]] * 4)).tolist() == [
        list(size) for size in scaled
    ]
    assert picture.sizes.tolist() == [[224, 256]]
    assert picture.images.shape == (1, 3, 224, 256)
    (labels,) = unpadded([found])[0]
    assert len(labels) == 4
    middle = torch.tensor([128.0, 112, 128, 112])
    white = picture.images[0, 0] > 0.6
    for number, box in enumerate(labels.boxes):
        part = white.clone()
        part[(112 if number < 2 else 0) : (None if number < 2 else 112)] = False
        part[:, (128 if number % 2 == 0 else 0) : (None if number % 2 == 0 else 128)] = False
        assert (torch.tensor(extent(part)) - box).abs().max() <= 1.6  # scaled by no whole number
        outer = (box - middle).sign().tolist()
        assert outer == [-1 if number % 2 == 0 else 1, -1 if number < 2 else 1] * 2
    torch.testing.assert_close(picture.images[0, :, :10, :8], MEAN.expand(3, 10, 8))  # around them
    corner = picture.images[0, 0, 110:114, 126:130]
    assert (corner != GREY[0]).all()  # all four touch the middle


def test_mosaics_have_sizes_of_their_own_on_one_canvas() -> None:
    picture, found = made([(100, 120), (30, 70)])
    assert picture.images.shape == (2, 3, 224, 256)
    # (30, 70) holds (30, 37), (30, 24), (30, 30), (23, 70): tiles of 32 x 80
    assert picture.sizes.tolist() == [[224, 256], [64, 160]]
    assert not picture.images[1, :, 64:].any()
    assert not picture.images[1, :, :, 160:].any()
    assert [len(t) for t in unpadded([found])[0]] == [4, 4]
    _, found = made([(100, 120)], EMPTY)
    assert not found.real.any()


# ---- the ring ------------------------------------------------------------------------------------------------------


def random_view(n: int, sizes: list[tuple[int, int]], seed: int, side: int = 32) -> tuple[View, PaddedBoxes]:
    g = torch.Generator().manual_seed(seed)
    made = view(sizes, side=side)
    made.images = torch.randint(0, 256, made.images.shape, dtype=torch.uint8, generator=g)
    targets = [Targets(torch.rand(i + 1, 4) * 20, torch.arange(i + 1), 1 - torch.rand(i + 1) / 2) for i in range(n)]
    return made, PaddedBoxes.of(targets)


def test_a_view_comes_back_as_it_was_put_in() -> None:
    cache = ViewCache(8, side=32, boxes=6)
    sizes = [(20, 30), (32, 32), (5, 9), (31, 2)]
    pushed = [random_view(4, sizes, seed) for seed in range(3)]
    for number, (made, found) in enumerate(pushed):
        assert bool(cache.has(8)) == (number >= 2)
        cache.push(made, found)
    back = cache.take(torch.arange(8, 0, -1))
    for row, (made, found) in enumerate(pushed[1:]):
        rows = slice(4 * row, 4 * row + 4)
        assert torch.equal(back.sizes[rows], made.sizes)
        assert torch.equal(back.boxes.facts[rows, :4], found.facts)
        assert not back.boxes.real[rows, 4:].any()
        for image, kept_image, (height, width) in zip(made.images, back.images[rows], sizes):
            assert torch.equal(kept_image[:, :height, :width], image[:, :height, :width])
            assert not kept_image[:, height:].any()
            assert not kept_image[:, :, width:].any()
    assert {name for name, _ in cache.named_buffers()} == set(cache.state_dict())


def test_what_is_too_large_is_kept_scaled_down_and_too_many_boxes_are_cut() -> None:
    cache = ViewCache(4, side=16, boxes=1)
    cache.push(view([(32, 64)]), boxes([[4.0, 6, 14, 12], [0.0, 0, 9, 9]]))
    back = cache.take(torch.tensor([1]))
    assert back.sizes.tolist() == [[8, 16]]
    assert back.boxes.facts[0, :, :4].tolist() == [[1.0, 1.5, 3.5, 3.0]]
    assert extent(back.images[0, 0] == 255) == [1, 2, 4, 3]


def test_a_place_where_nothing_is_has_no_box_and_can_be_scaled() -> None:
    back = ViewCache(4, side=16, boxes=2).take(torch.tensor([1, 4]))
    assert not back.boxes.real.any()
    assert (fit(back.sizes, torch.tensor([[9, 9]]).repeat(2, 1)) >= 1).all()


def test_parts_of_a_step_leave_what_the_whole_leaves() -> None:
    sizes = [(20, 30), (32, 32), (5, 9), (31, 2)]
    made, found = random_view(4, sizes, 0)
    whole, shared = ViewCache(8, side=32, boxes=6), ViewCache(8, side=32, boxes=6)
    whole.push(made, found)
    start = {name: value.clone() for name, value in shared.state_dict().items()}

    def part(rows: slice) -> None:
        shared.load_state_dict(start)
        own = View(made.images[rows], made.sizes[rows], made.matrix[rows], made.keys[rows], made.ids[rows])
        shared.push(own, PaddedBoxes(found.facts[rows]))

    together([lambda: part(slice(0, 2)), lambda: part(slice(2, 4))])
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), shared.state_dict().values()))


def test_nothing_here_asks_the_device() -> None:
    first, cfg = view([(40, 32), (64, 64)]), PatchesConfig()
    cache = ViewCache(8, side=64, boxes=4)
    own = boxes([[4.0, 6, 14, 12]], [])
    with Waits() as waits:
        cache.push(first, own)
        taken = cache.take(torch.arange(1, 3))
        mixup(first, own, taken, cache.has(4), draws(2, cfg), cfg, smooth=True)
        four = cache.take(torch.arange(1, 5))
        u = torch.rand(1, 4 * cfg.draws)
        mosaic(four, cache.has(4), [(20, 30)], u, cfg, smooth=False, keys=first.keys[:1], ids=[0])
    assert (waits.masks, waits.copies) == (0, 0)


# ---- operations of the views ---------------------------------------------------------------------------------------


def test_padded_boxes_come_back() -> None:
    first = boxes([[4.0, 6, 14, 12]], [], [[0.0, 0, 1, 1], [2.0, 2, 3, 3]])
    (found,) = unpadded([first])
    assert [len(t) for t in found] == [1, 0, 2]
    assert found[2].labels.tolist() == [0, 1]
    assert found[2].labels.dtype == torch.int64
    np.testing.assert_allclose(found[2].scores, 0.9)
    one, two = unpadded([first, PaddedBoxes(first.facts[:1])])
    assert (len(one), len(two)) == (3, 1)

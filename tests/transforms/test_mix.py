"""Mixing on padded batches: what is drawn, what it depends on, and the mosaic of four."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from scipy import stats
from torch import Tensor

from ssod.detectors.backbones import Normalise
from ssod.structures import Pseudo, Targets, View
from ssod.transforms.mix import GREY, MixConfig, Mixer, Recipe, mix
from ssod.transforms.views import ViewsConfig
from tests.transforms.common import RESIZE, loaded, make_images, make_labeled
from tests.waits import Waits

K = 3


def some_view(sizes: list[tuple[int, int]], seed: int, targets: list[Targets] | None = None) -> View:
    """Random pixels, padded with 0 to a common size that 32 divides."""
    g = torch.Generator().manual_seed(seed)
    height, width = (-(-max(side) // 32) * 32 for side in zip(*sizes))
    images = torch.zeros(len(sizes), 3, height, width, dtype=torch.uint8)
    for image, (h, w) in zip(images, sizes):
        image[:, :h, :w] = torch.randint(0, 256, (3, h, w), generator=g, dtype=torch.uint8)
    keys = torch.randint(0, 2**62, (len(sizes),), generator=g)
    ids = list(range(len(sizes)))
    return View(images, torch.tensor(sizes), torch.eye(3).repeat(len(sizes), 1, 1), keys, ids, targets)


def boxes(*rows: tuple[float, float, float, float]) -> Targets:
    return Targets(torch.tensor(rows).view(-1, 4), torch.arange(len(rows)) % K)


def scored(t: Targets, score: float = 0.95) -> Targets:
    return Targets(t.boxes, t.labels, torch.full((len(t),), score))


def recipe(n: int = 1, **changes: Tensor | float | int | bool) -> Recipe:
    """Nothing happens, but for what is named."""
    plain = {"mixup": False, "mosaic": False, "share": 1.0, "across": False, "cut": 0, "center": (0, 0), "turn": 0}
    return Recipe(**{k: torch.as_tensor(v).expand(n, *torch.as_tensor(v).shape) for k, v in (plain | changes).items()})


def mixer(**changes: float) -> Mixer:
    return Mixer(K, **MixConfig(**changes).model_dump())


UNLABELED = [(40, 50), (33, 47), (64, 30)]
LABELED = [(52, 31), (70, 90), (33, 65)]


def both() -> tuple[View, Pseudo, View]:
    truth = [boxes((2, 3, 20, 30), (5, 5, 30, 50)), boxes((10, 10, 80, 60)), boxes()]
    pseudo = Pseudo([scored(boxes((1, 1, 30, 30))), boxes(), scored(boxes((3, 2, 9, 60), (4, 30, 29, 60)))])
    pseudo.cls[1].scores = torch.zeros(0)
    return some_view(UNLABELED, 0), pseudo, some_view(LABELED, 1, truth)


# ---- pixels --------------------------------------------------------------------------------------------------------


def test_the_padding_colour_is_what_detectors_subtract() -> None:
    torch.testing.assert_close(Normalise().mean.flatten(), torch.tensor(GREY))


@pytest.mark.parametrize("what", [{"mixup": True, "share": 0.3}, {"mosaic": True, "across": True, "cut": 25}])
def test_mixing_pixels_is_mixing_normalised_padded_pixels(what: dict) -> None:
    """Also where one of the images has ended: there the released code mixes with the 0 of its padding."""
    view, pseudo, labeled = both()
    mixed, _ = mix(view, pseudo, labeled, [[0, 1, 2]], recipe(3, **what), K)
    normalise = Normalise()
    canvas = torch.zeros(2, 3, 3, *mixed.images.shape[-2:])
    for slot, part in zip(canvas, (view, labeled)):
        height, width = part.images.shape[-2:]
        slot[..., :height, :width] = normalise(part.images, part.sizes)
    mine, theirs = canvas
    if "share" in what:
        expected = 0.3 * mine + 0.7 * theirs
    else:
        expected = torch.cat([mine[..., :25], theirs[..., 25:]], -1)
    torch.testing.assert_close(normalise(mixed.images, mixed.sizes), expected, rtol=1e-5, atol=2e-6)
    assert torch.equal(mixed.sizes, torch.maximum(view.sizes, labeled.sizes))
    assert torch.equal(mixed.keys, view.keys)


def test_an_image_that_stays_alone_is_untouched() -> None:
    view, pseudo, labeled = both()
    mixed, labels = mix(view, pseudo, labeled, [[0, 1, 2]], recipe(3), K)
    height, width = view.images.shape[-2:]
    assert torch.equal(mixed.images[..., :height, :width], view.images.float() / 255)
    assert not mixed.images[..., height:, :].any()
    assert torch.equal(mixed.sizes, view.sizes)
    for old, new in zip(pseudo.cls, labels.cls):
        assert torch.equal(old.boxes, new.boxes)
        assert torch.equal(old.scores, new.scores)
        assert torch.equal(new.probs, old.soft(K))


@pytest.mark.parametrize("turn", range(4))
@pytest.mark.parametrize("center", [(0, 0), (20, 33), (50, 5), (50, 52)])
def test_four_tiles_meet_at_the_center(turn: int, center: tuple[int, int]) -> None:
    """Against tiles pasted one by one onto a canvas of twice the size, as the mosaic is usually told."""
    images = [(40, 50), (52, 31), (90, 20), (33, 65)]
    truth = [boxes((0, 0, w, h), (w / 4, h / 4, w / 2, h * 0.7)) for h, w in images]
    view, labeled = some_view(images[:1], 0), some_view(images[1:], 1, truth[1:])
    (x, y), height, width = center, max(40, 52), max(50, 31)
    what = recipe(mosaic=True, center=center, turn=turn)
    mixed, labels = mix(view, Pseudo([scored(truth[0])]), labeled, [[0], [1], [2]], what, K)

    pixels = [p[:, :h, :w].float() / 255 for p, (h, w) in zip([*view.images, *labeled.images], images)]
    canvas = torch.tensor(GREY)[:, None, None].repeat(1, 300, 300)
    expected = []
    for k, (picture, t) in enumerate(zip(pixels, truth)):
        corner, (_, h, w) = (turn + k) % 4, picture.shape
        left, top = x + 100 - w * (corner % 2 == 0), y + 100 - h * (corner < 2)
        canvas[:, top : top + h, left : left + w] = picture
        limit = torch.tensor([[0, 0, x, y], [x, 0, width, y], [0, y, x, height], [x, y, width, height]])[corner]
        moved = t.boxes + torch.tensor([left - 100, top - 100] * 2)
        seen = torch.maximum(torch.minimum(moved, limit[2:].repeat(2)), limit[:2].repeat(2))
        enough = (seen[:, 2:] - seen[:, :2] > (moved[:, 2:] - moved[:, :2]) / 4).all(1)
        expected.append(seen[enough])
    assert torch.equal(mixed.images[0, :, :height, :width], canvas[:, 100 : 100 + height, 100 : 100 + width])
    torch.testing.assert_close(labels.cls[0].boxes, torch.cat(expected))
    assert torch.equal(labels.cls[0].probs.sum(1), torch.ones(len(labels.cls[0])))


def test_mixup_next_to_mosaics_of_four_is_the_same() -> None:
    view, pseudo, labeled = both()
    what = recipe(3, share=0.25)
    what.mixup = torch.tensor([True, False, False])
    two, labels_two = mix(view, pseudo, labeled, [[0, 1, 2]], what, K)
    four, labels_four = mix(view, pseudo, labeled, [[0, 1, 2], [1, 2, 0], [2, 0, 1]], what, K)
    assert torch.equal(two.images, four.images)
    assert all(torch.equal(a.probs, b.probs) for a, b in zip(labels_two.cls, labels_four.cls))


# ---- boxes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("left", "kept"), [(76.0, False), (75.0, False), (74.0, True)])
def test_a_box_needs_more_than_a_quarter(left: float, kept: bool) -> None:
    """24, 25 and 26 of 100 pixels remain."""
    view, labeled = some_view([(200, 200)], 0), some_view([(200, 200)], 1, [boxes()])
    pseudo = Pseudo([scored(boxes((left, 0, left + 100, 50)))])
    _, labels = mix(view, pseudo, labeled, [[0]], recipe(mosaic=True, across=True, cut=100), K)
    assert len(labels.cls[0]) == kept


def test_ignore_regions_are_carried() -> None:
    view, pseudo, labeled = both()
    labeled.targets[0].weight = torch.tensor([0.0, 1.0])
    _, labels = mix(view, pseudo, labeled, [[0, 1, 2]], recipe(3, mixup=True, share=0.4), K)
    assert labels.cls[0].weight.tolist() == [1, 0, 1]
    assert labels.cls[0].scores.tolist() == [pytest.approx(0.95), 1, 1]
    torch.testing.assert_close(labels.cls[0].probs.sum(1), torch.tensor([0.4, 0.6, 0.6]))


@pytest.mark.parametrize("tiles", [2, 4])
def test_nothing_to_see_and_a_single_labelled_image(tiles: int) -> None:
    view = some_view([(33, 47)] * 4, 0)
    none = Pseudo([Targets.empty(torch.zeros(1)) for _ in range(4)])
    labeled = some_view([(65, 31)], 1, [boxes()])
    mixed, labels = mixer(mixup=0.5, mosaic=0.5, tiles=tiles)(view, none, labeled)
    assert mixed.images.shape == (4, 3, 96, 64)
    assert mixed.images.min() >= 0
    assert mixed.images.max() <= 1
    assert all(t.probs.shape == (0, K) for t in labels.cls)


# ---- what is drawn -------------------------------------------------------------------------------------------------


def many(n: int = 20_000) -> View:
    keys = torch.randint(0, 2**62, (n,), generator=torch.Generator().manual_seed(5))
    return View(torch.zeros(1), torch.tensor([[97, 130]]).repeat(n, 1), torch.zeros(1), keys)


def test_the_odds_are_those_of_the_config() -> None:
    r = mixer(mixup=0.2, mosaic=0.3).draw(many(), torch.tensor([120, 90]).expand(20_000, 2))
    assert not (r.mixup & r.mosaic).any()
    shares = [r.mixup, r.mosaic, r.across, *(r.turn == i for i in range(4))]
    for share, odds in zip(shares, [0.2, 0.3, 0.5, *[0.25] * 4]):
        assert share.float().mean().item() == pytest.approx(odds, abs=0.015)
    for side, cuts in ((160, r.cut[r.across]), (128, r.cut[~r.across])):  # of 130 and 120 pixels, padded
        assert sorted(set(cuts.tolist())) == list(range(side // 4, 3 * (side // 4)))
    assert r.center.min(0).values.tolist() == [0, 0]
    assert r.center.max(0).values.tolist() == [130, 120]


@pytest.mark.parametrize("alpha", [0.5, 1.0, 5.0])
def test_the_share_has_its_distribution(alpha: float) -> None:
    r = mixer(alpha=alpha).draw(many(), torch.tensor([120, 90]).expand(20_000, 2))
    assert stats.kstest(r.share.numpy(), stats.beta(alpha, alpha).cdf).pvalue > 0.01


def test_the_largest_draw_stays_below_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    top = 1 - 2**-24
    monkeypatch.setattr("ssod.utils.seeding.uniform", lambda keys, rows: torch.full((len(keys), len(rows)), top))
    view = View(torch.zeros(1), torch.tensor([[1333, 1333]]), torch.zeros(1), torch.zeros(1, dtype=torch.long))
    r = mixer().draw(view, view.sizes)
    assert (r.cut.item(), r.center.tolist(), r.turn.item()) == (3 * 336 - 1, [[1333, 1333]], 3)
    assert r.share.item() == pytest.approx(1)


def test_off_is_off() -> None:
    view, pseudo, labeled = both()
    out = mixer(mixup=0, mosaic=0)(view, pseudo, labeled)
    assert out[0] is view
    assert out[1] is pseudo
    with pytest.raises(ValidationError, match="above 1"):
        MixConfig(mixup=0.7, mosaic=0.7)


@pytest.mark.parametrize("how", [{"workers": 2}, {"start": 2}, {"world": 2}])
def test_workers_ranks_and_restarts_mix_alike(tmp_path, how: dict) -> None:
    views = ViewsConfig.model_validate(
        {
            "labeled": {"weak": [RESIZE, "flip"]},
            "unlabeled": {"weak": [RESIZE], "strong": [RESIZE, "flip", "color_op"]},
            "val": [],
        }
    )
    labeled, unlabeled = make_labeled(tmp_path / "l", 7), make_images(tmp_path / "u", 9, name="un")

    def run(**changes: int) -> list[tuple[Tensor, Tensor, Tensor]]:
        found = []
        for batch in loaded(labeled, unlabeled, views, steps=4, **changes):
            own = Pseudo([boxes((1, 1, 30, 30)) for _ in range(len(batch.strong))])
            mixed, labels = mixer(mixup=0.5, mosaic=0.4)(batch.strong, own, batch.labeled)
            for image, (h, w), t in zip(mixed.images, mixed.sizes.tolist(), labels.cls):
                found.append((image[:, :h, :w], t.boxes, t.probs))
        return found

    whole = run()
    if "world" in how:
        ranks = [run(world=2, rank=rank) for rank in range(2)]
        pairs = [[rank[i : i + 2] for i in range(0, len(rank), 2)] for rank in ranks]
        other = [image for step in zip(*pairs) for part in step for image in part]
    else:
        other = run(**how)
        whole = whole[-len(other) :]
    assert len(other) == len(whole)
    assert all(torch.equal(a, b) for x, y in zip(whole, other) for a, b in zip(x, y))


@pytest.mark.parametrize("tiles", [2, 4])
def test_nothing_is_copied_to_the_device(tiles: int) -> None:
    mixing, images = mixer(mixup=0.5, mosaic=0.5, tiles=tiles), both()
    with Waits() as waits:
        mixing(*images)
    assert waits.copies == 0
    assert waits.masks == tiles  # one for each part of a picture, whatever the number of images

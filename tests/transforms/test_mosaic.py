"""YOLO's mosaic, affine map, colours and holes: where pixels and boxes go, and whose pictures are in a view."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from ssod.structures import Targets
from ssod.transforms.mosaic import FILL, Affine, Mosaic
from ssod.transforms.transform import Seen, Setting
from ssod.transforms.views import ViewsConfig, by_chance, check_others, make_views, takes_others
from ssod.transforms.yolo_colors import CutoutScales, HsvGain
from ssod.utils.errors import SsodError

SIDE = 40
COLORS = [(200, 0, 0), (0, 200, 0), (0, 0, 200), (200, 200, 0), (0, 200, 200)]


def rng(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(seed))


def plain(i: int, size: tuple[int, int] = (30, 60)) -> Image.Image:
    return Image.new("RGB", size, COLORS[i])


def whole(image: Image.Image, label: int) -> Targets:
    """One box, the whole picture."""
    return Targets(torch.tensor([[0.0, 0, *image.size]]), torch.tensor([label]))


def labeled(i: int) -> tuple[Image.Image, Targets]:
    return plain(i), whole(plain(i), i)


def extent(image: Image.Image, color: tuple[int, int, int]) -> list[int]:
    """The box that the pixels of one colour fill."""
    there = (np.asarray(image) == color).all(2)
    rows, columns = np.flatnonzero(there.any(1)), np.flatnonzero(there.any(0))
    assert there[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
    return [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


@pytest.mark.parametrize("seed", range(12))
def test_boxes_of_a_mosaic_are_where_their_pictures_are(seed: int) -> None:
    own, box = labeled(4)
    seen = Seen(own, np.eye(3), box, setting=Setting(count=4, read=labeled))
    done = Mosaic(size=SIDE).draw(rng(seed), own.size).follow(seen)
    assert done.image.size == (2 * SIDE, 2 * SIDE)
    found = done.boxes()
    assert found.labels[0] == 4
    assert len({*found.labels.tolist()}) == len(found) >= 2  # a picture may lie beyond the border
    for near, label in zip(found.boxes.tolist(), found.labels.tolist()):
        assert near == extent(done.image, COLORS[label])
        assert near[3] - near[1] <= SIDE  # the longer side has the length, or was cut off
        assert near[2] - near[0] <= SIDE / 2
    left, top, right, bottom = (done.matrix @ np.array([[0, 30], [0, 60], [1, 1]]))[:2].T.flatten()
    assert [max(0, left), max(0, top), min(2 * SIDE, right), min(2 * SIDE, bottom)] == found.boxes[0].tolist()
    grey = (np.asarray(done.image) == FILL).all(2).sum()
    assert grey == (2 * SIDE) ** 2 - sum((b[2] - b[0]) * (b[3] - b[1]) for b in found.boxes.tolist())


def test_pictures_of_an_unlabelled_mosaic_are_unlabelled_and_its_own_may_be_alone() -> None:
    read: list[int] = []

    def other(i: int) -> tuple[Image.Image, None]:
        read.append(i)
        return plain(i), None

    views = ViewsConfig.model_validate(
        {
            "labeled": {"weak": []},
            "unlabeled": {
                "weak": [{"mosaic": {"size": SIDE}}, {"stretch": {"height": SIDE, "width": SIDE}}],
                "strong": {"start": "weak", "ops": ["affine", "flip"]},
            },
            "val": [],
        }
    ).unlabeled
    draw = 0, "unlabeled", 3, 7
    made = make_views(plain(4), None, views, *draw, setting=Setting(count=4, read=other))
    assert len(set(read)) == 3
    assert made["weak"].image.size == made["strong"].image.size == (SIDE, SIDE)
    assert made["weak"].targets is None
    again = make_views(plain(4), None, views, *draw, setting=Setting(count=4, read=other))
    assert again["strong"].image.tobytes() == made["strong"].image.tobytes()
    alone = make_views(plain(4), None, views, *draw)
    assert np.array_equal(alone["weak"].matrix, made["weak"].matrix)
    step = made["strong"].matrix @ np.linalg.inv(made["weak"].matrix)
    assert abs(step[0, 0]) == pytest.approx(step[1, 1])  # one factor for both sides, perhaps mirrored
    assert takes_others(views, "strong")
    assert by_chance(views, "weak")
    with pytest.raises(SsodError, match="'mosaic' puts 4 unlabelled images together, and there are 3") as caught:
        check_others(views, 3, "unlabeled")
    assert caught.value.field == "views.unlabeled.weak"


def test_evaluation_has_no_mosaic() -> None:
    with pytest.raises(ValidationError, match="'mosaic' asks for other images, which are not shown to a detector"):
        ViewsConfig.model_validate({"labeled": {"weak": []}, "val": ["mosaic"]})


@pytest.mark.parametrize("seed", range(6))
def test_an_affine_map_carries_boxes_with_their_pixels_and_drops_what_it_cuts_off(seed: int) -> None:
    image = Image.new("RGB", (80, 80), FILL)
    boxes = torch.tensor([[30.0, 24, 58, 50], [0, 0, 30, 20], [60, 60, 80, 80]])
    for i, box in enumerate(boxes.int().tolist()):
        image.paste(COLORS[i], tuple(box))
    op = Affine(scale=(0.5, 2.0), size=40, visible=0.5)
    seen = Seen(image, np.eye(3), Targets(boxes, torch.arange(3)))
    done = op.draw(rng(seed), image.size).follow(seen)
    assert done.image.size == (40, 40)
    middle = done.matrix @ [40, 40, 1]
    assert ((middle[:2] >= 16) & (middle[:2] <= 24)).all()
    kept = done.boxes()
    assert 0 in kept.labels
    for i, box in enumerate(boxes):
        corners = done.matrix @ np.array([[box[0], box[2]], [box[1], box[3]], [1, 1]])
        low, high = corners[:2].min(1), corners[:2].max(1)
        share = np.prod((high.clip(0, 40) - low.clip(0, 40)) / (high - low))
        assert (i in kept.labels) == (share >= 0.5)
        if i in kept.labels:
            found = kept.boxes[(kept.labels == i).nonzero()[0, 0]]
            np.testing.assert_allclose(found, extent_of(done.image, COLORS[i]), atol=1.1)


def extent_of(image: Image.Image, color: tuple[int, int, int]) -> list[int]:
    """As ``extent``, of pixels that are half of the colour or more: borders are smoothed."""
    there = np.abs(np.asarray(image).astype(int) - color).max(2) < 60
    rows, columns = np.flatnonzero(there.any(1)), np.flatnonzero(there.any(0))
    return [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


def test_a_scale_below_nothing_is_refused() -> None:
    with pytest.raises(ValidationError, match="must be above 0"):
        Affine(scale=(0, 1))


def test_gains_multiply_saturation_and_value() -> None:
    image = Image.new("RGB", (2, 2), (200, 100, 100))  # hue 0, saturation 1/2, value 200
    transform = HsvGain(hue=0, saturation=0, value=0.5).draw(rng(1), image.size)
    bright = np.asarray(transform.apply(image))[0, 0].astype(float)
    np.testing.assert_allclose(bright / bright[0], [1, 0.5, 0.5], atol=0.02)
    assert abs(bright[0] - 200) > 3
    grey = Image.new("RGB", (2, 2), (90, 90, 90))
    assert HsvGain(value=0).draw(rng(0), grey.size).apply(grey).tobytes() == grey.tobytes()


def test_holes_of_five_sizes_fall_anywhere() -> None:
    image = Image.new("RGB", (64, 32), (0, 0, 0))
    assert CutoutScales(p=0).draw(rng(0), image.size).apply(image).tobytes() == image.tobytes()
    share = []
    for seed in range(20):
        pixels = np.asarray(CutoutScales(p=1).draw(rng(seed), image.size).apply(image))
        filled = pixels[(pixels > 0).any(2)]
        assert filled.min() >= 64
        assert filled.max() < 192
        share.append(len(filled) / (64 * 32))
    assert 0.1 < np.mean(share) < 0.6
    assert len({*share}) > 5

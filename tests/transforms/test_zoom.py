"""Zoom in, zoom out and scale jitter: the released code's pixels and boxes, and labels that move with them."""

import re

import numpy as np
import pytest
import torch
from PIL import Image

from ssod.structures import Targets
from ssod.transforms.augmentations import parse_list
from ssod.transforms.transform import ALONE, Seen, Setting, chain
from ssod.transforms.views import Pipeline, make_views
from ssod.transforms.zoom import nearest, scale_matrix, scaled_size, still_seen, tile_boxes, zoomed_in, zoomed_out
from tests.transforms.common import picture
from tests.transforms.scale_aware_cases import CASES, as_picture, seen_of


def same(seen, values):
    """Compare a picture and its boxes with a case's ``image_out``, ``boxes_out`` and ``labels_out``."""
    assert np.array_equal(np.asarray(seen.image), np.asarray(as_picture(values["image_out"])))
    np.testing.assert_allclose(seen.targets.boxes, values["boxes_out"].reshape(-1, 4), rtol=1e-6, atol=1e-8)
    if "labels_out" in values:
        assert seen.targets.labels.tolist() == values["labels_out"].tolist()


def test_golden_zoom_in():
    for case, values in CASES.of("zoom_in"):
        seen = seen_of(values["image"], values["boxes"], values["labels"])
        size = seen.image.size
        to = scaled_size(size, case["ratio"])
        assert [to[1] - size[1], to[0] - size[0]] == values["offset_limits"].tolist()
        same(zoomed_in(size, to, case["column_offset"], case["row_offset"]).follow(seen), values)


def test_golden_zoom_out():
    for case, values in CASES.of("zoom_out"):
        pool = [seen_of(*(values[f"i{i}.{k}"] for k in ("image", "boxes", "labels"))) for i in range(case["pool"])]
        seen = pool[-1]
        canvas = (seen.image.size[0] + seen.image.size[0] % 2, seen.image.size[1] + seen.image.size[1] % 2)
        tile = scaled_size(canvas, case["ratio"])
        if case["picked"]:
            same(zoomed_out(seen, [pool[i] for i in case["picked"]], canvas, tile), values)
        else:  # too few images, which is refused here before training; the small picture itself is the same
            alone = Image.fromarray(nearest(np.asarray(seen.image), tile))
            same(Seen(alone, np.eye(3), tile_boxes(seen, tile, tile, (0, 0))), values)


def test_golden_scale_jitter():
    for case, values in CASES.of("scale_jitter"):
        labels = np.arange(len(values["boxes"]))
        seen = seen_of(values["image"], values["boxes"], labels)
        (jitter,) = parse_list([{"scale_jitter": {"factors": [case["factor"]]}}])
        moved = jitter.draw(np.random.default_rng(0), seen.image.size).follow(seen)
        same(Seen(moved.image, moved.matrix, moved.boxes()), values)


# ---- labels move with the pixels -------------------------------------------------------------------------------------

OPS = {
    "zoom_in": {"zoom_in": {"ratio": [1.05, 1.5]}},
    "zoom_out": {"zoom_out": {"ratio": [0.5, 0.95]}},
    "scale_jitter": "scale_jitter",
    "all": {"one_of": [[{"zoom_in": {"ratio": 1.2}}, "scale_jitter", {"zoom_out": {"ratio": 0.6}}]]},
    "after": {"shuffle": [{"flip": {"p": 1}}, {"resize": {"ratio": 1.4}}, {"zoom_out": {"ratio": 0.7}}]},
}
BLACK = Setting(count=5, read=lambda i: (Image.new("RGB", (50 + i, 40)), Targets.empty(torch.zeros(0))))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize("size", [(101, 75), (64, 128)])
def test_pixels_follow_matrix_and_box(name, size, seed):
    w, h = size
    box = (2 * w // 5, 2 * h // 5, 3 * w // 5, 3 * h // 5)
    image = Image.new("RGB", size)
    image.paste((255, 255, 255), box)
    before = image.tobytes()
    targets = Targets(torch.tensor([box]).float(), torch.tensor([3]))
    (op,) = parse_list([OPS[name]])
    transform = op.draw(np.random.default_rng(seed), size)
    seen = transform.follow(Seen(image, np.eye(3), targets, setting=BLACK))
    assert seen.image.size == transform.size
    bright = np.asarray(seen.image)[..., 0] > 127
    rows, columns = np.flatnonzero(bright.any(1)), np.flatnonzero(bright.any(0))
    hull = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    # Nearest pixels are up to half an old pixel off, before they are enlarged; a hull of pixels up to half a new one.
    np.testing.assert_allclose(seen.boxes().boxes[0], hull, atol=1.75)
    corner = np.asarray(seen.matrix) @ [box[0], box[1], 1]
    far = np.asarray(seen.matrix) @ [box[2], box[3], 1]
    both = np.clip(np.sort([corner[:2], far[:2]], 0), 0, seen.image.size).ravel()
    np.testing.assert_allclose(both, hull, atol=1.75)
    assert seen.boxes().labels.tolist() == [3]
    assert image.tobytes() == before


@pytest.mark.parametrize("spec", [{"zoom_in": {"ratio": 1.3}}, "scale_jitter"])
def test_without_boxes_a_matrix_says_it_all(spec):
    image = picture(61, 47)
    (op,) = parse_list([spec])
    before, offsets = image.tobytes(), set()
    for seed in range(40):
        transform = op.draw(np.random.default_rng(seed), image.size)
        seen = transform.follow(Seen(image, np.eye(3), None))
        assert seen.targets is None
        assert np.array_equal(seen.matrix, transform.matrix)
        assert seen.image.tobytes() == transform.apply(image).tobytes()
        offsets.add((seen.image.size, *seen.matrix[:2, 2]))
    assert len(offsets) > 3
    assert image.tobytes() == before


def test_zoom_in_offsets_fill_their_range():
    left = {
        tuple(parse_list([{"zoom_in": {"ratio": 1.5}}])[0].draw(np.random.default_rng(i), (8, 6)).matrix[:2, 2])
        for i in range(300)
    }
    assert left == {(-x, -y) for x in range(4) for y in range(3)}


def test_a_picture_too_small_to_be_enlarged_stays():
    image = picture(3, 2)
    transform = parse_list([{"zoom_in": {"ratio": 1.2}}])[0].draw(np.random.default_rng(0), (3, 2))
    assert np.array_equal(transform.matrix, np.eye(3))
    assert transform.apply(image).tobytes() == image.tobytes()


def test_half_of_a_box_is_enough_and_crowds_stay_longer():
    left = torch.tensor([-11.0, -12, -30, -30])  # (10 + 1) of 22 and of 23 pixels; crowds of which 10 and 1 are seen
    right = torch.tensor([10.0, 10, 10, 1])
    moved = torch.stack([left, torch.zeros(4), right, torch.full((4,), 9.0)], 1).double()
    boxes, keep = still_seen(moved, (20, 20), torch.tensor([1.0, 1, 0, 0]))
    assert keep.tolist() == [True, False, True, False]
    assert boxes[0].tolist() == [0, 0, 10, 9]


def test_a_zoom_in_that_leaves_only_a_crowd_is_not_made():
    boxes, labels = np.array([[0.0, 0, 6, 6], [30, 20, 40, 30]]), np.array([1, 2])
    pixels = (np.random.default_rng(0).integers(0, 256, (3, 30, 40)) + 0.5) / 256
    crowd, both = (seen_of(pixels, boxes, labels, weight) for weight in ([1.0, 0.0], [1.0, 1.0]))
    transform = zoomed_in((40, 30), (60, 45), 20, 15)
    assert transform.follow(crowd) is crowd
    assert transform.follow(both).targets.labels.tolist() == [2]
    empty = Seen(crowd.image, np.eye(3), Targets.empty(torch.zeros(0)))
    assert transform.follow(empty) is empty


# ---- the other images of a zoom out ----------------------------------------------------------------------------------


def test_tiles_come_from_the_labelled_set_and_bring_their_boxes():
    asked = []

    def read(i):
        asked.append(i)
        image = Image.new("RGB", (40, 30), (10 * (i + 1),) * 3)
        weight = torch.tensor([1.0, 0.0]) if i % 2 else None
        return image, Targets(torch.tensor([[4.0, 3, 20, 18], [30, 20, 40, 30]]), torch.tensor([i, i]), weight=weight)

    views = {"v": Pipeline.model_validate([{"zoom_out": {"ratio": 0.5}}])}
    own = Targets(torch.tensor([[10.0, 10, 50, 50]]), torch.tensor([9]))
    picks = set()
    for position in range(30):
        asked.clear()
        setting = Setting(count=6, read=read)
        sample = make_views(picture(61, 80), own, views, 0, "labeled", 0, position, setting=setting)["v"]
        assert sample.image.size == (62, 80)
        assert len(set(asked)) == 3
        picks.add(tuple(asked))
        shades = [sample.image.image().getpixel(xy)[0] for xy in ((45, 10), (10, 60), (45, 60))]
        assert shades == [10 * (i + 1) for i in asked]
        assert sample.targets.labels.tolist() == [9, *(i for i in asked for _ in range(2))]
        assert sample.targets.trust().tolist() == [1, *(w for i in asked for w in (1, 1 - i % 2))]
        assert sample.targets.boxes.dtype == torch.float32
        assert sample.targets.weight is None or sample.targets.weight.dtype == torch.float32
        scale = np.array([31 / 40, 40 / 30] * 2)
        np.testing.assert_allclose(
            sample.targets.boxes[1], np.array([4, 3, 20, 18]) * scale + [31, 0, 31, 0], rtol=1e-5
        )
        again = make_views(picture(61, 80), own, views, 0, "labeled", 0, position, setting=setting)["v"]
        assert again.image.tobytes() == sample.image.tobytes()
    assert len(picks) > 20


def test_without_labelled_images_it_fails_and_says_so():
    seen = Seen(picture(40, 30), np.eye(3), Targets.empty(torch.zeros(0)), setting=ALONE)
    transform = parse_list([{"zoom_out": {"ratio": 0.5}}])[0].draw(np.random.default_rng(0), (40, 30))
    with pytest.raises(ValueError, match="no samples"):
        transform.follow(seen)
    with pytest.raises(TypeError, match="needs boxes"):
        transform.apply(seen.image)
    with pytest.raises(LookupError, match="one picture alone"):
        ALONE.read(0)


def test_a_chain_states_the_size_that_comes_out():
    ops = parse_list([{"zoom_out": {"ratio": 0.5}}, {"zoom_in": {"ratio": 1.5}}, "scale_jitter", "flip"])
    for seed in range(12):
        transform = chain(ops, np.random.default_rng(seed), (33, 47))
        targets = Targets(torch.tensor([[5.0, 5, 20, 30]]), torch.tensor([0]))
        assert transform.follow(Seen(picture(33, 47), np.eye(3), targets, setting=BLACK)).image.size == transform.size


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"zoom_in": {"ratio": 0.9}}, "ratios of zoom_in are 1 or more"),
        ({"zoom_out": {"ratio": 0.4}}, "leave gaps"),
        ({"zoom_out": {"ratio": [0.5, 1]}}, "lie in [0.5, 1)"),
        ("zoom_out", "zoom_out.ratio: Field required"),
        ({"scale_jitter": {"factors": [0, 1]}}, "factors are above 0"),
        ({"scale_jitter": {"factors": []}}, "at least 1 item"),
    ],
)
def test_mistakes_are_named(spec, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        parse_list([spec])


def test_scaling_by_one_changes_nothing():
    pixels = np.arange(24).reshape(4, 2, 3)
    assert np.array_equal(nearest(pixels, (2, 4)), pixels)
    assert np.array_equal(scale_matrix((2, 4), (2, 4)), np.eye(3))

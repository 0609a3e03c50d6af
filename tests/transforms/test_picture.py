"""Moves of a picture are made at once: where pixels go, what is laid open, how often pixels are read, what shrinks."""

import numpy as np
import pytest
from PIL import Image

from ssod.transforms import geometry as g
from ssod.transforms import raster
from ssod.transforms.augmentations import parse_list
from ssod.transforms.picture import Picture
from ssod.transforms.transform import chain
from tests.transforms.common import picture

RED = (255, 0, 0)


def one_by_one(augmentations, rng, image):
    """Make the moves each for itself."""
    for augmentation in augmentations:
        image = augmentation.draw(rng, image.size).apply(image).image()
    return image


CHAINS = {
    "enlarged": [{"resize": {"ratio": 1.7}}, {"flip": {"p": 1}}, "rotate"],
    "shrunk": [{"resize": {"ratio": 0.6}}, "rotate", {"flip_vertical": {"p": 1}}],
    "both slants": ["shear_x", "shear_y"],
    "cut and moved back": [{"translate_x": {"share": 0.4}}, {"translate_x": {"share": 0.4}}, "rotate"],
    "cropped": [{"resize": {"ratio": 1.4}}, {"crop": {"share": [0.6, 0.8]}}, {"flip": {"p": 1}}, "shear_x"],
    "crop first": [{"crop": {"share": [0.5, 0.7]}}, {"resize": {"ratio": 1.6}}],
}


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("seed", range(3))
def test_moves_at_once_show_what_moves_one_by_one_show(name, seed):
    image, ops = picture(120, 90), parse_list(CHAINS[name])
    at_once = np.asarray(chain(ops, np.random.default_rng(seed), image.size).apply(image)).astype(int)
    apart = np.asarray(one_by_one(ops, np.random.default_rng(seed), image)).astype(int)
    assert at_once.shape == apart.shape
    differ = np.abs(at_once - apart).max(2)
    assert np.mean(differ > 12) < 0.03  # borders of what is laid open; a part that came back is more
    assert differ.mean() < 2.5


def test_a_view_is_read_once(monkeypatch):
    calls = []
    for name in ("resized", "warped"):
        real = getattr(raster.ops, name)
        monkeypatch.setattr(raster.ops, name, lambda *a, name=name, real=real: calls.append(name) or real(*a))
    ops = parse_list([{"resize": {"ratio": 1.5}}, {"flip": {"p": 1}}, "rotate", "translate_x", "shear_y"])
    chain(ops, np.random.default_rng(0), (60, 40)).apply(picture(60, 40)).array()
    assert calls == ["warped"]
    ops = parse_list([{"resize": {"ratio": 1.5}}, {"color_op": {"ops": ["solarize"]}}, "rotate"])
    chain(ops, np.random.default_rng(0), (60, 40)).apply(picture(60, 40)).array()
    assert calls == ["warped", "resized", "warped"]  # colours in between are those of the larger picture


def test_a_picture_computes_its_pixels_once():
    moved = Picture.of(picture(30, 20)).moved((60, 40), np.diag([2.0, 2, 1]))
    assert moved.array() is moved.array()
    assert moved.tobytes() == moved.image().tobytes()


@pytest.mark.parametrize("degrees", [0.0, 20.0])
def test_what_shrinks_is_antialiased_whatever_else_is_done(degrees):
    stripes = np.zeros((240, 240, 3), np.uint8)
    stripes[:, ::2] = 255  # a third of these, read at single places, would be stripes again
    shrunk = g.resized((240, 240), (80, 80)).apply(Image.fromarray(stripes))
    turned = shrunk.moved((80, 80), g.rotation_matrix((80, 80), degrees), (125, 125, 125))
    middle = turned.array()[25:55, 25:55].astype(int)
    assert abs(middle - 127).max() <= 16  # of 127; the triangle leaves as much


def test_what_is_laid_open_has_its_own_color_to_the_pixel():
    white = Image.new("RGB", (40, 30), (255, 255, 255))
    seen = Picture.of(white).moved((40, 30), g.shift_matrix(10, 0), RED).moved((40, 30), g.shift_matrix(-10, 4), RED)
    there = (np.asarray(seen) == 255).all(2)
    expected = np.zeros((30, 40), bool)
    expected[4:, :30] = True
    assert np.array_equal(there, expected)
    assert (np.asarray(seen)[~there] == RED).all()
    blue = seen.moved((40, 30), g.shift_matrix(0, -4), (0, 0, 255))
    assert np.asarray(blue)[29, 0].tolist() == [0, 0, 255]
    assert np.asarray(blue)[0, 35].tolist() == list(RED)  # what was open stays


def test_the_border_of_a_picture_is_not_mixed_with_the_fill():
    white = Image.new("RGB", (40, 30), (255, 255, 255))
    ops = [g.resized((40, 30), (100, 75)), g.warped((100, 75), g.shift_matrix(20.3, 0), RED)]
    image = white
    for op in ops:
        image = op.apply(image)
    assert (np.asarray(image)[:, 21:] == 255).all()
    assert (np.asarray(image)[:, :20] == RED).all()

"""Matrices equal the reference's, and pixels go where the matrices say."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from ssod.structures.boxes import clip, warp
from ssod.transforms import geometry as g
from ssod.transforms.augmentations import parse_list
from ssod.transforms.transform import chain
from tests.paths import golden_path

SIZES = [(101, 75), (64, 128), (97, 97)]
OPS = {
    "resize": {"resize": {"short": [50, 130], "long": 200}},
    "half": {"resize": {"ratio": 0.5}},
    "stretch": {"stretch": {"height": 91, "width": 60}},
    "flip": {"flip": {"p": 1}},
    "flip_vertical": {"flip_vertical": {"p": 1}},
    "crop": {"crop": {"share": [0.8, 0.95]}},
    "translate_x": "translate_x",
    "translate_y": "translate_y",
    "rotate": {"rotate": {"degrees": 30}},
    "shear_x": {"shear_x": {"degrees": 20}},
    "shear_y": {"shear_y": {"degrees": 20}},
    "center_rotate": {"center_rotate": {"degrees": 30}},
    "center_shear": {"center_shear": {"degrees": 20}},
    "shear_both": {"one_of": [[{"shear_x": {"degrees": 12}}, {"shear_y": {"degrees": 12}}]]},
    "shuffle": {"shuffle": ["rotate", {"flip": {"p": 1}}, {"resize": {"short": [60, 90]}}]},
    "all": {"one_of": [[{"flip": {"p": 1}}, "rotate", {"resize": {"short": 70}}, "translate_x", "shear_y"]]},
}


def bright(size, box):
    image = Image.new("L", size, 0)
    image.paste(255, box)
    return image.convert("RGB")


def moved(transform, size, box):
    """What of the rectangle arrives, in 0..1; exposed canvas cancels out."""
    with_box, without = (transform.apply(im) for im in (bright(size, box), Image.new("RGB", size)))
    assert with_box.size == transform.size
    return (np.asarray(with_box, float) - np.asarray(without, float))[..., 0] / 255


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize("seed", range(4))
def test_pixels_follow_the_matrix(name, size, seed):
    w, h = size
    box = (2 * w // 5, 2 * h // 5, 3 * w // 5, 3 * h // 5)
    transform = chain(parse_list([OPS[name]]), np.random.default_rng(seed), size)
    mass = moved(transform, size, box)
    center = transform.matrix @ [(box[0] + box[2]) / 2, (box[1] + box[3]) / 2, 1]
    ys, xs = np.mgrid[: transform.size[1], : transform.size[0]] + 0.5
    # Centroid to a tenth of a pixel (Pillow's 8-bit enlarging is good for .07): half a pixel off in a frame fails.
    assert (mass * xs).sum() / mass.sum() == pytest.approx(center[0], abs=0.1)
    assert (mass * ys).sum() / mass.sum() == pytest.approx(center[1], abs=0.1)
    area = (box[2] - box[0]) * (box[3] - box[1]) * abs(np.linalg.det(transform.matrix))
    assert mass.sum() == pytest.approx(area, rel=0.02)
    # The hull of what arrives is the warped box, up to the pixels that a corner covers in part.
    rows, columns = np.flatnonzero(mass.max(1) > 0.2), np.flatnonzero(mass.max(0) > 0.2)
    hull = torch.tensor([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
    expected = warp(torch.tensor([box]).double(), torch.from_numpy(transform.matrix))[0]
    assert (hull - expected).abs().max() < 1.5


def test_exact_ops_are_exact():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (31, 45, 3), dtype=np.uint8))
    pixels = np.asarray(image)
    assert np.array_equal(g.mirrored(image.size).apply(image), pixels[:, ::-1])
    assert np.array_equal(g.upended(image.size).apply(image), pixels[::-1])
    assert np.array_equal(g.cropped(3, 4, (20, 10)).apply(image), pixels[4:14, 3:23])
    shifted = np.asarray(g.warped(image.size, g.shift_matrix(5, -3)).apply(image))
    assert np.array_equal(shifted[:-3, 5:], pixels[3:, :-5])
    assert (shifted[:, :5] == 125).all()
    assert (shifted[-3:] == 125).all()


def test_acts_do_not_change_their_argument():
    for spec in OPS.values():
        image = bright((60, 50), (10, 10, 30, 30))
        before = image.tobytes()
        chain(parse_list([spec]), np.random.default_rng(1), image.size).apply(image)
        assert image.tobytes() == before


def test_resize_rule():
    def size_of(spec, size):
        return chain(parse_list([{"resize": spec}]), np.random.default_rng(0), size).size

    assert size_of({"short": 800, "long": 1333}, (640, 480)) == (1067, 800)
    assert size_of({"short": 800, "long": 1333}, (1000, 400)) == (1333, 533)
    assert size_of({"short": 800, "long": 1333}, (480, 640)) == (800, 1067)
    assert size_of({"long": 100}, (50, 20)) == (100, 40)
    assert size_of({"ratio": 0.5}, (101, 7)) == (51, 4)
    drawn = {
        chain(parse_list([{"resize": {"short": [640, 800], "step": 32}}]), np.random.default_rng(i), (900, 900)).size[0]
        for i in range(200)
    }
    assert drawn == {640, 672, 704, 736, 768, 800}
    ends = {
        chain(parse_list([{"resize": {"short": [5, 7]}}]), np.random.default_rng(i), (9, 9)).size for i in range(60)
    }
    assert ends == {(5, 5), (6, 6), (7, 7)}


def test_draws_stay_in_range():
    size = (200, 100)
    for i in range(300):
        rng = np.random.default_rng(i)
        m = g.Rotate().draw(rng, size).matrix
        assert abs(np.degrees(np.arctan2(m[1, 0], m[0, 0]))) <= 30
        assert abs(g.TranslateX().draw(rng, size).matrix[0, 2]) <= 20
        assert abs(g.TranslateY().draw(rng, size).matrix[1, 2]) <= 10
        assert abs(g.ShearX().draw(rng, size).matrix[0, 1]) <= 0.4805
        crop = g.Crop(height=80, width=300).draw(rng, size)
        assert crop.size == (200, 80)
        assert -20 <= crop.matrix[1, 2] <= 0


def _reference_transform(op, size):
    kind, *value = op
    if kind == "resize":
        return g.resized(size, tuple(value))
    if kind == "hflip":
        return g.mirrored(size)
    matrix = {
        "tx": lambda v: g.shift_matrix(v * size[0], 0),
        "ty": lambda v: g.shift_matrix(0, v * size[1]),
        "rot": lambda v: g.rotation_matrix(size, v),
        "shx": lambda v: g.shear_matrix(v, 0),
        "shy": lambda v: g.shear_matrix(0, v),
    }[kind](*value)
    return g.warped(size, matrix)


def _reference_matrix(ops, size):
    matrix = np.eye(3)
    for op in ops:
        transform = _reference_transform(op, size)
        matrix, size = transform.matrix @ matrix, transform.size
    return matrix, size


def test_golden_transfer():
    data = np.load(golden_path("box_transfer_and_ema.npz"), allow_pickle=False)
    cases = [c for c in json.loads(str(data["cases_json"])) if c["id"].startswith("w")]
    assert len(cases) >= 12
    for case in cases:
        name = case["id"]
        size = tuple(int(v) for v in data[f"{name}.original_wh"])
        views = {}
        for who in ("teacher", "student"):
            matrix, end = _reference_matrix(case[f"{who}_ops"], size)
            np.testing.assert_allclose(matrix, data[f"{name}.{who}_matrix"], rtol=1e-5, atol=1e-5)
            assert end == tuple(data[f"{name}.{who}_wh"])
            views[who] = matrix
        transfer = views["student"] @ np.linalg.inv(views["teacher"])
        np.testing.assert_allclose(transfer, data[f"{name}.teacher_to_student"], rtol=1e-5, atol=1e-5)
        boxes = torch.from_numpy(data[f"{name}.boxes_teacher"]).double().reshape(-1, 4)
        wh = torch.from_numpy(data[f"{name}.student_wh"])
        got = clip(warp(boxes, torch.from_numpy(transfer)), wh.flip(0))
        np.testing.assert_allclose(got, data[f"{name}.boxes_student"].reshape(-1, 4), rtol=1e-5, atol=1e-3)

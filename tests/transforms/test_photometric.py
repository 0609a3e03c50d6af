"""Colours change as the reference's do, and nothing moves."""

import numpy as np
import pytest
from PIL import Image

from ssod.transforms import erasing, photometric
from ssod.transforms.augmentations import AUGMENTATIONS, parse_list
from ssod.transforms.presets import PRESETS
from ssod.transforms.transform import chain
from tests.paths import golden_path
from tests.transforms.common import picture

PHOTOMETRIC = [name for name, kind in AUGMENTATIONS.items() if kind.__module__.endswith(("photometric", "erasing"))]
ALIGNED = ["unbiased_strong", "unbiased_color", "instant_strong", "humble_strong", "soft_teacher_labeled"]


def draw(spec, seed, size):
    return chain(parse_list([spec]), np.random.default_rng(seed), size)


def test_golden_colours():
    data = np.load(golden_path("colour_ops.npz"), allow_pickle=False)
    image = np.ascontiguousarray(data["image.bgr"][..., ::-1])
    results = [key for key in data.files if key.count(".") == 2]
    assert len(results) == 56
    for key in results:
        name, level, _ = key.split(".")
        got = photometric.COLOR_OPS[name](image, int(level[1:])).astype(int)
        assert abs(got - data[key][..., ::-1]).max() <= 1, key
    assert [photometric.enhance_factor(m) for m in range(1, 10)] == pytest.approx(data["parameters.enhance_factor"])
    assert [photometric.solarize_threshold(m) for m in range(1, 10)] == data["parameters.solarize_threshold"].tolist()
    assert [photometric.posterize_bits(m) for m in range(1, 10)] == data["parameters.posterize_bits"].tolist()


@pytest.mark.parametrize("name", PHOTOMETRIC + ALIGNED)
def test_pixels_only(name):
    image = picture(61, 47)
    before, changed = image.tobytes(), 0
    for seed in range(30):
        transform = draw(name, seed, image.size)
        once, twice = transform.apply(image), transform.apply(image)
        assert np.array_equal(transform.matrix, np.eye(3))
        assert once.size == transform.size == image.size
        assert once.array().shape == (*image.size[::-1], 3)
        assert once.tobytes() == twice.tobytes()  # all chance is in the draw
        assert image.tobytes() == before
        changed += once.tobytes() != before
    assert changed > 2


def test_color_op_draws_all_nine_at_all_levels(monkeypatch):
    seen = set()
    spy = {name: (lambda im, level, name=name: seen.add((name, level)) or im) for name in photometric.COLOR_OPS}
    monkeypatch.setattr(photometric, "COLOR_OPS", spy)
    image = picture(9, 9)
    for seed in range(1500):
        draw("color_op", seed, image.size).apply(image)
    assert seen == {(name, level) for name in spy for level in range(1, 10)}


def test_color_op_on_its_own_choice():
    transform = draw({"color_op": {"ops": ["solarize"], "level": 5}}, 0, (4, 4))
    image = Image.new("RGB", (4, 4), (127, 128, 255))
    assert transform.apply(image).image().getpixel((0, 0)) == (127, 127, 0)


def share_changed(spec, n=400, size=(60, 40)):
    image = picture(*size)
    return np.mean([draw(spec, seed, size).apply(image).tobytes() != image.tobytes() for seed in range(n)])


@pytest.mark.parametrize(("name", "p"), [("color_jitter", 0.8), ("grayscale", 0.2), ("blur", 0.5), ("erase", 0.5)])
def test_probabilities(name, p):
    spec = {"blur": {"sigma": 2}} if name == "blur" else name  # a blur of 0.1 px changes no 8-bit pixel
    assert share_changed(spec) == pytest.approx(p, abs=0.08)  # three standard errors of 400 draws


def test_cutout_patches():
    image = Image.new("RGB", (200, 100))
    counts, widest = [], 0
    for seed in range(200):
        painted = np.asarray(draw("cutout", seed, image.size).apply(image))[..., 0]
        assert set(np.unique(painted)) <= {0, 125}
        widest = max(widest, int((painted > 0).any(0).sum()))
        counts.append((painted > 0).mean())
    assert 0 < np.mean(counts) < 4 * 0.2**2
    assert widest > 40
    one = draw({"cutout": {"patches": 1, "share": 0.2}}, 3, image.size).apply(image)
    painted = np.asarray(one)[..., 0] > 0
    assert painted.any(0).sum() == 40  # the picture's own aspect: not a square
    assert painted.any(1).sum() == 20


def test_cutout_squares_are_whole_or_absent():
    size, present = (300, 100), []
    for seed in range(300):
        transform = draw({"cutout_squares": {"squares": 1}}, seed, size)
        painted = np.asarray(transform.apply(Image.new("RGB", size)))[..., 0] > 0
        assert painted.sum() in (0, 400)
        present.append(painted.any())
    assert np.mean(present) == pytest.approx(0.5, abs=0.1)


def test_erase_obeys_area_and_ratio():
    size = (120, 100)
    image = Image.new("RGB", size, (7, 7, 7))
    for seed in range(200):
        transform = draw({"erase": {"p": 1, "area": [0.05, 0.2], "ratio": [0.3, 3.3]}}, seed, size)
        hit = (np.asarray(transform.apply(image)) != 7).any(-1)
        height, width = hit.any(1).sum(), hit.any(0).sum()
        assert 0.045 < height * width / 12000 < 0.21
        assert 0.27 < height / width < 3.6
    noise = np.asarray(erasing.noisy(size, (0, 0, 120, 100), 5).apply(image))
    assert noise.mean() == pytest.approx(127.5, abs=2)
    assert noise.std() == pytest.approx(73.9, abs=2)


def test_jitter_reaches_its_range_and_keeps_it():
    grey = Image.new("RGB", (4, 4), (100, 100, 100))
    spec = {"color_jitter": {"brightness": 0.4, "contrast": 0, "saturation": 0, "hue": 0, "p": 1}}
    values = [draw(spec, seed, (4, 4)).apply(grey).image().getpixel((0, 0))[0] for seed in range(300)]
    assert 60 <= min(values) < 64
    assert 136 < max(values) <= 140


def test_every_preset_is_used_by_name():
    for name in PRESETS:
        augmentations = parse_list([name])
        assert augmentations
        image = picture(80, 60)
        small = [op for op in augmentations if type(op).__name__ != "Resize"]
        for seed in range(20):
            assert chain(small, np.random.default_rng(seed), image.size).apply(image).size == (80, 60)

"""Both libraries that compute pixels give the same picture, to so many grey levels."""

import sys

import numpy as np
import pytest

from ssod.transforms import raster, raster_torch
from ssod.transforms.augmentations import parse_list
from ssod.transforms.transform import chain
from tests.transforms.common import picture

SIZE = (83, 61)
FIRST = (np.arange(256) + 40) % 256
TABLES = np.stack([FIRST, np.arange(256), 255 - np.arange(256)]).astype(np.uint8)
BACK = np.linalg.inv([[1.8, -0.5, 9], [0.4, 1.9, -7], [0, 0, 1.0]])


def within(ops, pixels):
    """What ``BACK`` reads inside of the picture; beyond it the libraries need not agree."""
    x, y = np.meshgrid(np.arange(120) + 0.5, np.arange(100) + 0.5)
    u, v = (row[0] * x + row[1] * y + row[2] for row in BACK[:2])
    there = (u >= 0) & (u < SIZE[0]) & (v >= 0) & (v < SIZE[1])
    return ops.warped(pixels, BACK, (120, 100))[there]


# name -> what to do, the largest difference in grey levels, and the mean one
EQUAL, CLOSE = (0, 0.0), (1, 0.6)
CASES = {
    "enlarged": (lambda ops, x: ops.resized(x, (140, 111)), CLOSE),
    "shrunk": (lambda ops, x: ops.resized(x, (40, 41)), EQUAL),
    "wider and lower": (lambda ops, x: ops.resized(x, (100, 30)), EQUAL),
    "warped": (within, (9, 0.6)),  # OpenCV 4 reads at 32nds of a pixel
    "mirrored": (lambda ops, x: ops.flipped(x, True), EQUAL),
    "upended": (lambda ops, x: ops.flipped(x, False), EQUAL),
    "filled": (lambda ops, x: ops.filled(x.copy(), x[..., 0] > 99, (1, 2, 3)), EQUAL),
    "one table": (lambda ops, x: ops.looked_up(x, TABLES[0]), EQUAL),
    "three tables": (lambda ops, x: ops.looked_up(x, TABLES), EQUAL),
    "reordered": (lambda ops, x: ops.reordered(x, np.array([2, 0, 1])), EQUAL),
    "gray": (lambda ops, x: ops.gray(x), CLOSE),
    "mean luma": (lambda ops, x: ops.mean_luma(x), CLOSE),
    "as gray": (lambda ops, x: ops.as_gray(x), CLOSE),
    "counts": (lambda ops, x: ops.counts(x), EQUAL),
    "more color": (lambda ops, x: ops.saturated(x, 1.72), CLOSE),
    "less color": (lambda ops, x: ops.saturated(x, 0.28), CLOSE),
    "sharper": (lambda ops, x: ops.sharpened(x, 1.72), CLOSE),
    "smoother": (lambda ops, x: ops.sharpened(x, 0.28), CLOSE),
    "a narrow blur": (lambda ops, x: ops.blurred(x, 0.4), CLOSE),
    "a wide blur": (lambda ops, x: ops.blurred(x, 2.0), CLOSE),
    "mean": (lambda ops, x: ops.mean3(x), CLOSE),
    "median": (lambda ops, x: ops.median3(x), EQUAL),
    "hue": (lambda ops, x: ops.in_hsv(x, np.stack([FIRST, *[np.arange(256)] * 2]).astype(np.uint8)), (16, 2.0)),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("kind", ["smooth", "noise"])
def test_libraries_agree(name, kind):
    pytest.importorskip("cv2")
    from ssod.transforms import raster_opencv

    noise = np.random.default_rng(3).integers(0, 256, (SIZE[1], SIZE[0], 3), np.uint8)
    pixels = np.array(picture(*SIZE)) if kind == "smooth" else noise
    pixels.flags.writeable = False
    act, (most, mean) = CASES[name]
    one, other = (np.asarray(act(ops, pixels)).astype(int) for ops in (raster_opencv, raster_torch))
    assert one.shape == other.shape
    assert np.abs(one - other).max() <= most
    assert np.abs(one - other).mean() <= mean


def test_planes_are_written_where_a_batch_has_them():
    pixels = np.array(picture(*SIZE))
    for ops in {raster.ops, raster_torch}:
        batch = np.zeros((3, 64, 96), np.uint8)
        ops.split_into(batch[:, : SIZE[1], : SIZE[0]], pixels)
        assert np.array_equal(batch[:, : SIZE[1], : SIZE[0]], pixels.transpose(2, 0, 1))
        assert batch.sum() == pixels.sum()


def test_views_agree_whichever_library_is_there(monkeypatch):
    pytest.importorskip("cv2")
    image, seen = picture(160, 120), []
    for name in ("raster_opencv", "raster_torch"):
        monkeypatch.setattr(raster, "ops", sys.modules[f"ssod.transforms.{name}"])
        ops = parse_list([{"resize": {"short": [80, 300]}}, "flip", "soft_teacher_strong", "unbiased_strong"])
        views = [chain(ops, np.random.default_rng(seed), image.size).apply(image).array() for seed in range(8)]
        seen.append(np.concatenate([view.ravel() for view in views]).astype(int))
    assert np.quantile(np.abs(seen[0] - seen[1]), 0.99) <= 12
    assert np.abs(seen[0] - seen[1]).mean() <= 2


def test_without_opencv_pillow_and_torch_are_taken_and_a_broken_one_is_not_passed_over(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    assert raster._installed() is raster_torch
    assert raster_torch.NAME.startswith("pillow ")

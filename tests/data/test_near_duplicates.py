"""Images that nearly repeat each other are found between sets, and only these."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from ssod.commands.check import check
from ssod.data.checks import near_duplicates as near
from ssod.data.checks.looks import Looks
from ssod.data.checks.near_duplicates import near_duplicates
from tests.data.nano import Nano
from tests.paths import shared_path


def scene(seed: int, size: tuple[int, int] = (160, 120)) -> Image.Image:
    """Return clouds of a few frequencies, as photographs have, with grain."""
    draw = np.random.RandomState(seed)
    coarse = Image.fromarray(draw.randint(0, 256, (6, 8, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
    grain = draw.normal(0, 8, (size[1], size[0], 3))
    return Image.fromarray((np.asarray(coarse) * 0.8 + 20 + grain).clip(0, 255).astype(np.uint8))


def encoded(picture: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=50)
    return Image.open(io.BytesIO(buffer.getvalue())).convert("RGB")


def cropped(picture: Image.Image) -> Image.Image:
    width, height = picture.size
    return picture.crop((round(0.02 * width), round(0.02 * height), width, height))


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "encoded": encoded,
    "half": lambda picture: picture.resize((80, 60)),
    "cropped": cropped,
    "brighter": lambda picture: ImageEnhance.Brightness(picture).enhance(1.15),
}


def looks(pictures: list[Image.Image]) -> Looks:
    found = Looks.none_of(len(pictures))
    for row, picture in enumerate(pictures):
        found.take(row, picture)
    return found


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_copy_is_found_and_nothing_else(change: str) -> None:
    first = looks([scene(seed) for seed in range(20)])
    second = looks([scene(50), encoded(CHANGES[change](scene(7))), scene(51)])
    assert near_duplicates(first, second).tolist() == [[7, 1]]


def test_check_warns_and_names_the_pair(tmp_path: Path) -> None:
    nano = Nano(tmp_path)
    scene(1, (64, 48)).save(tmp_path / "train/a3.jpg")
    scene(1, (64, 48)).save(tmp_path / "more/u2.jpg", quality=40)
    scene(1, (64, 48)).save(tmp_path / "val/v1.jpg", quality=60)
    report = check(nano.config(), decode="all")
    told = [(f.level, f.id, f.count) for f in report.findings]
    assert told == [("warning", "D48", 1)] * 3
    lines = report.lines()
    assert "1 of 4 val images nearly repeat labelled ones: 'v1.jpg' like 'a3.jpg'" in lines[0]
    assert report.code == 0
    for pair, (one, other) in {"labeled-val": ("a3", "v1"), "unlabeled-val": ("u2", "v1")}.items():
        a, b = (getattr(report.sets[part], "images", report.sets[part]) for part in pair.split("-"))
        assert [(a.paths[i], b.paths[j]) for i, j in report.near[pair]] == [(f"{one}.jpg", f"{other}.jpg")]
    assert check(nano.config()).near == {}  # without pixels nothing is known


def test_an_exact_copy_is_told_once(tmp_path: Path) -> None:
    nano = Nano(tmp_path)
    scene(1, (64, 48)).save(tmp_path / "more/u2.jpg")
    scene(1, (64, 48)).save(tmp_path / "val/v1.jpg")
    assert [(f.id, f.count) for f in check(nano.config(), decode="all").findings] == [("D36", 1)]


def test_a_picture_of_one_grey_is_like_no_other() -> None:
    flat = [Image.new("RGB", (50, 50), (grey, grey, grey)) for grey in (90, 91)]
    assert not len(near_duplicates(looks(flat[:1]), looks(flat[1:])))


def test_no_pair_within_the_distance_is_missed() -> None:
    """Against every pair: hashes in clusters, 0 to 16 bits apart, of images whose grey values are the same."""
    draw = np.random.default_rng(0)
    centers = draw.integers(0, 1 << 63, 40, dtype=np.uint64)

    def some(count: int) -> Looks:
        hashes = centers[draw.integers(0, len(centers), count)]
        for _ in range(8):
            hashes = hashes ^ (np.uint64(1) << draw.integers(0, 64, count).astype(np.uint64))
        return Looks(hashes, np.tile(np.arange(256, dtype=np.uint8), (count, 1)), draw.random(count) < 0.9)

    first, second = some(300), some(250)
    apart = np.bitwise_count(first.hash[:, None] ^ second.hash[None])
    within = (apart <= near.BITS) & first.seen[:, None] & second.seen[None]
    found = near_duplicates(first, second)
    assert 20 < len(found) < 240
    assert found[:, 1].tolist() == np.flatnonzero(within.any(0)).tolist()
    assert within[found[:, 0], found[:, 1]].all()


def test_steel_that_looks_alike_is_no_near_duplicate() -> None:
    """NEU-DET: of 45 000 pairs of textures none is taken for one scene; the one pair that is one is found."""
    folder = shared_path("data/neu-det/JPEGImages")
    names = sorted(path.name for path in folder.iterdir())
    first = [*names[2:900:6], "pitted_surface_171.jpg"]
    second = [*names[905::3], "pitted_surface_292.jpg"]
    first, second = (list(dict.fromkeys(part)) for part in (first, second))
    pairs = near_duplicates(
        *(looks([Image.open(folder / name).convert("RGB") for name in part]) for part in (first, second))
    )
    assert len(first) * len(second) > 45_000
    assert [(first[a], second[b]) for a, b in pairs] == [("pitted_surface_171.jpg", "pitted_surface_292.jpg")]

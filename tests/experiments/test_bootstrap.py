"""The interval of a gain: known answers, a run against itself, coverage on simulated data."""

import functools

import numpy as np
import pytest

from ssod.evaluation.matching import Matches, mean_ap
from ssod.experiments.bootstrap import Resamples, Unit, combine, gain
from ssod.utils.errors import Exit, SsodError


def table(found: np.ndarray, noise: np.ndarray, rng: np.random.Generator) -> Matches:
    """Return the matches of a detector on I images with one box each.

    Args:
        found: [I] bool, whether the box is found, with a score in 0.3..1.
        noise: [I] number of false detections, with scores in 0..0.8.
        rng: for the scores.
    """
    hits = np.flatnonzero(found)
    wrong = np.repeat(np.arange(len(found)), noise)
    image = np.concatenate([hits, wrong])
    score = np.concatenate([rng.uniform(0.3, 1, len(hits)), rng.uniform(0, 0.8, len(wrong))])
    order = np.argsort(-score)
    right = np.repeat((np.arange(len(image)) < len(hits))[order][:, None], 10, 1)
    return Matches(
        ids=list(range(len(found))),
        classes=("box",),
        image=image[order],
        label=np.zeros(len(image), int),
        score=score[order],
        iou=np.zeros(len(image)),
        right=right,
        counted=np.ones_like(right),
        wanted=np.ones((len(found), 1), int),
    )


def hardness(images: int, runs: int, rng: np.random.Generator) -> np.ndarray:
    """Return [runs, images]: how hard each box is for each run; most of it is the image's own."""
    return 0.7 * rng.random(images) + 0.3 * rng.random((runs, images))


def pair(images: int, method: float, baseline: float, rng: np.random.Generator) -> tuple[Matches, Matches]:
    """Return the tables of two detectors that find a box with these chances; hard images are hard for both."""
    noise = rng.poisson(0.5, images)
    return tuple(table(row < cut, noise, rng) for row, cut in zip(hardness(images, 2, rng), cuts([method, baseline])))


@functools.cache
def _many() -> np.ndarray:
    return np.sort(hardness(200_000, 1, np.random.default_rng(11))[0])


def cuts(chances: list[float] | np.ndarray) -> np.ndarray:
    """Return the hardness up to which a detector finds a box that finds this share of all."""
    return _many()[(np.asarray(chances) * len(_many())).astype(int)]


def test_a_run_against_itself_gains_nothing() -> None:
    run = pair(80, 0.6, 0.5, np.random.default_rng(0))[0]
    one = gain([Unit("1", [run], [run])], resamples=Resamples(200))
    assert one.value == 0
    assert one.images[0] <= 0 <= one.images[1]
    assert one.whole is None
    two = gain([Unit("1", [run], [run]), Unit("2", [run], [run])], resamples=Resamples(200))
    assert (two.value, two.images, two.whole) == (0, (0, 0), (0, 0))
    assert "not known" in one.scope
    assert two.scope == "2 folds"


def test_the_same_ability_in_other_runs_gains_nothing() -> None:
    """Two trainings alike: the gain is not 0, but its interval has it."""
    rng = np.random.default_rng(7)
    found = gain([Unit("1", [pair(200, 0.6, 0.5, rng)[0]], [pair(200, 0.6, 0.5, rng)[0]])], resamples=Resamples(200))
    assert found.value != 0
    assert found.images[0] < 0 < found.images[1]


def test_the_value_is_the_mean_of_the_units() -> None:
    rng = np.random.default_rng(1)
    (a, b), (c, d) = pair(60, 0.7, 0.5, rng), pair(60, 0.6, 0.5, rng)
    found = gain([Unit("1", [a], [b]), Unit("2", [c, a], [d])], resamples=Resamples(50))
    ap = {id(t): mean_ap(t)[0] for t in (a, b, c, d)}
    first = ap[id(a)] - ap[id(b)]
    second = (ap[id(c)] + ap[id(a)]) / 2 - ap[id(d)]
    assert found.units == pytest.approx({"1": first, "2": second})
    assert found.value == pytest.approx((first + second) / 2)
    assert found.images[0] < found.value < found.images[1]
    assert found.whole[0] <= found.images[0] < found.images[1] <= found.whole[1]


def test_the_variance_of_the_images_is_the_known_one() -> None:
    """With precision 1 everywhere AP is about the share of boxes found: a mean of Bernoulli draws."""
    rng = np.random.default_rng(2)
    n = 400
    a, b = rng.random(n) < 0.6, rng.random(n) < 0.4
    none = np.zeros(n, int)
    found = gain([Unit("1", [table(a, none, rng)], [table(b, none, rng)])], resamples=Resamples(2000))
    assert found.value == pytest.approx(a.mean() - b.mean(), abs=0.01)  # AP is on a grid of 101 points
    assert found.by_images == pytest.approx((a.astype(float) - b).std() / np.sqrt(n), rel=0.06)


def test_units_that_differ_widen_the_interval() -> None:
    drawn = np.random.default_rng(3).normal(0, 0.01, (3, 500))
    close = combine({"1": 0.050, "2": 0.051, "3": 0.049}, drawn)
    apart = combine({"1": 0.15, "2": 0.05, "3": -0.05}, drawn)
    assert close.by_units == 0
    assert close.whole == pytest.approx(close.images)
    assert close.whole[1] - close.value == pytest.approx(1.96 * 0.01 / np.sqrt(3), rel=0.1)
    assert apart.by_units == pytest.approx(0.1 / np.sqrt(3), rel=0.02)
    assert apart.whole[1] - apart.value == pytest.approx(4.303 * apart.by_units, rel=0.02)
    assert apart.images == pytest.approx((close.images[0], close.images[1]), abs=1e-3)


def test_different_val_images_are_refused() -> None:
    rng = np.random.default_rng(4)
    a, b = pair(20, 0.6, 0.5, rng)
    with pytest.raises(SsodError, match="different images") as error:
        gain([Unit("1", [a], [Matches(**{**b.__dict__, "ids": list(range(1, 21))})])])
    assert error.value.code == Exit.DATA


def covered(ends: tuple[float, float], truth: float) -> bool:
    return ends[0] <= truth <= ends[1]


def test_coverage_of_one_fold_is_95_percent() -> None:
    """The truth is the gain on very many images; each trial draws 120 of them."""
    rng = np.random.default_rng(5)
    method, baseline = pair(60_000, 0.65, 0.5, rng)
    truth = mean_ap(method)[0] - mean_ap(baseline)[0]
    hits = []
    for _ in range(400):
        unit = Unit("1", *([t] for t in pair(120, 0.65, 0.5, rng)))
        hits.append(covered(gain([unit], resamples=Resamples(100)).images, truth))
    assert 0.92 <= np.mean(hits) <= 0.98


@pytest.mark.parametrize(("folds", "spread"), [(2, 0.0), (2, 0.05), (5, 0.05), (5, 0.15)])
def test_coverage_over_folds_is_95_percent(folds: int, spread: float) -> None:
    """Every fold's detectors have an ability of their own; all folds share the val images' luck."""
    rng = np.random.default_rng(6)
    whole, images = [], []
    for _ in range(1500):
        shared, own = rng.normal(0, 0.03), rng.normal(0, 0.02, folds)
        ability = 0.04 + rng.normal(0, spread, folds)
        drawn = (ability + shared + own)[:, None] + rng.normal(0, 0.03, 200) + rng.normal(0, 0.02, (folds, 200))
        found = combine(dict(zip("12345", ability + shared + own)), drawn)
        whole.append(covered(found.whole, 0.04))  # the ability of any fold
        images.append(covered(found.images, ability.mean()))  # that of these very folds
    assert 0.92 <= np.mean(whole) <= 0.98
    assert 0.92 <= np.mean(images) <= 0.98


def test_coverage_of_the_whole_way_is_95_percent() -> None:
    """Three folds from detections to interval: detectors differ by fold, all are measured on the same 120 images."""
    rng = np.random.default_rng(8)
    grid = np.linspace(0.2, 0.9, 15)
    noise = rng.poisson(0.5, 20_000)
    luck = hardness(20_000, len(grid), rng)
    ap = [mean_ap(table(row < cut, noise, rng))[0] for row, cut in zip(luck, cuts(grid))]
    drawn = np.array([0.62, 0.5])[:, None] + 0.04 * rng.standard_normal((2, 100_000))
    truth = np.interp(drawn[0], grid, ap).mean() - np.interp(drawn[1], grid, ap).mean()
    hits = []
    for _ in range(300):
        found = cuts((np.array([0.62, 0.5])[:, None] + 0.04 * rng.standard_normal((2, 3))).ravel())
        noise = rng.poisson(0.5, 120)
        runs = [table(row < cut, noise, rng) for row, cut in zip(hardness(120, 6, rng), found)]
        units = [Unit(str(f), [runs[f]], [runs[3 + f]]) for f in range(3)]
        hits.append(covered(gain(units, resamples=Resamples(60)).whole, truth))
    assert 0.92 <= np.mean(hits) <= 0.98

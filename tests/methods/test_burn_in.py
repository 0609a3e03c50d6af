"""Runs that agree in what decides burn-in learn the same in it, bit for bit."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch

from ssod import build
from ssod.config import Config, load
from ssod.data.datasets import DataSets
from ssod.engine import optim
from ssod.engine.checkpointing.burn_in import different, moved
from ssod.engine.stepper import Stepper
from ssod.methods import base
from ssod.methods.burn_in import apart, average, deciding
from ssod.methods.config import Common, EmaConfig
from ssod.methods.mean_teacher import MeanTeacher
from ssod.methods.registry import find, names
from ssod.methods.teachers import Ema
from ssod.utils.errors import SsodError
from ssod.utils.signals import Signals
from tests.engine.crash import difference
from tests.small import small_config
from tests.test_methods import SIDES

STEPS = 3
EMA = {"decay": 0.9, "warm_up": False, "start": 1}
SHARING = [name for name in names() if find(name).burn_in_reads is not None]
ROI = {"rows": 16, "hidden": 32, "size": 3, "scale": 64}
NETS = {
    "fcos": {"name": "fcos", "backbone": "tiny", "channels": 16, "levels": [3, 5]},
    "faster_rcnn": {
        **{"name": "faster_rcnn", "backbone": "tiny", "channels": 16, "roi": ROI},
        "rpn": {"rows": 32, "before": [60, 60], "after": [30, 30]},
    },
}
STRONG = {"start": "weak", "ops": ["color_op"]}  # moves no pixel, for methods that compare maps


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("small")


def section(name: str, **changes: Any) -> dict[str, Any]:
    """Return a method's section with a burn-in of ``STEPS``."""
    usual = {"burn_in": STEPS, "start": STEPS, "look": 1}
    own = {key: value for key, value in usual.items() if key in find(name).Config.model_fields}
    return {"name": name, "ema": EMA, **own, **changes}


def config(folder: Path, method: dict[str, Any], net: str = "fcos", **changes: Any) -> Config:
    changes = {"train__steps": STEPS + 2, "train__warm_up": {"steps": 0}, "detector": NETS[net], **changes}
    path = small_config(folder, method=method, views__unlabeled__strong=STRONG, **changes)
    return load(path)


def decided(cfg: Config) -> dict[str, Any]:
    return deciding(cfg.dump(), cfg.method, STEPS)


def burnt_in(cfg: Config, data: DataSets | None = None) -> dict[str, Any]:
    """Return what a run has learnt when burn-in ends."""
    data = build.load_data(cfg) if data is None else data
    stepper = Stepper(build.build_method(cfg, data), cfg.train, Signals())
    batches = build.batches(cfg, data, 0)
    for step in range(STEPS):
        assert stepper.train_step(batches, step).made
    batches.close()
    return {
        "method": moved(stepper.method.state_dict()),
        "optimizer": optim.state_by_name(stepper.optimizer, stepper.method),
    }


def test_which_methods_share() -> None:
    assert set(names()) - set(SHARING) == {"acrst", "instant_teaching_rectify", "stac"}
    assert {name for name in SHARING if find(name).burn_in_reads} == {"instant_teaching"}


@pytest.mark.parametrize("net", NETS)
def test_methods_that_share_burn_in_learn_in_it_as_supervised_does(folder: Path, net: str) -> None:
    plain = config(folder, section("supervised"), net)
    data = build.load_data(plain)
    expected = burnt_in(plain, data)
    for name in SHARING:
        of_boxes = net == "faster_rcnn" and name in ("dense_teacher", "dsl", "efficient_teacher")
        if of_boxes or name == "unbiased_teacher_v2":  # which these refuse
            continue
        own = {"as_released": False} if name == "instant_teaching" else {}
        others = {"mix_pl": ("every", "gamma"), "efficient_teacher": ("growth", "buffers")}  # which they have otherwise
        alike = {"ema": EMA | dict.fromkeys(others[name])} if name in others else {}
        cfg = config(folder, section(name, **own, **alike), net)
        if not own:
            assert different(decided(cfg), decided(plain)) is None, name
        assert difference(burnt_in(cfg, data), expected) == [], name


@pytest.mark.parametrize("net", NETS)
def test_burn_in_is_shared_on_a_detector_with_deviations_too(folder: Path, net: str) -> None:
    sides = NETS[net] | SIDES[net]
    plain, cfg = (config(folder, section(name), net, detector=sides) for name in ("supervised", "unbiased_teacher_v2"))
    data = build.load_data(plain)
    assert different(decided(cfg), decided(plain)) is None
    assert difference(burnt_in(cfg, data), burnt_in(plain, data)) == []


def test_a_method_with_keys_of_its_own_shares_with_itself(folder: Path) -> None:
    """Instant-Teaching as released halves the losses: runs of it share, and share with no other method."""
    one, two = (config(folder, section("instant_teaching", score=score)) for score in (0.05, 0.9))
    assert different(decided(one), decided(two)) is None
    assert difference(burnt_in(one), burnt_in(two)) == []
    for other in (section("supervised"), section("instant_teaching", as_released=False)):
        assert different(decided(one), decided(config(folder, other))) == "method.as_released"


REMEMBERS = [{"weighting": "sample_weighting"}, {"weighting": "uncertainty"}, {"cls": "equalization"}]


@pytest.mark.parametrize("sup", [{}, *REMEMBERS], ids=str)
def test_losses_of_labelled_images_count_and_what_they_learn_is_kept(folder: Path, sup: dict) -> None:
    plain = config(folder, section("supervised", loss={"sup": sup} if sup else None))
    free = {"sup": sup, "unsup": {"cls": "bce", "weighting": "score"}}
    cfg = config(folder, section("mean_teacher", loss=free))
    assert different(decided(cfg), decided(plain)) is None
    one, two = burnt_in(cfg), burnt_in(plain)
    assert difference(one, two) == []
    assert any(key.startswith("criterion.") for key in one["method"]) == bool(sup)
    if sup:
        assert different(decided(cfg), decided(config(folder, section("supervised"))))


@pytest.mark.parametrize(
    "unsup", [{"weighting": "sample_weighting"}, {"weighting": "uncertainty"}, {"cls": "equalization"}]
)
def test_losses_of_unlabelled_images_count_where_they_learn_or_count(folder: Path, unsup: dict) -> None:
    one, plain = config(folder, section("mean_teacher", loss={"unsup": unsup})), config(folder, section("supervised"))
    assert different(decided(one), decided(plain)).startswith("method.loss.unsup")
    two = config(folder, section("unbiased_teacher", loss={"unsup": unsup}))
    assert different(decided(one), decided(two)) is None
    assert difference(burnt_in(one), burnt_in(two)) == []


def test_parts_of_a_step_and_other_unlabelled_images_change_nothing(folder: Path) -> None:
    changes = {"train__accumulate": 2, "train__batch": {"labeled": 2, "unlabeled": 2}}
    plain = config(folder, section("supervised"), **changes)
    more = {
        **changes,
        "train__batch": {"labeled": 2, "unlabeled": 4},
        "data__unlabeled": {"format": "folder", "path": "val"},
    }
    cfg = config(folder, section("consistent_teacher", start=STEPS), **more)
    assert different(decided(cfg), decided(plain)) is None
    assert difference(burnt_in(cfg), burnt_in(plain)) == []
    one, two = build.load_data(cfg), build.load_data(plain)
    assert one.fingerprint_labeled == two.fingerprint_labeled
    assert one.fingerprint != two.fingerprint


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("train__lr", 0.1),
        ("train__seed", 1),
        ("train__steps", 9),
        ("train__batch", {"labeled": 4, "unlabeled": 2}),
        ("data__split", {"percent": 40, "fold": 2}),
        ("views__labeled", {"weak": []}),
        ("views__val", ["flip"]),
        ("detector", {**NETS["fcos"], "channels": 8}),
        ("method", section("mean_teacher", ema={**EMA, "decay": 0.5})),
        ("method", section("mean_teacher", burn_in=2)),
    ],
)
def test_what_decides_burn_in_is_named(folder: Path, key: str, value: object) -> None:
    cfg = config(folder, **{"method": section("mean_teacher"), key: value})
    found = different(decided(cfg), decided(config(folder, section("mean_teacher"))))
    assert found.startswith(key.replace("__", "."))


def test_the_teacher_follows_alike_where_the_words_are_equal() -> None:
    """All averages of a small grid: equal words, equal decays at each step before burn-in ends."""
    net = torch.nn.Linear(1, 1)
    grid = list(product((0.0, 0.4, 0.7, 0.75, 0.9, 0.999), (False, True), (0, 1, 2, 5, None)))
    for steps in (1, 2, 3, 4, 8):
        found: dict[str, tuple[float, ...]] = {}
        for decay, warm_up, start in grid:
            ema = EmaConfig(decay=decay, warm_up=warm_up, start=start)
            teacher = Ema(net, decay=decay, warm_up=warm_up, start=steps if start is None else start)
            decays = tuple(teacher.decay(step) for step in range(steps))
            assert found.setdefault(str(average(ema, steps, steps)), decays) == decays
        assert len(found) < len(grid)
    for every, gamma, start in product((1, 3), (None, 4.0), (0, 1, 5)):
        ema = EmaConfig(decay=0.7, start=start, every=every, gamma=gamma)
        teacher = Ema(net, decay=0.7, warm_up=True, start=start, every=every, gamma=gamma)
        decays = tuple(teacher.decay(step) for step in range(8))
        assert found.setdefault(str(average(ema, 8, 8)), decays) == decays
    for growth, start in product((1.0, 5.0), (0, 1)):
        ema = EmaConfig(decay=0.7, start=start, growth=growth)
        decays = tuple(Ema(net, decay=0.7, warm_up=True, start=start, growth=growth).decay(step) for step in range(8))
        assert found.setdefault(str(average(ema, 8, 8)), decays) == decays
    assert average(EmaConfig(buffers="average"), 0, 8) != average(EmaConfig(), 0, 8)
    assert average(EmaConfig(decay=0.999), 0, 400) == average(EmaConfig(decay=0.9996), 400, 400)
    assert average(EmaConfig(decay=0.5, start=None), 400, 400) == average(EmaConfig(decay=0.9, start=500), 400, 400)
    assert average(EmaConfig(decay=0.9, start=None), 0, 400)["start"] == 0, "a supervised run has no burn-in to copy in"


def test_a_class_that_says_nothing_shares_nothing() -> None:
    class Mine(MeanTeacher):
        pass

    class Says(MeanTeacher, burn_in_reads=()):
        pass

    assert base.Method.burn_in_reads is None
    assert (Mine.burn_in_reads, Says.burn_in_reads) == (None, ())


def test_why_not_is_said() -> None:
    assert "'instant_teaching_rectify' does not say" in apart(Common(name="instant_teaching_rectify"), "warn")
    assert "roll_back" in apart(Common(name="supervised"), "roll_back")
    assert apart(Common(name="supervised"), "stop") == ""
    domains = [find("efficient_teacher").Config(name="efficient_teacher", domain=of) for of in (0.0, 0.1)]
    assert ["moves more in burn-in" in apart(cfg, "warn") for cfg in domains] == [False, True]


@pytest.mark.parametrize(
    ("method", "changes", "words"),
    [
        (section("supervised"), {}, "train.keep_burn_in: 'supervised' has no burn-in; remove it"),
        (section("mean_teacher", burn_in=0), {}, "train.keep_burn_in: method.burn_in is 0; remove it"),
        (section("instant_teaching_rectify"), {}, "train.keep_burn_in: 'instant_teaching_rectify' does not say"),
        (section("mean_teacher"), {"train__on_collapse": "roll_back"}, "train.keep_burn_in: with train.on_collapse"),
    ],
)
def test_a_run_without_a_burn_in_to_share_keeps_none(folder: Path, method: dict, changes: dict, words: str) -> None:
    with pytest.raises(SsodError) as caught:
        config(folder, method, train__keep_burn_in=True, **changes)
    assert words in caught.value.line()

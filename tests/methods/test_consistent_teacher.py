"""Consistent-Teacher's own promises: what it does before its start, what passes, and what its config refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ssod.build import phase
from ssod.config import load, load_recipe
from ssod.methods.consistent_teacher import Config
from ssod.pseudo_labels.class_counts import count_filter
from ssod.pseudo_labels.threshold import GmmThreshold
from ssod.utils.errors import SsodError
from tests.small import small_config
from tests.test_methods import DETECTORS, batch, bits, detector, method, optimizer_of, step

GMM = {"name": "gmm"}


def test_until_its_start_it_labels_and_learns_nothing_from_it() -> None:
    m = method("consistent_teacher", detector("fcos"), burn_in=10, start=20)
    seen: list[int] = []
    predict = m.student.predict
    m.student.predict = lambda view: seen.append(int(view.keys[0])) or predict(view)
    data, optimizer = batch(), optimizer_of(m)
    labeled, strong = int(data.labeled.keys[0]), int(data.strong.keys[0])
    for number, names, bank in ((9, {"sup"}, False), (10, {"sup"}, True), (19, {"sup"}, True)):
        losses = step(m, data, number, optimizer)
        assert {name.split("/")[0] for name in losses} == names
        assert bool(m.threshold.bank.scores.any()) == bank
        assert ("pseudo/boxes_per_image" in m.stats) == bank
    assert seen == [labeled] * 3
    losses = step(m, data, 20, optimizer)
    assert {name.split("/")[0] for name in losses} == {"sup", "unsup"}
    assert seen[3:] == [labeled, strong]


@pytest.mark.parametrize("net", DETECTORS)
def test_labels_pass_the_count_filter_then_the_threshold_of_their_class(net: str) -> None:
    m = method("consistent_teacher", detector(net))
    data = batch()
    teacher = m.teacher.predict(data.weak)
    detections = teacher.detections()
    counted = count_filter(detections)
    kept = GmmThreshold(3)(counted)
    labels = m.label(teacher, data).cls
    assert 0 < sum(map(len, kept)) < sum(map(len, counted)) < sum(map(len, detections))
    for mine, expected in zip(labels, kept):
        assert torch.equal(mine.boxes, expected.boxes)
        assert torch.equal(mine.labels, expected.labels)
    logged = [m.stats[f"pseudo/{name}_per_image"] * 2 for name in ("detected", "counted", "passed")]
    assert logged == [sum(map(len, part)) for part in (detections, counted, kept)]
    assert m.stats["pseudo/threshold"].shape == (3,)
    assert 0 < m.stats["pseudo/bank_fill"] < 1


def test_any_threshold_serves_any_method() -> None:
    """Without the count filter, and begun at once, it is Mean Teacher with the same thresholds."""
    one = method("consistent_teacher", detector("fcos"), count_ratio=0, weight=2)
    other = method("mean_teacher", detector("fcos"), threshold=GMM, weight=2)
    losses, same = one(batch(), 50), other(batch(), 50)
    assert losses.keys() == same.keys()
    assert all(torch.equal(losses[name], same[name]) for name in losses)
    assert {name for name in bits(other) if name.startswith("threshold")} == {
        "threshold.values",
        "threshold.bank.scores",
    }
    fixed = method("consistent_teacher", detector("fcos"), threshold={"name": "fixed", "score": 0.3}, count_ratio=0)
    plain = method("mean_teacher", detector("fcos"))
    assert torch.equal(fixed(batch(), 50)["unsup/cls"], plain(batch(), 50)["unsup/cls"])
    assert "pseudo/threshold" not in fixed.stats


def test_losses_are_damped_while_hardly_an_image_has_a_label() -> None:
    nothing = {"name": "fixed", "score": 1.0}
    damped, bare = (
        method("consistent_teacher", detector("retinanet"), threshold=nothing, damping=damping)(batch(), 50)
        for damping in (0.01, 1.0)
    )
    torch.testing.assert_close(damped["unsup/cls"], bare["unsup/cls"] * 0.01)


def test_the_weight_starts_hard_or_ramps_from_its_start() -> None:
    hard = method("consistent_teacher", detector("fcos"), burn_in=5, start=20, weight=2)
    assert [hard.unsup_weight(s, None) for s in (20, 60)] == [2, 2]
    ramp = method("consistent_teacher", detector("fcos"), burn_in=5, start=20, weight=2, ramp=4)
    assert [ramp.unsup_weight(s, None) for s in (20, 21, 23, 60)] == [0.5, 1, 2, 2]
    late = method("consistent_teacher", detector("fcos"), burn_in=30, start=20, weight=2, ramp=4)
    assert [late.unsup_weight(s, None) for s in (30, 33)] == [0.5, 2]


def test_a_bank_restored_in_the_middle_of_filling_goes_on_with_the_same_bits() -> None:
    first, second = (method("consistent_teacher", detector("fcos"), start=52) for _ in range(2))
    one, other = optimizer_of(first), optimizer_of(second)
    step(first, batch(), 50, one)
    second.load_state_dict(bits(first))
    other.load_state_dict(one.state_dict())
    for number in (51, 52):
        step(first, batch(), number, one)
        step(second, batch(), number, other)
    assert first.threshold.values.any()
    assert all(torch.equal(a, b) for a, b in zip(bits(first).values(), bits(second).values()))


def test_as_the_paper_has_it() -> None:
    released, paper = (Config(name="consistent_teacher", as_released=x) for x in (True, False))
    assert (released.count_ratio, released.threshold.policy, released.threshold.fallback) == (1.0, "high", 0.0)
    assert (paper.count_ratio, paper.threshold.policy) == (0.0, "component")
    for threshold in ("gmm", {"name": "gmm", "size": 50}):
        assert Config(name="consistent_teacher", as_released=False, threshold=threshold).threshold.policy == "component"
        assert Config(name="consistent_teacher", threshold=threshold).threshold.policy == "high"
    stated = {"name": "gmm", "policy": "middle"}
    assert Config(name="consistent_teacher", as_released=False, threshold=stated).threshold.policy == "middle"
    own = Config(name="consistent_teacher", as_released=False, count_ratio=0.5, threshold={"name": "fixed"})
    assert (own.count_ratio, own.threshold.name) == (0.5, "fixed")
    assert Config.model_validate(paper.model_dump()) == paper


@pytest.mark.parametrize(("size", "data"), [("r50", "coco"), ("tiny", "neu_det")])
@pytest.mark.parametrize("net", DETECTORS)
def test_the_switch_is_whole_on_the_recipes_that_are_shipped(net: str, size: str, data: str) -> None:
    recipe = {"method": "consistent_teacher", "detector": f"{net}_{size}_fpn", "data": data}
    released = load_recipe(**recipe).method
    paper = load_recipe(**recipe, overrides=["method.as_released=false"]).method
    assert (released.count_ratio, released.threshold.policy) == (1.0, "high")
    assert (paper.count_ratio, paper.threshold.policy) == (0.0, "component")
    same = {"as_released", "count_ratio", "threshold"}
    assert paper.model_dump(exclude=same) == released.model_dump(exclude=same)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "method.start: 10000: no step of 24 would learn from unlabelled images"),
        ({"start": 24}, "method.start"),
        ({"start": 8, "threshold": {"name": "gmm", "size": 3}}, "method.threshold.size"),
        ({"start": 8, "score": 0.5}, "method.score: unknown key"),
    ],
)
def test_what_the_config_refuses(tmp_path: Path, changes: dict, words: str) -> None:
    with pytest.raises(SsodError) as error:
        load(small_config(tmp_path, method={"name": "consistent_teacher", **changes}))
    assert words in str(error.value)
    assert error.value.code == 2


def test_the_log_says_that_labels_are_not_learned_from_yet(tmp_path: Path) -> None:
    cfg = load(small_config(tmp_path, method={"name": "consistent_teacher", "burn_in": 6, "start": 10}))
    logged = [phase(cfg, step) for step in (5, 6, 9, 10)]
    assert logged == ["burn-in 5/6", "labels only 6/10", "labels only 9/10", "pseudo-labels"]


def test_a_small_config_loads_and_survives_its_own_dump(tmp_path: Path) -> None:
    section = {"name": "consistent_teacher", "burn_in": "10%", "start": "50%", "as_released": False}
    cfg = load(small_config(tmp_path, method=section))
    assert (cfg.method.burn_in, cfg.method.start) == (2, 12)
    again = load(small_config(tmp_path / "again", method=cfg.dump()["method"]))
    assert again.method == cfg.method

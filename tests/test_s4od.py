"""S4OD: whose detections pass, whose places are learnt, and when labelled images are looked at."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ssod import build, config
from ssod.data import datasets
from ssod.engine.stepper import Stepper
from ssod.methods.base import Method
from ssod.methods.s4od import Config
from ssod.pseudo_labels.best_f1 import BestF1
from ssod.pseudo_labels.nms_spread import cluster_spread
from ssod.structures import Batch, Clusters, Targets, View
from ssod.utils.errors import SsodError
from ssod.utils.signals import Signals
from tests import test_ranks as ranks
from tests.detectors.test_dense_detector_methods import detector as dense_detector
from tests.small import small_config, train_command
from tests.test_methods import (
    DETECTORS,
    K,
    asked_for,
    batch,
    bits,
    detector,
    method,
    no_targets,
    optimizer_of,
    some_targets,
    step,
    view,
)
from tests.test_micro_batches import N, looks, same_in_parts


def s4od(net: str, **changes: object) -> Method:
    """The method on a detector whose untrained boxes are large enough to suppress each other."""
    model = detector(net)
    if net == "fcos":
        torch.nn.init.constant_(model.head.regression_head.bbox_reg.bias, 2.3)
    return method("s4od", model, **changes)


def losses(net: str, **changes: object) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    m = s4od(net, **changes)
    found = m(batch(), 50)
    return {key.removeprefix("unsup/"): loss for key, loss in found.items() if key.startswith("unsup/")}, m.stats


# ---- what passes, and what its place counts ------------------------------------------------------------------------


@pytest.mark.parametrize("net", DETECTORS)
def test_a_detection_passes_that_reaches_the_threshold_of_its_class(net: str) -> None:
    m, data = s4od(net), batch()
    teacher = m.teacher.predict(data.weak)
    found = teacher.detections()
    scores, labels = torch.cat([t.scores for t in found]), torch.cat([t.labels for t in found])
    limits = torch.stack([scores[labels == c].sort().values[(labels == c).sum() // (c + 2)] for c in range(K)])
    m.thresholds.values.copy_(limits)
    kept = m.label(teacher, data).cls
    good = [t.scores >= limits[t.labels] for t in found]
    assert all(torch.equal(a.boxes, b.boxes[g]) for a, b, g in zip(kept, found, good))
    assert all(torch.equal(a.labels, b.labels[g]) for a, b, g in zip(kept, found, good))
    assert all((torch.cat([t.scores for t in kept]) == limit).any() for limit in limits)  # at it is enough
    assert 0 < sum(map(len, kept)) < len(scores)
    assert torch.equal(m.stats["pseudo/threshold"], limits)
    assert m.label(teacher, data).unsure is None  # all else is background
    assert m.label(teacher, data).box is None


def spread_out(limit: float) -> Clusters:
    """Boxes alone, in agreement, just below the limit, just above it, and three that are far apart; one image."""
    groups = []
    for i, shifts in enumerate([[0.0], [0, 0], [0, 3.96 * limit], [0, 4.04 * limit], [0, 8, 16]]):
        # Both sides of x move alike, so that the mean of the four sides is half of the deviation over the width.
        groups.append([[100.0 * i + 40 * s, 0, 100.0 * i + 40 + 40 * s, 30] for s in shifts])
    boxes = torch.tensor([box for group in groups for box in group])
    owner = torch.tensor([i for i, group in enumerate(groups) for _ in group])
    first = torch.tensor([group[0] for group in groups])
    found = Targets(first, torch.zeros(len(groups), dtype=torch.long), torch.linspace(0.9, 0.8, len(groups)))
    return Clusters([found], boxes[None], owner[None])


@pytest.mark.parametrize("limit", [0.05, 0.1])
def test_a_place_counts_by_its_spread(limit: float) -> None:
    clusters = spread_out(limit)
    mean = cluster_spread(clusters)[0].mean(1)
    torch.testing.assert_close(mean[2:4], torch.tensor([0.99, 1.01]) * limit)

    def weight(**keys: object) -> Tensor:
        return s4od("retinanet", spread=limit, **keys).place_weight(clusters)

    assert weight(members=2).tolist() == [0, 1, 1, 0, 0]
    assert weight(members=1).tolist() == [1, 1, 1, 0, 0]
    assert weight(members=3).tolist() == [0, 0, 0, 0, 0]
    torch.testing.assert_close(weight(members=1, soft=True), (-mean / limit).exp())
    torch.testing.assert_close(weight(members=2, soft=True), (-mean / limit).exp() * (torch.arange(5) > 0))


@pytest.mark.parametrize("net", DETECTORS)
def test_an_unsteady_box_teaches_its_class_and_no_place(net: str) -> None:
    steady, counted = losses(net, members=1, spread=1e6)
    nothing, none = losses(net, members=10_000)
    assert none["pseudo/steady_per_image"] == 0 < none["pseudo/boxes_per_image"]
    assert counted["pseudo/steady_per_image"] >= counted["pseudo/boxes_per_image"]  # some leave with the weak view
    assert nothing["box"] == 0 < steady["box"]
    assert nothing["cls"] == steady["cls"]
    if net == "faster_rcnn":
        assert nothing["rpn_box"] == 0 < steady["rpn_box"]
        assert nothing["rpn_cls"] == steady["rpn_cls"]
    if net == "fcos":  # how central a row is, is a matter of the place
        assert nothing["quality"] == 0 < steady["quality"]


@pytest.mark.parametrize("net", DETECTORS)
def test_rows_learn_the_places_of_steady_boxes_alone(net: str) -> None:
    m, data = s4od(net, members=1), batch(flip=False)
    m.thresholds.values.fill_(0.2)
    teacher = m.teacher.predict(data.weak)
    limit = cluster_spread(teacher.clusters())[0].mean(1).median().item()
    m.cfg = m.cfg.model_copy(update={"spread": limit + 1e-6})
    labels = m.label(teacher, data).cls
    steady = torch.cat([t.boxes[t.box_weight == 1] for t in labels])
    assert 0 < len(steady) < sum(map(len, labels))
    for stage, (_, a) in asked_for(m, Batch(data.labeled, {"weak": data.weak, "strong": data.weak})).items():
        learning, placed = a.matches() >= 0, a.fg
        on_steady = (a.box[:, None] == steady).all(-1).any(1)
        if stage != "rpn":
            assert (a.labels()[learning] < K).all()
        assert placed.any()
        assert torch.equal(placed, learning & on_steady & (a.box_weight > 0))
        assert (a.box_weight[learning & ~on_steady] == 0).all()
        assert (a.cls_weight[learning & ~on_steady] > 0).any()


@pytest.mark.parametrize("net", ["retinanet", "fcos", "central", "dense_detector"])
def test_what_a_sure_place_counts_does_not_depend_on_how_many_others_are_sure(net: str) -> None:
    """Two halves of the labels lose together what all of them lose; what is no place loses the same each time."""
    models = {
        "dense_detector": dense_detector,
        "central": lambda: detector("fcos", keys={"fcos": {"box_weight": "centerness"}}),
    }
    m, data = method("s4od", models.get(net, lambda: detector(net))()), batch()
    out = m.student.predict(data.strong)
    p, a = m.student.assign(out, some_targets())["dense"]

    def lost(sure: Tensor) -> dict[str, Tensor]:
        b = m.reweight("dense", p, replace(a, box_weight=a.box_weight * sure), None)
        return m.student.reduce({"dense": (p, b)})

    first = a.matches() % 2 == 0
    assert a.fg[first].any()
    assert a.fg[~first].any()
    whole, one, other = lost(torch.ones_like(first)), lost(first), lost(~first)
    assert m.student.reduce({"dense": (p, a)}).keys() == whole.keys()
    of_places = {"box", "quality"} if net in ("fcos", "central") else {"box"}
    for name, loss in whole.items():
        torch.testing.assert_close(one[name] + other[name] if name in of_places else one[name], loss)


def test_soft_weights_reach_the_rows() -> None:
    m, data = s4od("retinanet", members=1, soft=True, spread=0.1), batch(flip=False)
    labels = m.label(m.teacher.predict(data.weak), data).cls
    weights = torch.cat([t.box_weight for t in labels])
    assert ((weights > 0) & (weights < 1)).any()
    _, a = asked_for(m, Batch(data.labeled, {"weak": data.weak, "strong": data.weak}))["dense"]
    torch.testing.assert_close(a.box_weight[a.fg], weights[a.matched[a.fg]])


@pytest.mark.parametrize("net", DETECTORS)
def test_two_weigh_unlabelled_images(net: str) -> None:
    one, two = losses(net, weight=1.0)[0], losses(net)[0]
    for name in one:
        torch.testing.assert_close(two[name], 2 * one[name])


@pytest.mark.parametrize("net", DETECTORS)
def test_without_a_box_all_is_background(net: str) -> None:
    m = s4od(net, score=1.0)
    m.thresholds.values.fill_(1.0)
    found = step(m, batch(no_targets()), 50, optimizer_of(m))
    assert all(loss.isfinite() for loss in found.values())
    assert m.stats["pseudo/boxes_per_image"] == m.stats["pseudo/steady_per_image"] == 0
    assert found["unsup/box"] == 0 < found["unsup/cls"]


# ---- when labelled images are looked at, and thresholds chosen -----------------------------------------------------


def seen_and_chosen(m: Method, steps: int, skipped: tuple[int, ...] = ()) -> tuple[list[int], list[int]]:
    """Return the steps in which the teacher looks at labelled images, and those after which thresholds are chosen."""
    looked: list[int] = []
    chosen: list[int] = []
    m.thresholds.count = lambda found, truth: looked.append(number)
    m.thresholds.choose = lambda: chosen.append(number)
    data, optimizer = batch(), optimizer_of(m)
    for number in range(steps):
        if number in skipped:
            m(data, number)
            m.after_skip(number)
        else:
            step(m, data, number, optimizer)
    return looked, chosen


def test_thresholds_are_chosen_after_burn_in_and_every_so_many_steps() -> None:
    m = s4od("fcos", burn_in=3, look=2, every=4)
    assert m.cfg.unsup_start == 5
    looked, chosen = seen_and_chosen(m, 14, skipped=(8,))
    assert looked == [3, 4, 7, 8, 11, 12]
    assert chosen == [4, 8, 12]
    assert seen_and_chosen(s4od("fcos", burn_in=0, look=3, every=3), 7) == (list(range(7)), [2, 5])
    assert seen_and_chosen(s4od("fcos", burn_in=2, look=3, every=3), 8) == (list(range(2, 8)), [4, 7])


def test_unlabelled_images_teach_when_the_first_thresholds_are_known() -> None:
    m = s4od("fcos", burn_in=1, look=2, every=4)
    optimizer, data = optimizer_of(m), batch()
    for number in range(5):
        found = step(m, data, number, optimizer)
        assert any(name.startswith("unsup/") for name in found) == (number >= 3), number
        assert ("pseudo/threshold" in m.stats) == (number >= 1)


def test_what_is_chosen_follows_from_what_the_teacher_finds_in_labelled_images() -> None:
    m = s4od("retinanet", burn_in=0, look=2, every=9, iou=0.3, score=0.4)
    hand, optimizer = BestF1(K, start=0.4, overlap=0.3), optimizer_of(m)
    for number in range(2):
        found = m.teacher.predict(view(0)).detections()
        truth = [t[:1] for t in found]  # of each image the best detection is right
        hand.count(found, truth)
        step(m, batch(truth), number, optimizer)
    assert hand.images == 4
    assert m.thresholds.images == 0  # it counts anew
    hand.choose()
    assert torch.equal(m.thresholds.values, hand.values)
    assert (hand.values != 0.4).any()


def test_of_several_labelled_views_the_teacher_sees_the_first() -> None:
    both = replace(view(0, [t for t in some_targets() for _ in range(2)], n=2), per_image=2)
    pixels = torch.cat([view(seed, n=2).images for seed in (0, 1)])[[0, 2, 1, 3]]
    fields = {name: getattr(both, name).repeat_interleave(2, 0) for name in ("sizes", "matrix", "keys")}
    both = replace(both, images=pixels, ids=[0, 0, 1, 1], **fields)
    first = both.first()
    assert first.ids == [0, 1]
    assert first.per_image == 1
    assert torch.equal(first.images, view(0, n=2).images)
    assert torch.equal(first.sizes, view(0).sizes)
    assert all(torch.equal(a.boxes, b.boxes) for a, b in zip(first.targets, some_targets(), strict=True))
    assert first.first() is first
    m = s4od("retinanet", look=1, every=1)
    seen: list[View] = []
    predict = m.teacher.model.predict
    m.teacher.model.predict = lambda v: seen.append(v) or predict(v)
    m(Batch(both, batch().views), 50)
    assert [len(v) for v in seen] == [2, 2]
    assert torch.equal(seen[1].images, first.images)
    assert m.thresholds.images == 2


def test_the_loader_says_how_many_views_an_image_has(tmp_path: Path) -> None:
    views = {"weak": ["flip"], "strong": {"start": "weak", "ops": ["color_op"]}}
    cfg = config.load(small_config(tmp_path, views__labeled=views))
    batches = build.batches(cfg, datasets.load(cfg.data), 0)
    labeled = next(batches).labeled
    batches.close()
    assert (len(labeled), labeled.per_image, len(labeled.first())) == (4, 2, 2)
    assert labeled.first().ids == labeled.ids[::2]
    assert torch.equal(labeled.first().images, labeled.images[::2])
    assert torch.equal(labeled.first().matrix, labeled.matrix[1::2])  # the strong view moves no pixel


# ---- one state, however it is reached ------------------------------------------------------------------------------


def stepper_of(path: Path) -> tuple[Stepper, config.Config]:
    cfg = config.load(path)
    return Stepper(build.build_method(cfg, datasets.load(cfg.data)), cfg.train, Signals()), cfg


def test_a_run_that_goes_on_within_a_look_chooses_the_same(tmp_path: Path) -> None:
    section = {"name": "s4od", "burn_in": 2, "look": 3, "every": 4, "score": 0.12, "iou": 0.1, "ema": {"decay": 0.9}}
    path = small_config(tmp_path, detector=ranks.begun("fcos", tmp_path), method=section)
    whole, cfg = stepper_of(path)
    data, state = datasets.load(cfg.data), {}
    batches = build.batches(cfg, data, 0)
    for number in range(11):
        if number == 7:
            assert whole.method.thresholds.images > 0  # in the middle of a look
            state = deepcopy(whole.state_dict())
        assert whole.train_step(batches, number).made
    batches.close()
    other, _ = stepper_of(path)
    other.load_state_dict(state, {})
    batches = build.batches(cfg, data, 7)
    for number in range(7, 11):
        assert other.train_step(batches, number).made
    batches.close()
    one, two = bits(whole.method), bits(other.method)
    assert one.keys() == two.keys()
    assert all(torch.equal(value, two[key]) for key, value in one.items())
    assert not torch.equal(one["thresholds.values"], state["method"]["thresholds.values"])


@pytest.mark.parametrize("net", DETECTORS)
def test_parts_of_a_step_learn_and_choose_what_the_whole_does(net: str) -> None:
    same_in_parts(lambda: s4od(net, look=1, every=1, members=2, spread=0.5, iou=0.05, score=0.2))


def test_in_parts_the_teacher_looks_once_at_each_image() -> None:
    assert looks(s4od("fcos"), 2) == (4 * N, N)
    assert looks(s4od("fcos", look=1, every=1), 2) == (4 * N, 2 * N)
    assert looks(s4od("fcos", look=1, every=1), 1) == (2 * N, 2 * N)


@pytest.mark.slow
@pytest.mark.parametrize("net", ["fcos", "faster_rcnn"])
def test_two_ranks_lose_and_choose_what_one_process_does(tmp_path: Path, net: str) -> None:
    section = {"name": "s4od", "look": 1, "every": 1, "score": 0.05, "iou": 0.1, "members": 1, "spread": 0.5}
    section |= {"ema": {"decay": 0.9}}
    cfg = small_config(tmp_path, detector=ranks.begun(net, tmp_path), train__steps=3, **ranks.PLAIN, method=section)
    ranks.run(train_command(cfg, tmp_path / "one"))
    ranks.two(cfg, tmp_path / "two")
    alone, together = ranks.losses(tmp_path / "one"), ranks.losses(tmp_path / "two")
    assert any(name.startswith("unsup/") for name in alone[1])
    for a, b in zip(alone, together, strict=True):
        assert a.keys() == b.keys()
        assert ranks.largest_difference(a, b) <= 1e-5
    chosen = [thresholds(tmp_path / name) for name in ("one", "two")]
    assert chosen[0] == chosen[1]


def thresholds(folder: Path) -> list[list[float]]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row["pseudo/threshold"] for row in rows if row["kind"] == "train" and "pseudo/threshold" in row]


# ---- the config ----------------------------------------------------------------------------------------------------


def test_the_constants_of_our_reading_are_the_defaults() -> None:
    cfg = Config(name="s4od")
    assert (cfg.score, cfg.every, cfg.look, cfg.iou) == (0.5, 1000, 250, 0.5)
    assert (cfg.spread, cfg.members, cfg.soft, cfg.weight) == (0.05, 2, False, 2.0)
    assert (cfg.ema.decay, cfg.ema.warm_up, cfg.ema.start) == (0.9996, False, None)
    assert cfg.loss_weights == {}
    assert cfg.unsup_start == 250


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        ({"look": 5, "every": 4}, "method.look", "5 steps do not fit between two choices, 'every: 4'"),
        ({"look": 18}, "method.look", "no step of 24 would learn from unlabelled images"),
        ({"look": 0}, "method.look", "must be 1 or more"),
        ({"look": "1%", "every": "1%"}, "method.every", "must be 1 or more"),
        ({"look": 2, "spread": 0}, "method.spread", "greater than 0"),
        ({"look": 2, "iou": 0}, "method.iou", "greater than 0"),
        ({"look": 2, "members": 0}, "method.members", "greater than or equal to 1"),
        ({"look": 2, "threshold": "gmm"}, "method.threshold", "unknown key"),
    ],
)
def test_what_the_config_refuses(tmp_path: Path, changes: dict, field: str, words: str) -> None:
    with pytest.raises(SsodError) as error:
        config.load(small_config(tmp_path, method={"name": "s4od", "burn_in": 6} | changes))
    assert (error.value.field, error.value.code) == (field, 2)
    assert words in str(error.value)
    assert "\n" not in str(error.value)

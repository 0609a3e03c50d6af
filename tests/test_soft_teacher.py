"""Soft Teacher: the released code's numbers through our functions, and what its two lists and its weights do."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from ssod import config
from ssod.losses.box import l1
from ssod.losses.softmax import cross_entropy
from ssod.methods import soft_teacher
from ssod.methods.soft_teacher import Config
from ssod.pseudo_labels.jitter import box_spread, jittered, spread_of_sides, unit_noise
from ssod.structures import Assignment, Batch, Predictions, Pseudo, Targets, View
from ssod.structures.boxes import clip, warp
from ssod.utils.errors import SsodError
from tests.losses.rows import Plain
from tests.losses.test_weighting import Answers, look
from tests.paths import golden_path
from tests.rows import context
from tests.small import small_config
from tests.test_methods import DETECTORS, SIDE, K, asked_for, batch, detector, method, step, view

FILE = np.load(golden_path("soft_teacher.npz"), allow_pickle=False)
CASES = json.loads(str(FILE["cases_json"]))


def of_kind(kind: str) -> list:
    return [pytest.param(case, id=case["name"]) for case in CASES if case["kind"] == kind]


def array(case: dict, name: str) -> Tensor:
    found = torch.from_numpy(FILE[f"{case['id']}.{name}"])
    return found.float() if found.is_floating_point() else found


def close(got: Tensor, wanted: Tensor, rtol: float = 1e-4, atol: float = 1e-5) -> None:
    torch.testing.assert_close(got.detach(), wanted, rtol=rtol, atol=atol)


# ---- the released code's numbers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("case", of_kind("jitter"))
def test_jitter_golden(case: dict) -> None:
    """Sides below a pixel count as one, deviations have one degree of freedom less, and no box is no spread."""
    boxes, labels = array(case, "boxes"), array(case, "labels")
    close(jittered(boxes, array(case, "unit_noise"), case["jitter_scale"]), array(case, "jittered"))
    refined = array(case, "refined")
    column = labels if case["class_specific"] else torch.zeros_like(labels)
    spread = spread_of_sides(refined[:, torch.arange(len(boxes)), column])
    close(spread, array(case, "uncertainty"))
    close(spread.mean(1), array(case, "mean_uncertainty"))
    assert torch.equal(spread.mean(1) < case["reg_threshold"], array(case, "selected_for_regression"))


@pytest.mark.parametrize("case", of_kind("select"))
def test_selection_golden(case: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits are strict; places do not ask for the score of classes; a box without a side teaches nothing."""
    spread = array(case, "uncertainty").mean(1)
    found = Targets(array(case, "boxes"), array(case, "labels"), array(case, "scores"))
    teacher = SimpleNamespace(detections=lambda: [found])
    monkeypatch.setattr(soft_teacher, "box_spread", lambda *_, **__: spread)
    limits = {"score": case["score_threshold"], "candidate_score": 0, "spread": case["reg_threshold"]}
    m = method("soft_teacher", detector("faster_rcnn"), **limits)
    here = replace(view(0, n=1), sizes=torch.tensor([[1000, 1000]]))
    labels = m.label(teacher, Batch(here, {"weak": here})).move(here, here)
    cls, box = array(case, "cls_index"), array(case, "reg_index")
    assert torch.equal(cls, array(case, "rpn_index"))  # the proposal network learns the boxes that teach classes
    for got, index in ((labels.cls[0], cls), (labels.box[0], box)):
        assert len(index)
        assert torch.equal(got.boxes, found.boxes[index])
        assert torch.equal(got.labels, found.labels[index])


@pytest.mark.parametrize("case", of_kind("cls"))
def test_weighted_classification_golden(case: dict) -> None:
    """Two images in views of their own, an image without pseudo-boxes, and weights that sum to less than 1."""
    m = method("soft_teacher", detector("faster_rcnn", classes=case["num_classes"]))
    student, teacher = (
        replace(
            look(torch.stack([array(case, f"i{i}.{who}_matrix") for i in range(case["images"])])),
            sizes=torch.stack([array(case, f"i{i}.image_hw") for i in range(case["images"])]),
        )
        for who in ("student", "teacher")
    )
    logits, rois, labels = array(case, "student_logits"), array(case, "rois_img_xyxy"), array(case, "labels")
    n, image = len(labels), rois[:, 0].long()
    deltas = array(case, "box_pred").unflatten(1, (case["num_classes"], 4))
    p = Predictions(logits.requires_grad_(), deltas, rois[:, 1:], image, student.sizes, Plain(), softmax=True)
    a = Assignment(labels, torch.ones(n), array(case, "box_targets"), array(case, "box_weights")[:, 0])
    answers = Answers(replace(p, logits=array(case, "teacher_probs").log()))
    views = Batch(teacher, {"weak": teacher, "strong": student})
    b = m.reweight("roi", p, a, context(teacher=answers, view=student, batch=views))
    close(torch.cat(answers.asked), array(case, "rois_in_teacher_view"), atol=2e-3)  # inverses of float32 matrices
    weights, normalizers = array(case, "weights"), m.student.normalizers("roi", p, b)
    close(b.cls_weight / normalizers["cls"], weights / weights.sum().clamp(min=1))
    loss = (cross_entropy(p, b) * b.cls_weight / normalizers["cls"]).sum()
    close(loss, array(case, "loss_cls"))
    loss.backward()
    close(logits.grad, array(case, "grad_student_logits"), rtol=1e-3)
    close(b.weighed_box(l1(p, b)).sum() / normalizers["box"], array(case, "loss_box_all"))


# ---- how steady a box is -------------------------------------------------------------------------------------------


def some_of(images: View, index: list[int]) -> View:
    kept = torch.tensor(index)
    fields = {name: getattr(images, name)[kept] for name in ("images", "sizes", "matrix", "keys")}
    return View(**fields, ids=[images.ids[i] for i in index])


@pytest.mark.parametrize("net", DETECTORS)
def test_the_spread_of_a_box_depends_on_its_image_alone(net: str) -> None:
    m, weak = method("soft_teacher", detector(net)), view(5)
    found = m.teacher.predict(weak).detections()
    n = len(found[0])

    def spread(index: list[int], keys: Tensor | None = None) -> Tensor:
        part = some_of(weak, index)
        part = part if keys is None else replace(part, keys=keys)
        return box_spread(m.teacher.predict(part), [found[i] for i in index], part, times=10, scale=0.3)

    def same(a: Tensor, b: Tensor) -> bool:
        return torch.allclose(a, b, rtol=1e-4, atol=1e-5)

    both = spread([0, 1])
    assert torch.equal(spread([0, 1]), both)
    assert same(spread([1, 0]), torch.cat([both[n:], both[:n]]))
    assert same(spread([1]), both[n:])
    assert not same(spread([0, 1], torch.tensor([70, 71])), both)


def test_noise_is_normal_and_nobody_else_s() -> None:
    keys = torch.arange(40) + 1000
    noise = unit_noise([25] * 40, keys, 10)
    assert noise.shape == (10, 1000, 4)
    assert abs(noise.mean()) < 0.01
    assert abs(noise.std() - 1) < 0.01
    assert abs((noise.abs() < 1).float().mean() - 0.6827) < 0.01
    assert len(noise.flatten().unique()) > 0.99 * noise.numel()
    flat = noise.flatten(1)
    assert torch.corrcoef(flat).fill_diagonal_(0).abs().max() < 0.08
    few = unit_noise([0, 3], keys[:2], 10)
    assert torch.equal(few, noise[:, 25:28])


def test_a_spread_is_that_of_the_class_that_was_found() -> None:
    """The teacher says one box for class 0 and another for class 1, whose left side shakes."""
    asked: list[Tensor] = []

    def score(boxes: list[Tensor]) -> Predictions:
        rows = torch.cat(boxes)
        asked.append(rows)
        still = torch.tensor([10.0, 10, 30, 50]).repeat(len(rows), 1)
        shaken = torch.cat([rows[:, :1], still[:, 1:]], 1)
        image = torch.zeros(len(rows), dtype=torch.long)
        logits, size = torch.zeros(len(rows), 3), torch.tensor([[60, 60]])
        return Predictions(logits, torch.stack([still, shaken], 1), rows, image, size, Plain(), softmax=True)

    found = Targets(torch.tensor([[10.0, 10, 30, 50], [10.0, 10, 30, 50]]), torch.tensor([0, 1]))
    spread = box_spread(SimpleNamespace(score=score), [found], view(5, n=1), times=10, scale=0.06)
    left = asked[0].view(10, 2, 4)[:, 1, 0]
    assert spread[0] == 0
    assert spread[1].item() == pytest.approx((left.std() / (30 - left.mean()) / 4).item(), 1e-4)


# ---- two lists -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("net", DETECTORS)
def test_classes_learn_by_score_and_places_by_spread(net: str) -> None:
    m, data = method("soft_teacher", detector(net)), batch()
    teacher = m.teacher.predict(data.weak)
    found = teacher.detections()
    scores = torch.cat([t.scores for t in found])
    low, high = scores.quantile(0.3).item(), scores.quantile(0.7).item()
    kept = [t[t.scores > low] for t in found]
    spread = box_spread(teacher, kept, data.weak, times=10, scale=0.06)
    limit = spread.median().item()
    m.cfg = m.cfg.model_copy(update={"candidate_score": low, "score": high, "spread": limit})
    labels = m.label(teacher, data)
    assert labels.unsure is None
    for image, t in enumerate(kept):
        mine = spread.split([len(t) for t in kept])[image]
        assert torch.equal(labels.cls[image].boxes, t.boxes[t.scores > high])
        assert torch.equal(labels.box[image].boxes, t.boxes[mine < limit])
    counts = [sum(map(len, part)) for part in (labels.cls, labels.box, kept)]
    assert 0 < counts[0] < counts[2]
    assert 0 < counts[1] < counts[2]
    assert torch.cat([t.scores for t in labels.box]).min() < high  # a steady box need not be a sure one
    assert m.stats["pseudo/steady_per_image"] * 2 == counts[1]


def unsup(net: str, **changes: object) -> tuple[dict[str, Tensor], dict]:
    m = method("soft_teacher", detector(net), **changes)
    losses = m(batch(), 50)
    return {k.removeprefix("unsup/"): v for k, v in losses.items() if k.startswith("unsup/")}, m.stats


@pytest.mark.parametrize("net", DETECTORS)
def test_an_unsteady_box_teaches_no_place_and_all_else_stays(net: str) -> None:
    steady, _ = unsup(net, spread=1.0)
    nothing, stats = unsup(net, spread=0.0)
    assert stats["pseudo/steady_per_image"] == 0 < stats["pseudo/boxes_per_image"]
    assert nothing["box"] == 0 < steady["box"]
    same = set(steady) - {"box", "quality"}  # the quality of a row is that of its box
    assert all(torch.equal(nothing[name], steady[name]) for name in same)


def test_boxes_of_the_second_stage_have_a_sample_of_their_own() -> None:
    m, data = method("soft_teacher", detector("faster_rcnn"), score=0.29), batch()
    seen: list[Pseudo] = []
    assign = m.student.assign
    m.student.assign = lambda out, cls, box=None, assigner=None: seen.append(Pseudo(cls, box)) or assign(out, cls, box)
    asked = asked_for(m, data)
    losses = m(data, 50)
    p, a = asked["roi"]
    rows = m.student.roi_cfg.rows
    classifies, regresses = a.cls_weight.view(2, 2 * rows), a.box_weight.view(2, 2 * rows)
    assert classifies[:, :rows].any()
    assert regresses[:, rows:].any()
    assert not classifies[:, rows:].any()
    assert not regresses[:, :rows].any()
    labels = seen[1]  # the first look is at labelled images
    assert sum(map(len, labels.box)) > sum(map(len, labels.cls))
    steady = torch.cat([t.boxes for t in labels.box])
    assert (a.box[a.fg][:, None] == steady).all(-1).any(1).all()
    drawn = m.student.assign_roi(m.student.predict(data.strong), labels.box)[1]
    counted = ((drawn.cls_weight > 0) | drawn.fg).sum()
    hand = a.weighed_box(m.student.rows["box"](p, a)).sum() / counted
    torch.testing.assert_close(losses["unsup/box"], hand * m.cfg.weight, rtol=1e-4, atol=1e-5)
    wanted = torch.cat([t.boxes for t in labels.cls])
    _, objects = asked["rpn"]
    assert objects.fg.any()
    assert (objects.box[objects.fg][:, None] == wanted).all(-1).any(1).all()


@pytest.mark.parametrize("changes", [{}, {"score": 1.0, "candidate_score": 1.0}], ids=["boxes", "no boxes"])
def test_background_counts_by_the_teacher_and_the_sum_of_weights_divides(changes: dict) -> None:
    m, data = method("soft_teacher", detector("faster_rcnn"), **changes), batch()
    losses = m(data, 50)
    p, a = asked_for(m, data)["roi"]
    rows = (a.cls_weight > 0).nonzero().squeeze(1)
    boxes, image = p.priors[rows], p.image[rows]
    there = clip(warp(boxes, torch.linalg.inv(data.strong.matrix)[image]), data.weak.sizes[image])  # weak: as it was
    teacher = m.teacher.predict(data.weak)
    says = teacher.score([there[image == i] for i in range(2)]).logits.softmax(-1)[:, -1]
    weight = torch.where(a.cls[rows] < K, 1.0, says)
    assert (weight < 1).any()
    assert (weight == 1).any() == (not changes)
    loss = torch.nn.functional.cross_entropy(p.logits[rows], a.cls[rows], reduction="none")
    m.student.rows["cls"] = cross_entropy  # the tests' detector has a focal one
    own = m(data, 50)["unsup/cls"]
    torch.testing.assert_close(own, m.cfg.weight * (weight * loss).sum() / weight.sum().clamp(min=1))
    assert own != losses["unsup/cls"]


@pytest.mark.parametrize("net", DETECTORS)
def test_no_candidate_is_a_step_like_any_other(net: str) -> None:
    m = method("soft_teacher", detector(net), score=1.0, candidate_score=1.0)
    losses = step(m, batch(), 50, torch.optim.SGD(m.student.parameters(), 1e-3))
    assert all(loss.isfinite() for loss in losses.values())
    assert losses["unsup/box"] == 0 < losses["unsup/cls"]
    assert m.stats["pseudo/boxes_per_image"] == m.stats["pseudo/steady_per_image"] == 0


def test_what_lies_in_the_padding_of_the_weak_view_is_clipped_to_the_image() -> None:
    """A box that is refined out of the picture ends at its border, whatever the draw."""

    def score(boxes: list[Tensor]) -> Predictions:
        rows = torch.cat(boxes)
        image = torch.zeros(len(rows), dtype=torch.long)
        far = rows + torch.tensor([0.0, 0, 500, 500])
        logits, size = torch.zeros(len(rows), 2), torch.tensor([[80, 70]])
        return Predictions(logits, far[:, None], rows, image, size, Plain(), softmax=True)

    found = Targets(torch.tensor([[10.0, 10, SIDE, SIDE]]), torch.tensor([0]))
    spread = box_spread(SimpleNamespace(score=score), [found], view(5, n=1), times=10, scale=0.06)
    draws = jittered(found.boxes, unit_noise([1], view(5, n=1).keys, 10), 0.06)[:, 0]
    x, y = draws[:, 0].clamp(min=0), draws[:, 1].clamp(min=0)
    hand = (x.std() / (70 - x).mean() + y.std() / (80 - y).mean()) / 4
    assert spread.item() == pytest.approx(hand.item(), 1e-4)


# ---- the config ----------------------------------------------------------------------------------------------------


def test_the_released_constants_are_the_defaults() -> None:
    cfg = Config(name="soft_teacher")
    assert (cfg.score, cfg.candidate_score, cfg.spread) == (0.9, 0.5, 0.02)
    assert (cfg.jitter_times, cfg.jitter_scale) == (10, 0.06)
    assert (cfg.weight, cfg.burn_in, cfg.ramp, cfg.damping) == (4.0, 0, 0, 1.0)
    assert (cfg.ema.decay, cfg.ema.warm_up, cfg.ema.start) == (0.999, True, 0)


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        ({"mix": {"mixup": 0.5, "mosaic": 0}}, "method.mix", "the teacher is asked what it sees at each row's place"),
        ({"score": 0.4}, "method.score", "'score: 0.4' lies below 'candidate_score: 0.5'"),
        ({"jitter_times": 1}, "method.jitter_times", "greater than or equal to 2"),
    ],
)
def test_what_the_config_refuses(tmp_path: Path, changes: dict, field: str, words: str) -> None:
    with pytest.raises(SsodError) as error:
        config.load(small_config(tmp_path, method={"name": "soft_teacher", "burn_in": 6} | changes))
    assert (error.value.field, error.value.code) == (field, 2)
    assert words in str(error.value)
    assert "\n" not in str(error.value)

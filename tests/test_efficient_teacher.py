"""Efficient Teacher: whose rows learn what, thresholds, and batches without a box."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from ssod.assign.soft_quality import numbers
from ssod.detectors.build import DetectorConfig, build
from ssod.losses.domain import LABELED, UNLABELED, DomainClassifier
from ssod.methods.base import Method
from ssod.methods.efficient_teacher import Config, best_class
from ssod.pseudo_labels.label_queue import BOXES, LabelQueue
from ssod.structures import LabelStatistics, Pseudo, Targets
from ssod.utils.errors import SsodError
from tests.test_methods import K, asked_for, batch, bits, detector, method, no_targets, optimizer_of, step
from tests.test_micro_batches import rows_that_know_no_neighbours, same_in_parts  # noqa: F401  the fixture is used

MIDDLE = 0.655  # of what the untrained teacher's scores are


def efficient(**changes: object) -> Method:
    return method("efficient_teacher", detector("fcos"), **({"score": MIDDLE, "unsure_score": 0.64} | changes))


# ---- two kinds of boxes --------------------------------------------------------------------------------------------


def test_detections_are_reliable_in_doubt_or_nothing_and_the_teacher_is_asked_about_those_in_doubt() -> None:
    m, data = efficient(), batch()
    teacher = m.teacher.predict(data.weak)
    found, labels = teacher.detections(rank=best_class), m.label(teacher, data)
    assert any(len(t) for t in labels.cls)
    for t, sure, unsure in zip(found, labels.cls, labels.unsure):
        assert torch.equal(sure.boxes, t.boxes[t.scores >= MIDDLE])
        assert torch.equal(unsure.boxes, t.boxes[(t.scores < MIDDLE) & (t.scores >= 0.64)])
        assert 0 < len(unsure) < len(t)
    known = teacher.score([t.boxes for t in labels.unsure]).quality.sigmoid()
    assert torch.equal(torch.cat([t.quality for t in labels.unsure]), known)
    moved = labels.move(data.weak, data.strong)
    for before, after in zip(labels.unsure, moved.unsure):  # what is said of a box stays with it, whichever leave
        flipped = 96 - before.boxes[:, [2, 1, 0, 3]] * torch.tensor([1, -1, 1, -1]) - torch.tensor([0, 96.0, 0, 96])
        assert set(after.quality.tolist()) <= set(before.quality.tolist())
        assert len(after) <= len(flipped)


@pytest.mark.parametrize("net", ["fcos", "dense_detector"])
def test_a_row_gives_one_box_of_its_best_class(net: str) -> None:
    """Two classes of a row would be a reliable box and one in doubt in the same place."""
    own = {"name": net, "backbone": "tiny", "channels": 16}
    m = method("efficient_teacher", build(TypeAdapter(DetectorConfig).validate_python(own), K), score=0.6)
    data = batch()
    teacher = m.teacher.predict(data.weak)
    p = teacher.stages["dense"]
    p.quality = torch.full_like(p.quality, 9.0)
    p.logits = torch.full_like(p.logits, -9.0)
    place = torch.tensor([len(p) // 4, 3 * len(p) // 4])  # a row of each image
    p.logits[place] = torch.tensor([-0.5, 2.0, -9.0])
    assert [t.labels.tolist() for t in teacher.detections(score=0.1)] == [[1, 0]] * 2
    labels = m.label(teacher, data)
    assert [t.labels.tolist() for t in labels.cls] == [[1]] * 2
    assert [len(t) for t in labels.unsure] == [0, 0]


def test_a_limit_of_the_detector_is_not_that_of_the_method() -> None:
    """What is measured may be cut at another score than what is in doubt."""
    m, data = efficient(), batch()
    whole = m.label(m.teacher.predict(data.weak), data)
    m.teacher.model.decode = m.teacher.model.decode.model_copy(update={"score": MIDDLE})
    cut = m.label(m.teacher.predict(data.weak), data)
    assert all(torch.equal(a.boxes, b.boxes) for a, b in zip(whole.unsure, cut.unsure, strict=True))


@pytest.mark.parametrize("box_quality", [0.0, 2.0])
def test_rows_of_a_box_in_doubt_learn_no_class_and_the_teachers_quality(box_quality: float) -> None:
    m = efficient(box_quality=box_quality)
    boxes = torch.tensor([[4.0, 4, 50, 50], [44, 40, 90, 86]])
    scored = {"labels": torch.tensor([0, 1]), "scores": torch.tensor([0.9, 0.2]), "quality": torch.tensor([0.8, 0.3])}
    known = Targets(boxes, **scored)
    m.label = lambda teacher, batch: Pseudo([known[:1]] * 2, unsure=[known[1:]] * 2)
    ((p, a),) = asked_for(m, batch(flip=False)).values()
    sure, unsure = a.matches() % 2 == 0, a.matches() == 1
    sure, unsure = (a.matches() >= 0) & sure, unsure | (a.matches() == 3)
    assert sure.any()
    assert unsure.any()
    assert (a.cls_weight == ~unsure).all()
    assert (a.cls[sure] == 0).all()
    assert (a.box_weight[unsure] == (box_quality == 0)).all()
    assert (a.quality[unsure] == 0.3).all()
    near = m.student.with_quality(p, a).quality
    assert torch.equal(a.quality[sure], near[sure])
    assert torch.equal(a.quality_weight > 0, sure | unsure)
    count = a.normalizer["box"]
    assert (count[sure] == sure.sum()).all()
    assert (count[unsure] == max(1, unsure.sum() * (box_quality == 0))).all()
    assert (a.normalizer["quality"] == (sure | unsure).sum()).all()
    losses = m.student.reduce({"dense": (p, a)})
    for name, of in (("cls", p.logits), ("box", p.deltas), ("quality", p.quality)):
        (slope,) = torch.autograd.grad(losses[name], of, retain_graph=True)
        some = slope.flatten(1).any(1) if of.ndim > 1 else slope != 0
        assert some[sure].any()
        assert some[unsure].any() == (name == "quality" or (name == "box" and box_quality == 0)), name


def test_a_row_that_boxes_of_both_kinds_take_learns_the_class_of_one_and_the_objectness_of_the_other() -> None:
    m = efficient()
    box = torch.tensor([[20.0, 20, 70, 70]])
    sure = Targets(box, torch.tensor([1]), torch.tensor([0.9]))
    unsure = replace(sure, labels=torch.tensor([2]), quality=torch.tensor([0.4]))
    m.label = lambda teacher, batch: Pseudo([sure] * 2, unsure=[unsure] * 2)
    ((_, a),) = asked_for(m, batch(flip=False)).values()
    rows = a.cls == 1
    assert rows.any()
    assert (a.cls_weight == 1).all()
    assert (a.box_weight[rows] == 1).all()
    assert (a.quality[rows] == 0.4).all()
    assert set(a.matches()[rows].tolist()) == {0, 2}


def test_boxes_of_both_kinds_are_counted_image_by_image() -> None:
    first, second = numbers([2, 0, 1], [1, 2, 0], "cpu")
    assert first.tolist() == [0, 1, 5]
    assert second.tolist() == [2, 3, 4]


def test_the_losses_weigh_nothing_where_no_image_has_a_box() -> None:
    nothing, one = no_targets(), [replace(t, scores=t.boxes[:, 0], quality=t.boxes[:, 0]) for t in no_targets()]
    box = Targets(torch.tensor([[4.0, 4, 50, 50]]), torch.tensor([0]), torch.tensor([0.9]), quality=torch.tensor([0.5]))
    m = efficient(weight=2.0)
    empty = [t[:0] for t in one]
    assert m.unsup_weight(50, Pseudo(nothing, unsure=nothing)) == 0
    assert m.unsup_weight(50, Pseudo([box, empty[0]], unsure=empty)) == 2
    assert m.unsup_weight(50, Pseudo(empty, unsure=[empty[0], box])) == 2
    m.label = lambda teacher, batch: Pseudo(empty, unsure=empty)
    losses = m(batch(), 50)
    assert all(loss == 0 for name, loss in losses.items() if name.startswith("unsup/"))
    m.label = lambda teacher, batch: Pseudo([box, empty[0]], unsure=empty)
    ((p, a),) = asked_for(m, batch(flip=False)).values()
    assert (a.cls_weight == 1).all()
    assert (a.cls[p.image == 1] == K).all()


@pytest.mark.parametrize("more", [{}, {"thresholds": {"queue": 4}, "domain": 0.1}])
def test_parts_of_a_step_learn_what_the_whole_does(more: dict) -> None:
    # In these tests one class alone is found, with other scores than above.
    same_in_parts(lambda: efficient(score=0.5, unsure_score=0.45, **more))


# ---- thresholds ----------------------------------------------------------------------------------------------------


def test_thresholds_are_fixed_until_the_queue_is_full_and_follow_the_labels_then() -> None:
    m, data = efficient(thresholds={"queue": 4, "reliable": 0.5}), batch()
    boxes = torch.tensor([40, 20, 4])
    m.see_labels(LabelStatistics(10, boxes, boxes))
    optimizer = optimizer_of(m)
    for number in range(2):
        step(m, data, number, optimizer)
        assert m.stats["pseudo/threshold"].tolist() == pytest.approx([MIDDLE] * K)
        assert m.stats["pseudo/threshold_unsure"].tolist() == pytest.approx([0.64] * K)
    assert "queue.scores" in bits(m)
    limits = m.limits()
    scores = [m.queue.scores[m.queue.labels == c].sort(descending=True).values for c in range(K)]
    expected = [16, 8, 1]  # boxes of a class in 4 images, cut to whole ones; half of them are reliable
    assert limits[1].tolist() == pytest.approx([max(0.64, float(s[n])) for s, n in zip(scores, expected)])
    reliable = [float(s[n // 2]) or MIDDLE for s, n in zip(scores, expected)]  # 0 = the class has fewer scores
    assert limits[0].tolist() == pytest.approx([max(0.64, s) for s in reliable])
    assert (limits[0] > limits[1]).any()
    assert m.queue.scores.shape == (4, BOXES)
    assert isinstance(m.queue, LabelQueue)
    assert not m.labels_alone
    assert efficient().labels_alone


def test_a_class_with_fewer_scores_than_boxes_should_be_reliable_keeps_the_fixed_threshold() -> None:
    m = efficient(score=0.6, unsure_score=0.1, thresholds={"queue": 2, "reliable": 0.5})
    boxes = torch.tensor([2, 4, 2])  # in an image each; half of them are reliable
    m.see_labels(LabelStatistics(1, boxes, boxes))
    scores, labels = torch.tensor([0.9, 0.4, 0.3, 0.2, 0.8]), torch.tensor([0, 0, 0, 1, 1])
    found = Targets(torch.zeros(5, 4), labels, scores)
    m.queue.push([found, found[:2]])
    # Reliable are those not below the third of five, the fifth of two, and the third of none.
    assert m.limits()[0].tolist() == pytest.approx([0.4, 0.6, 0.6])
    assert m.limits()[1].tolist() == pytest.approx([0.3, 0.1, 0.1])
    assert m.queue.too_few().tolist() == [[False, True, True], [False, True, True]]


# ---- the config ----------------------------------------------------------------------------------------------------


def test_the_released_constants_are_the_defaults() -> None:
    cfg = Config(name="efficient_teacher")
    assert (cfg.weight, cfg.score, cfg.unsure_score, cfg.box_quality, cfg.thresholds) == (3.0, 0.6, 0.1, 0.99, None)
    assert (cfg.ema.decay, cfg.ema.growth, cfg.ema.buffers, cfg.ema.start) == (0.9999, 2000, "average", 0)
    paper = Config.model_validate({"name": "efficient_teacher", "thresholds": {}})
    assert (paper.thresholds.reliable, paper.thresholds.queue) == (0.6, 12_800)


def test_no_box_in_doubt_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"0.7 is above 'score: 0.6', and no box would be in doubt"):
        Config(name="efficient_teacher", unsure_score=0.7)


@pytest.mark.parametrize("net", ["retinanet", "faster_rcnn"])
def test_a_detector_without_a_quality_branch_is_refused(net: str) -> None:
    with pytest.raises(SsodError, match="has no such branch; use it with dense_detector or fcos"):
        method("efficient_teacher", detector(net))


# ---- views and domains ---------------------------------------------------------------------------------------------


def test_a_box_that_the_students_view_cuts_off_is_dropped() -> None:
    m, data = efficient(visible=0.3), batch(flip=False)
    shift = torch.eye(3)
    shift[0, 2] = -40.0  # a box from x = 20 to 60 keeps a half, one from 8 to 50 less than a third
    data.views["strong"] = replace(data.strong, matrix=shift.repeat(2, 1, 1))
    boxes = torch.tensor([[20.0, 10, 60, 50], [8, 10, 50, 50]])
    known = Targets(boxes, torch.tensor([0, 1]), torch.tensor([0.9, 0.9]))
    m.label = lambda teacher, batch: Pseudo([known] * 2, unsure=[replace(known, quality=torch.ones(2))] * 2)
    (_, labels, _), *_ = m.tasks(data, 50, m.label(None, data))
    for targets in labels.cls + labels.unsure:
        assert targets.boxes.tolist() == [[0, 10, 20, 50]]
    assert m.stats["pseudo/boxes_per_image"] == 1


def test_the_domain_classifier_learns_and_the_maps_deceive_it() -> None:
    torch.manual_seed(0)
    maps = [torch.randn(2, 4, 3, 5, requires_grad=True), torch.randn(2, 4, 2, 2, requires_grad=True)]
    classifier = DomainClassifier(2, 4)
    for domain in (LABELED, UNLABELED):
        loss = classifier(maps, domain)
        by_hand = []
        for level, x in zip(classifier.levels, maps):
            p = level(x).softmax(1)[:, domain].flatten()
            by_hand.append(-0.5 * (1 - p) ** 2 * p.log())
        plain = torch.cat(by_hand).mean()
        torch.testing.assert_close(loss, plain)
        parameters = list(classifier.parameters())
        slopes, wanted = (torch.autograd.grad(of, maps + parameters, retain_graph=True) for of in (loss, plain))
        for slope, straight in zip(slopes[:2], wanted[:2]):
            torch.testing.assert_close(slope, -straight)
        for slope, straight in zip(slopes[2:], wanted[2:]):
            torch.testing.assert_close(slope, straight)


def test_the_domain_counts_once_for_each_kind_of_images_and_is_no_part_of_the_detector() -> None:
    plain, m = efficient(burn_in=1), efficient(burn_in=1, domain=0.1)
    own = {name for name in bits(m) if name.startswith("domain.")}
    assert own == set(bits(m)) - set(bits(plain))
    assert own
    data = batch()
    learnt = m(data, 0)
    assert learnt["sup/domain"] == 0
    sum(learnt.values()).backward()
    assert all(p.grad is not None and not p.grad.any() for p in m.domain.parameters())
    losses, other = m(data, 1), efficient(burn_in=1, domain=0.2, weight=6.0)
    other.load_state_dict(bits(m))
    twice = other(data, 1)
    for side in ("sup", "unsup"):
        assert losses[f"{side}/domain"] > 0
        torch.testing.assert_close(twice[f"{side}/domain"], 2 * losses[f"{side}/domain"])
    torch.testing.assert_close(twice["unsup/cls"], 2 * losses["unsup/cls"])
    m.zero_grad()
    (losses["sup/domain"] + losses["unsup/domain"]).backward()
    assert all(p.grad.any() for p in m.domain.parameters() if p.ndim > 1)
    assert any(p.grad is not None and p.grad.any() for p in m.student.backbone.parameters())

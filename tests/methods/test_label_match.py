"""LabelMatch: the released code's numbers through our functions, and what its two kinds of boxes teach."""

from __future__ import annotations

import json
import multiprocessing
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ssod import config
from ssod.assign.matches import BACKGROUND, IGNORED
from ssod.assign.sample import by_priority
from ssod.detectors.decode import Detections
from ssod.detectors.roi_sample import sure_first
from ssod.losses.box import l1
from ssod.losses.softmax import cross_entropy
from ssod.methods.base import Method
from ssod.methods.label_match import Config, sharpened
from ssod.pseudo_labels.label_queue import LabelQueue, ranks_of, scores_at
from ssod.pseudo_labels.two_limits import divide
from ssod.structures import Assignment, Batch, LabelStatistics, Predictions, Pseudo, Targets, View
from ssod.structures.boxes import DeltaCoder, clip, warp
from ssod.utils import distributed
from ssod.utils.errors import SsodError
from tests import test_ranks as ranks
from tests.engine.fork import free_port
from tests.losses.test_weighting import Answers
from tests.paths import golden_path
from tests.rows import context
from tests.small import small_config, train_command
from tests.test_methods import DETECTORS, K, asked_for, batch, bits, detector, method, optimizer_of, step
from tests.test_micro_batches import rows_that_know_no_neighbours, same_in_parts  # noqa: F401  the fixture is used
from tests.waits import Waits

FILE = np.load(golden_path("labelmatch.npz"), allow_pickle=False)
CASES = json.loads(str(FILE["cases_json"]))
CODER = DeltaCoder(shift=10, size=5)


def of_kind(kind: str) -> list:
    return [pytest.param(case, id=case["name"]) for case in CASES if case["kind"] == kind]


def array(case: dict, name: str) -> Tensor:
    found = torch.from_numpy(FILE[f"{case['id']}.{name}"])
    return found.float() if found.is_floating_point() else found


def close(got: Tensor, wanted: Tensor, rtol: float = 1e-4, atol: float = 1e-5) -> None:
    torch.testing.assert_close(got.detach().float(), wanted.float(), rtol=rtol, atol=atol)


# ---- thresholds: the released code's numbers -----------------------------------------------------------------------


@pytest.mark.parametrize("case", of_kind("act"))
def test_thresholds_golden(case: dict) -> None:
    """Ranks are cut to whole numbers from 0, held to the last score; only the lower threshold's floor can be moved."""
    statistics = LabelStatistics(
        case["labelled_images"], array(case, "labelled_counts"), array(case, "labelled_counts")
    )
    for k in range(case["num_classes"]):
        scores = array(case, "scores")[array(case, "score_class") == k]
        scores = scores if len(scores) else torch.zeros(1)
        expected = case["reference_images"] * statistics.boxes.clamp(min=1).double() / statistics.images
        at = ranks_of(expected[k, None], case["percent"], len(scores))
        assert at[:, 0].tolist() == [array(case, f"index_{kind}")[k].item() for kind in ("reliable", "uncertain")]
        reliable, unsure = scores_at(scores, torch.zeros(len(scores), dtype=torch.long), at, case["min_thr"])[:, 0]
        close(reliable, array(case, "thr_reliable")[k])
        close(unsure, array(case, "thr_uncertain")[k])


def found_at(case: dict, at: int) -> list[Targets]:
    """What a step's images have."""
    image, labels, scores = (array(case, f"t{at}.{name}") for name in ("score_image", "score_class", "scores"))
    return [
        Targets(torch.zeros(int((image == i).sum()), 4), labels[image == i], scores[image == i])
        for i in range(case["batch"])
    ]


@pytest.mark.parametrize("case", of_kind("act_online"))
def test_the_queue_golden(case: dict) -> None:
    """Thresholds are read before a step's scores enter, and are those of the start until the queue was full."""
    k, images = case["num_classes"], case["queue_images"]
    queue = LabelQueue(k, images=images, share=case["percent"], start=case["start_threshold"], least=0.05)
    expected = images * case["boxes_per_image"] * array(case, "class_ratio").double()
    queue.ranks.copy_(ranks_of(expected, case["percent"], images * case["slots_per_image"]))
    for at in range(case["steps"]):
        reliable, unsure = queue.thresholds()
        close(reliable, array(case, f"t{at}.thr_reliable"))
        close(unsure, array(case, f"t{at}.thr_uncertain"))
        queue.push(found_at(case, at))
        assert (queue.fill() == 1) == bool(array(case, f"t{at}.active_next"))


@pytest.mark.parametrize("case", of_kind("split"))
def test_two_kinds_golden(case: dict) -> None:
    """A score on a threshold passes it; a box that is clipped to nothing stays until it is moved."""
    images = range(case["images"])
    found = [Targets(*(array(case, f"i{i}.{name}") for name in ("boxes", "labels", "scores"))) for i in images]
    limits = torch.stack([array(case, f"thr_{kind}") for kind in ("reliable", "uncertain")])
    sure, _, unsure = divide(found, limits)
    for i in images:
        for kind, got in (("reliable", sure[i]), ("uncertain", unsure[i])):
            got = got[got.labels.argsort(stable=True)]
            assert torch.equal(got.labels, array(case, f"i{i}.{kind}_labels"))
            moved = clip(got.boxes * array(case, f"i{i}.student_scale_xyxy"), array(case, f"i{i}.student_hw"))
            close(moved, array(case, f"i{i}.{kind}_boxes"))


# ---- the second stage: the released code's numbers -----------------------------------------------------------------


def targets_of(case: dict, image: int, kind: str) -> Targets:
    return Targets(array(case, f"i{image}.{kind}_boxes"), array(case, f"i{image}.{kind}_labels"))


@pytest.mark.parametrize("case", of_kind("roi"))
def test_sampled_rows_golden(case: dict) -> None:
    """The released order of candidates is unsure boxes, reliable boxes, proposals; ours begins with the proposals."""
    for i in range(case["images"]):
        sure, unsure = targets_of(case, i, "reliable"), targets_of(case, i, "uncertain")
        proposals = array(case, f"i{i}.proposals")
        n, s, u = len(proposals), len(sure), len(unsure)
        found = Detections(proposals[None], torch.ones(1, n), torch.zeros(1, n))
        both = Targets(torch.cat([sure.boxes, unsure.boxes]), torch.cat([sure.labels, unsure.labels]))
        out, assigner = SimpleNamespace(found=found, keys=torch.tensor([7])), detector("faster_rcnn").roi_assigner
        size = case["sample_size"]
        (boxes,), (matched,) = sure_first(out, [sure], [both], assigner, size, case["positive_fraction"])
        candidates = torch.cat([unsure.boxes, sure.boxes, proposals])
        rows = {
            "positive": (matched >= 0) & (matched < s),
            "uncertain": matched >= s,
            "negative": matched == BACKGROUND,
        }
        for name, chosen in rows.items():
            index = array(case, f"i{i}.{name}_index")
            assert chosen.sum() == len(index)
            order = sorted(candidates[index].tolist())  # which of equal ones are drawn is chance
            assert sorted(boxes[chosen].tolist()) == order, name
        for name, shift in (("positive", 0), ("uncertain", s)):
            index, owner = array(case, f"i{i}.{name}_index"), array(case, f"i{i}.{name}_owner")
            wanted = sorted(zip(candidates[index].tolist(), owner.tolist()))
            assert sorted(zip(boxes[rows[name]].tolist(), (matched[rows[name]] - shift).tolist())) == wanted
        assert len(matched) == size
        assert (matched[sum(map(int, (chosen.sum() for chosen in rows.values()))) :] == IGNORED).all()
        assert u == len(unsure)


def scaled_view(case: dict, who: str) -> View:
    """The view of student or teacher, of images whose original is as large as the scales say."""
    n = case["images"]
    matrix = torch.stack(
        [torch.diag(F.pad(array(case, f"i{i}.{who}_scale_xyxy")[:2], (0, 1), value=1)) for i in range(n)]
    )
    sizes = torch.stack([array(case, f"i{i}.teacher_hw") for i in range(n)])
    return View(torch.zeros(n, 3, 8, 8), sizes, matrix, torch.arange(n))


def padded_rows(case: dict) -> tuple[Predictions, Assignment, Predictions, Tensor]:
    """Each image's rows, and as many that count for nothing as make up a sample; which rows are the case's."""
    size, k, n = case["sample_size"], case["num_classes"], case["images"]
    rois = array(case, "rois_img_xyxy")
    image = rois[:, 0].long()
    place = torch.cat([i * size + torch.arange(int((image == i).sum())) for i in range(n)])
    matched, starts, unsure = torch.full((n * size,), IGNORED), 0, torch.zeros(n * size, dtype=torch.bool)
    for i in range(n):
        s, u = len(targets_of(case, i, "reliable")), len(targets_of(case, i, "uncertain"))
        pos, unc = array(case, f"i{i}.positive_owner"), array(case, f"i{i}.uncertain_owner")
        neg = torch.full_like(array(case, f"i{i}.negative_index"), BACKGROUND)
        here = torch.cat([pos + starts, unc + starts + s, neg])
        matched[i * size : i * size + len(here)] = here
        unsure[i * size + len(pos) : i * size + len(pos) + len(unc)] = True
        starts += s + u

    def spread(rows: Tensor, at: Tensor) -> Tensor:
        return torch.zeros(n * size, *rows.shape[1:], dtype=rows.dtype).index_put((at,), rows)

    images = torch.arange(n).repeat_interleave(size)
    sizes = torch.stack([array(case, f"i{i}.teacher_hw") for i in range(n)])
    logits, deltas = (spread(array(case, f"student_{name}"), place).requires_grad_() for name in ("logits", "deltas"))
    priors = spread(rois[:, 1:], place)
    p = Predictions(logits, deltas[:, None], priors, images, sizes, CODER, softmax=True)
    labels, here = spread(array(case, "labels"), place), spread(torch.ones(len(rois)), place)
    boxes = torch.cat(
        [targets_of(case, i, kind).boxes for i in range(n) for kind in ("reliable", "uncertain")] + [torch.zeros(1, 4)]
    )
    box = boxes[torch.where(matched >= 0, matched, -1)]
    a = Assignment(torch.where(here > 0, labels, k), here, box, here * (matched >= 0), matched=matched)
    at = unsure.nonzero().squeeze(1)
    says = (spread(array(case, f"teacher_{name}"), at) for name in ("logits", "deltas"))
    return p, a, replace(p, **dict(zip(("logits", "deltas"), says))), place


@pytest.mark.parametrize("case", of_kind("roi"))
def test_losses_of_the_second_stage_golden(case: dict) -> None:
    """Three divisors, mined rows and soft rows, with their gradients; a row of both kinds, and no boxes at all."""
    mine_score = case["mining_score"] if case["mining"] else 2.0
    changes = {"mine_iou": case["mining_iou"], "mine_score": mine_score, "temperature": case["teacher_temperature"]}
    m = method("label_match", detector("faster_rcnn", classes=case["num_classes"]), **changes)
    p, a, says, place = padded_rows(case)
    student, teacher = scaled_view(case, "student"), scaled_view(case, "teacher")
    n = case["images"]
    sure, unsure = ([targets_of(case, i, kind) for i in range(n)] for kind in ("reliable", "uncertain"))
    labels = Pseudo(sure, unsure=unsure)

    class Refines(Answers):
        """The teacher's deltas are of the very boxes that it was asked about."""

        def score(self, boxes: list[Tensor]) -> Predictions:
            super().score(boxes)
            return replace(self.p, priors=torch.cat(boxes), deltas=self.p.deltas[:, None])

    answers = Refines(says)
    known = context(labels=labels, teacher=answers, view=student, batch=Batch(teacher, {"weak": teacher}))
    b = m.reweight("roi", p, a, known)
    soft = (b.matched >= 0) & ~b.fg
    close((b.cls_weight * ~soft)[place], array(case, "label_weights"))
    divisor = b.normalizer["cls"].expand(len(p))
    loss = (cross_entropy(p, b) * b.cls_weight / divisor).sum()
    close(loss, array(case, "loss_cls") + array(case, "loss_soft"))
    box = (b.weighed_box(l1(p, b)) / b.normalizer["box"].expand(len(p))[b.fg_rows]).sum()
    close(box, array(case, "loss_box"))
    p.deltas.retain_grad()
    (loss + box).backward()
    close(p.logits.grad[place], array(case, "grad_student_logits"), rtol=1e-3)
    close(p.deltas.grad[place, 0], array(case, "grad_student_deltas"), rtol=1e-3)
    if answers.asked is not None:
        close(torch.cat(answers.asked)[place], teacher_frame(case), atol=1e-3)


def teacher_frame(case: dict) -> Tensor:
    """All rows in the teacher's frame: over the student's scale, times the teacher's, cut at the border."""
    rois = array(case, "rois_img_xyxy")
    image = rois[:, 0].long()
    scale = torch.stack(
        [
            array(case, f"i{i}.teacher_scale_xyxy") / array(case, f"i{i}.student_scale_xyxy")
            for i in range(case["images"])
        ]
    )
    sizes = torch.stack([array(case, f"i{i}.teacher_hw") for i in range(case["images"])])
    return clip(rois[:, 1:] * scale[image], sizes[image])


# ---- the queue -----------------------------------------------------------------------------------------------------


def found(labels: list[int], scores: list[float]) -> Targets:
    return Targets(torch.zeros(len(labels), 4), torch.tensor(labels, dtype=torch.long), torch.tensor(scores))


def shares(at: int) -> list[list[Targets]]:
    """What each of two ranks finds at a step; the second one finds nothing at first."""
    rng = np.random.default_rng(at)
    sizes = (60, 0 if at == 0 else 9)
    return [[found(rng.integers(0, K, n).tolist(), rng.random(n).clip(0.01).tolist())] for n in sizes]


def queue_of(images: int = 5) -> LabelQueue:
    queue = LabelQueue(K, images=images, share=0.2, start=0.9, least=0.05)
    queue.expect(LabelStatistics(4, torch.tensor([8, 3, 0]), torch.tensor([4, 2, 0])))
    return queue


def work(rank: int, port: int, folder: Path) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), WORLD_SIZE="2", RANK=str(rank))
    queue = queue_of()
    with distributed.job(torch.device("cpu")):
        for at in range(4):
            queue.push(shares(at)[rank])
    torch.save(queue.state_dict(), folder / f"{rank}.pt")


def test_two_ranks_have_the_queue_of_one(tmp_path: Path) -> None:
    context_, port = multiprocessing.get_context("fork"), free_port()
    both = [context_.Process(target=work, args=(rank, port, tmp_path), daemon=True) for rank in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(60)
    assert [process.exitcode for process in both] == [0, 0]
    alone = queue_of()
    for at in range(4):
        alone.push([t for share in shares(at) for t in share])
    assert alone.seen == 8
    for rank in range(2):
        state = torch.load(tmp_path / f"{rank}.pt")
        assert all(torch.equal(value, alone.state_dict()[name]) for name, value in state.items())


def held(queue: LabelQueue, image: int) -> list[tuple[int, float]]:
    """The classes and scores that a place of the queue has."""
    pairs = zip(queue.labels[image].tolist(), queue.scores[image].tolist())
    return [(label, round(score, 6)) for label, score in pairs if score]


def test_an_image_keeps_its_best_scores_and_the_oldest_image_goes() -> None:
    queue = queue_of(images=2)
    many = torch.rand(150, generator=torch.Generator().manual_seed(0)).clamp(min=0.01)
    queue.push([found([1] * 50 + [0] * 3, many[:53].tolist())])
    best = many[:50].sort(descending=True).values[:20]
    assert torch.equal(queue.scores[0][(queue.labels[0] == 1) & (queue.scores[0] > 0)], best)
    assert len(held(queue, 0)) == 23
    queue.push([found([0], [0.5])])
    queue.push([found([2], [0.25])])
    assert [held(queue, 0), held(queue, 1)] == [[(2, 0.25)], [(0, 0.5)]]
    queue.push([found([0], [0.125 * (i + 1)]) for i in range(5)])  # more than there is room for
    assert sorted(held(queue, 0) + held(queue, 1)) == [(0, 0.5), (0, 0.625)]
    assert queue.seen == 8
    queue.push([found(list(range(150)), many.tolist())])  # of 150 classes, one each
    assert [score for _, score in held(queue, 0)] == [
        round(x, 6) for x in many.sort(descending=True).values[:100].tolist()
    ]


def test_as_many_boxes_pass_as_the_labels_let_expect() -> None:
    """8, 3 and no boxes in 4 images: of 40 unlabelled images 80, 30 and 10, and one more each; a fifth is reliable."""
    queue = queue_of(images=40)
    rng = np.random.default_rng(0)
    images = [found(rng.integers(0, K, 100).tolist(), rng.uniform(0.06, 1, 100).tolist()) for _ in range(40)]
    assert (queue.thresholds() == 0.9).all()
    queue.push(images[:39])
    assert (queue.thresholds() == 0.9).all()
    queue.push(images[39:])
    sure, _, unsure = divide(images, queue.thresholds())

    def counts(of: list[Targets]) -> list[int]:
        return torch.bincount(torch.cat([t.labels for t in of]), minlength=K).tolist()

    assert counts(sure) == [17, 7, 3]
    assert [a + b for a, b in zip(counts(sure), counts(unsure))] == [81, 31, 11]


@pytest.mark.slow
@pytest.mark.parametrize("net", ["fcos", "faster_rcnn"])
def test_two_ranks_lose_what_one_process_does(tmp_path: Path, net: str) -> None:
    """Over three steps, the queue is full after the first."""
    section = {"name": "label_match", "queue": 4, "score": 0.05, "reliable": 0.1, "ema": {"decay": 0.9}}
    cfg = small_config(tmp_path, detector=ranks.begun(net, tmp_path), train__steps=3, **ranks.PLAIN, method=section)
    ranks.run(train_command(cfg, tmp_path / "one"))
    ranks.two(cfg, tmp_path / "two")
    rows = [json.loads(line) for line in (tmp_path / "one" / "metrics.jsonl").read_text().splitlines()]
    unsure = [row["pseudo/unsure_per_image"] for row in rows if row["kind"] == "train"]
    assert unsure[0] == 0 < unsure[1]
    alone, together = ranks.losses(tmp_path / "one"), ranks.losses(tmp_path / "two")
    assert any(name.startswith("unsup/") for name in alone[1])
    for a, b in zip(alone, together, strict=True):
        assert a.keys() == b.keys()
        assert ranks.largest_difference(a, b) <= 1e-5


# ---- rows ----------------------------------------------------------------------------------------------------------


def test_unsure_rows_fill_what_reliable_ones_leave() -> None:
    first, second = torch.full((3, 40), BACKGROUND), torch.full((3, 40), BACKGROUND)
    first[0, :9], first[1, :2] = 0, 0
    second[:, 5:15] = 1
    second[:, 30:] = IGNORED
    index, matched = by_priority(first, second, torch.rand(3, 40), 16, 0.25)
    assert index.shape == matched.shape == (3, 16)
    assert [(matched == box).sum(1).tolist() for box in (0, 1, BACKGROUND)] == [[4, 2, 0], [0, 2, 4], [12, 12, 12]]
    negative = index[matched == BACKGROUND]
    assert ((negative >= 15) & (negative < 30) | (negative < 5)).all()
    index, matched = by_priority(first[1:2, :3], first[1:2, :3], torch.rand(1, 3), 16, 0.5)
    assert matched.tolist() == [[0] * 4 + [BACKGROUND] + [IGNORED] * 11]  # two rows twice, once for each set


def in_doubt(net: str, **changes: object) -> Method:
    """A method whose queue says: half of what the untrained teacher finds is reliable, most of the rest is unsure."""
    m = method("label_match", detector(net), queue=64, **changes)
    if net == "faster_rcnn":  # reliable boxes leave room for rows of others
        m.student.roi_cfg = m.student.roi_cfg.model_copy(update={"rows": 400, "fraction": 0.5})
    scores = torch.cat([t.scores for t in m.teacher.predict(batch().weak).detections()])
    m.queue.seen += 64
    high, low = scores.quantile(0.6), scores.quantile(0.1)
    m.queue.scores[:, :K] = torch.where(torch.arange(64) < 24, low, high)[:, None]
    m.queue.labels[:, :K] = torch.arange(K)
    m.queue.ranks.copy_(torch.tensor([[20], [50]]))
    return m


@pytest.mark.parametrize("net", DETECTORS)
def test_unsure_rows_learn_the_teachers_distribution(net: str) -> None:
    m, data = in_doubt(net, mine_score=2), batch()
    losses = step(m, data, 50, optimizer_of(m))
    assert all(loss.isfinite() for loss in losses.values())
    assert m.stats["pseudo/unsure_per_image"] > 0 < m.stats["pseudo/boxes_per_image"]
    assert m.stats["pseudo/mined_per_image"] == 0
    assert m.stats["pseudo/queue_fill"] == 1
    m = in_doubt(net, mine_score=2)
    stage = "roi" if net == "faster_rcnn" else "dense"
    p, a = asked_for(m, data)[stage]
    soft = (a.cls_weight > 0) & (a.matched >= 0) & (a.box_weight == 0)
    hard = a.fg
    assert soft.any()
    assert hard.any()
    assert (a.cls[hard].sum(1) == 1).all()
    boxes_by = a.normalizer["box"].expand(len(p))
    assert (a.normalizer["cls"][soft] == (len(p) if net == "faster_rcnn" else boxes_by[soft])).all()
    if net == "faster_rcnn":
        boxes = clip(warp(p.priors, torch.linalg.inv(data.strong.matrix)[p.image]), data.weak.sizes[p.image])
        says = m.teacher.predict(data.weak).score(list(boxes.view(2, -1, 4)))
        torch.testing.assert_close(a.cls[soft], sharpened(says, 0.5)[soft], rtol=1e-4, atol=1e-5)
        assert (a.normalizer["cls"][hard] == ((a.cls_weight > 0) & ~soft).sum()).all()
        assert a.normalizer["box"] == (a.cls_weight > 0).sum()


@pytest.mark.parametrize("net", DETECTORS)
def test_where_the_teacher_agrees_rows_learn_the_box(net: str) -> None:
    """Mined, an unsure box is one like any other: on a dense detector nothing differs from one set of boxes."""
    data = batch()
    m = in_doubt(net, mine_iou=0, mine_score=0)
    asked = asked_for(m, data)
    assert m.stats["pseudo/mined_per_image"] > 0
    for p, a in asked.values():
        rows = (a.matched >= 0) & (a.cls_weight > 0)
        assert torch.equal(rows, a.fg)
        assert (a.soft(p.num_classes)[rows].sum(1) == 1).all()
    if net != "faster_rcnn":
        mined, all_reliable = in_doubt(net, mine_iou=0, mine_score=0), in_doubt(net)
        all_reliable.queue.ranks[0] = all_reliable.queue.ranks[1]
        one, two = mined(data, 50), all_reliable(data, 50)
        for name in one:
            torch.testing.assert_close(one[name], two[name])


@pytest.mark.parametrize("net", DETECTORS)
def test_the_order_of_two_unsure_boxes_makes_no_difference(net: str) -> None:
    def losses(turned: bool) -> dict[str, Tensor]:
        m = in_doubt(net, mine_score=0.3)
        label = m.label

        def other(teacher: object, data: Batch) -> Pseudo:
            labels = label(teacher, data)
            return (
                replace(labels, unsure=[t[torch.arange(len(t)).flip(0)] for t in labels.unsure]) if turned else labels
            )

        m.label = other
        return m(batch(), 50)

    one, two = losses(False), losses(True)
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("net", DETECTORS)
def test_parts_of_a_step_learn_what_the_whole_does(net: str) -> None:
    def make() -> Method:
        m = in_doubt(net, mine_score=0.4, mine_iou=0.5)
        m.queue.ranks[0] = 0
        return m

    same_in_parts(make)


def test_a_queue_that_fills_teaches_nothing_yet_and_is_remembered() -> None:
    m = method("label_match", detector("fcos"), burn_in=5, start=8, queue=4)
    optimizer = optimizer_of(m)
    assert set(step(m, batch(), 5, optimizer)) == {"sup/cls", "sup/box", "sup/quality"}
    assert m.stats["pseudo/queue_fill"] == 0.5
    step(m, batch(), 6, optimizer)
    other = method("label_match", detector("fcos"), burn_in=5, start=8, queue=4)
    other.load_state_dict(bits(m))
    assert torch.equal(other.queue.thresholds(), m.queue.thresholds())
    assert (m.queue.thresholds() < 0.9).any()
    assert any(name.startswith("unsup/") for name in step(m, batch(), 8, optimizer))


@pytest.mark.parametrize("net", DETECTORS)
def test_thresholds_and_unsure_rows_wait_for_nothing(net: str) -> None:
    m, data = in_doubt(net), batch()
    teacher = m.teacher.predict(data.weak)
    found_ = teacher.detections()
    with Waits() as waits:
        m.queue.thresholds()
        m.queue.push(found_)
    assert (waits.masks, waits.copies) == (0, 0)
    pseudo = m.label(teacher, data).move(data.weak, data.strong)
    ctx = m.look("unsup", data, 50, data.strong, pseudo, teacher)
    for stage, (p, a) in m.assign(ctx).items():
        if (net, stage) == ("faster_rcnn", "rpn"):
            continue
        if net == "faster_rcnn":
            teacher.score = lambda boxes, p=p: p  # pooling from levels waits by itself
        with Waits() as waits:
            m.reweight(stage, p, a, ctx)
        assert (waits.masks, waits.copies) == (0, 0)
    assert m.stats["pseudo/unsure_per_image"] > 0


# ---- the config ----------------------------------------------------------------------------------------------------


def test_the_released_constants_are_the_defaults() -> None:
    cfg = Config(name="label_match")
    assert (cfg.queue, cfg.reliable, cfg.score, cfg.least) == (12_800, 0.2, 0.9, 0.05)
    assert (cfg.temperature, cfg.mine_iou, cfg.mine_score, cfg.weight) == (0.5, 0.8, 0.8, 2.0)
    assert (cfg.ema.decay, cfg.ema.warm_up, cfg.ema.start) == (0.996, False, None)


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        ({"mix": {"mixup": 0.5, "mosaic": 0}}, "method.mix", "the teacher is asked what it sees at each row's place"),
        ({"start": 10_000}, "method.start", "would learn from unlabelled images"),
        ({"queue": 0}, "method.queue", "greater than or equal to 1"),
        ({"loss": {"unsup": {"weighting": "iou_target"}}}, "method.loss.unsup.weighting", "rows of unsure boxes have"),
    ],
)
def test_what_the_config_refuses(tmp_path: Path, changes: dict, field: str, words: str) -> None:
    with pytest.raises(SsodError) as error:
        config.load(small_config(tmp_path, method={"name": "label_match", "burn_in": 6} | changes))
    assert (error.value.field, error.value.code) == (field, 2)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_ranks_are_those_of_the_config_and_the_labels_not_of_a_state() -> None:
    """A run that goes on with another share has its ranks."""
    old, new = (LabelQueue(2, images=8, share=share, start=0.9, least=0.05) for share in (0.2, 0.5))
    wanted = new.ranks.clone()
    new.load_state_dict(old.state_dict())
    assert not torch.equal(old.ranks, wanted)
    assert torch.equal(new.ranks, wanted)

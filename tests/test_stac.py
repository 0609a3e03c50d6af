"""STAC: the released numbers, labels that are made once, a student that starts afresh, and a box whose pixels move."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ssod import run
from ssod.config import load
from ssod.engine.checkpointing import checkpoint
from ssod.engine.schedule import Constant, Cosine, MultiStep, WarmUp, lr_at, turns
from ssod.engine.stepper import Stepper
from ssod.engine.train_config import TrainConfig
from ssod.methods.base import quantiles
from ssod.methods.labels_once import LabelsOnce
from ssod.methods.stac import Config
from ssod.methods.teachers import FileOutput, Frozen
from ssod.structures import Batch, Targets, View, move_targets
from ssod.structures.boxes import warp
from ssod.transforms import box_affine
from ssod.transforms.box_affine import inverse_draw, move_in_a_box
from ssod.transforms.centered import about_middle, slant, turn
from ssod.transforms.geometry import shift_matrix
from ssod.utils.errors import Exit, SsodError
from ssod.utils.signals import Signals
from tests.engine.crash import difference
from tests.paths import golden_path
from tests.small import small_config
from tests.test_methods import DETECTORS, batch, bits, detector, matrix, method, some_targets, view

FILE = np.load(golden_path("stac.npz"), allow_pickle=False)
CASES = json.loads(str(FILE["cases_json"]))
BURN_IN, STEPS = 3, 6
ADAMW = {"optimizer": {"name": "adamw"}, "lr": 1e-3}


def of_kind(kind: str) -> list:
    return [pytest.param(case, id=case["name"]) for case in CASES if case["kind"] == kind]


def array(case: dict, name: str) -> Tensor:
    return torch.from_numpy(FILE[f"{case['id']}.{name}"])


# ---- the released code's numbers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("case", of_kind("pseudo"))
def test_which_boxes_teach_golden(case: dict) -> None:
    """Compared, and kept, in float16; the best of an image always stays, and so does what ties with it."""
    m = method("stac", detector("fcos"), score=case["confidence"])
    found = Targets(array(case, "boxes").float(), array(case, "labels"), array(case, "scores").float())
    kept, empty = m.choose(m.stored([found, found[:0]]))
    assert torch.equal(kept.labels, array(case, "labels_out"))
    assert torch.equal(kept.boxes, array(case, "boxes_out").float())
    assert torch.equal(kept.scores, array(case, "scores_out").float())
    assert len(kept) == int(array(case, "kept_mask").sum())
    assert not len(empty)
    again = m.choose([kept])[0]
    assert torch.equal(again.boxes, kept.boxes)


@pytest.mark.parametrize("case", of_kind("affine_boxes"))
def test_boxes_of_a_moved_picture_golden(case: dict) -> None:
    height, width = array(case, "image_hw").tolist()
    made = {
        "translate_x": lambda v: shift_matrix(v * width, 0),
        "translate_y": lambda v: shift_matrix(0, v * height),
        "rotate": lambda v: about_middle((width, height), turn(v)),
        "shear": lambda v: about_middle((width, height), slant(v)),
    }
    transfer, boxes = torch.from_numpy(made[case["op"]](case["value"])), array(case, "boxes")
    torch.testing.assert_close(warp(boxes, transfer), array(case, "hull"), rtol=0, atol=1e-3)
    there = Targets(boxes, torch.arange(len(boxes)))
    (moved,) = move_targets([there], transfer[None], torch.tensor([[height, width]]), min_size=0)
    assert torch.equal(moved.labels, array(case, "kept_mask").nonzero().flatten())
    torch.testing.assert_close(moved.boxes, array(case, "boxes_out"), rtol=0, atol=1e-3)


def test_as_in_the_paper_scores_are_compared_as_they_are_and_an_image_may_have_no_box() -> None:
    m = method("stac", detector("fcos"), score=0.9, as_released=False)
    boxes = torch.tensor([[0.0, 0, 600.3, 10], [0, 0, 9, 9], [1, 1, 8, 8]])
    found = Targets(boxes, torch.zeros(3, dtype=torch.long), torch.tensor([0.91, 0.8998, 0.3]))
    first, second = m.choose([found, found[2:]])
    assert torch.equal(first.boxes, boxes[:1])
    assert not len(second)


# ---- labels are made once ------------------------------------------------------------------------------------------


def counted(labeler: Any, monkeypatch: pytest.MonkeyPatch) -> list[View]:
    """The views that the detector of who labels is shown from now on."""
    seen: list[View] = []
    predict = labeler.model.predict
    monkeypatch.setattr(labeler.model, "predict", lambda v: seen.append(v) or predict(v))
    return seen


@pytest.mark.parametrize("net", DETECTORS)
def test_the_teacher_looks_at_an_image_once(net: str, monkeypatch: pytest.MonkeyPatch) -> None:
    m = method("stac", detector(net))
    seen = counted(m.given, monkeypatch)
    averages = counted(m.teacher, monkeypatch)
    first = m(batch(), 50)
    assert [v.ids for v in seen] == [[0], [1]]
    second = m(batch(), 51)
    assert len(seen) == 2
    assert not averages
    assert all(torch.equal(first[name], second[name]) for name in first)
    m.load_state_dict(bits(m))  # other weights might say something else
    m(batch(), 52)
    assert [v.ids for v in seen] == [[0], [1]] * 2


def test_a_trained_detector_is_asked_once_too_and_a_file_is_not_asked_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    m = method("stac", detector("fcos"), teacher={"name": "frozen", "weights": "x.pt"})
    m.use_labeler(Frozen(detector("fcos")))
    keys = set(m.state_dict())
    assert {key for key in keys if key.startswith("given.")} == {f"given.model.{key}" for key in m.student.state_dict()}
    seen = counted(m.given, monkeypatch)
    for step in (50, 51):
        m(batch(), step)
    assert [v.ids for v in seen] == [[0], [1]]
    assert m.labels_alone
    assert m.restart_at is None
    assert not Config(name="stac", burn_in=0, teacher={"name": "file", "results": "b.json"}).labels_once


@pytest.mark.parametrize("net", DETECTORS)
def test_what_is_said_of_an_image_depends_on_it_alone_and_moves_with_its_view(net: str) -> None:
    """Not on who shares its batch, how far the canvas reaches, or where it stands."""
    labeler = LabelsOnce(detector(net), lambda found: found)
    both, shown = labeler.predict(view(5)), view(5)
    row = slice(1, 2)
    wider = torch.nn.functional.pad(shown.images[row], (0, 64, 0, 32))
    alone = View(wider, shown.sizes[row], shown.matrix[row], shown.keys[row], [1])
    (same,) = LabelsOnce(detector(net), lambda found: found).predict(alone).boxes
    assert len(same)
    assert torch.equal(same.boxes, both.boxes[1].boxes)
    assert torch.equal(same.scores, both.boxes[1].scores)
    turned = replace(alone, matrix=matrix(True)[None] @ alone.matrix, sizes=torch.tensor([[96, 96]]))
    (moved,) = labeler.predict(turned).boxes
    expected = warp(labeler.known[1][0].boxes, matrix(True)).clamp(0, 96)
    wide = (expected[:, 2:] - expected[:, :2]).amin(1) > 1
    torch.testing.assert_close(moved.boxes, expected[wide])


@pytest.mark.parametrize("released", [True, False])
def test_the_log_sees_all_scores_and_boxes_are_rounded_once(released: bool) -> None:
    """In pixels of the original; an image in which no box is sure has scores all the same."""
    m, data = method("stac", detector("fcos"), score=1.0, as_released=released), batch()
    data.weak.matrix = torch.diag(torch.tensor([1 / 3, 1 / 3, 1])) @ data.weak.matrix
    labels = m.labels(data, 50)
    found = labels.teacher.detections()
    raw = [m.given.look(data.weak, row)[0] for row in range(2)]
    assert all(len(t) > 5 for t in found)
    assert [len(t) for t in labels.pseudo.cls] == ([1, 1] if released else [0, 0])
    torch.testing.assert_close(m.stats["pseudo/score_quantiles"], quantiles(raw))
    if released:
        assert all(torch.equal(t.boxes, t.boxes.half().float()) for t in raw)
        best = [t[t.scores.argmax()] for t in found]
        assert all(torch.equal(a.boxes, b.boxes.view(1, 4)) for a, b in zip(labels.pseudo.cls, best))
        assert not all(torch.equal(t.boxes, t.boxes.half().float()) for t in labels.pseudo.cls)


@pytest.mark.parametrize("net", DETECTORS)
def test_an_image_without_a_detection_teaches_nothing(net: str) -> None:
    """Neither objects nor background: the released code leaves it out of its list."""
    m = method("stac", detector(net))
    first = replace(some_targets()[0], scores=torch.ones(2))
    m.given.known = {0: (first, True), 1: (first[:0], False)}
    asked: dict[str, tuple] = {}
    reduce = m.student.reduce
    m.student.reduce = lambda assigned, *more: asked.update(assigned) or reduce(assigned, *more)
    losses = m(batch(), 50)
    assert all(loss.isfinite() for loss in losses.values())
    for p, a in asked.values():
        assert not a.cls_weight[p.image == 1].any()
        assert a.cls_weight[p.image == 0].any()
    m.given.known[1] = first[:0], True  # as in the paper: something was found, and none of it was sure enough
    m(batch(), 50)
    for p, a in asked.values():
        assert a.cls_weight[p.image == 1].any()


def test_a_view_by_chance_and_a_weighting_that_asks_again_are_refused(tmp_path: Path) -> None:
    path = small_config(tmp_path, method={"name": "stac", "burn_in": 6})
    with pytest.raises(SsodError, match="drawn by chance, but labelled once") as caught:
        load(path)
    assert (caught.value.field, caught.value.code) == ("views.unlabeled.weak", Exit.USAGE)
    steady = ["views.unlabeled.weak=[{resize: {short: 60}}]"]
    assert load(path, steady).method.restart_at == 6
    with pytest.raises(SsodError, match="asks the teacher in each step") as caught:
        load(path, [*steady, "method.loss={unsup: {weighting: background_reliability}}"])
    assert caught.value.field == "method.loss.unsup.weighting"
    with pytest.raises(SsodError, match="here a frozen teacher does") as caught:
        load(path, [*steady, "method.ema.rule=never"])
    assert caught.value.field == "method.ema.rule"


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        (["method.burn_in=0"], "method.burn_in", "0 leaves the teacher untrained"),
        (["method.teacher=old.pt"], "method.burn_in", "set method.burn_in=0"),
        (["method.teacher={name: file, results: boxes.json}"], "method.burn_in", "set method.burn_in=0"),
        (["method.ema.start=null"], "method.ema.start", "counts the steps of either stage"),
        (["method.loss={sup: {weighting: uncertainty}}"], "method.loss", "would not start afresh with the student"),
    ],
)
def test_there_is_one_trained_teacher(tmp_path: Path, changes: list[str], field: str, words: str) -> None:
    path = small_config(tmp_path, method={"name": "stac", "burn_in": 6}, views__unlabeled__weak=[])
    with pytest.raises(SsodError, match=words) as caught:
        load(path, changes)
    assert (caught.value.field, caught.value.code) == (field, Exit.USAGE)
    assert load(path, ["method.burn_in=0", "method.teacher=old.pt"]).method.restart_at is None


# ---- losses --------------------------------------------------------------------------------------------------------


def test_both_kinds_of_images_count_half_as_released_and_the_first_stage_whole() -> None:
    released, paper = (method("stac", detector("fcos"), as_released=r, burn_in=10) for r in (True, False))
    assert [m.unsup_weight(50, None) for m in (released, paper)] == [1, 2]
    for step, factor in ((9, 1.0), (50, 0.5)):
        data = Batch(view(0, some_targets())) if step < 10 else batch()
        first, second = released(data, step), paper(data, step)
        assert all(torch.equal(first[name], factor * second[name]) for name in first if name.startswith("sup/"))


@pytest.mark.parametrize("net", DETECTORS)
def test_boxes_teach_places_and_no_gradient_reaches_a_teacher(net: str) -> None:
    m = method("stac", detector(net))
    losses = m(batch(), 50)
    assert {"unsup/cls", "unsup/box"} <= losses.keys()
    assert not any(key.startswith("off/") for key in m.stats)
    sum(losses.values()).backward()
    assert not any(p.requires_grad or p.grad is not None for who in (m.given, m.teacher) for p in who.parameters())
    assert not any(part.training for part in m.train().given.modules())


# ---- the student starts afresh -------------------------------------------------------------------------------------


def stepper(burn_in: int = BURN_IN, parts: int = 1, **changes: Any) -> Stepper:
    tree = {"steps": STEPS, "batch": {"labeled": 2, "unlabeled": 2}, "accumulate": parts, "device": "cpu"} | ADAMW
    section = {"burn_in": burn_in, "ema": {"decay": 0.5}} | changes
    cfg = TrainConfig.model_validate(tree | {"warm_up": {"steps": 2}}, context={"steps": STEPS})
    return Stepper(method("stac", detector("fcos"), **section), cfg, Signals())


def data_of(step: int) -> Batch:
    truth = view(10 + step, some_targets())
    return Batch(truth) if step < BURN_IN else Batch(truth, {"weak": view(5), "strong": view(20 + step, flip=True)})


def make(made: Stepper, steps: range) -> Stepper:
    for step in steps:
        assert made.train_step(iter([data_of(step)]), step).made
    return made


def weights(model: torch.nn.Module) -> list[Tensor]:
    return [t.clone() for t in model.state_dict().values()]


def equal(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_the_first_stage_is_supervised_learning_and_after_it_all_starts_afresh(monkeypatch: pytest.MonkeyPatch) -> None:
    made = stepper()
    m, first = made.method, weights(made.method.student)
    make(made, range(BURN_IN))
    teacher, learnt = weights(m.teacher.model), weights(m.student)
    assert not equal(teacher, first)
    assert not equal(teacher, learnt)
    assert equal(weights(m.given.model), first)
    assert m.labeler(BURN_IN) is m.teacher  # whoever looks between the stages sees what will be frozen
    seen: dict[str, Any] = {}
    forward = m.forward

    def watched(data: Batch, step: int) -> dict[str, Tensor]:
        if not seen:
            seen.update(student=weights(m.student), average=weights(m.teacher.model), state=len(made.optimizer.state))
        return forward(data, step)

    monkeypatch.setattr(m, "forward", watched)
    make(made, range(BURN_IN, STEPS))
    assert equal(seen["student"], first)
    assert equal(seen["average"], first)
    assert seen["state"] == 0
    assert equal(weights(m.given.model), teacher)
    assert m.labeler(BURN_IN) is m.labeler(STEPS) is m.given
    assert not equal(weights(m.teacher.model), first)
    m.restart()  # a second call, as of a tool that repeats a step, changes nothing
    assert equal(weights(m.given.model), teacher)


def test_the_average_counts_the_steps_of_a_stage() -> None:
    made = stepper(ema={"decay": 0.9, "warm_up": True})
    m = make(made, range(BURN_IN)).method
    first = weights(m.given.model)
    make(made, range(BURN_IN, BURN_IN + 1))
    mean = [a + (b - a) / 2 if a.is_floating_point() else b for a, b in zip(first, weights(m.student))]
    for got, wanted in zip(weights(m.teacher.model), mean):
        torch.testing.assert_close(got, wanted)


def test_a_run_that_goes_on_at_any_step_has_the_same_bits() -> None:
    whole = make(stepper(), range(STEPS))
    for at in range(1, STEPS):
        saved = deepcopy(make(stepper(), range(at)).state_dict())
        part = stepper()
        part.load_state_dict(saved, {})
        make(part, range(at, STEPS))
        assert difference(whole.state_dict(), part.state_dict()) == [], at


def test_a_step_that_is_skipped_where_the_student_starts_afresh_leaves_it_afresh() -> None:
    made = stepper()
    m, first = made.method, weights(made.method.student)
    make(made, range(BURN_IN))
    teacher = weights(m.teacher.model)
    data = data_of(BURN_IN)
    data.labeled.images = torch.full_like(data.labeled.images, torch.nan, dtype=torch.float32)
    assert not made.train_step(iter([data]), BURN_IN).made
    assert equal(weights(m.student), first)
    assert equal(weights(m.given.model), teacher)
    make(made, range(BURN_IN + 1, STEPS))


@pytest.mark.parametrize("schedule", [MultiStep(milestones=[8, 12]), Cosine(), Constant()])
def test_each_stage_has_the_whole_schedule(schedule: Any) -> None:
    common = {"lr": 0.1, "schedule": schedule, "warm_up": WarmUp(steps=2, factor=0.5)}
    rates = [lr_at(s, steps=16, restart_at=8, **common) for s in range(16)]
    halved = schedule.model_copy(update={"milestones": [4, 6]}) if isinstance(schedule, MultiStep) else schedule
    alone = [lr_at(s, steps=8, **common | {"schedule": halved}) for s in range(8)]
    assert rates == alone + alone
    told = turns(steps=16, schedule=schedule, warm_up=common["warm_up"], restart_at=8)
    assert set(told) == {0, 2, 4, 7, 8, 10, 12, 15} | ({6, 14} if isinstance(schedule, MultiStep) else set())


def test_a_run_seeks_its_best_student_in_the_second_stage_and_keeps_its_burn_in(tmp_path: Path) -> None:
    """Also where the teacher of the first stage was better: it is not what the student learnt."""
    section = {"name": "stac", "burn_in": 6, "score": 0.05}
    steady = {"weak": [], "strong": {"start": "weak", "ops": ["color_op", "cutout_squares"]}}
    config = small_config(
        tmp_path, method=section, views__unlabeled=steady, train__steps=10, train__eval_every=2, train__log_every=1
    )
    run.train(load(config), out=tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    looks = {row["step"]: row["teacher/AP"] for row in rows if row["kind"] == "eval"}
    best = checkpoint.load(tmp_path / "run/checkpoints/last.pt")["best"]
    assert best == max(looks[8], looks[10])
    lines = {row["step"]: row for row in rows if row["kind"] == "train"}
    assert all(any(k.startswith("unsup/") for k in lines[s]) == (s > 6) for s in lines)
    assert lines[1]["lr"] == lines[7]["lr"] < lines[8]["lr"]
    assert "pseudo/kept" in rows[-1]
    with pytest.raises(SsodError, match=r"method.burn_in 6 -> 7 changes the run") as caught:
        run.train(load(config, ["method.burn_in=7", "train.steps=12"]), out=tmp_path / "run")
    assert (caught.value.field, caught.value.code) == ("method.burn_in", Exit.CHECKPOINT)


# ---- the pixels of one box -----------------------------------------------------------------------------------------


def boxes_for(v: View) -> list[Targets]:
    return some_targets()[: len(v)]


def test_only_pixels_of_a_box_move_and_only_where_the_picture_has_not() -> None:
    shown = view(5)
    moved = move_in_a_box(shown, boxes_for(shown))
    assert moved.images.dtype == torch.uint8
    changed = (moved.images != shown.images).any(1)
    assert changed[0].any()
    assert changed[1].any()
    first, second = boxes_for(shown)
    for row, many in ((0, first.boxes), (1, second.boxes)):
        places = changed[row].nonzero()
        inside = [((places >= b[:2].flip(0)) & (places < b[2:].flip(0))).all() for b in many]
        assert any(inside)  # of one box alone
    assert torch.equal(moved.images, move_in_a_box(shown, boxes_for(shown)).images)
    assert not torch.equal(moved.images, move_in_a_box(replace(shown, keys=shown.keys + 9), boxes_for(shown)).images)
    for transfer in (shift_matrix(3, 0), about_middle((96, 96), turn(9)), about_middle((96, 96), slant(9))):
        still = replace(shown, matrix=torch.from_numpy(transfer).float().repeat(2, 1, 1))
        assert torch.equal(move_in_a_box(still, boxes_for(still)).images, shown.images)
    resized = replace(shown, matrix=torch.diag(torch.tensor([0.5, 0.7, 1])).repeat(2, 1, 1))
    assert torch.equal(move_in_a_box(resized, boxes_for(resized)).images, moved.images)


def test_an_image_without_boxes_stays_and_one_box_is_enough() -> None:
    shown, none = view(5), some_targets()[0][:0]
    assert move_in_a_box(shown, [none, none]).images is shown.images
    moved = move_in_a_box(shown, [none, some_targets()[1]]).images
    assert torch.equal(moved[0], shown.images[0])
    assert not torch.equal(moved[1], shown.images[1])
    moved = move_in_a_box(shown, [some_targets()[1], none]).images
    assert torch.equal(moved[1], shown.images[1])
    floats = replace(shown, images=shown.images / 255)
    same = move_in_a_box(floats, [some_targets()[1], none]).images
    torch.testing.assert_close(same * 255, moved.float(), rtol=0, atol=0.51)


@pytest.mark.parametrize("what", range(4))
def test_a_box_moves_about_its_middle_by_what_was_drawn(what: int) -> None:
    box, much = torch.tensor([[10.0, 20, 50, 100]]), torch.tensor([0.5])
    size, corner = (40, 80), shift_matrix(10, 20)
    made = [
        shift_matrix(0.5 * 0.05 * 40, 0),
        shift_matrix(0, 0.5 * 0.05 * 80),
        about_middle(size, turn(5)),
        about_middle(size, slant(5)),
    ][what]
    wanted = np.linalg.inv(corner @ made @ np.linalg.inv(corner))
    torch.testing.assert_close(inverse_draw(box, torch.tensor([what]), much)[0].numpy(), wanted.astype(np.float32))


def test_pixels_go_where_the_matrix_says_and_what_comes_from_outside_is_grey() -> None:
    image = torch.full((1, 3, 40, 60), 255, dtype=torch.uint8)
    image[:, :, 10:30, 20:40] = 0
    box = torch.tensor([[20.0, 10, 40, 30]])
    back = torch.from_numpy(np.linalg.inv(shift_matrix(4, 0))).float()[None]
    found, inside = box_affine.moved_pixels(image, box, back)
    assert int(inside.sum()) == 400
    patch = found[0, 0, 10:30, 20:40]
    assert (patch[:, :4] == 125).all()
    assert (patch[:, 5:] == 0).all()


def test_the_operation_is_a_key_and_draws_apart_from_mixing() -> None:
    moved, still = (method("stac", detector("fcos"), box_affine=on) for on in (True, False))
    data = Batch(view(0, some_targets()), {"weak": view(5), "strong": view(6)})
    first, second = moved(data, 50), still(data, 50)
    assert torch.equal(first["sup/cls"], second["sup/cls"])
    assert not torch.equal(first["unsup/cls"], second["unsup/cls"])
    mixed = method("stac", detector("fcos"), mix={"mixup": 1.0, "mosaic": 0.0})(data, 50)
    assert not torch.equal(first["unsup/cls"], mixed["unsup/cls"])
    assert isinstance(moved.ask(data.weak, 50), FileOutput)

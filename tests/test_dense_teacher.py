"""Dense Teacher: the released code's numbers through our functions, and which rows are asked for what."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from ssod import config
from ssod.assign.quality import with_centerness, with_iou
from ssod.detectors.build import DetectorConfig, build
from ssod.losses.box import diou, giou, giou_pairs
from ssod.losses.sigmoid import focal, quality_focal
from ssod.methods.dense_teacher import Config, DenseTeacher, teach
from ssod.structures import Assignment, Batch, Predictions, Targets
from ssod.structures.boxes import LtrbCoder, paired_iou
from ssod.utils.errors import SsodError
from tests.paths import golden_path
from tests.rows import context, losses_of
from tests.small import small_config
from tests.test_methods import (
    DETECTORS,
    SIDE,
    K,
    asked_for,
    batch,
    detector,
    method,
    optimizer_of,
    some_targets,
    step,
    view,
)

FILE = np.load(golden_path("dense_teacher_distill.npz"), allow_pickle=False)
CASES = json.loads(str(FILE["cases_json"]))
SIDES = torch.tensor([-1.0, -1, 1, 1])  # distances to the box around the origin


# ---- the released code's numbers -----------------------------------------------------------------------------------


def flat(case: dict, name: str) -> Tensor:
    """Rows of all maps in our order: image, level, row, column."""
    maps = [torch.from_numpy(FILE[f"{case['id']}.l{level}.{name}"]).float() for level in range(len(case["sizes"]))]
    return torch.cat([part.flatten(2).transpose(1, 2) for part in maps], 1).flatten(0, 1)


def predicted(case: dict, who: str) -> Predictions:
    logits, distances, quality = (flat(case, f"{who}_{name}") for name in ("logits", "ltrb", "quality"))
    levels, n = tuple(h * w for h, w in case["sizes"]), case["batch"]
    pixel = torch.tensor([[-0.5, -0.5, 0.5, 0.5]]).repeat(len(logits), 1)  # so that distances are pixels
    return Predictions(
        logits,
        distances[:, None],
        pixel,
        torch.arange(n).repeat_interleave(sum(levels)),
        torch.full((n, 2), 64),
        LtrbCoder(),
        quality=quality[:, 0],
        levels=levels,
    )


def number(case: dict, name: str) -> float:
    return pytest.approx(FILE[f"{case['id']}.{name}"].item(), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_distillation_golden(case: dict) -> None:
    """Through the method's own way to a loss: assign, reduce, its factors."""
    teacher, student = predicted(case, "teacher"), predicted(case, "student")
    leaves = [x.requires_grad_() for x in (student.logits, student.deltas, student.quality)]
    m = method("dense_teacher", detector("fcos", classes=case["num_classes"]), ratio=case["ratio"])
    ctx = context(
        student=SimpleNamespace(stages={"dense": student}),
        teacher=SimpleNamespace(stages={"dense": teacher}),
        view=[None] * case["batch"],
        rows=m.student.rows | m.criterion.rows("unsup", None),
        factors=m.criterion.factors["unsup"],
    )
    losses = m.learn(ctx)
    assert {name: loss.item() for name, loss in losses.items()} == {
        name: number(case, f"loss_{name}") for name in ("cls", "box", "quality")
    }
    total = sum(m.scale("unsup", losses, 1.0, m.cfg.loss_weights).values())
    assert total.item() == number(case, "total_w4")
    sum(losses.values()).backward()
    # The release gives a box without width no slope towards one, ours does; behind both lies a ReLU, which has none.
    some = (student.deltas[:, 0, :2] + student.deltas[:, 0, 2:] > 0).all(1)
    for got, name, rows in zip(leaves, ("cls", "box", "quality"), (slice(None), some, slice(None))):
        wanted = flat(case, f"grad_{name}")
        np.testing.assert_allclose(got.grad.view_as(wanted)[rows], wanted[rows], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_the_chosen_rows_golden(case: dict) -> None:
    a, chosen = teach(predicted(case, "teacher"), case["ratio"]), FILE[f"{case['id']}.selected_sorted"]
    assert a.fg_rows.tolist() == chosen.tolist()
    assert len(chosen) == FILE[f"{case['id']}.n_selected"] == int(case["ratio"] * len(a.cls))
    assert len(a.cls) == FILE[f"{case['id']}.n_locations"]
    assert a.normalizer["cls"].item() == number(case, "fg_sum")
    assert a.normalizer["box"] == a.normalizer["quality"] == len(chosen)


@pytest.mark.parametrize(("name", "loss"), [("giou", giou_pairs), ("linear_iou", lambda a, b: 1 - paired_iou(a, b))])
def test_losses_of_distances_golden(name: str, loss) -> None:
    """The quality focal loss of the same file: tests/losses/test_family.py."""
    file = np.load(golden_path("dense_teacher_elementwise.npz"), allow_pickle=False)
    distances, wanted = (torch.from_numpy(file[f"ltrb.{who}"]).float() for who in ("pred", "target"))
    found = loss(distances.requires_grad_() * SIDES, wanted * SIDES)
    found.sum().backward()
    np.testing.assert_allclose(found.detach(), file[f"ltrb.{name}_loss"], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(distances.grad, file[f"ltrb.{name}_grad"], rtol=1e-3, atol=1e-5)


# ---- which rows are asked for what ---------------------------------------------------------------------------------


def rows(logits: Tensor, images: int) -> Predictions:
    n = len(logits)
    box = torch.tensor([[0.0, 0, 8, 8]]).repeat(n, 1)
    image = torch.arange(n) * images // n
    return Predictions(logits, torch.ones(n, 1, 4), box, image, torch.full((images, 2), 64), LtrbCoder())


def test_the_share_is_of_all_images_together() -> None:
    """A crowded image takes the places of its neighbours; classes are asked for whole, the rest is background."""
    logits = torch.randn(400, K, generator=torch.Generator().manual_seed(0)) - 3
    logits[10:14] += 9
    a = teach(rows(logits, 2), 0.01)
    assert a.fg_rows.tolist() == [10, 11, 12, 13]
    torch.testing.assert_close(a.cls[10:14], logits[10:14].sigmoid())
    torch.testing.assert_close(a.cls.sum(), a.cls[10:14].sum())
    assert (a.cls_weight == 1).all()
    assert a.matched is None


@pytest.mark.parametrize(("n", "ratio", "count"), [(99, 0.01, 1), (199, 0.01, 1), (200, 0.01, 2), (7, 1.0, 7)])
def test_how_many_rows_are_chosen(n: int, ratio: float, count: int) -> None:
    a = teach(rows(torch.randn(n, K), 1), ratio)
    assert int(a.fg.sum()) == a.normalizer["box"] == count
    assert a.normalizer["cls"] > 0


@pytest.mark.parametrize("net", ["retinanet", "fcos"])
def test_rows_of_the_padding_take_part(net: str) -> None:
    m, data = method("dense_teacher", detector(net), ratio=0.2), batch(flip=False)
    for images in data.views.values():
        images.sizes = torch.tensor([[SIDE, SIDE], [SIDE // 3, SIDE // 3]])
    p, a = asked_for(m, data)["dense"]
    center = (p.priors[:, :2] + p.priors[:, 2:]) / 2
    padding = (center > p.sizes.flip(1)[p.image]).any(1)
    assert (a.cls_weight[padding] == 1).all()
    assert (a.fg & padding).any()
    assert (a.fg & ~padding).any()
    best = m.teacher.predict(data.weak).stages["dense"].probs().amax(1)
    assert best[a.fg].min() >= best[~a.fg].max()


@pytest.mark.parametrize("net", ["retinanet", "fcos"])
def test_the_teacher_s_boxes_and_qualities_are_learnt_where_it_is_surest(net: str) -> None:
    m, data = method("dense_teacher", detector(net), ratio=0.05), batch(flip=False)
    losses = m(data, 99)
    p, a = asked_for(m, data)["dense"]
    teacher = m.teacher.predict(data.weak).stages["dense"]
    torch.testing.assert_close(a.box, teacher.boxes())
    count = a.fg.sum()
    loss = m.student.rows["box"](p, a).sum() / count * m.student.weights["box"]
    weight = m.unsup_weight(99, None)
    torch.testing.assert_close(losses["unsup/box"], weight * loss)
    torch.testing.assert_close(losses["unsup/cls"], weight * 4 * quality_focal(p, a).sum() / a.normalizer["cls"])
    assert ("unsup/quality" in losses) == (net == "fcos")
    if net == "fcos":
        torch.testing.assert_close(a.quality, teacher.quality.sigmoid())
    assert m.stats["pseudo/foreground_per_image"] == a.normalizer["cls"] / 2
    assert "pseudo/boxes_per_image" not in m.stats


def test_a_student_that_says_what_its_teacher_says_learns_background_alone() -> None:
    data = Batch(view(0, some_targets()), {"weak": view(5), "strong": view(5)})
    for ratio, some in ((1.0, False), (0.01, True)):
        m = method("dense_teacher", detector("fcos"), ratio=ratio)
        m.student.eval()
        assert (m(data, 99)["unsup/cls"].item() > 1e-5) == some


# ---- the run -------------------------------------------------------------------------------------------------------


def test_the_weight_rises_from_burn_in_to_twice_burn_in() -> None:
    m = DenseTeacher(detector("fcos"), Config(name="dense_teacher"))
    weights = [m.unsup_weight(number, None) for number in (5000, 7499, 9998, 9999, 10_000, 50_000)]
    assert weights == pytest.approx([1 / 5000, 0.5, 4999 / 5000, 1, 1, 1])


def test_the_teacher_is_a_copy_until_step_3000() -> None:
    m = DenseTeacher(detector("fcos"), Config(name="dense_teacher"))
    assert [m.teacher.decay(number) for number in (0, 2999, 3000, 100_000)] == [0, 0, 0.9996, 0.9996]
    optimizer, data = optimizer_of(m), Batch(view(0, some_targets()))
    step(m, data, 2999, optimizer)
    assert all(torch.equal(a, b) for a, b in zip(m.student.parameters(), m.teacher.parameters()))
    old = [p.clone() for p in m.teacher.parameters()]
    step(m, data, 3000, optimizer)
    for before, student, teacher in zip(old, m.student.parameters(), m.teacher.parameters()):
        torch.testing.assert_close(teacher, before * 0.9996 + student * 0.0004)


def test_the_released_constants_are_the_defaults() -> None:
    cfg = Config(name="dense_teacher")
    assert (cfg.burn_in, cfg.ramp, cfg.ramp_shape, cfg.ratio, cfg.weight) == (5000, 5000, "linear", 0.01, 1)
    assert cfg.loss_weights == {"cls": 4.0}
    assert (cfg.ema.decay, cfg.ema.warm_up, cfg.ema.start) == (0.9996, False, 3000)


# ---- losses that a config names ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loss", "cls", "box"),
    [
        ({}, quality_focal, giou),
        ({"unsup": {"box": "diou"}}, quality_focal, diou),
        ({"sup": {"box": "diou"}}, quality_focal, giou),
        ({"unsup": {"cls": None}}, quality_focal, giou),
        ({"unsup": {"cls": "focal"}}, focal, giou),
        (None, focal, giou),
    ],
)
def test_quality_focal_loss_stays_where_a_config_names_others(loss: dict | None, cls: object, box: object) -> None:
    m = method("dense_teacher", detector("fcos"), loss=loss)
    ctx = m.look("unsup", batch(flip=False), 50, view(5), None)
    bare = {name: getattr(row, "func", row) for name, row in ctx.rows.items()}
    assert (bare["cls"], bare["box"]) == (cls, box)
    again = Config.model_validate(m.cfg.model_dump())
    assert again == m.cfg


def test_a_config_that_is_written_and_read_again_is_the_same(tmp_path: Path) -> None:
    section = {"name": "dense_teacher", "burn_in": 6, "ramp": 3, "loss": {"unsup": {"cls": None, "box": "diou"}}}
    path = small_config(tmp_path, method=section)
    dumped = config.load(path).dump()
    again = config.load(small_config(tmp_path, method=dumped["method"]))
    assert again.dump() == dumped
    assert again.method.loss.unsup.cls.name == "quality_focal"


@pytest.mark.parametrize("name", ["score", "isr_p", "iou_target"])
def test_a_weighting_that_needs_boxes_is_refused(name: str) -> None:
    with pytest.raises(SsodError) as error:
        method("dense_teacher", detector("retinanet"), loss={"unsup": {"weighting": name}})
    assert error.value.field == "method.loss.unsup.weighting"
    assert "asks its rows for the teacher's map" in error.value.problem
    assert "\n" not in str(error.value)


def test_a_detector_with_proposals_is_refused_in_one_line() -> None:
    with pytest.raises(SsodError) as error:
        method("dense_teacher", detector("faster_rcnn"))
    assert (error.value.field, error.value.code) == ("method.name", 2)
    assert "\n" not in str(error.value)
    assert "use it with retinanet or fcos" in str(error.value)


def test_views_that_move_pixels_are_refused(tmp_path: Path) -> None:
    section = {"name": "dense_teacher", "burn_in": 6, "ramp": 3}
    config.load(small_config(tmp_path, method=section))
    with pytest.raises(SsodError, match=r"views\.unlabeled\.strong.*start: weak") as error:
        config.load(small_config(tmp_path, method=section, views__unlabeled__strong=["flip", "color_op"]))
    assert "\n" not in str(error.value)
    with pytest.raises(SsodError, match=r"views\.unlabeled\.strong.*start: weak"):
        method("dense_teacher", detector("fcos"))(batch(flip=True), 50)


# ---- the quality branch predicts IoU -------------------------------------------------------------------------------


def fcos(quality: str) -> torch.nn.Module:
    torch.manual_seed(0)
    section = {"name": "fcos", "backbone": "tiny", "channels": 16, "quality": quality, **DETECTORS["fcos"]}
    return build(TypeAdapter(DetectorConfig).validate_python(section), K)


def test_quality_is_the_iou_of_a_row_s_box_with_its_own() -> None:
    deltas = torch.tensor([[2.0, 2, 2, 2], [1.0, 2, 3, 4], [2.0, 2, 2, 2]])[:, None].requires_grad_()
    p = replace(rows(torch.zeros(3, K), 1), deltas=deltas)  # centers at 4, strides of 8
    wanted = torch.tensor([[-12.0, -12, 20, 20], [-12.0, -12, 20, 4], [0.0, 0, 9, 9]])
    a = Assignment(torch.zeros(3, dtype=torch.long), torch.ones(3), wanted, torch.tensor([1.0, 1, 0]))
    got = with_iou(p, a).quality
    second = paired_iou(torch.tensor([[-4.0, -12, 28, 36]]), wanted[1:2])
    assert 0.1 < second < 0.5
    assert got.tolist() == pytest.approx([1, second.item(), 0])
    assert not got.requires_grad
    assert not torch.equal(with_centerness(p, a).quality[1], got[1])


def test_the_quality_of_fcos_changes_its_target_and_its_loss_and_nothing_else() -> None:
    near, fits = fcos("centerness"), fcos("iou")
    assert all(torch.equal(a, b) for a, b in zip(near.state_dict().values(), fits.state_dict().values()))
    data = view(0, some_targets())
    losses = [losses_of(net, net.predict(data), data.targets) for net in (near, fits)]
    assert torch.equal(losses[0]["cls"], losses[1]["cls"])
    assert torch.equal(losses[0]["box"], losses[1]["box"])
    p, a = fits.assign(fits.predict(data), data.targets)["dense"]
    fg = a.fg_rows
    target = paired_iou(p.boxes()[fg], a.box[fg])
    bce = torch.nn.functional.binary_cross_entropy_with_logits(p.quality[fg], target)
    torch.testing.assert_close(losses[1]["quality"], bce)
    assert not torch.allclose(losses[0]["quality"], bce)
    none = losses_of(fits, fits.predict(data), [Targets.empty(torch.zeros(1))] * 2)
    assert none["quality"] == none["box"] == 0


def test_a_factor_of_0_for_its_own_loss_is_refused_under_the_key_that_was_written() -> None:
    with pytest.raises(ValidationError) as own:
        Config(name="dense_teacher", loss_weights={"cls": 0})
    with pytest.raises(ValidationError) as named:
        Config(name="dense_teacher", loss={"unsup": {"cls": "bce"}}, loss_weights={"cls": 0})
    assert [e["loc"] for e in own.value.errors()] == [("loss_weights", "cls")]
    assert [e["loc"] for e in named.value.errors()] == [("loss", "unsup", "cls")]

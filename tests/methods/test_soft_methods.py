"""Methods that learn the teacher's output as it is, and how a teacher follows."""

from __future__ import annotations

import math
from functools import cached_property
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from ssod import config
from ssod.detectors.two_stage import TwoStageOutput
from ssod.losses.consistency import SoftTargets, kl
from ssod.methods import base
from ssod.methods.base import Method
from ssod.methods.humble_teacher import soft_targets_for, soft_targets_of_both
from ssod.methods.registry import find
from ssod.structures import Batch, Targets
from ssod.structures.boxes import mirror
from ssod.transforms.views import Pipeline, misaligned
from ssod.utils.errors import SsodError
from tests.small import small_config
from tests.test_methods import DETECTORS, SIDE, batch, bits, detector, method, optimizer_of, some_targets, step, view

SOFT = {"humble_teacher": {"burn_in": 0}, "mean_teacher": {"form": "consistency", "burn_in": 0, "score": 0.5}}


def soft(name: str, net: str, **changes: object) -> Method:
    return method(name, detector(net), **SOFT[name] | changes)


def same_pixels() -> Batch:
    return batch(flip=False)  # other colours in the same places


# ---- how a teacher follows -----------------------------------------------------------------------------------------


def follow(
    ema: dict, burn_in: int, steps: int, name: str = "mean_teacher", skipped: tuple[int, ...] = ()
) -> list[float]:
    """The teacher's only weight after each step, while the student's is 1, 2, 3, ...; a skipped step leaves that."""
    student, kind = nn.Linear(1, 1, bias=False), find(name)
    nn.init.zeros_(student.weight)
    student.num_classes = 1
    student.objectness = False
    m = kind(student, kind.Config.model_validate({"name": name, "burn_in": burn_in, "ema": ema}))
    seen = []
    for number in range(steps):
        if number in skipped:
            m.after_skip(number)
        else:
            m.student.weight.data.fill_(number + 1.0)
            m.after_step(number)
        seen.append(float(m.teacher.model.weight))
    return seen


def test_never_keeps_what_burn_in_ended_with() -> None:
    for name in ("mean_teacher", "unbiased_teacher"):
        average = follow({"decay": 0.5}, 3, 8, name)
        frozen = follow({"decay": 0.5, "rule": "never"}, 3, 8, name)
        assert frozen == average[:3] + [average[2]] * 5
        assert average[3] != average[2]


def test_copies_are_renewed_every_so_many_steps_after_burn_in() -> None:
    seen = follow({"decay": 0.5, "rule": "copy", "every": 3}, 2, 9, "unbiased_teacher")
    assert seen == [1, 2, 2, 2, 5, 5, 5, 8, 8]
    assert follow({"rule": "copy", "every": 1}, 0, 4) == [1, 2, 3, 4]
    assert follow({"rule": "copy", "every": 1}, 0, 6, skipped=(2, 3)) == [1, 2, 2, 2, 5, 6]


def test_a_copy_that_falls_on_a_skipped_step_is_made_and_nothing_else() -> None:
    """Step 4 is the third after burn-in; the student is then what step 3 made it."""
    copy = {"decay": 0.5, "rule": "copy", "every": 3}
    assert follow(copy, 2, 9, "unbiased_teacher", skipped=(4,)) == [1, 2, 2, 2, 4, 4, 4, 8, 8]
    assert follow(copy, 2, 9, "unbiased_teacher", skipped=(0, 1, 2, 3)) == [0, 0, 0, 0, 5, 5, 5, 8, 8]
    average = follow({"decay": 0.5}, 0, 6)
    skipped = follow({"decay": 0.5}, 0, 6, skipped=(2,))
    assert skipped[2] == skipped[1] == average[1]
    never = {"decay": 0.5, "rule": "never"}
    assert follow(never, 2, 6, skipped=(2, 3)) == follow(never, 2, 6)


def test_a_teacher_that_rests_keeps_its_buffers() -> None:
    student = nn.BatchNorm1d(2)
    student.objectness = False
    m = Method(student, base.Config(name="x", burn_in=1, ema={"rule": "never"}))
    m.after_step(0)
    student(torch.randn(4, 2))
    m.after_step(1)
    assert m.teacher.model.num_batches_tracked == 0
    assert student.num_batches_tracked == 1


@pytest.mark.parametrize(
    ("name", "section", "message"),
    [
        ("mean_teacher", {"ema": {"gamma": 4, "warm_up": False}}, "'gamma: 4' shapes the warm-up, which is off"),
        ("mean_teacher", {"ema": {"growth": 9, "warm_up": False}}, "'growth: 9' shapes the warm-up, and it is off"),
        ("mean_teacher", {"ema": {"growth": 9, "gamma": 4}}, "and 'gamma: 4' does, too"),
        ("mean_teacher", {"ema": {"rule": "copy"}}, "'rule: copy' needs 'every'"),
        ("mean_teacher", {"ema": {"rule": "never", "every": 5}, "burn_in": 1}, "is for 'rule: copy'"),
        ("mean_teacher", {"ema": {"rule": "never"}}, "would stay untrained; give a burn-in"),
        ("mean_teacher", {"ema": {"rule": "copy", "every": 9}}, "would stay untrained until step 9; give a burn-in"),
        ("mean_teacher", {"ema": {"rule": "copy", "every": 5, "start": 9}, "burn_in": 4}, "lies after it"),
        ("supervised", {"ema": {"rule": "copy", "every": 5}}, "which this method has not"),
        ("mean_teacher", {"ema": {"rule": "copy", "every": 0}}, "greater than or equal to 1"),
        ("mean_teacher", {"form": "consistency", "score": 0.4}, "is read by 'form: pseudo_label' only"),
        ("mean_teacher", {"norm": "rows"}, "is read by 'form: consistency' only"),
        ("mean_teacher", {"ramp_shape": "sigmoid"}, "give the ramp's steps"),
    ],
)
def test_settings_without_meaning_are_refused(name: str, section: dict, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        find(name).Config.model_validate({"name": name} | section)


def test_part_of_an_ema_section_keeps_the_methods_own_defaults() -> None:
    def ema(name: str, section: dict) -> tuple:
        found = find(name).Config.model_validate({"name": name, "ema": section}, context={"steps": 100}).ema
        return found.decay, found.warm_up, found.start

    assert ema("mean_teacher", {"start": 7}) == (0.9995, True, 7)
    assert ema("unbiased_teacher", {"start": "5%"}) == (0.9996, False, 5)
    assert ema("unbiased_teacher", {"decay": 0.9}) == (0.9, False, None)
    assert ema("humble_teacher", {}) == (0.999, False, None)
    assert ema("supervised", {"warm_up": False}) == (0.999, False, 0)


# ---- views ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("weak", "strong", "wrong"),
    [
        (["flip"], {"start": "weak", "ops": ["color_op", "cutout"]}, False),
        (["flip"], ["flip", "color_op"], True),
        (["flip"], {"start": "weak", "ops": [{"one_of": ["rotate", "color_op"]}]}, True),
        ([{"resize": {"short": 64}}], [{"resize": {"short": 64}}, "color_op"], False),
        ([{"resize": {"short": 64}}], [{"resize": {"short": 65}}], True),
        ({"start": "base", "ops": ["color_op"]}, {"start": "base", "ops": ["noise"]}, False),
        ({"start": "base", "ops": ["flip"]}, {"start": "base", "ops": ["noise"]}, True),
    ],
)
def test_what_counts_as_aligned(weak: object, strong: object, wrong: bool) -> None:
    views = {"base": ["flip", {"resize": {"short": [32, 64]}}], "weak": weak, "strong": strong}
    assert misaligned({name: Pipeline.model_validate(v) for name, v in views.items()}, "weak", "strong") is wrong


@pytest.mark.parametrize(
    "section", [{"name": "humble_teacher", "burn_in": 6}, {"name": "mean_teacher", "burn_in": 6, "form": "consistency"}]
)
def test_views_apart_are_refused_before_the_run(tmp_path: Path, section: dict) -> None:
    config.load(small_config(tmp_path, method=section))
    with pytest.raises(SsodError) as error:
        config.load(small_config(tmp_path, method=section, views__unlabeled__strong=["flip", "color_op"]))
    assert error.value.field == "views.unlabeled.strong"
    assert "pixel-aligned" in error.value.problem
    assert "start: weak" in error.value.fix
    pseudo = {"name": "mean_teacher", "burn_in": 6}
    config.load(small_config(tmp_path, method=pseudo, views__unlabeled__strong=["flip", "color_op"]))


@pytest.mark.parametrize("name", SOFT)
def test_views_apart_are_refused_at_the_first_batch(name: str) -> None:
    for data in (batch(), Batch(view(0, some_targets()), {"weak": view(5), "strong": view(5)})):
        data.strong.sizes = data.strong.sizes - (0 if data.strong.matrix[0, 0, 0] < 0 else 1)
        with pytest.raises(SsodError, match=r"views\.unlabeled\.strong.*start: weak"):
            soft(name, "fcos")(data, 50)


# ---- the step ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("net", DETECTORS)
def test_consistency_teaches_every_part_of_the_student_and_nothing_of_the_teacher(net: str) -> None:
    m = soft("mean_teacher", net)
    losses = m(same_pixels(), 50)
    assert {k.removeprefix("unsup/") for k in losses if k.startswith("unsup/")} == {
        k.removeprefix("sup/") for k in losses if k.startswith("sup/")
    }
    assert "pseudo/boxes_per_image" not in m.stats
    assert m.stats["pseudo/foreground_per_image"] > 0
    sum(loss for key, loss in losses.items() if key.startswith("unsup/")).backward()
    silent = [n for n, p in m.student.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert not silent
    assert all(p.grad is None for p in m.teacher.parameters())


@pytest.mark.parametrize("net", DETECTORS)
@pytest.mark.parametrize("name", SOFT)
def test_a_student_that_is_its_teacher_has_nothing_to_learn(name: str, net: str) -> None:
    changes = {"ensemble": False} if name == "humble_teacher" else {}
    m = soft(name, net, **changes)
    m.student.eval()
    losses = m(Batch(view(0, some_targets()), {"weak": view(5), "strong": view(5)}), 50)
    assert all(abs(loss.item()) < 1e-5 for key, loss in losses.items() if key.startswith("unsup/"))


@pytest.mark.parametrize("name", SOFT)
def test_both_second_stages_answer_for_the_teachers_best_proposals(name: str) -> None:
    m = soft(name, "faster_rcnn", proposals=7)
    asked: list[list[Tensor]] = []
    predict = m.student.predict

    def spy(look):
        out = predict(look)
        score = out.score
        out.score = lambda boxes: asked.append(boxes) or score(boxes)
        return out

    data = same_pixels()
    m.student.predict = spy
    m(data, 50)
    wanted = [b[:7] for b in m.teacher.predict(data.weak).proposals]
    assert [len(b) for b in wanted] == [7, 7]
    assert all(torch.equal(a, b) for a, b in zip(asked[-1], wanted))


@pytest.mark.parametrize("name", SOFT)
def test_no_proposals_is_a_step_like_any_other(name: str) -> None:
    m = soft(name, "faster_rcnn")
    predict = m.teacher.model.predict

    def blind(look):
        out = predict(look)
        found = out.found
        out.__dict__["found"] = found._replace(scores=found.scores * 0)
        return out

    m.teacher.model.predict = blind
    losses = m(same_pixels(), 50)
    assert losses["unsup/cls"] == losses["unsup/box"] == 0
    assert losses["unsup/rpn_cls"] > 0
    sum(losses.values()).backward()
    optimizer_of(m).step()


@pytest.mark.parametrize("net", DETECTORS)
@pytest.mark.parametrize("name", SOFT)
def test_one_class_one_image_odd_sizes(name: str, net: str) -> None:
    one = [Targets(torch.tensor([[8.0, 8, 50, 60]]), torch.tensor([0]))]
    weak = view(5, n=1)
    weak.sizes = torch.tensor([[SIDE - 5, SIDE - 23]])
    m = method(name, detector(net, classes=1), **SOFT[name])
    losses = step(m, Batch(view(0, one, n=1), {"weak": weak, "strong": weak}), 50, optimizer_of(m))
    assert all(loss.isfinite() for loss in losses.values())


@pytest.mark.parametrize(("name", "net"), [("humble_teacher", "faster_rcnn"), ("mean_teacher", "fcos")])
def test_restored_state_goes_on_with_the_same_bits(name: str, net: str) -> None:
    changes = {"ema": {"rule": "copy", "every": 2}, "burn_in": 1}
    first, second = soft(name, net, **changes), soft(name, net, **changes)
    optimizer, other = optimizer_of(first), optimizer_of(second)
    step(first, same_pixels(), 50, optimizer)
    second.load_state_dict(bits(first))
    other.load_state_dict(optimizer.state_dict())
    for number in (51, 52):
        step(first, same_pixels(), number, optimizer)
        step(second, same_pixels(), number, other)
    assert all(torch.equal(a, b) for a, b in zip(bits(first).values(), bits(second).values()))


@pytest.mark.parametrize("net", DETECTORS)
def test_half_precision_learns_the_same(net: str) -> None:
    m, data = soft("humble_teacher", net), same_pixels()
    exact = m(data, 50)
    with torch.autocast("cpu", torch.bfloat16):
        losses = m(data, 50)
    for key in exact:
        assert losses[key].dtype == torch.float32
        torch.testing.assert_close(losses[key], exact[key], rtol=0.2, atol=0.02)


def test_the_weight_rises_as_the_paper_s() -> None:
    m = soft("mean_teacher", "fcos", burn_in=10, ramp=10, ramp_shape="sigmoid", weight=2)
    for number, t in ((10, 0.1), (14, 0.5), (19, 1.0), (60, 1.0)):
        assert m.unsup_weight(number, None) == pytest.approx(2 * math.exp(-5 * (1 - t) ** 2))


# ---- Humble Teacher ------------------------------------------------------------------------------------------------


def test_the_images_of_the_batch_weigh_the_losses() -> None:
    """n_U / n_S: one labelled image and two unlabelled ones double beta."""
    data = Batch(view(0, some_targets()[:1], n=1), same_pixels().views)

    def losses(**changes: object) -> dict[str, Tensor]:
        return soft("humble_teacher", "retinanet", **changes)(data, 50)

    torch.testing.assert_close(losses()["unsup/cls"], losses(per_labeled=False)["unsup/cls"] * 2)
    torch.testing.assert_close(losses(weight=2)["unsup/cls"], losses()["unsup/cls"] * 4)


def test_the_teachers_proposals_are_found_before_the_student_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """To find them waits for a GPU; after the student has looked it would wait for all of that."""
    m, seen, look = soft("humble_teacher", "faster_rcnn"), [], TwoStageOutput.found.func
    found = cached_property(lambda out: (seen.append("proposals"), look(out))[1])
    found.__set_name__(TwoStageOutput, "found")
    monkeypatch.setattr(TwoStageOutput, "found", found)
    predict = m.student.predict
    m.student.predict = lambda view: (seen.append("student"), predict(view))[1]
    m(same_pixels(), 50)
    assert seen == ["proposals", "student", "proposals", "student"], "those of labelled images are the student's own"


def test_proposals_are_asked_about_in_the_mirror_image() -> None:
    m, data = soft("humble_teacher", "faster_rcnn"), same_pixels()
    assert (data.weak.sizes[1] != SIDE).all()
    out, mirrored = m.teacher.predict(data.weak), m.mirrored(data, 50)
    boxes = [b[:5] for b in out.proposals]
    both = soft_targets_for(boxes, data.weak.sizes, out, mirrored)
    own = out.score(boxes)
    sides = [mirror(b, torch.tensor(float(w))) for b, w in zip(boxes, data.weak.sizes[:, 1])]
    other = m.teacher.predict(data.weak.flipped()).score(sides)
    torch.testing.assert_close(both.probs, (own.logits.softmax(-1) + other.logits.softmax(-1)) / 2)
    sign = torch.tensor([-1.0, 1, 1, 1])
    torch.testing.assert_close(both.deltas, (own.deltas + other.deltas * sign) / 2)
    assert torch.equal(soft_targets_for(boxes, data.weak.sizes, out, None).probs, own.logits.softmax(-1))


@pytest.mark.parametrize("net", ["retinanet", "fcos"])
def test_the_ensemble_of_a_mirror_image_is_the_mirrored_ensemble(net: str) -> None:
    """What is believed about a symmetric image is symmetric, padding or none; without an ensemble it is not."""
    m = soft("humble_teacher", net)
    weak = view(5, n=1)
    weak.sizes = torch.tensor([[SIDE, 64]])  # whole strides up to 64, and a canvas that is wider
    weak.images[..., 64:] = 0
    weak.images[..., 32:64] = weak.images[..., :32].flip(-1)
    assert torch.equal(weak.flipped().images, weak.images)
    out = m.teacher.predict(weak).stages["dense"]
    both = soft_targets_of_both(out, m.teacher.predict(weak.flipped()).stages["dense"])
    there = mirror(out.priors, torch.tensor(64.0))
    partner = (out.priors[None] == there[:, None]).all(-1)
    row, column = partner.nonzero().unbind(1)
    assert len(row) > 50
    torch.testing.assert_close(both.probs[row], both.probs[column])
    torch.testing.assert_close(out.coder.mirror(both.deltas[row], torch.tensor([64.0])), both.deltas[column])
    own = SoftTargets.of(out)
    assert not torch.allclose(own.probs[row], own.probs[column], atol=1e-4)
    alone = (out.priors[:, 0] + out.priors[:, 2]) / 2 > 64
    assert torch.equal(both.probs[alone], own.probs[alone])


@pytest.mark.parametrize("net", DETECTORS)
def test_switches_change_what_is_learned(net: str) -> None:
    """Ensemble, hard labels (where they may be), the normalizer and the square each reach the losses."""
    m = soft("humble_teacher", net)
    plain, plain_cfg = m(same_pixels(), 50), m.cfg
    hard = [{"labels": "hard"}] if net == "faster_rcnn" else []
    for change in ({"ensemble": False}, *hard, {"norm": "foreground"}, {"squared": True}):
        m.cfg = plain_cfg.model_copy(update=change)
        other = m(same_pixels(), 50)
        assert other.keys() == plain.keys()
        assert any(not torch.equal(other[k], plain[k]) for k in plain if k.startswith("unsup/")), change


def test_hard_labels_are_cross_entropy_with_the_likeliest_class() -> None:
    m, data = soft("humble_teacher", "faster_rcnn", labels="hard", ensemble=False), same_pixels()
    losses = m(data, 50)
    out = m.teacher.predict(data.weak)
    boxes = [b[:640] for b in out.proposals]
    mine = m.student.predict(data.strong).score(boxes)
    label = out.score(boxes).logits.argmax(-1)
    expected = nn.functional.cross_entropy(mine.logits, label)
    torch.testing.assert_close(losses["unsup/cls"], expected * 0.5)
    soft_target = SoftTargets.of(out.score(boxes))
    assert not torch.isclose(kl(mine, soft_target).mean(), expected)


@pytest.mark.parametrize("norm", ["rows", "foreground"])
@pytest.mark.parametrize("net", ["retinanet", "fcos"])
def test_hard_labels_of_a_dense_head_are_refused(net: str, norm: str) -> None:
    """Of a trained one's rows few score above one half, and all others would be background for certain."""
    with pytest.raises(SsodError, match=r"method.labels: 'hard' makes background of .*; use soft, or hard with faster"):
        soft("humble_teacher", net, labels="hard", norm=norm)
    soft("humble_teacher", net, labels="soft", norm=norm)


def test_burn_in_copies_and_then_averages() -> None:
    seen = follow({"decay": 0.5}, 2, 4, "humble_teacher")
    assert seen == [1, 2, 2.5, 3.25]

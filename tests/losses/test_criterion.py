"""Losses and weightings by config, in a real step of real detectors."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from ssod.config import load_recipe
from ssod.detectors.build import DetectorConfig, build
from ssod.losses.build import TABLES
from ssod.losses.weighting import criterion
from ssod.losses.weighting.counts import Frequency, RunningObjects
from ssod.losses.weighting.criterion import Criterion, LossConfig
from ssod.losses.weighting.registry import RULES
from ssod.methods.base import Method
from ssod.methods.registry import names
from ssod.structures import Pseudo, Targets
from ssod.utils.errors import SsodError
from tests.test_methods import (
    DETECTORS,
    K,
    batch,
    bits,
    detector,
    method,
    no_targets,
    optimizer_of,
    some_targets,
    step,
)

STAGES = {"retinanet": {"dense"}, "fcos": {"dense"}, "faster_rcnn": {"rpn", "roi"}}
PAIRS = [(net, name) for net in ("fcos", "faster_rcnn") for name in RULES]
FITS = [(net, name) for net, name in PAIRS if STAGES[net] & set(RULES[name].stages)]
MISFITS = [(net, name) for net, name in PAIRS if not STAGES[net] & set(RULES[name].stages)]
ROOT = Path(__file__).resolve().parents[2]
BRANCH_LOSSES = ("sup/aux", "sup/rpn_aux")
LEARNS = ("uncertainty", "conv_bayes", "plain_conv", "sample_weighting")


def taught(net: str, loss: dict, name: str = "mean_teacher", **changes: object) -> Method:
    return method(name, detector(net), loss=loss, **changes)


def losses_of(m: Method, number: int = 50) -> dict[str, Tensor]:
    torch.manual_seed(1)  # the draw of the Bayesian branch; training seeds every step
    data = batch()
    if m.uses_unlabeled and m.cfg.taught_by != "boxes":
        data.views["strong"] = data.weak
    return m(data, number)


# ---- which losses --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("net", DETECTORS)
def test_no_choice_is_the_detectors_own_bit_for_bit(net: str) -> None:
    plain, empty = losses_of(method("mean_teacher", detector(net))), losses_of(taught(net, {}))
    assert plain.keys() == empty.keys()
    assert all(torch.equal(plain[name], empty[name]) for name in plain)


@pytest.mark.parametrize("net", DETECTORS)
def test_each_side_has_its_own(net: str) -> None:
    plain = losses_of(method("mean_teacher", detector(net)))
    word = {"name": "focal_ratio", "gamma": 0.5}
    for side in ("sup", "unsup"):
        chosen = losses_of(taught(net, {side: {"cls": word}}))
        assert chosen[f"{side}/cls"] != plain[f"{side}/cls"]
        assert all(torch.equal(chosen[n], plain[n]) for n in plain if n != f"{side}/cls")
        doubled = losses_of(taught(net, {side: {"cls": word | {"weight": 2}}}))
        torch.testing.assert_close(doubled[f"{side}/cls"], 2 * chosen[f"{side}/cls"])


@pytest.mark.parametrize("net", DETECTORS)
def test_every_loss_of_its_kind_trains(net: str) -> None:
    """Each class loss and box loss on the rows of one look."""
    student, data = detector(net).train(), batch().labeled
    out = student.predict(data)
    choices = [{"cls": name} for name in TABLES[student.kinds["cls"]]] + [{"box": name} for name in TABLES["box"]]
    for choice in choices:
        chosen = Criterion(student, LossConfig.model_validate({"sup": choice}))
        found = student.reduce(
            student.assign(out, data.targets), chosen.rows("sup", Pseudo(data.targets)), chosen.factors["sup"]
        )
        key = next(iter(choice))
        levels = torch.autograd.grad(found[key], out.pyramid, retain_graph=True, materialize_grads=True)
        gradient = torch.cat([level.flatten() for level in levels])
        assert found[key] > 0, choice
        assert gradient.isfinite().all(), choice
        assert gradient.any(), choice


@pytest.mark.parametrize(
    ("net", "loss", "needles"),
    [
        ("fcos", {"sup": {"cls": "cross_entropy"}}, ["method.loss.sup.cls", "softmax", "anchor, balanced_bce, bce"]),
        ("faster_rcnn", {"unsup": {"cls": "bce"}}, ["method.loss.unsup.cls", "softmax", "cross_entropy, focal_ratio"]),
        ("retinanet", {"sup": {"rpn_cls": "bce"}}, ["method.loss.sup.rpn_cls", "no such loss", "it has: cls, box"]),
        ("retinanet", {"sup": {"quality": "bce"}}, ["method.loss.sup.quality", "it has: cls, box"]),
        (
            "faster_rcnn",
            {"unsup": {"rpn_cls": "equalization"}},
            ["method.loss.unsup.rpn_cls", "class frequencies", "those that fit: anchor, balanced_bce, bce, focal,"],
        ),
        ("fcos", {"sup": {"box": "nll"}}, ["method.loss.sup.box", "'nll' is a box-with-std loss"]),
        ("fcos", {"sup": {"cls": {"name": "focal", "gama": 1}}}, ["method.loss.sup.cls.gama", "alpha, gamma"]),
        ("fcos", {"sup": {"weighting": "carll"}}, ["did you mean 'carl'", "those that fit: ohem, isr_p, carl"]),
        ("fcos", {"sup": {"weighting": "score"}}, ["method.loss.sup.weighting", "labelled rows", "those that fit"]),
        ("fcos", {"sup": {"weighting": ["cleanliness", "iou_target"]}}, ["both set the class target", "keep one of"]),
        ("fcos", {"sup": {"weighting": ["uncertainty", "plain_conv"]}}, ["auxiliary branch to themselves"]),
        ("fcos", {"sup": {"weighting": ["ohem", "ohem"]}}, ["ohem and ohem are one and the same"]),
        ("fcos", {"sup": {"weighting": {"name": "ohem", "ratio": 0}}}, ["method.loss.sup.weighting.ratio", "than 0"]),
        ("fcos", {"sup": {"weighting": {"name": "cleanliness", "limit": 1}}}, ["sup.weighting.limit", "less than 1"]),
        ("fcos", {"sup": {"weighting": {"name": "uncertainty", "layers": 1.5}}}, ["weighting.layers", "1.5"]),
        ("fcos", {"sup": {"weighting": {"name": "uncertainty", "normalise": 1}}}, ["weighting.normalise", "1"]),
        (
            "fcos",
            {"sup": {"weighting": {"name": "isr_p", "p": 1}}},
            ["weighting 'isr_p' has no such", "bias"],
        ),
        (
            "fcos",
            {"sup": {"weighting": "uncertainty"}, "unsup": {"weighting": {"name": "uncertainty", "layers": 2}}},
            ["one branch serves both sides"],
        ),
    ],
)
def test_nonsense_is_refused_before_training(net: str, loss: dict, needles: list[str]) -> None:
    with pytest.raises(SsodError) as error:
        taught(net, loss)
    for needle in needles:
        assert needle in str(error.value)


def test_boxes_that_are_aligned_have_no_encoding_to_compare() -> None:
    section = {"name": "retinanet", "backbone": "tiny", "channels": 16, "align": "2d", "loss": {"box": "giou"}}
    section |= {"anchors": {"scale": 8, "octaves": 1, "ratios": [1]}}
    net = build(TypeAdapter(DetectorConfig).validate_python(section), K)
    with pytest.raises(SsodError, match="this head needs a decoded-box one"):
        method("mean_teacher", net, loss={"sup": {"box": "l1"}})


@pytest.mark.parametrize(("net", "name"), MISFITS)
def test_a_weighting_for_other_rows_is_refused(net: str, name: str) -> None:
    with pytest.raises(SsodError, match="those that fit: "):
        taught(net, {"unsup": {"weighting": name}})


def test_unknown_keys_are_refused_by_the_section() -> None:
    with pytest.raises(ValidationError):
        LossConfig.model_validate({"labeled": {}})
    cfg = LossConfig.model_validate({"sup": {"weighting": ["isr_p", {"name": "carl", "bias": 0.1}]}})
    assert LossConfig.model_validate(cfg.model_dump(mode="json", exclude_none=True)) == cfg


@pytest.mark.parametrize("name", names())
def test_losses_on_pseudo_labels_are_chosen_or_refused(name: str) -> None:
    """No method may take the key and do nothing with it."""
    plain = method(name, detector("fcos"))
    by_side = name == "unbiased_teacher_v2"  # it has no use for a loss of whole boxes
    loss = {"unsup": {"cls": "balanced_bce", "box": "smooth_l1" if by_side else "diou"}}
    if not plain.uses_unlabeled or plain.cfg.taught_by == "distances":
        with pytest.raises(ValidationError, match="unsup"):
            taught("fcos", loss, name)
        return
    if plain.cfg.loss_weights.get("box") == 0:  # a loss that is left out of the sum is not to be chosen, either
        with pytest.raises(ValidationError, match=r"loss_weights.box"):
            taught("fcos", loss, name)
        del loss["unsup"]["box"]
    before, chosen = losses_of(plain), losses_of(taught("fcos", loss, name))
    assert any(chosen[key] != before[key] for key in before if key.startswith("unsup/"))
    assert all(torch.equal(chosen[key], before[key]) for key in before if key.startswith("sup/"))


@pytest.mark.parametrize("name", names())
def test_losses_on_labels_are_chosen_by_every_method(name: str) -> None:
    loss = {"sup": {"cls": "balanced_bce"}}
    assert losses_of(taught("fcos", loss, name))["sup/cls"] != losses_of(method(name, detector("fcos")))["sup/cls"]


# ---- weightings ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("net", "name"), FITS)
def test_every_weighting_trains(net: str, name: str) -> None:
    sides = ["unsup"] if RULES[name].pseudo else ["sup", "unsup"]
    m = taught(net, {side: {"weighting": name} for side in sides})
    plain = losses_of(method("mean_teacher", detector(net)))
    before, found = bits(m), losses_of(m)
    assert all(loss.isfinite() for loss in found.values())
    sum(found.values()).backward()
    wanted = [p for p in m.parameters() if p.requires_grad]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in wanted)
    optimizer_of(m).step()
    moved = [k for k, v in bits(m).items() if k.startswith("criterion.") and not torch.equal(before[k], v)]
    assert bool(moved) == (name in LEARNS)
    if name in ("plain_conv", "conv_bayes"):  # ablations: the branch learns, the rows weigh what they weighed
        assert all(torch.equal(found[key], plain[key]) for key in plain)
    elif name in ("isr_p", "isr_n", "sample_weighting"):  # their sums stay, or begin, as they are
        assert all(torch.isclose(found[key], plain[key], rtol=1e-5) for key in plain)
    else:
        assert any(not torch.isclose(found[key], plain[key], rtol=1e-4) for key in plain)


@pytest.mark.parametrize("name", ["uncertainty", "conv_bayes", "sample_weighting"])
@pytest.mark.parametrize("net", ["fcos", "faster_rcnn"])
def test_what_helps_in_training_is_no_part_of_the_model(net: str, name: str) -> None:
    plain, m = method("mean_teacher", detector(net)), taught(net, {"unsup": {"weighting": name}})
    step(m, batch(), 50, optimizer_of(m))
    for model in (m.student, m.teacher.model):
        assert {k: v.shape for k, v in model.state_dict().items()} == {
            k: v.shape for k, v in plain.teacher.model.state_dict().items()
        }
    own = {k for k in m.state_dict() if not k.startswith(("student.", "teacher."))}
    assert own
    assert all(k.startswith("criterion.") for k in own)


@pytest.mark.parametrize("name", ["uncertainty", "sample_weighting", "plain_conv"])
def test_every_parameter_has_a_gradient_in_every_phase(name: str) -> None:
    """DDP waits for all of them, also while only labelled images teach."""
    m = taught("fcos", {"unsup": {"weighting": name}}, burn_in=40)
    for number in (10, 50):
        m.zero_grad(set_to_none=True)
        sum(losses_of(m, number).values()).backward()
        assert all(p.grad is not None for p in m.parameters() if p.requires_grad)


def test_the_branch_learns_from_labels_even_where_only_pseudo_labels_are_weighted() -> None:
    m = taught("retinanet", {"unsup": {"weighting": "uncertainty"}}, burn_in=40)
    assert "sup/aux" in losses_of(m, 10)
    assert not any(key.startswith("weighting/") for key in m.stats)
    found = losses_of(m, 50)
    assert {"sup/aux", "unsup/aux"} <= set(found)
    assert {"weighting/unsup/U_wrong", "weighting/unsup/D_correct", "weighting/unsup/wrong"} <= set(m.stats)
    only = taught("retinanet", {"sup": {"weighting": "uncertainty"}})
    assert "unsup/aux" not in losses_of(only)
    assert "weighting/sup/D_wrong" in only.stats


@pytest.mark.parametrize(("net", "steps"), [("fcos", 60), ("faster_rcnn", 24)])
def test_the_branches_learn_what_an_object_is(net: str, steps: int) -> None:
    torch.manual_seed(0)
    m = taught(net, {"sup": {"weighting": {"name": "uncertainty", "layers": 2}}}, "supervised")
    optimizer = torch.optim.Adam([p for p in m.parameters() if p.requires_grad], 3e-3)
    history = [step(m, batch(), number, optimizer) for number in range(steps)]
    for name in set(BRANCH_LOSSES) & set(history[0]):
        values = [float(losses[name].detach()) for losses in history]
        assert sum(values[-5:]) < 0.6 * sum(values[:5]), name


@pytest.mark.parametrize("net", ["retinanet", "fcos", "faster_rcnn"])
def test_a_batch_without_objects_costs_the_branch_no_more_than_others(net: str) -> None:
    m = taught(net, {side: {"weighting": "uncertainty"} for side in ("sup", "unsup")})

    def aux(targets: list[Targets]) -> float:
        return sum(float(loss.detach()) for name, loss in m(batch(targets), 50).items() if name in BRANCH_LOSSES)

    torch.manual_seed(0)
    usual = [aux(some_targets()) for _ in range(3)]
    assert aux(no_targets()) < 1.5 * max(usual)
    for stage in STAGES[net]:
        assert float(m.criterion.objects[f"{stage}_sup"].value) > 3
        assert m.criterion.objects[f"{stage}_sup"].value != m.criterion.objects[f"{stage}_unsup"].value


def test_the_branchs_normalizer_follows_the_objects_of_a_batch() -> None:
    normalizer = RunningObjects()
    rows = torch.arange(100)
    assert normalizer(rows < 0, 2) == 2  # nothing seen yet: the images
    assert normalizer(rows < 50, 2) == 50
    assert normalizer(rows < 0, 2) == 45
    torch.testing.assert_close(normalizer(rows < 10, 60), torch.tensor(60.0))
    torch.testing.assert_close(normalizer.value, torch.tensor(0.9 * 45 + 1))
    normalizer.eval()
    normalizer(rows < 100, 2)
    torch.testing.assert_close(normalizer.value, torch.tensor(0.9 * 45 + 1))
    again = RunningObjects()
    again.load_state_dict(normalizer.state_dict())
    assert torch.equal(again(rows < 7, 2), normalizer.train()(rows < 7, 2))


@pytest.mark.parametrize(("net", "losses"), [("fcos", {"cls": "equalization"}), ("faster_rcnn", {})])
def test_a_weighted_run_goes_on_with_the_same_bits(net: str, losses: dict) -> None:
    loss = {
        "sup": losses | {"weighting": ["uncertainty", "sample_weighting"]},
        "unsup": {"weighting": "uncertainty"},
    }
    first, second = taught(net, loss), taught(net, loss)
    optimizer, other = optimizer_of(first), optimizer_of(second)
    torch.manual_seed(0)
    step(first, batch(), 50, optimizer)
    second.load_state_dict(bits(first))
    other.load_state_dict(optimizer.state_dict())
    for m, o in ((first, optimizer), (second, other)):
        torch.manual_seed(51)
        step(m, batch(), 51, o)
    assert all(torch.equal(a, b) for a, b in zip(bits(first).values(), bits(second).values()))


def test_aux_may_be_left_out_of_the_sum() -> None:
    loss = {"unsup": {"weighting": "uncertainty"}}
    for net, name in (("fcos", "aux"), ("faster_rcnn", "aux"), ("faster_rcnn", "rpn_aux")):
        m = taught(net, loss, loss_weights={name: 0})
        found = losses_of(m)
        assert f"unsup/{name}" not in found
        assert f"off/{name}" in m.stats


@pytest.mark.parametrize("precision", [torch.bfloat16])
@pytest.mark.parametrize("net", DETECTORS)
def test_under_autocast(net: str, precision: torch.dtype) -> None:
    extra = ["background_reliability", "score"]
    loss = {"sup": {"weighting": ["uncertainty", "carl", "isr_p"]}, "unsup": {"weighting": ["uncertainty", *extra]}}
    m = taught(net, loss)
    with torch.autocast("cpu", precision):
        found = m(batch(), 50)
    sum(found.values()).backward()
    assert all(value.isfinite() for value in found.values())
    assert all(p.grad.isfinite().all() for p in m.parameters() if p.grad is not None)


def test_a_method_that_mixes_has_no_place_in_the_teachers_view() -> None:
    loss = {"unsup": {"weighting": "background_reliability"}}
    for name, mix in (("instant_teaching", {}), ("mean_teacher", {}), ("instant_teaching_rectify", {"mosaic": 0})):
        with pytest.raises(SsodError, match="this method mixes images"):
            taught("faster_rcnn", loss, name, mix=mix)
    taught("faster_rcnn", loss)


# ---- class frequencies ---------------------------------------------------------------------------------------------


def test_frequencies_are_shares_of_images() -> None:
    boxes = torch.zeros(3, 4)
    count = Frequency(3)
    count.count([Targets(boxes, torch.tensor([0, 0, 2])), Targets(boxes[:0], torch.tensor([], dtype=torch.long))])
    count.count([Targets(boxes[:2], torch.tensor([0, 2])), Targets(boxes[:1], torch.tensor([2]))])
    assert count.share().tolist() == [0.5, 0.0, 0.75]


def test_labelled_images_are_counted_and_only_while_training() -> None:
    m = taught("fcos", {"unsup": {"cls": "equalization"}})
    losses_of(m)
    assert m.criterion.frequency.images == 2
    assert m.criterion.frequency.share().tolist() == [0.5, 0.5, 0.5]
    m.eval()
    losses_of(m)
    assert m.criterion.frequency.images == 2


def test_every_weighting_is_described() -> None:
    lines = dict(criterion.describe())
    assert set(lines) == set(RULES)
    assert "normalise=true" in lines["uncertainty"]
    assert all(20 < len(text) < 260 for text in lines.values())


# ---- recipes -------------------------------------------------------------------------------------------------------


def recipes() -> list[str]:
    """The overrides of the losses in docs/results.md, and of the weightings in the sweep of its table."""
    text = (ROOT / "docs" / "results.md").read_text("utf-8")
    sweep = (ROOT / "docs" / "sweep_neu_det_weighting.yaml").read_text("utf-8")
    losses = re.findall(r"^\| .* \| `(method\.loss=[^`]*)` \|", text, re.MULTILINE)
    return losses + re.findall(r'"(method\.loss=[^"]*)"', sweep)


def test_the_recipes_are_all_there() -> None:
    wanted = ("bce", "focal_star", "focal_ratio", "anchor", "uncertainty", "conv_bayes", "plain_conv")
    assert len(recipes()) == 5 + 3
    assert all(any(word in line for line in recipes()) for word in wanted)


@pytest.mark.parametrize("override", recipes())
def test_a_recipe_builds(override: str) -> None:
    cfg = load_recipe(method="mean_teacher", detector="retinanet_tiny_fpn", data="neu_det", overrides=[override])
    assert cfg.method.loss is not None
    net = build(cfg.detector, 6, pretrained=False)
    assert Criterion(net, cfg.method.loss).losses.keys() == {"sup", "unsup"}

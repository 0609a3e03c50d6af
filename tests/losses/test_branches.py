"""Auxiliary branches on real detectors: what they read, which rows they answer for, and what those then weigh."""

from __future__ import annotations

import inspect
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ssod.losses.weighting.bayes import LAM, Branch, ConvBayes
from ssod.losses.weighting.context import Context
from ssod.losses.weighting.criterion import Criterion, LossConfig
from ssod.losses.weighting.uncertainty import ConvBayesBranch, Uncertainty
from ssod.structures import Assigned, Targets
from tests.losses.rows import logits_of
from tests.rows import context
from tests.test_methods import DETECTORS, K, batch, detector, method, no_targets, some_targets

ALIGNED = {"align": "3d", "anchors": {"scale": 8, "octaves": 1, "ratios": [1]}, "loss": {"box": "giou"}}
NETS: dict[str, tuple[str, dict[str, Any]]] = {
    "retinanet": ("retinanet", {}),
    "retinanet with deviations": ("retinanet", {"spread": True}),
    "retinanet, aligned": ("retinanet", ALIGNED),
    "fcos": ("fcos", {}),
    "fcos with deviations": ("fcos", {"spread": True}),
    "faster_rcnn": ("faster_rcnn", {}),
}
SIDES = [("sup",), ("unsup",), ("sup", "unsup")]


@pytest.fixture(params=NETS)
def net(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    name, changes = NETS[request.param]
    monkeypatch.setitem(DETECTORS, name, DETECTORS[name] | changes)
    return detector(name).train()


def assigned_by(student: nn.Module) -> Assigned:
    view = batch().labeled
    return student.assign(student.predict(view), view.targets)


def weigh(student: nn.Module, loss: dict) -> tuple[Assigned, Assigned, Context]:
    """What rows are asked for before and after the labelled side's weightings, and what these noted."""
    chosen, ctx = Criterion(student, LossConfig.model_validate(loss)), context(side="sup")
    before = assigned_by(student)
    after = dict(before)
    for stage, (p, a) in before.items():
        for reweight in chosen.weightings["sup"]:
            a = reweight(stage, p, a, ctx)
        after[stage] = p, a
    return before, after, ctx


def test_what_is_read_makes_the_class_logits(net: nn.Module) -> None:
    """The class layer, asked once more, says what the rows say."""
    found = assigned_by(net)
    assert found.keys() == net.cls_layers.keys()
    for stage, (p, _) in found.items():
        logits = logits_of(net.cls_layers[stage], p)
        if stage == "roi":  # torchvision's background is its first column
            logits = logits.roll(-1, 1)
        torch.testing.assert_close(p.logits, logits)


def test_a_feature_moves_the_rows_that_read_it(net: nn.Module) -> None:
    """Three by three cells of a one-stage head, one cell of a proposal network, one row of the second stage."""
    for stage, (p, _) in assigned_by(net).items():
        layer = net.cls_layers[stage]
        per_cell = 1 if stage == "roi" else net.anchors.per_cell
        branch = Branch(layer, per_cell, lam=0.3)
        read = [x.detach().clone() for x in p.cls_features]
        before = branch(read)
        assert len(before.mu) == len(p)
        read[0][1, :, *([2, 3] if read[0].ndim == 4 else [])] += 1  # of image 1, or of row 1
        after = branch(read)
        moved = ((after.mu != before.mu) & (after.sigma != before.sigma)).nonzero().flatten().tolist()
        if stage == "roi":
            assert moved == [1]
            continue
        first, wide, reach = len(p) // 2, p.grids[0][1], layer.kernel_size[0] // 2
        cells = [(y, x) for y in range(2 - reach, 3 + reach) for x in range(3 - reach, 4 + reach)]
        assert moved == [first + (y * wide + x) * per_cell + a for y, x in cells for a in range(per_cell)]


def gradients(m: nn.Module, name: str) -> dict[str, Tensor | None]:
    torch.manual_seed(0)
    losses = m(batch(), 50)
    named = dict(m.student.named_parameters())
    return dict(zip(named, torch.autograd.grad(losses[name], list(named.values()), allow_unused=True)))


def reached(found: dict[str, Tensor | None], start: str) -> set[bool]:
    """Whether parameters below ``start`` have a gradient that is not 0."""
    return {g is not None and bool(g.any()) for name, g in found.items() if name.startswith(start)}


def test_the_branchs_loss_teaches_the_class_tower_and_not_the_box_tower() -> None:
    for name in ("retinanet", "fcos"):
        found = gradients(method("mean_teacher", detector(name), loss={"sup": {"weighting": "conv_bayes"}}), "sup/aux")
        assert reached(found, "head.classification_head.conv.") == {True}
        assert reached(found, "head.classification_head.cls_logits.") == {False}
        assert reached(found, "head.regression_head.") == {False}


def test_each_branch_of_two_stages_teaches_what_its_own_stage_reads() -> None:
    m = method("mean_teacher", detector("faster_rcnn"), loss={"sup": {"weighting": "conv_bayes"}})
    first, second = gradients(m, "sup/rpn_aux"), gradients(m, "sup/aux")
    assert reached(first, "rpn.head.conv.") == {True}
    assert reached(first, "rpn.head.cls_logits.") == reached(first, "rpn.head.bbox_pred.") == {False}
    assert reached(first, "roi_heads.") == {False}
    assert reached(second, "roi_heads.box_head.") == {True}
    assert reached(second, "roi_heads.box_predictor.") == reached(second, "rpn.") == {False}


@pytest.mark.parametrize("name", ["retinanet", "fcos", "faster_rcnn"])
def test_every_stage_is_weighed(name: str) -> None:
    student = detector(name).train()
    before, after, ctx = weigh(student, {"sup": {"weighting": "uncertainty"}})
    assert after.keys() == ctx.guesses.keys() == student.cls_layers.keys()
    for stage, (p, a) in after.items():
        old, counted = before[stage][1].cls_weight, a.cls_weight > 0
        assert len(ctx.guesses[stage].mu) == len(p)
        assert torch.equal(counted, old > 0)
        factor = a.cls_weight[counted] / old[counted]
        assert float(factor.mean()) == pytest.approx(1, rel=1e-5)
        assert factor.min() < 0.75 * factor.max()  # right and wrong rows are among them
    names = {f"{number}_{kind}" for number in ("U", "U_std", "D") for kind in ("wrong", "correct")} | {"wrong"}
    rpn = {f"rpn_{number}" for number in names} if name == "faster_rcnn" else set()
    assert ctx.stats.keys() == names | rpn
    assert ctx.losses.keys() == ({"rpn_aux", "aux"} if rpn else {"aux"})


def test_the_class_losses_of_both_stages_change() -> None:
    plain, weighed = (
        method("mean_teacher", detector("faster_rcnn"), loss=loss)(batch(), 50)
        for loss in (None, {"sup": {"weighting": "uncertainty"}})
    )
    for name in ("sup/rpn_cls", "sup/cls"):
        assert not torch.isclose(plain[name], weighed[name], rtol=1e-3), name
    for name in ("sup/rpn_box", "sup/box"):
        assert torch.equal(plain[name], weighed[name]), name


@pytest.mark.parametrize("weighting", ["conv_bayes", "plain_conv"])
def test_ablations_have_the_branches_and_weigh_nothing(weighting: str) -> None:
    before, after, ctx = weigh(detector("faster_rcnn").train(), {"sup": {"weighting": weighting}})
    assert ctx.guesses.keys() == {"rpn", "roi"}
    assert bool(ctx.guesses["roi"].sigma.any()) == (weighting == "conv_bayes")
    assert all(after[stage][1].cls_weight is before[stage][1].cls_weight for stage in after)


@pytest.mark.parametrize("classes", [1, K])
@pytest.mark.parametrize("sides", SIDES, ids="-".join)
@pytest.mark.parametrize("name", ["retinanet", "faster_rcnn"])
def test_a_step_with_and_without_labels(name: str, sides: tuple[str, ...], classes: int) -> None:
    """One class, one side, no box: losses are finite, and every parameter learns, as DDP wants it."""
    loss = {side: {"weighting": "uncertainty"} for side in sides}
    m = method("mean_teacher", detector(name, classes), loss=loss)
    labels = [Targets(t.boxes, t.labels.clamp(max=classes - 1)) for t in some_targets()]
    for targets in (labels, no_targets()):
        m.zero_grad(set_to_none=True)
        losses = m(batch(targets), 50)
        assert ("unsup/aux" in losses) == ("unsup" in sides)
        assert "sup/aux" in losses
        assert all(value.isfinite() for value in losses.values())
        sum(losses.values()).backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in m.parameters() if p.requires_grad)


def test_a_stage_without_rows() -> None:
    guess = Branch(nn.Linear(4, 3), 1, layers=2)([torch.zeros(0, 4, requires_grad=True)])
    assert guess.mu.shape == guess.sigma.shape == guess.logit.shape == (0,)
    guess.logit.sum().backward()


def test_rows_that_were_picked_have_no_features() -> None:
    """A method that hands out other rows than the student's is told so."""
    student = detector("fcos").train()
    chosen = Criterion(student, LossConfig.model_validate({"sup": {"weighting": "uncertainty"}}))
    p, a = assigned_by(student)["dense"]
    with pytest.raises(TypeError, match="not those that the student's class output made"):
        chosen.weightings["sup"][0]("dense", p[torch.arange(len(p))], a, context(side="sup"))


@pytest.mark.parametrize("layers", [1, 2])
def test_a_linear_layers_moments_are_those_of_its_kernel(layers: int) -> None:
    torch.manual_seed(0)
    branch, x = Branch(nn.Linear(6, 4), 1, lam=0.5, share=0.5, layers=layers).double(), torch.rand(5, 6).double()
    guess = branch([x])
    if layers == 1:
        k = branch.last.weight.flatten()
        torch.testing.assert_close(guess.mu, x @ k)
        torch.testing.assert_close(guess.sigma, (x**2 @ (0.5 * k**2)).sqrt())
    assert all(layer.weight.shape[2:] == (1, 1) for layer in branch.modules() if isinstance(layer, ConvBayes))


def test_a_branch_begins_at_the_share_of_objects() -> None:
    branch = Branch(nn.Conv2d(4, 9, 3, padding=1), 3, share=0.01)
    assert branch.last.weight.shape == (3, 4, 3, 3)
    assert branch.last.bias.tolist() == pytest.approx([math.log(0.01 / 0.99)] * 3)


def test_the_width_of_the_prior_has_one_default() -> None:
    for kind in (Uncertainty, ConvBayesBranch, Branch, ConvBayes):
        assert inspect.signature(kind).parameters["lam"].default == LAM

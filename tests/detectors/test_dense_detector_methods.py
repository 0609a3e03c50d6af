"""Every method on the Dense Detector: it learns there, or is refused in one line that says why."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pydantic import TypeAdapter
from torch import nn

from ssod.detectors.build import DetectorConfig, build
from ssod.losses.objectness import fit
from ssod.methods.registry import find, names
from ssod.utils.errors import SsodError
from tests.test_methods import K, asked_for, batch, batch_for, method, optimizer_of, step

ANCHORS = [[[8, 8], [16, 12]], [[20, 30], [40, 24]], [[48, 48], [80, 64]]]
# Methods that look at the classes of all rows, or at deviations; which, and why, is in the message.
REFUSED = {
    "dense_teacher": "speak of objects alone",
    "humble_teacher": "speak of objects alone",
    "csd": "speak of objects alone",
    "dsl": "speak of objects alone",
    "unbiased_teacher_v2": "detector.spread",
}


def detector(classes: int = K, **changes: object) -> nn.Module:
    """A detector that finds something, untrained."""
    torch.manual_seed(0)
    section = {"name": "dense_detector", "backbone": "tiny", "channels": 16, "head_norm": "group", "anchors": ANCHORS}
    net = build(TypeAdapter(DetectorConfig).validate_python(section | changes), classes)
    for path, module in net.named_modules():
        if path.endswith("cls_logits"):
            nn.init.normal_(module.weight, std=0.1)
            nn.init.zeros_(module.bias)
        if path.endswith("objectness"):
            nn.init.ones_(module.bias)
    return net


@pytest.mark.parametrize("name", names())
def test_it_learns_or_is_refused(name: str) -> None:
    if name in REFUSED:
        section = find(name).Config.model_validate({"name": name}, context={"steps": 100})
        with pytest.raises(SsodError, match=REFUSED[name]) as caught:
            find(name)(detector(), section)
        assert str(caught.value).count("\n") == 0
        return
    m = method(name, detector(**({"half_size": True} if name == "pseco" else {})))
    before = {key: value.clone() for key, value in m.state_dict().items()}
    losses = step(m, batch_for(m), 50, optimizer_of(m))
    assert all(loss.isfinite() for loss in losses.values())
    assert {"sup/cls", "sup/box", "sup/quality"} <= losses.keys()
    assert all(p.grad is not None for p in m.student.parameters() if p.requires_grad)
    moved = {key for key, value in m.state_dict().items() if not torch.equal(before[key], value)}
    for branch in ("cls_logits", "bbox_reg", "objectness"):
        assert any(key.startswith("student.") and branch in key for key in moved), branch
    if m.uses_unlabeled and name != "stac":  # whose first stage this is
        assert m.stats["pseudo/boxes_per_image"] > 0
        assert {key for key in losses if key.startswith("unsup/")} >= {"unsup/cls", "unsup/quality"}
        slope = torch.autograd.grad(m(batch_for(m), 51)["unsup/quality"], m.student.head[1].objectness.weight)[0]
        assert slope.abs().sum() > 0


def test_the_readme_names_those_that_are_refused() -> None:
    text = (Path(__file__).resolve().parents[2] / "README.md").read_text("utf-8")
    said = re.search(r"with `efficient_teacher` alone\.(.*?)are refused there", text, re.S)
    assert said
    assert set(re.findall(r"`(\w+)`", said[1])) == {*REFUSED, "mean_teacher"}
    assert "all three" not in text, "there are four detectors"


def test_the_form_that_compares_is_refused() -> None:
    with pytest.raises(SsodError, match="speak of objects alone"):
        find("mean_teacher")(detector(), find("mean_teacher").Config(name="mean_teacher", form="consistency"))


@pytest.mark.parametrize("name", ["ohem", "cleanliness", "iou_target"])
def test_weightings_that_ask_classes_for_background_or_fit_are_refused(name: str) -> None:
    with pytest.raises(SsodError, match="those that fit"):
        method("supervised", detector(), loss={"sup": {"weighting": name}})


@pytest.mark.parametrize("name", ["isr_p", "carl", "sample_weighting", "uncertainty"])
def test_other_weightings_learn(name: str) -> None:
    m = method("mean_teacher", detector(), loss={"sup": {"weighting": name}})
    losses = step(m, batch(), 50, optimizer_of(m))
    assert all(loss.isfinite() for loss in losses.values())
    assert all(p.grad is not None for p in m.criterion.parameters())
    if name == "sample_weighting":  # it begins with weights of 1
        return
    plain = method("mean_teacher", detector())(batch(), 50)
    assert any(losses[key].detach() != plain[key].detach() for key in ("sup/cls", "sup/box", "sup/quality"))


def test_what_a_background_row_counts_is_what_its_objectness_counts() -> None:
    """Where a weighting or a method lowers the weight of background, there is no class loss that could hear of it."""
    m = method("supervised", detector())
    view = batch().labeled
    p, a = m.student.assign(m.student.predict(view), view.truth())["dense"]
    free = a.matches() == -1
    lower = replace(a, cls_weight=torch.where(free, 0.25, a.cls_weight))
    full, less = (
        torch.autograd.grad(m.student.reduce({"dense": (p, of)})["quality"], p.quality, retain_graph=True)[0]
        for of in (a, lower)
    )
    torch.testing.assert_close(less[free], 0.25 * full[free])
    torch.testing.assert_close(less[~free], full[~free])


def test_of_a_mixed_box_the_missing_mass_is_background() -> None:
    m = method("supervised", detector())
    view = batch().labeled
    out = m.student.predict(view)
    half = [replace(t, probs=0.5 * t.soft(K)) for t in view.truth()]
    whole, mixed = (m.student.assign(out, of)["dense"] for of in (view.truth(), half))
    assert (fit(*whole) > 0).any()
    torch.testing.assert_close(fit(*mixed), 0.5 * fit(*whole))


def test_unsure_rows_of_label_match_have_the_teachers_objectness() -> None:
    """The queue says: half of what the untrained teacher finds is reliable, most of the rest is unsure."""
    m = method("label_match", detector(), queue=64, mine_score=2)
    data = batch(flip=False)
    data.views["strong"] = data.weak  # the rows of both are at the same places
    scores = torch.cat([t.scores for t in m.teacher.predict(data.weak).detections()])
    m.queue.seen += 64
    high, low = scores.quantile(0.6), scores.quantile(0.1)
    m.queue.scores[:, :K] = torch.where(torch.arange(64) < 24, low, high)[:, None]
    m.queue.labels[:, :K] = torch.arange(K)
    m.queue.ranks.copy_(torch.tensor([[20], [50]]))
    p, a = asked_for(m, data)["dense"]
    soft = (a.matches() >= 0) & (a.cls_weight > 0) & (a.box_weight == 0)
    assert soft.any()
    assert a.fg.any()
    says = m.teacher.predict(data.weak).stages["dense"].quality.sigmoid()
    torch.testing.assert_close(a.quality[soft], says[soft], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(a.quality[~soft], fit(p, a)[~soft])
    (slope,) = torch.autograd.grad(m.student.reduce({"dense": (p, a)})["quality"], p.quality)
    assert (slope[a.matches() == -1] != 0).all()

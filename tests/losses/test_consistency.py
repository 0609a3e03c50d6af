"""Distances between a student's rows and a teacher's: published formulas, gradients, extremes."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ssod.losses import consistency
from ssod.losses.consistency import DISTANCES, SoftTargets, distill, js, kl, l2, mse, quality_kl
from ssod.structures import Predictions
from ssod.structures.boxes import DeltaCoder, IdentityCoder, LtrbCoder, mirror
from tests.losses.rows import predictions
from tests.paths import golden_path

EXTREME = [-1e4, -200.0, -88.0, -20.0, 0.0, 20.0, 88.0, 200.0, 1e4]
PRECISIONS = [(torch.float64, 1e-6, 1e-8, 1e-5, 1e-8), (torch.float32, 1e-4, 1e-5, 1e-3, 1e-5)]


def golden(kind: str) -> Iterator[tuple[dict, dict]]:
    file = np.load(golden_path("humble_teacher_formulas.npz"), allow_pickle=False)
    for case in json.loads(str(file["cases_json"])):
        if case["kind"] == kind:
            prefix = case["id"] + "."
            yield case, {k[len(prefix) :]: file[k] for k in file.files if k.startswith(prefix)}


def rows(logits: Tensor, deltas: Tensor, softmax: bool = False) -> Predictions:
    return predictions(logits, deltas if deltas.ndim == 3 else deltas[:, None], softmax)


@pytest.mark.parametrize(("dtype", "rtol", "atol", "grtol", "gatol"), PRECISIONS, ids=["float64", "float32"])
def test_golden_anchors(dtype, rtol, atol, grtol, gatol) -> None:
    cases = 0
    for case, v in golden("rpn"):
        v = {k: torch.from_numpy(np.asarray(x)).to(dtype) for k, x in v.items()}
        logit = v["student_logit"][:, None].clone().requires_grad_()
        delta = v["student_delta"].clone().requires_grad_()
        p = rows(logit, delta)
        b = SoftTargets.of(rows(v["teacher_logit"][:, None], v["teacher_delta"]))
        close = partial(torch.testing.assert_close, rtol=rtol, atol=atol, msg=lambda m, c=case: f"{c['name']}: {m}")
        close(kl(p, b), v["kl"])
        close(l2(p, b), v["l2"])
        close(l2(p, b, squared=True), v["l2"].square())
        kl(p, b).sum().backward()
        l2(p, b).sum().backward()
        torch.testing.assert_close(logit.grad[:, 0], v["grad_student_logit_of_kl_sum"], rtol=grtol, atol=gatol)
        torch.testing.assert_close(delta.grad, v["grad_student_delta_of_l2_sum"], rtol=grtol, atol=gatol)
        losses = distill("rpn", p, b, kl, squared=False, normalizer="rows")
        assert set(losses) == {"rpn_cls", "rpn_box"}
        close(sum(losses.values()), v["mean"])
        cases += 1
    assert cases == 3


@pytest.mark.parametrize(("dtype", "rtol", "atol", "grtol", "gatol"), PRECISIONS, ids=["float64", "float32"])
def test_golden_proposals_with_the_flip_ensemble(dtype, rtol, atol, grtol, gatol) -> None:
    cases = 0
    for case, v in golden("roi"):
        v = {k: torch.from_numpy(np.asarray(x)).to(dtype) for k, x in v.items()}
        logits = v["student_logits"].clone().requires_grad_()
        delta = v["student_delta"].clone().requires_grad_()
        p = rows(logits, delta, softmax=True)
        own = SoftTargets.of(rows(v["teacher_logits"], v["teacher_delta"], softmax=True))
        other = SoftTargets.of(rows(v["teacher_logits_mirror"], v["teacher_delta_mirror"], softmax=True))
        other.deltas = DeltaCoder().mirror(other.deltas, torch.zeros(len(p)))
        b = own.mean(other)
        close = partial(torch.testing.assert_close, rtol=rtol, atol=atol, msg=lambda m, c=case: f"{c['name']}: {m}")
        close(b.probs, v["ensemble_prob"])
        close(b.deltas, v["ensemble_delta"])
        close(kl(p, b), v["kl"])
        close(kl(p, own), v["kl_without_ensemble"])
        close(l2(p, b), v["l2_all_outputs"])
        kl(p, b).sum().backward()
        l2(p, b).sum().backward()
        torch.testing.assert_close(logits.grad, v["grad_student_logits_of_kl_sum"], rtol=grtol, atol=gatol)
        torch.testing.assert_close(delta.grad, v["grad_student_delta_of_l2_sum"], rtol=grtol, atol=gatol)
        close(sum(distill("roi", p, b, kl, squared=False, normalizer="rows").values()), v["mean"])
        cases += 1
    assert cases == 2


def test_golden_mirror() -> None:
    ((_, v),) = golden("mirror")
    mirrored = mirror(torch.from_numpy(v["boxes"]), torch.tensor(float(v["width"])))
    torch.testing.assert_close(mirrored, torch.from_numpy(v["mirrored"]))


@pytest.mark.parametrize("softmax", [False, True])
@pytest.mark.parametrize("name", DISTANCES)
def test_gradients(name: str, softmax: bool) -> None:
    torch.manual_seed(0)
    soft = SoftTargets.of(rows(torch.randn(5, 4).double(), torch.zeros(5, 4).double(), softmax))

    def loss(logits: Tensor) -> Tensor:
        return DISTANCES[name](rows(logits, torch.zeros(5, 4).double(), softmax), soft)

    assert torch.autograd.gradcheck(loss, torch.randn(5, 4).double().requires_grad_())


@pytest.mark.parametrize("squared", [False, True])
def test_gradients_of_boxes_and_quality(squared: bool) -> None:
    torch.manual_seed(0)
    teacher = predictions(torch.zeros(5, 1).double(), torch.randn(5, 2, 4).double(), quality=torch.randn(5).double())
    soft = SoftTargets.of(teacher)

    def loss(deltas: Tensor, quality: Tensor) -> Tensor:
        p = predictions(torch.zeros(5, 1).double(), deltas, quality=quality)
        return l2(p, soft, squared) + quality_kl(p, soft)

    assert torch.autograd.gradcheck(
        loss, (torch.randn(5, 2, 4).double().requires_grad_(), torch.randn(5).double().requires_grad_())
    )


@pytest.mark.parametrize("softmax", [False, True])
@pytest.mark.parametrize("name", DISTANCES)
def test_finite_wherever_the_logits_are(name: str, softmax: bool) -> None:
    pairs = torch.cartesian_prod(torch.tensor(EXTREME), torch.tensor(EXTREME))
    for other in EXTREME:
        teacher = torch.stack([pairs[:, 0], torch.full_like(pairs[:, 0], other)], 1)
        x = torch.stack([pairs[:, 1], pairs[:, 1].flip(0)], 1).requires_grad_()
        loss = DISTANCES[name](
            rows(x, torch.zeros(81, 4), softmax), SoftTargets.of(rows(teacher, torch.zeros(81, 4), softmax))
        )
        loss.sum().backward()
        assert loss.isfinite().all()
        assert x.grad.isfinite().all()
        assert (loss > -1e-5).all()


@pytest.mark.parametrize("softmax", [False, True])
@pytest.mark.parametrize("name", DISTANCES)
def test_zero_without_gradient_where_they_agree(name: str, softmax: bool) -> None:
    torch.manual_seed(0)
    x = torch.randn(20, 5).requires_grad_()
    d = torch.randn(20, 4).requires_grad_()
    p = rows(x, d, softmax)
    losses = distill("dense", p, SoftTargets.of(p), DISTANCES[name], squared=False, normalizer="rows")
    sum(losses.values()).backward()
    assert abs(losses["cls"]) < 1e-6
    assert losses["box"] == 0
    assert x.grad.abs().max() < 1e-6
    assert not d.grad.any()


def test_what_the_distances_are() -> None:
    """Against torch's own divergences and the definitions."""
    torch.manual_seed(0)
    s, t = torch.randn(2, 7, 4).double()
    p, b = rows(s, torch.zeros(7, 4), softmax=True), SoftTargets.of(rows(t, torch.zeros(7, 4), softmax=True))
    q, r = s.softmax(-1), t.softmax(-1)
    m = (q + r) / 2
    torch.testing.assert_close(kl(p, b), F.kl_div(q.log(), r, reduction="none").sum(-1))
    torch.testing.assert_close(mse(p, b), (q - r).square().sum(-1))
    half = [F.kl_div(m.log(), x, reduction="none").sum(-1) / 2 for x in (q, r)]
    torch.testing.assert_close(js(p, b), half[0] + half[1])
    assert (js(p, b) < math.log(2)).all()
    # A sigmoid head of one class is a softmax over (x, 0).
    one, two = rows(s[:, :1], torch.zeros(7, 4)), F.pad(s[:, :1], (0, 1))
    soft = SoftTargets.of(rows(t[:, :1], torch.zeros(7, 4)))
    pair = SoftTargets.of(rows(F.pad(t[:, :1], (0, 1)), torch.zeros(7, 4), softmax=True))
    for distance, factor in ((kl, 1), (js, 1), (mse, 0.5)):
        both = distance(rows(two, torch.zeros(7, 4), softmax=True), pair)
        torch.testing.assert_close(distance(one, soft), both * factor)


def test_foreground_norm_is_the_teachers_count_of_objects() -> None:
    teacher = rows(torch.tensor([[9.0, -9], [-2, -9], [-9, -9]]), torch.zeros(3, 4))
    p = rows(torch.zeros(3, 2), torch.eye(4)[:3] * 2, softmax=False)
    b = SoftTargets.of(teacher)
    weight = torch.tensor([9.0, -2, -9]).sigmoid()
    torch.testing.assert_close(b.foreground(), weight)
    losses = distill("dense", p, b, mse, squared=True, normalizer="foreground")
    torch.testing.assert_close(losses["cls"], mse(p, b).sum() / weight.sum())
    torch.testing.assert_close(losses["box"], torch.tensor(4.0))
    averaged = distill("dense", p, b, mse, squared=True, normalizer="rows")
    torch.testing.assert_close(averaged["cls"], mse(p, b).mean())
    torch.testing.assert_close(averaged["box"], torch.tensor(4.0))
    nothing = SoftTargets(b.probs * 1e-9, b.deltas)
    assert distill("dense", p, nothing, mse, squared=True, normalizer="foreground")["box"] < 1e-6


def test_hard_labels_are_the_likeliest_and_those_above_a_half() -> None:
    soft = SoftTargets(torch.tensor([[0.2, 0.3, 0.5], [0.4, 0.35, 0.25]]), torch.zeros(2, 2, 4), softmax=True)
    assert soft.hard().probs.tolist() == [[0, 0, 1], [1, 0, 0]]
    several = SoftTargets(torch.tensor([[0.6, 0.51], [0.4, 0.5]]), torch.zeros(2, 1, 4))
    assert several.hard().probs.tolist() == [[1, 1], [0, 0]]


def test_no_rows() -> None:
    p = rows(torch.zeros(0, 3).requires_grad_(), torch.zeros(0, 4), softmax=True)
    losses = distill("roi", p, SoftTargets.of(p), kl, squared=False, normalizer="rows")
    assert sum(losses.values()) == 0


def test_parts_change_neither_value_nor_gradient(monkeypatch) -> None:
    torch.manual_seed(0)
    s, t = torch.randn(2, 50, 3)
    found = []
    for size in (1 << 23, 12):
        monkeypatch.setattr(consistency, "PART", size)
        x = s.clone().requires_grad_()
        loss = js(rows(x, torch.zeros(50, 4)), SoftTargets.of(rows(t, torch.zeros(50, 4))))
        loss.square().sum().backward()
        found.append((loss.detach(), x.grad))
    torch.testing.assert_close(found[0], found[1])


def test_half_precision_is_raised() -> None:
    x = torch.randn(4, 3, dtype=torch.bfloat16)
    p = rows(x, torch.randn(4, 4, dtype=torch.bfloat16))
    b = SoftTargets.of(p)
    assert b.probs.dtype == b.deltas.dtype == kl(p, b).dtype == l2(p, b).dtype == torch.float32


def test_boxes_in_pixels_count_in_sides_of_their_prior() -> None:
    p = rows(torch.zeros(1, 1), torch.tensor([[0.0, 0, 40, 20]]))
    p.priors, p.coder = torch.tensor([[0.0, 0, 8, 16]]), IdentityCoder()
    b = SoftTargets(torch.zeros(1, 1), torch.tensor([[[0.0, 0, 24, 20]]]))
    assert l2(p, b).tolist() == [2]


@pytest.mark.parametrize("coder", [DeltaCoder(10, 5), LtrbCoder(), IdentityCoder()])
def test_mirrored_deltas_are_those_of_the_mirrored_box(coder) -> None:
    prior = torch.tensor([[10.0, 20, 42, 52]]).repeat(3, 1)
    boxes = torch.tensor([[5.0, 10, 50, 60], [20, 25, 40, 50], [26, 30, 30, 40]])
    width = torch.tensor([71.0, 71, 71])
    mirrored = coder.mirror(coder.encode(boxes, prior)[:, None], width)[:, 0]
    torch.testing.assert_close(coder.decode(mirrored, mirror(prior, width[:, None])), mirror(boxes, width[:, None]))

"""Rows that an adaptive assigner asks for a class, with a box weight of 0 because their box misses the object."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ssod.assign.adaptive import AdaptiveAssigner
from ssod.losses.sigmoid import focal
from ssod.losses.weighting.background import background_reliability
from ssod.losses.weighting.context import count_missing, own_probability
from ssod.losses.weighting.pisa import isr_n, isr_p
from ssod.losses.weighting.registry import cleanliness, iou_target, ohem
from ssod.losses.weighting.sample_weighting import SampleWeighting
from ssod.structures import Assignment, Batch, Predictions, Targets
from tests.losses.test_weighting import K, R, context_of, look, rows
from tests.rows import context

MISSED = 0  # a foreground row of ``rows()``


def missed() -> tuple[Predictions, Assignment]:
    """Rows made by hand; the box of one lies beside its object, and its box weight is 0, as the assigner has it."""
    p, a = rows()
    assert a.fg[MISSED]
    deltas, weight = p.deltas.clone(), a.box_weight.clone()
    deltas[MISSED] += 200
    weight[MISSED] = 0
    return replace(p, deltas=deltas), replace(a, box_weight=weight)


def test_the_assigner_makes_such_rows() -> None:
    """A box without any overlap takes its cheapest row: a positive of weight 0 (Consistent-Teacher, as released)."""
    p, _ = rows(images=1)
    far = replace(
        p, deltas=p.deltas + 500, sizes=torch.tensor([[128, 128]]), levels=(R,), strides=(8,), grids=((R, 1),)
    )
    a = AdaptiveAssigner()(far, [Targets(torch.tensor([[0.0, 0, 100, 100]]), torch.tensor([1]))])
    assert (a.matched >= 0).sum() == 1
    assert a.cls[a.matched >= 0].tolist() == [1]
    assert not a.fg.any()


def test_it_is_counted() -> None:
    """Among the rows that learn an object, of which it alone has a box that does not meet its own."""
    for softmax in (False, True):
        p, a = rows(softmax=softmax)
        assert [n.item() for n in count_missing(p, a)] == [R // 3, 0]
    p, a = missed()
    assert [n.item() for n in count_missing(p, a)] == [R // 3, 1]
    lost = replace(p, deltas=torch.full_like(p.deltas, torch.nan))
    assert [n.item() for n in count_missing(lost, a)] == [R // 3, R // 3]
    ignored = replace(a, cls_weight=a.cls_weight.index_fill(0, torch.tensor([MISSED]), 0))
    assert [n.item() for n in count_missing(p, ignored)] == [R // 3 - 1, 0]
    none = Assignment(torch.full((R,), K), torch.ones(R), a.box, torch.zeros(R), matched=torch.full((R,), -1))
    assert [n.item() for n in count_missing(p, none)] == [0, 0]


def test_its_target_is_its_overlap_which_is_none() -> None:
    p, a = missed()
    assert not iou_target("dense", p, a, context_of()).cls[MISSED].any()


def test_its_cleanliness_is_its_probability_alone() -> None:
    p, a = missed()
    b = cleanliness("dense", p, a, context_of(), alpha=0.75)
    prob = own_probability(p, a, torch.tensor([MISSED]))[0]
    assert b.cls[MISSED, a.cls[MISSED]].item() == pytest.approx(0.25 * prob.item())
    assert b.box_weight[MISSED] == 0


def test_it_is_no_background() -> None:
    p, a = missed()
    loss = focal(p, a)
    hardest = replace(p, logits=p.logits.index_fill(0, torch.tensor([MISSED]), -9.0))  # it would win a place
    for q in (p, hardest):
        b = ohem("dense", q, a, context_of(), ratio=0.5)
        assert b.cls_weight[MISSED] == 1
        kept = (b.cls_weight > 0) & (a.cls == K)
        assert kept.sum() == sum(((p.image == i) & (a.cls < K)).sum() // 2 for i in range(2))
    assert isr_n("roi", p, a, context_of()).cls_weight[MISSED] == 1
    assert loss[MISSED] > 0


def test_it_is_ranked_as_a_positive() -> None:
    """With the others of its object, as the last of them."""
    p, a = missed()
    weight = isr_p("dense", p, a, context_of()).cls_weight
    mates = (a.matched == a.matched[MISSED]).nonzero().squeeze(1)
    assert weight[mates].argmin() == 0
    assert mates[0] == MISSED
    assert weight[MISSED] != 1
    assert torch.equal(weight[a.cls == K], a.cls_weight[a.cls == K])


def test_a_teacher_who_sees_background_there_has_no_say() -> None:
    p, a = missed()
    dense = {"levels": (R // 2,), "strides": (8,), "grids": ((R // 2, 1),)}
    sure = replace(p, logits=torch.full((R, K), 9.0), **dense)
    out = type("Out", (), {"stages": {"dense": sure}})()
    view = look(torch.eye(3).repeat(2, 1, 1))
    seen = context(teacher=out, view=view, batch=Batch(view, {"weak": view, "strong": view}))
    weight = background_reliability("dense", replace(p, **dense), a, seen).cls_weight
    assert weight[MISSED] == weight[a.fg].max() > 100 * weight[2]


def test_a_weighting_network_sees_it_as_an_object() -> None:
    p, a = missed()
    net = SampleWeighting()
    torch.nn.init.ones_(net.net[-1].bias)
    seen = net.read("dense", p, a, context_of())
    assert seen[MISSED, 1:3].tolist() == [0, 0]  # no box loss, no overlap
    torch.testing.assert_close(seen[MISSED, 3], own_probability(p, a, torch.tensor([MISSED]))[0])
    b = net("dense", p, a, context_of())
    assert b.cls_weight[MISSED] < 1
    assert torch.equal(b.cls_weight[a.cls == K], a.cls_weight[a.cls == K])

"""Rows that are asked for a place alone: their box is among those that teach places, and none of the others."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ssod.losses.weighting.context import objects
from ssod.losses.weighting.pisa import carl, isr_p
from ssod.losses.weighting.registry import RULES
from ssod.structures import Assignment, Predictions, Pseudo, Targets
from tests.losses.test_weighting import K, R, context_of, rows
from tests.test_methods import batch, detector, method

PLACED = 0  # a foreground row of ``rows()``


def placed() -> tuple[Predictions, Assignment]:
    """Rows made by hand; one has a box to regress and is background to its class."""
    p, a = rows()
    assert a.fg[PLACED]
    cls, matched = a.cls.clone(), a.matched.clone()
    cls[PLACED], matched[PLACED] = K, -1
    return p, replace(a, cls=cls, matched=matched)


def test_it_is_no_object_of_a_class() -> None:
    p, a = placed()
    assert a.fg[PLACED]
    assert not objects(p, a)[PLACED]
    assert isr_p("dense", p, a, context_of()).cls_weight[PLACED] == 1


def test_its_place_counts_as_it_did() -> None:
    p, a = placed()
    weight = carl("dense", p, a, context_of()).box_weight
    others = objects(p, a)
    assert weight[PLACED] == 1
    assert weight[others].mean().item() == pytest.approx(1, rel=1e-6)
    assert others.sum() == R // 3 - 1


@pytest.mark.parametrize("net", ["retinanet", "fcos"])
@pytest.mark.parametrize("name", [name for name, rule in RULES.items() if "dense" in rule.stages])
def test_every_weighting_takes_it(net: str, name: str) -> None:
    boxes = torch.tensor([[8.0, 8, 50, 60], [30, 20, 80, 70]])
    one = [Targets(boxes[:1], torch.tensor([1]), torch.tensor([0.9]))] * 2
    both = [Targets(boxes, torch.tensor([1, 2]), torch.tensor([0.9, 0.9]))] * 2
    m = method("mean_teacher", detector(net), loss={"unsup": {"weighting": name}})
    m.label = lambda teacher, batch: Pseudo(one, both)
    losses = m(batch(), 50)
    assert all(loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    assert all(q.grad is not None and q.grad.isfinite().all() for q in m.student.parameters())

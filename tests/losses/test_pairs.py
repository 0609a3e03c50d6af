"""Weightings one after the other: what is learnt reaches its network and the scores, whatever follows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from itertools import permutations

import pytest
import torch

from ssod.losses.weighting.criterion import Criterion, LossConfig
from ssod.losses.weighting.registry import RULES, Weighting
from ssod.structures import Assigned, Assignment, Batch, Detector, Output, Pseudo, Targets
from tests.rows import context
from tests.test_methods import batch, detector, method, some_targets

STAGES = {"fcos": {"dense"}, "faster_rcnn": {"rpn", "roi"}}
LEARNT = {"sample_weighting": ("cls_weight", "box_weight"), "carl": ("box_weight",)}


def fit(net: str, *names: str) -> bool:
    """Whether weightings may be combined on this detector, and meet on rows of one stage."""
    rules = [RULES[name] for name in names]
    together = sum(rule.softens for rule in rules) < 2 and sum(rule.branch for rule in rules) < 2
    return together and bool(STAGES[net].intersection(*(rule.stages for rule in rules)))


COMBINED = [(net, *pair) for net in STAGES for pair in permutations(RULES, 2) if fit(net, *pair)]
PAIRS = [(net, one, two) for net, one, two in COMBINED if {one, two} & set(LEARNT)]
ALONE = [(net, name) for net in STAGES for name in RULES if fit(net, name) and name not in LEARNT]


@cache
def seen(net: str) -> tuple[Detector, Output, Assigned, list[Targets], Output, Batch]:
    """A student's look at pseudo-labelled images, what its rows should say, and a teacher's look."""
    m, data = method("mean_teacher", detector(net)), batch(flip=False)
    with torch.no_grad():
        teacher = m.teacher.predict(data.weak)
    targets = [replace(t, scores=torch.full((len(t),), 0.7)) for t in some_targets()]
    out = m.student.predict(data.strong)
    return m.student, out, m.student.assign(out, targets), targets, teacher, data


def weighed(net: str, *names: str) -> Iterator[tuple[str, list[Assignment]]]:
    """Yield each stage that the last weighting serves, and its assignment before and after each of them."""
    student, out, assigned, targets, teacher, data = seen(net)
    torch.manual_seed(0)
    criterion = Criterion(student, LossConfig.model_validate({"unsup": {"weighting": list(names)}}))
    for weighting in criterion.learning["unsup"]:
        if hasattr(weighting, "net"):  # as it begins it weighs every row by 1
            torch.nn.init.normal_(weighting.net[-1].weight)
    known = {"rows": student.rows, "teacher": teacher, "batch": data, "view": data.strong}
    for stage, (p, a) in assigned.items():
        ctx, chain = context(student=out, labels=Pseudo(targets), **known), [a]
        if criterion.branches:
            criterion.guess(stage, p, a, ctx)
        for weighting in criterion.weightings["unsup"]:
            if isinstance(weighting, Weighting) and stage in weighting.rule.stages:
                chain.append(weighting(stage, p, chain[-1], ctx))
        if len(chain) > len(names):
            yield stage, chain


@pytest.mark.parametrize(("net", "first", "second"), PAIRS)
def test_what_is_learnt_is_not_cut_by_another_weighting(net: str, first: str, second: str) -> None:
    for stage, (_, one, both) in weighed(net, first, second):
        for weight in {*LEARNT.get(first, ()), *LEARNT.get(second, ())}:
            assert getattr(both, weight).requires_grad, (stage, weight)
        for weight in LEARNT.get(first, ()):
            before, after = getattr(one, weight), getattr(both, weight)
            (factor,) = torch.autograd.grad(after.sum(), before, retain_graph=True)
            torch.testing.assert_close(factor * before, after, msg=f"{stage} {weight}: rows lose their gradient")


@pytest.mark.parametrize(("net", "name"), ALONE)
def test_other_weights_are_constants(net: str, name: str) -> None:
    p = next(iter(seen(net)[2].values()))[0]
    assert p.logits.requires_grad
    for _, (_, after) in weighed(net, name):
        assert not after.cls.requires_grad
        assert not after.cls_weight.requires_grad
        assert not after.box_weight.requires_grad


def test_there_is_something_to_test() -> None:
    stages = {net: [stage for stage, _ in weighed(net, "sample_weighting", "carl")] for net in STAGES}
    assert stages == {"fcos": ["dense"], "faster_rcnn": ["roi"]}
    assert len(PAIRS) > 40
    assert len(ALONE) > 12

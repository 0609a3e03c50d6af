"""Incomplete labels: rows say nothing of what nobody labelled, in every class loss of every detector."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ssod.losses.sigmoid import SIGMOID, SOFTMAX
from ssod.structures import Assignment, Predictions, Targets
from ssod.structures.boxes import DeltaCoder
from tests.detectors.test_dense_detector_methods import detector as dense_detector
from tests.test_methods import DETECTORS, K, detector, no_targets, some_targets, view

NETS = [*DETECTORS, "dense_detector"]
OF_CLASSES = {"cls", "rpn_cls", "quality"}


def net_of(name: str) -> torch.nn.Module:
    return dense_detector() if name == "dense_detector" else detector(name)


def losses_of(net: torch.nn.Module, targets: list[Targets]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return losses, and the gradient of each stage's class logits (and objectness)."""
    out = net.train().predict(view(0))
    assigned = net.assign(out, targets)
    for p, _ in assigned.values():
        for seen in (p.logits, p.quality):
            if seen is not None:
                seen.retain_grad()
    losses = net.reduce(assigned)
    net.zero_grad()
    sum(losses.values()).backward()
    return losses, {stage: p.logits.grad for stage, (p, _) in assigned.items()}


def rows_of(logits: Tensor, image: list[int], *, softmax: bool = True) -> Predictions:
    """Return a head's word on so many rows."""
    boxes = torch.tensor([[0.0, 0, 9, 9]]).repeat(len(logits), 1)
    sizes = torch.full((max(image) + 1, 2), 9)
    return Predictions(logits, boxes[:, None] * 0, boxes, torch.tensor(image), sizes, DeltaCoder(), softmax=softmax)


def asked_for(labels: list[int], open: Tensor | None = None) -> Assignment:
    """Return what rows with these labels are asked for."""
    one = torch.ones(len(labels))
    return Assignment(torch.tensor(labels), one, torch.zeros(len(labels), 4), 0 * one, open=open)


def opened(targets: list[Targets], *classes: int) -> list[Targets]:
    return [replace(t, open=torch.isin(torch.arange(K), torch.tensor(classes))) for t in targets]


@pytest.mark.parametrize("name", NETS)
def test_nothing_is_asked_where_nothing_is_known(name: str) -> None:
    """All classes open and no box: no loss of classes and no gradient; no class open: the very losses of before."""
    net = net_of(name)
    losses, _ = losses_of(net, opened(no_targets(), *range(K)))
    assert {key: loss.item() for key, loss in losses.items()} == dict.fromkeys(losses, 0)
    assert all((p.grad == 0).all() for p in net.parameters() if p.grad is not None)
    before, after = losses_of(net, some_targets())[0], losses_of(net, opened(some_targets()))[0]
    assert before == after
    assert any(before[key] > 0 for key in OF_CLASSES & before.keys())


@pytest.mark.parametrize("name", NETS)
def test_a_box_that_is_missing_teaches_no_background(name: str) -> None:
    """Class 2 loses its box: rows without a box have no gradient in it where it is open, and some where it is not."""
    net = net_of(name)
    left = [replace(t[t.labels != 2]) for t in some_targets()]
    closed, asked = losses_of(net, left)
    losses, spared = losses_of(net, opened(left, 2))
    assert losses["box"] == closed["box"], "what is labelled is learnt as ever"
    if "rpn" in spared:  # an anchor may be an object of that class; the second stage is below
        assert losses["rpn_cls"] < closed["rpn_cls"]
        return
    if name == "dense_detector":  # its objectness is asked of all rows, its classes of objects alone
        assert losses["quality"] < closed["quality"]
        assert torch.equal(asked["dense"], spared["dense"])
        return
    net_assigned = net.assign(net.predict(view(0)), left)["dense"][1]
    without = net_assigned.matches() == -1
    assert (asked["dense"][without, 2] != 0).any()
    assert (spared["dense"][without, 2] == 0).all()
    assert torch.equal(asked["dense"][:, :2], spared["dense"][:, :2]), "other classes are asked as ever"
    assert torch.equal(asked["dense"][~without], spared["dense"][~without]), "rows of a box are of no other class"


@pytest.mark.parametrize("name", sorted(SOFTMAX))
def test_a_softmax_row_is_background_or_of_an_open_class(name: str) -> None:
    """Its loss is that of a head in which these are one class; other rows stay as they are."""
    logits = torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1), requires_grad=True)
    p = rows_of(logits, image=[0, 0, 1, 1])
    open = torch.tensor([[True, False, True], [False] * 3])
    a = asked_for([3, 1, 3, 0], open)
    loss = SOFTMAX[name](p, a)
    assert torch.equal(loss[1:], SOFTMAX[name](p, replace(a, open=None))[1:])
    both = torch.stack([logits[0, 1], logits[0, [0, 2, 3]].logsumexp(0)])[None]
    one = rows_of(both, image=[0])
    eps = {"eps": 0.0} if name == "label_smoothing" else {}
    torch.testing.assert_close(SOFTMAX[name](p, a, **eps)[:1], SOFTMAX[name](one, asked_for([1]), **eps))
    (grad,) = torch.autograd.grad(loss.sum(), logits)
    assert grad.isfinite().all()


@pytest.mark.parametrize("name", sorted(SIGMOID))
def test_every_sigmoid_loss_leaves_open_classes_out(name: str) -> None:
    logits = torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1), requires_grad=True)
    more = {"frequency": torch.full((3,), 0.5)} if name == "equalization" else {}
    p = rows_of(logits, image=[0, 0, 1], softmax=False)
    loss = SIGMOID[name](p, asked_for([3, 1, 3], torch.tensor([[True, False, False], [True] * 3])), **more)
    (grad,) = torch.autograd.grad(loss.sum(), logits)
    assert grad[0, 0] == 0
    assert (grad[0, 1:] != 0).all()
    assert (grad[1] != 0).any()
    assert loss[2] == 0
    assert (grad[2] == 0).all()

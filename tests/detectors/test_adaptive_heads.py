"""Adaptive assignment as a choice of every dense detector, from the config down to one step of `supervised`."""

from functools import partial

import pytest
import torch
from torch import Tensor, nn

from ssod.assign.quality import with_centerness
from ssod.detectors.build import build
from ssod.methods.registry import find
from ssod.structures import Batch, Targets, View
from tests.detectors.reference import config, images, targets, view
from tests.detectors.test_detectors import gradients
from tests.detectors.test_fam3d import HEAD
from tests.parts import together
from tests.rows import losses_of

HEADS = {
    "nine anchors": ("retinanet", {"loss": {"box": "giou"}}),
    "one anchor": ("retinanet", HEAD),
    "aligned": ("retinanet", HEAD | {"align": "3d"}),
    "fcos": ("fcos", {}),
}


def detector(head: str, num_classes: int = 5) -> nn.Module:
    torch.manual_seed(0)
    name, changes = HEADS[head]
    return build(config(name, **changes, assigner={"name": "adaptive"}), num_classes)


@pytest.mark.parametrize("head", HEADS)
def test_a_supervised_step(head: str) -> None:
    kind = find("supervised")
    for wanted in (targets(), [Targets.empty(torch.zeros(1))] * 3):
        batch = view(images())
        batch.targets = wanted
        method = kind(detector(head), kind.Config(name="supervised")).train()
        losses = method(Batch(batch), 0)
        assert ("sup/quality" in losses) == (head == "fcos")
        gradients(method.student, losses)
        some = any(len(t) for t in wanted)
        assert all((losses[key] > 0) == some for key in losses if key != "sup/cls")
        assert losses["sup/cls"] > 0


@pytest.mark.parametrize("head", HEADS)
def test_what_is_asked_of_each_row(head: str) -> None:
    model = detector(head)
    out = model.predict(view(images()))
    p, a = model.assign(out, targets())["dense"]
    assert a.fg.any()
    a = a if p.quality is None else with_centerness(p, a)
    assert a.normalizer["cls"] >= 1
    assert (a.box_weight <= 1).all()
    if head == "fcos":
        assert a.quality[a.fg].max() > 0


@pytest.mark.parametrize("head", HEADS)
def test_ranks_together_are_one_process(head: str) -> None:
    """The mean over two ranks of their losses is the loss of the whole batch, though one rank has no box at all."""
    model = detector(head).eval()
    last = model.head.regression_head.bbox_reg  # boxes of a fair overlap
    nn.init.zeros_(last.weight)
    nn.init.constant_(last.bias, 3 if head == "fcos" else 0)
    whole, boxes = view(images()), targets()
    parts = [[0, 2], [1]]

    def share(rows: list[int]) -> dict[str, Tensor]:
        part = View(*(getattr(whole, f)[rows] for f in ("images", "sizes", "matrix", "keys")))
        return losses_of(model, model.predict(part), [boxes[i] for i in rows])

    expected = share([0, 2, 1])
    ranks, means = together([partial(share, rows) for rows in parts])
    assert means[0] > 1
    for key, loss in expected.items():
        torch.testing.assert_close((ranks[0][key] + ranks[1][key]) / 2, loss, rtol=1e-4, atol=1e-6)

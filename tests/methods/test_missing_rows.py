"""How many rows miss the labelled objects that they learn: counted at times, for the log, and without a wait."""

from __future__ import annotations

import pytest
import torch

from ssod.assign.adaptive import AdaptiveAssigner
from ssod.methods import supervised
from ssod.methods.registry import names
from tests.test_methods import DETECTORS, batch_for, detector, method, no_targets, offered
from tests.waits import Waits

STAGES = {"retinanet": {"dense"}, "fcos": {"dense"}, "faster_rcnn": {"rpn", "roi"}}


def counts(stats: dict[str, torch.Tensor]) -> dict[str, float]:
    return {name: value.item() for name, value in stats.items() if name.startswith("rows/")}


@pytest.mark.parametrize(("name", "net"), offered(names()))
def test_every_method_counts_the_rows_of_labelled_images(name: str, net: str) -> None:
    m = method(name, detector(net))
    m(batch_for(m), 50)
    found = counts(m.stats)
    assert {key.split("/")[1] for key in found} == STAGES[net]
    for stage in STAGES[net]:
        assert found[f"rows/{stage}/learning"] > 0
        assert 0 <= found[f"rows/{stage}/missing"] < found[f"rows/{stage}/learning"]
    m(batch_for(m), 51)
    assert not counts(m.stats)


@pytest.mark.parametrize("net", DETECTORS)
def test_no_loss_depends_on_it_and_nothing_waits(net: str, monkeypatch: pytest.MonkeyPatch) -> None:
    m = method("supervised", detector(net))
    data = batch_for(m)

    def waits(every: int) -> tuple[dict[str, torch.Tensor], int]:
        monkeypatch.setattr(supervised, "LOOK_EVERY", every)
        with Waits() as seen:
            losses = m(data, 50)
        return losses, seen.masks

    (with_it, more), (without, less) = waits(10), waits(1000)
    assert more == less
    assert all(torch.equal(with_it[key], without[key]) for key in without)


@pytest.mark.parametrize("net", DETECTORS)
def test_images_without_objects_have_none(net: str) -> None:
    m = method("supervised", detector(net))
    m(batch_for(m, no_targets()), 50)
    assert set(counts(m.stats).values()) == {0.0}


def test_boxes_that_lie_elsewhere_are_all_counted() -> None:
    """The state that an adaptive assigner keeps: IoU 0 is the weight of a box, and no box is learnt."""
    m = method("supervised", detector("retinanet"))
    m.student.assigner = AdaptiveAssigner()
    torch.nn.init.constant_(m.student.head.regression_head.bbox_reg.bias, 40.0)
    losses = m(batch_for(m), 50)
    found = counts(m.stats)
    assert losses["sup/box"] == 0
    assert found["rows/dense/missing"] == found["rows/dense/learning"] > 0

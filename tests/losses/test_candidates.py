"""A weighting that says which rows learn an object says so on its side, and nowhere else."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ssod.assign.top_iou import TopIoUAssigner
from ssod.config import load_recipe
from ssod.detectors.build import build
from ssod.losses.weighting.criterion import Criterion
from ssod.structures import Assignment, Batch, Predictions, Pseudo, Targets
from ssod.structures.boxes import paired_iou
from ssod.utils.errors import SsodError
from tests.test_methods import detector, method, view

BOX = torch.tensor([[10.0, 30, 82, 42]])  # long and low, as no anchor is


def rows_of(net: str, loss: dict, label: Pseudo | None = None) -> dict[str, tuple[Predictions, Assignment]]:
    """What each side's rows of the last stage are asked for, after all weightings, with one object in each image."""
    m = method("mean_teacher", detector(net), loss=loss)
    one = [Targets(BOX, torch.tensor([1])) for _ in range(2)]
    m.label = lambda teacher, batch: label or Pseudo([Targets(t.boxes, t.labels, torch.ones(1)) for t in one])
    seen: dict[str, tuple[Predictions, Assignment]] = {}
    look, reduce = m.look, m.student.reduce

    def note(assigned: dict, *known: object) -> dict[str, Tensor]:
        seen[sides[-1]] = list(assigned.values())[-1]
        return reduce(assigned, *known)

    sides: list[str] = []
    m.look = lambda side, *known: sides.append(side) or look(side, *known)
    m.student.reduce = note
    m(Batch(view(0, one), {"weak": view(5), "strong": view(6)}), 50)
    return seen


@pytest.mark.parametrize("net", ["retinanet", "fcos"])
@pytest.mark.parametrize("side", ["sup", "unsup"])
def test_each_object_has_its_candidates_whatever_their_overlap(net: str, side: str) -> None:
    other = {"sup": "unsup", "unsup": "sup"}[side]
    plain, chosen = rows_of(net, {}), rows_of(net, {side: {"weighting": {"name": "cleanliness", "top": 12}}})
    p, a = chosen[side]
    assert [(a.matched == i).sum().item() for i in range(2)] == [12, 12]
    assert paired_iou(p.priors[a.fg_rows], a.box[a.fg_rows]).amin() < 0.4
    assert torch.equal(a.cls.sum(1) > 0, a.fg)
    assert (a.cls_weight > 0).all()  # none is ignored for its IoU
    assert torch.equal(plain[other][1].matched, chosen[other][1].matched)
    assert not torch.equal(plain[side][1].matched, a.matched)


def test_forty_candidates_are_the_papers() -> None:
    _, a = rows_of("retinanet", {"unsup": {"weighting": "cleanliness"}})["unsup"]
    assert [(a.matched == i).sum().item() for i in range(2)] == [40, 40]


def test_proposals_are_the_rows_that_were_sampled() -> None:
    plain, chosen = rows_of("faster_rcnn", {}), rows_of("faster_rcnn", {"unsup": {"weighting": "cleanliness"}})
    for side in ("sup", "unsup"):
        assert torch.equal(plain[side][1].matched, chosen[side][1].matched)
    assert chosen["unsup"][1].cls.ndim == 2


def test_boxes_that_teach_places_alone_have_candidates_of_their_own() -> None:
    """Their rows are none of a class, and weightings of classes leave them alone."""
    known = [Targets(BOX, torch.tensor([1]), torch.ones(1))] * 2
    placed = [Targets(torch.tensor([[60.0, 10, 90, 40]]), torch.tensor([0]), torch.ones(1))] * 2
    label = Pseudo(known, placed)
    _, a = rows_of("retinanet", {"unsup": {"weighting": {"name": "cleanliness", "top": 12}}}, label)["unsup"]
    assert a.fg.sum() == 24
    assert (a.matched >= 0).sum() == 24
    assert not torch.equal(a.fg, a.matched >= 0)


def test_rows_beyond_the_padded_image_stay_so() -> None:
    """The divisor is the detector's, and its other options are not asked."""
    cfg = load_recipe(
        method="supervised",
        detector="retinanet_tiny_fpn",
        data="neu_det",
        overrides=["method.loss.sup.weighting=cleanliness", "detector.assigner={name: iou, divisor: 32}"],
    )
    found = Criterion(build(cfg.detector, 6, pretrained=False), cfg.method.loss).assigners["sup"]
    assert isinstance(found, TopIoUAssigner)
    assert (found.top, found.divisor) == (40, 32)


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("supervised", ["method.loss.sup.weighting=cleanliness"]),
        ("mean_teacher", ["method.loss.sup.weighting=cleanliness", "method.loss.unsup.weighting=[carl, cleanliness]"]),
        ("humble_teacher", ["method.loss.sup.weighting=cleanliness"]),  # its unlabelled rows are matched to no boxes
    ],
)
def test_an_assigner_that_nothing_asks_is_refused(name: str, overrides: list[str]) -> None:
    recipe = {"method": name, "detector": "retinanet_tiny_fpn", "data": "neu_det"}
    load_recipe(**recipe, overrides=overrides)
    with pytest.raises(SsodError, match=r"detector.assigner: nothing asks it.*remove it"):
        load_recipe(**recipe, overrides=[*overrides, "detector.assigner=adaptive"])
    load_recipe(**recipe, overrides=["detector.assigner=adaptive"])


def test_an_assigner_that_one_kind_of_images_asks_is_taken() -> None:
    recipe = {"method": "mean_teacher", "detector": "fcos_tiny_fpn", "data": "neu_det"}
    cfg = load_recipe(**recipe, overrides=["method.loss.unsup.weighting=cleanliness", "detector.assigner=adaptive"])
    assert cfg.detector.assigner.name == "adaptive"


def test_candidates_are_counted() -> None:
    with pytest.raises(SsodError, match=r"method.loss.sup.weighting.top"):
        method("mean_teacher", detector("fcos"), loss={"sup": {"weighting": {"name": "cleanliness", "top": 2.5}}})

"""The Dense Detector of Efficient Teacher: which rows learn what, its losses worked by hand, its box code."""

from dataclasses import replace

import torch

from ssod.detectors.dense_detector import DenseDetector, DenseDetectorConfig
from ssod.losses.objectness import with_objectness
from ssod.structures import Targets
from tests.detectors.reference import images, view


def small(num_classes: int = 3, **more: object) -> DenseDetector:
    torch.manual_seed(0)
    return DenseDetector(DenseDetectorConfig(backbone="tiny", channels=16, **more), num_classes)


def boxes() -> list[Targets]:
    found = torch.tensor([[10.0, 10, 40, 50], [30, 40, 100, 110]])
    return [Targets(found, torch.tensor([0, 2])), Targets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long))]


def test_objectness_is_learnt_by_all_rows_and_can_be_overwritten() -> None:
    detector = small()
    out = detector.predict(view(images(((128, 128), (100, 120)))))
    p, a = detector.assign(out, boxes())["dense"]
    asked = with_objectness(p, a)
    plain, same = (detector.reduce({"dense": (p, of)}) for of in (a, asked))
    for name, loss in plain.items():
        torch.testing.assert_close(loss, same[name])
    assert (asked.quality[a.fg] > 0).any()
    assert (asked.quality[~a.fg] == 0).all()

    (slope,) = torch.autograd.grad(plain["quality"], p.quality, retain_graph=True)
    assert (slope != 0).all()

    unsure = a.fg & (a.matches() == 1)
    weight = torch.where(unsure, 0.0, a.cls_weight)
    soft = replace(
        asked,
        cls_weight=weight,
        box_weight=torch.where(unsure, 0.0, a.box_weight),
        quality=torch.where(unsure, 0.9, asked.quality),
    )
    losses = detector.reduce({"dense": (p, soft)})
    for name, of in (("cls", p.logits), ("box", p.deltas)):
        (slope,) = torch.autograd.grad(losses[name], of, retain_graph=True)
        assert (slope.flatten(1)[unsure] == 0).all()
        assert (slope.flatten(1)[a.fg & ~unsure] != 0).any()
    (slope,) = torch.autograd.grad(losses["quality"], p.quality, retain_graph=True)
    assert (slope[unsure] < 0).all()
    torch.testing.assert_close(
        losses["box"], detector.reduce(detector.assign(out, [boxes()[0][:1], boxes()[1]]))["box"]
    )


def test_a_row_of_an_ignored_box_learns_nothing() -> None:
    detector = small()
    out = detector.predict(view(images(((128, 128), (100, 120)))))
    unsure = [replace(t, weight=torch.zeros(len(t))) for t in boxes()]
    p, a = detector.assign(out, unsure)["dense"]
    (slope,) = torch.autograd.grad(sum(detector.reduce({"dense": (p, a)}).values()), p.quality)
    assert (a.matches() == -2).any()
    assert ((slope == 0) == (a.matches() == -2)).all()

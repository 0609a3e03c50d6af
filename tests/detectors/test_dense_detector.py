"""The Dense Detector of Efficient Teacher: which rows learn what, its losses worked by hand, its box code."""

import math
import re
from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError

from ssod.detectors.build import build
from ssod.detectors.dense_detector import DenseDetector, DenseDetectorConfig
from ssod.detectors.heads.own_level import bounded
from ssod.losses.objectness import with_objectness
from ssod.structures import Predictions, Targets
from ssod.utils.errors import SsodError
from tests.detectors.reference import config, images, view


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


def test_losses_worked_by_hand() -> None:
    """Eight anchors: two in each of two cells of stride 8, two in one cell of stride 16, two in one of stride 32.

    One box of class 1 of two, (2, 0, 10, 8): its center (6, 4) is in the right half of the first cell of stride 8, so
    that the second cell has it, too; vertically it is in the middle of the cell. A row has it where its anchor's sides
    are less than 4 times as long or short.

    row | cell   | anchor  | ratio | decoded, as all outputs are 0 | IoU     | CIoU = IoU - distance^2 / diagonal^2
    0   | (4, 4) |  8 x  8 | 1     | (0, 0, 8, 8)                  | 48 /  80 | 0.6 - 4 / 164 = 0.575610
    1   | (4, 4) | 40 x 40 | 5     |                               |         |
    2   | (12,4) |  8 x  8 | 1     | (8, 0, 16, 8)                 | 16 / 112 | 0.142857 - 36 / 260 = 0.004396
    3   | (12,4) | 40 x 40 | 5     |                               |         |
    4   | (8, 8) | 16 x 16 | 2     | (0, 0, 16, 16)                | 64 / 256 | 0.25 - 20 / 512 = 0.210938
    5   | (8, 8) |  4 x 40 | 5     |                               |         |
    6   |(16,16) | 32 x  8 | 4     |                               |         |
    7   |(16,16) | 24 x 24 | 3     | (4, 4, 28, 28)                | 24 / 616 | 0.038961 - 244 / 1460 = -0.128162

    Box: 0.05 times the sum over levels of the mean of 1 - CIoU.
    Objectness: row 0 and row 1 say ln 3 (0.75), the others 0 (0.5). With target t, ln 3 costs ln 4 - t ln 3, and 0
    costs ln 2 for any t. Row 7 is asked for 0, not for less.
    Class: of rows 0, 2, 4 and 7, two numbers each; all logits are 0 and cost ln 2, but for class 1 of row 0, whose ln 3
    costs ln 4/3.
    """
    detector = small(2, anchors=[[[8, 8], [40, 40]], [[16, 16], [4, 40]], [[32, 8], [24, 24]]])
    logits, objectness, outputs = torch.zeros(8, 2), torch.zeros(8), torch.zeros(1, 8, 4)
    logits[0, 1] = objectness[0] = objectness[1] = math.log(3)
    grids = [(1, 2), (1, 1), (1, 1)]
    reach = [head.reach for head in detector.head]
    deltas = torch.cat([bounded(x, of) for x, of in zip(outputs.split([4, 2, 2], 1), reach)], 1)
    p = Predictions(
        logits, deltas[0][:, None], detector.anchors((8, 16), grids), torch.zeros(8, dtype=torch.long),
        torch.tensor([[8, 16]]), detector.coder, quality=objectness, objectness=True,
        levels=(4, 2, 2), strides=(8, 16, 32), grids=tuple(grids),
    )  # fmt: skip
    a = detector.assigner(p, [Targets(torch.tensor([[2.0, 0, 10, 8]]), torch.tensor([1]))])
    assert a.matches().tolist() == [0, -1, 0, -1, 0, -1, -1, 0]
    losses = {name: float(loss) for name, loss in detector.reduce({"dense": (p, a)}).items()}

    ln2, ln3, ln4 = math.log(2), math.log(3), math.log(4)
    box = 0.05 * ((2 - 0.575610 - 0.004396) / 2 + (1 - 0.210938) + (1 + 0.128162))
    quality = 0.7 * (4 * (ln4 - 0.575610 * ln3 + ln4 + ln2 + ln2) / 4 + 1 * ln2 + 0.4 * ln2)
    cls = 0.3 * 2 / 80 * ((3 * ln2 + math.log(4 / 3)) / 4 + ln2 + ln2)
    assert losses == pytest.approx({"cls": cls, "box": box, "quality": quality}, rel=1e-5)

    # Rows are ranked by the product: row 0 and class 1 by 0.75 * 0.75, no root taken.
    assert p.scores()[0].tolist() == pytest.approx([0.375, 0.5625])


def test_with_one_class_objectness_alone_says_what_a_row_is() -> None:
    detector = small(1)
    out = detector.predict(view(images(((128, 128),))))
    losses = detector.reduce(detector.assign(out, [Targets(torch.tensor([[10.0, 10, 40, 50]]), torch.tensor([0]))]))
    assert losses["cls"] == 0
    assert losses["box"] > 0
    p = out.stages["dense"]
    torch.testing.assert_close(p.scores()[:, 0], p.quality.sigmoid())


def test_it_begins_as_yolo_does() -> None:
    """Eight objects in an image of 640 pixels, and odds of each class that sum to about 0.6."""
    p = small(5).eval().predict(view(images(((640, 640),)))).stages["dense"]
    parts = p.quality.sigmoid().split(p.levels)
    assert [float(part.detach().sum()) / 3 for part in parts] == pytest.approx([8, 8, 8], rel=0.1)
    assert float(p.logits.detach().exp().sum(1).mean()) == pytest.approx(0.6 * 5 / 4.01, rel=0.1)


@pytest.mark.parametrize(
    ("section", "problem"),
    [
        ({"levels": [3, 6]}, "anchors: of 3 levels, and levels 3..6 are 4"),
        ({"level_weights": [1, 1]}, "level_weights: of 2 levels, and levels 3..5 are 3"),
        ({"anchors": [[[8, 8]], [[16, 16]], [[32, 32], [64, 32]]]}, "every level needs as many"),
        ({"assigner": "iou"}, "the box code does not reach the rows that 'iou' chooses"),
        ({"anchors": {"scale": 4}}, "anchors"),
    ],
)
def test_what_does_not_go_together_is_refused(section: dict, problem: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(problem)):
        config("dense_detector", **section)


def test_ratio_is_for_anchors() -> None:
    with pytest.raises(ValidationError, match="FCOS has points"):
        config("fcos", assigner="ratio")
    detector = build(config("retinanet", assigner={"name": "ratio", "most": 3}), 3)
    p, a = detector.assign(detector.predict(view(images(((128, 128), (100, 120))))), boxes())["dense"]
    assert set(a.matches().tolist()) == {-1, 0, 1}
    sides = [(b[:, 2:] - b[:, :2])[a.fg] for b in (p.priors, a.box)]
    assert (torch.maximum(sides[0] / sides[1], sides[1] / sides[0]) < 3).all()


def test_coco_weights_there_are_none() -> None:
    with pytest.raises(SsodError, match="no coco weights of 'dense_detector'"):
        build(config("dense_detector", backbone="resnet50", weights="coco", norm="frozen"), 3, pretrained=False)

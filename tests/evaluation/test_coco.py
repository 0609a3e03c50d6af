"""COCO and VOC numbers equal those of pycocotools and of detectron2's VOC evaluator; boxes find their way back."""

import math

import pytest
import torch

from ssod.evaluation.coco import NAMES, coco_metrics
from ssod.evaluation.measure import evaluate
from ssod.evaluation.voc import IOUS, average_precision, voc_metrics
from ssod.structures import Targets, View, boxes
from ssod.utils import signals
from tests.evaluation.golden import COCO, VOC, coco_case, voc_case


@pytest.mark.parametrize("case", COCO["cases"], ids=lambda c: c["name"])
def test_coco_numbers_are_those_of_pycocotools(case: dict) -> None:
    truth, detections = coco_case(case)
    assert len(detections) == case["n_detections"]
    result = coco_metrics(truth, detections)
    assert [result[n] for n in NAMES] == pytest.approx(_defined(case["stats"]), abs=1e-9, nan_ok=True)
    names = {str(c["id"]): c["name"] for c in truth["categories"]}
    for key, (ap, ap50) in case["per_category"].items():
        found = [result[f"AP/{names[key]}"], result[f"AP50/{names[key]}"]]
        assert found == pytest.approx(_defined([ap, ap50]), abs=1e-9, nan_ok=True)


def _defined(values: list[float]) -> list[float]:
    """What is -1 in pycocotools, since there is nothing to find, is no number here."""
    return [math.nan if value == -1 else value for value in values]


@pytest.mark.parametrize("case", VOC["cases"], ids=lambda c: f"{c['name']}-{c['metric']}")
def test_voc_numbers_are_those_of_detectron2(case: dict) -> None:
    truth, detections = voc_case(case)
    assert len(detections) == case["n_detections"]
    result = voc_metrics(truth, detections, eleven_points=case["metric"] == "11-point")
    for name in ("AP", "AP50", "AP75"):
        assert 100 * result[name] == pytest.approx(case["result"][name], abs=1e-6)
    for name, wanted in case["per_class_per_iou"].items():
        assert 100 * result[f"AP/{name}"] == pytest.approx(sum(wanted.values()) / len(IOUS), abs=1e-6)
        assert 100 * result[f"AP50/{name}"] == pytest.approx(wanted["50"], abs=1e-6)


def test_eleven_points_by_hand() -> None:
    """Hits at rank 1 and 3 of two boxes: precision 1 up to recall 0.5, then 2/3."""
    recall, precision = torch.tensor([0.5, 0.5, 1.0]).numpy(), torch.tensor([1, 1 / 2, 2 / 3]).numpy()
    assert average_precision(recall, precision, True) == pytest.approx((6 + 5 * 2 / 3) / 11)
    assert average_precision(recall, precision, False) == pytest.approx(0.5 + 0.5 * 2 / 3)


TRUTH = {
    "images": [{"id": 7, "width": 100, "height": 60}, {"id": "b", "width": 50, "height": 50}],
    "categories": [{"id": 3, "name": "cat"}, {"id": 90, "name": "dog"}],
    "annotations": [
        {"image_id": 7, "category_id": 90, "bbox": [10.0, 20.0, 30.0, 25.0]},
        {"image_id": "b", "category_id": 3, "bbox": [5.0, 5.0, 20.0, 20.0]},
    ],
}


def test_nothing_found_is_zero_not_a_crash() -> None:
    for metrics in (coco_metrics, voc_metrics):
        result = metrics(TRUTH, [])
        assert result["AP"] == 0
        assert result["AP50"] == 0
        assert result["AP/dog"] == 0


def test_nothing_to_find_is_undefined() -> None:
    empty = {**TRUTH, "annotations": []}
    detections = [{"image_id": 7, "category_id": 3, "bbox": [0.0, 0.0, 5.0, 5.0], "score": 0.9}]
    for metrics in (coco_metrics, voc_metrics):
        assert math.isnan(metrics(empty, detections)["AP"])
        assert math.isnan(metrics(empty, [])["AP/cat"])


def test_evaluation_prints_nothing(capfd: pytest.CaptureFixture) -> None:
    coco_metrics(TRUTH, [])
    assert capfd.readouterr() == ("", "")


class Oracle:
    """Finds what it is told to, in the pixels of the view."""

    num_classes = 2

    def __init__(self, found: dict) -> None:
        self.found = found

    def predict(self, view: View) -> "Oracle":
        self.view = view
        return self

    def detections(self, score: float | None = None) -> list[Targets]:
        found = [self.found[i] for i in self.view.ids]
        return [t if score is None else t[t.scores > score] for t in found]


def flipped_views() -> tuple[list[View], dict]:
    """Each image at 1.5 times its size and mirrored, with the true boxes there."""
    views, found = [], {}
    for image, row in zip(TRUTH["images"], TRUTH["annotations"]):
        matrix = torch.tensor([[-1.5, 0, 1.5 * image["width"]], [0, 1.5, 0], [0, 0, 1.0]])
        x, y, w, h = row["bbox"]
        box = boxes.warp(torch.tensor([[x, y, x + w, y + h]]), matrix)
        label = torch.tensor([[3, 90].index(row["category_id"])])
        found[image["id"]] = Targets(box, label, torch.tensor([0.8]))
        size = torch.tensor([[1.5 * image["height"], 1.5 * image["width"]]]).long()
        views.append(View(torch.zeros(1, 3, 8, 8), size, matrix[None], torch.zeros(1).long(), [image["id"]]))
    return views, found


def test_boxes_and_ids_find_their_way_back() -> None:
    views, found = flipped_views()
    result = evaluate(Oracle(found), views, TRUTH, device="cpu")
    assert result["AP"] == pytest.approx(1)
    assert evaluate(Oracle(found), views, TRUTH, device="cpu", score=0.9)["AP"] == 0
    assert evaluate(Oracle(found), views, TRUTH, device="cpu", metrics=voc_metrics)["AP50"] == pytest.approx(1)


def test_boxes_are_clipped_to_the_original_image() -> None:
    """The view is twice as large; a box that leaves it at every side comes back as the whole image."""
    found = {7: Targets(torch.tensor([[-9.0, -9, 300, 300]]), torch.tensor([1]), torch.tensor([0.8]))}
    seen = []
    view = View(torch.zeros(1, 3, 8, 8), torch.tensor([[120, 200]]), torch.diag(torch.tensor([2.0, 2, 1]))[None],
                torch.zeros(1).long(), [7])  # fmt: skip
    evaluate(Oracle(found), [view], TRUTH, device="cpu", metrics=lambda t, d: seen.append(d) or {"AP": 0.0})
    assert (seen[0].ids, seen[0].image.tolist(), seen[0].label.tolist()) == ([7], [0], [1])
    assert seen[0].boxes.tolist() == [[0, 0, 100, 60]]
    assert seen[0].scores.tolist() == pytest.approx([0.8])


def test_an_evaluation_hears_that_it_should_stop() -> None:
    views, found = flipped_views()

    def interrupted():
        yield views[0]
        listening.code = 75
        yield views[1]

    with signals.Signals() as listening, pytest.raises(signals.Stopped):
        evaluate(Oracle(found), interrupted(), TRUTH, device="cpu")

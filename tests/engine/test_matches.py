"""AP from the table of matches is that of the evaluators; weighting an image is repeating it."""

import json
import time
from pathlib import Path

import numpy as np
import pytest

from ssod.engine import matches as m
from ssod.engine.voc_eval import IOUS, voc_metrics
from ssod.errors import SsodError
from tests.engine.test_evaluate import COCO, VOC, coco_case, voc_case


@pytest.mark.parametrize("case", COCO["cases"], ids=lambda c: c["name"])
def test_coco_numbers_follow_from_the_table(case: dict) -> None:
    truth, detections = coco_case(case)
    table = m.match(truth, detections, "coco", 0.05)
    assert m.mean_ap(table)[0] == pytest.approx(case["stats"][0], abs=1e-9)
    assert m.mean_ap(table, iou=0.5)[0] == pytest.approx(case["stats"][1], abs=1e-9)
    single = m.average_precision(table)[0]
    for category, row in zip(truth["categories"], single):
        ap, ap50 = case["per_category"].get(str(category["id"]), (-1, -1))
        assert (-1 if np.isnan(row[0]) else row.mean()) == pytest.approx(ap, abs=1e-9)
        assert (-1 if np.isnan(row[0]) else row[0]) == pytest.approx(ap50, abs=1e-9)


@pytest.mark.parametrize("case", VOC["cases"], ids=lambda c: c["name"])
def test_voc_numbers_follow_from_the_table(case: dict) -> None:
    truth, detections = voc_case(case)
    truth["images"] = [{"id": image} for image in VOC["ground_truth"]]
    eleven = case["metric"] == "11-point"
    wanted = voc_metrics(truth, detections, eleven_points=eleven)
    table = m.match(truth, detections, "voc07" if eleven else "voc")
    assert m.mean_ap(table)[0] == pytest.approx(wanted["AP"], abs=1e-9)
    assert m.mean_ap(table, iou=0.5)[0] == pytest.approx(wanted["AP50"], abs=1e-9)


def repeated(truth: dict, detections: list[dict], counts: list[int]) -> tuple[dict, list[dict]]:
    """Return a set in which image ``i`` occurs ``counts[i]`` times, each time under an id of its own."""
    images, annotations, results = [], [], []
    for image, count in zip(sorted(truth["images"], key=lambda i: i["id"]), counts):
        for copy in range(count):
            new = image["id"] * 10 + copy
            images.append({**image, "id": new})
            annotations += [{**a, "image_id": new} for a in truth["annotations"] if a["image_id"] == image["id"]]
            results += [{**d, "image_id": new} for d in detections if d["image_id"] == image["id"]]
    return {**truth, "images": images, "annotations": annotations}, results


def test_a_weight_is_a_number_of_copies() -> None:
    truth, detections = coco_case(COCO["cases"][0])
    rng = np.random.default_rng(0)
    detections = [{**d, "score": float(s)} for d, s in zip(detections, rng.permutation(len(detections)) + 1)]
    table = m.match(truth, detections, "coco")
    weights = rng.multinomial(len(table), np.full(len(table), 1 / len(table)), size=3)
    for row, value in zip(weights, m.mean_ap(table, weights)):
        other = m.match(*repeated(truth, detections, row.tolist()), "coco")
        assert value == pytest.approx(m.mean_ap(other)[0], abs=1e-9)


def test_saved_and_read_back(tmp_path: Path) -> None:
    truth, detections = coco_case(COCO["cases"][0])
    table = m.match(truth, detections, "coco", 0.05)
    m.save(tmp_path / "eval" / "step_4.npz", table)
    back = m.read(tmp_path / "eval" / "step_4.npz")
    assert m.mean_ap(back)[0] == m.mean_ap(table)[0]
    assert (back.ids, back.classes, back.about) == (table.ids, table.classes, table.about)
    assert back.about["score"] == 0.05
    np.testing.assert_allclose(back.iou, table.iou, atol=1e-3)
    (tmp_path / "eval" / "step_4.npz").write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(SsodError, match="cannot be read"):
        m.read(tmp_path / "eval" / "step_4.npz")


def test_nothing_found_and_nothing_to_find() -> None:
    truth = {"images": [{"id": 1}, {"id": 2}], "annotations": [], "categories": [{"id": 1, "name": "a"}]}
    assert np.isnan(m.mean_ap(m.match(truth, [], "coco"))).all()
    row = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 9, 9]}
    truth["annotations"] = [row]
    table = m.match(truth, [], "coco")
    assert m.mean_ap(table).tolist() == [0.0]
    assert np.isnan(m.mean_ap(table, np.array([[0, 2]]))).all()
    assert m.mean_ap(m.match(truth, [{**row, "score": 0.5}], "coco"))[0] == pytest.approx(1)


def test_the_hash_names_the_val_set() -> None:
    truth, _ = coco_case(COCO["cases"][0])
    other = {**truth, "annotations": truth["annotations"][1:]}
    turned = {**truth, "images": truth["images"][::-1], "annotations": truth["annotations"][::-1]}
    assert m.fingerprint(truth) == m.fingerprint(turned) != m.fingerprint(other)


def test_a_thousand_resamples_in_seconds() -> None:
    rng = np.random.default_rng(1)
    images, classes, found = 1000, 10, 30_000
    hit = rng.random((found, 1)) < np.linspace(0.4, 0.05, len(IOUS))
    table = m.Matches(
        ids=list(range(images)),
        classes=tuple(map(str, range(classes))),
        image=rng.integers(0, images, found),
        label=rng.integers(0, classes, found),
        score=np.sort(rng.random(found))[::-1],
        iou=np.zeros(found),
        right=hit,
        counted=np.ones_like(hit),
        wanted=rng.integers(1, 3, (images, classes)),
    )
    start = time.perf_counter()
    ap = m.mean_ap(table, rng.multinomial(images, np.full(images, 1 / images), size=1000))
    assert ap.shape == (1000,)
    assert 0 < ap.std() < 0.02
    assert time.perf_counter() - start < 30  # 3 s on a free core


def test_json_of_about_is_plain() -> None:
    truth, detections = coco_case(COCO["cases"][0])
    assert json.loads(json.dumps(m.match(truth, detections, "coco", 0.05).about))["metric"] == "coco"

"""AP from the table of matches is that of the evaluators; weighting an image is repeating it."""

import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ssod.diagnostics.pseudofile import Pseudo, read_pseudo, save_pseudo
from ssod.evaluation import matching as m
from ssod.evaluation.voc import IOUS, voc_metrics
from ssod.utils.errors import Exit, SsodError
from tests.evaluation.golden import COCO, VOC, coco_case, voc_case
from tests.patience import in_time


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


def test_any_damage_is_reported_in_one_line(tmp_path: Path) -> None:
    """A wrong byte anywhere, or an end that is missing: the file is read right, or its name is reported."""
    whole, pseudo = tmp_path / "whole.npz", tmp_path / "whole.pseudo.npz"
    table = m.match(*coco_case(COCO["cases"][0]), "coco", 0.05)
    m.save(whole, table)
    box = {"image_id": 7, "category_id": 0, "bbox": [0.0, 1.0, 2.0, 3.0], "score": 0.5}
    none = np.zeros(0)
    save_pseudo(pseudo, Pseudo([7], ["a"], True, [box], np.zeros((0, 2)), none, none, none > 0, none > 0))
    broken = tmp_path / "broken.npz"
    for file, read in ((whole, m.read), (pseudo, read_pseudo)):
        content, named = file.read_bytes(), 0
        damaged = [content[:n] for n in range(0, len(content), 97)]
        for i in range(0, len(content), 7):
            damaged.append(content[:i] + bytes([content[i] ^ 255]) + content[i + 1 :])
        for text in damaged:
            broken.write_bytes(text)
            try:
                read(broken)
            except SsodError as error:
                named += (error.file, error.code) == (str(broken), Exit.DATA)
        assert named > len(damaged) / 2


@pytest.mark.parametrize(("name", "read"), [("points", m.read), ("known", read_pseudo)])
def test_a_file_without_an_entry(name: str, read: Callable, tmp_path: Path) -> None:
    texts = {"ids": [], "classes": [], "about": {}}
    arrays = ("image", "label", "score", "iou", "wanted", "box", "confidence", "rows")
    flags = {name: np.zeros((0, 2), np.uint8) for name in ("right", "counted")}
    path = tmp_path / "x.npz"
    np.savez(path, text=np.array(json.dumps(texts)), **{name: np.zeros(0) for name in arrays}, **flags)
    with pytest.raises(SsodError, match=f"x.npz: text: {name}: missing; remove it"):
        read(path)


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


@pytest.mark.parametrize("mark", ["iscrowd", "difficult"])
def test_the_hash_tells_what_is_not_to_be_found(mark: str) -> None:
    row = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 9, 9]}
    truth = {"images": [{"id": 1}], "categories": [{"id": 1, "name": "a"}], "annotations": [row]}
    marked, plain = ({**truth, "annotations": [{**row, mark: flag}]} for flag in (1, 0))
    assert m.fingerprint(marked) != m.fingerprint(truth) == m.fingerprint(plain)
    # What older runs of a set without such boxes saved.
    text = json.dumps([["1"], [["1", "a", 0.0, 0.0, 9.0, 9.0]]])
    assert m.fingerprint(truth) == hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize("metric", ["voc", "voc07"])
def test_equal_scores_are_ordered_alike_whichever_rank_found_them(metric: str) -> None:
    """Several ranks hand in their images in shares; AP must not depend on how many there were."""
    rng = np.random.default_rng(0)
    truth = {"images": [{"id": i} for i in (5, 3, 9, 1)], "categories": [{"id": 1, "name": "a"}], "annotations": []}
    detections = []
    for image in (5, 3, 9, 1):
        for x in (0, 20, 40):
            truth["annotations"].append({"image_id": image, "category_id": 1, "bbox": [x, 0, 9, 9]})
            wrong = 100 * (rng.random() < 0.5)
            detections.append({"image_id": image, "category_id": 1, "bbox": [x, wrong, 9, 9], "score": x / 100})
    wanted = voc_metrics(truth, detections, eleven_points=metric == "voc07")
    for ranks in (1, 2, 3):
        shares = [d for rank in range(ranks) for d in detections if (5, 3, 9, 1).index(d["image_id"]) % ranks == rank]
        assert voc_metrics(truth, shares, eleven_points=metric == "voc07") == wanted
        assert m.mean_ap(m.match(truth, shares, metric))[0] == pytest.approx(wanted["AP"], abs=1e-12)


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
    start = time.process_time()
    ap = m.mean_ap(table, rng.multinomial(images, np.full(images, 1 / images), size=1000))
    assert ap.shape == (1000,)
    assert 0 < ap.std() < 0.02
    assert in_time(time.process_time() - start, 10)  # 3 s on a free core


def test_json_of_about_is_plain() -> None:
    truth, detections = coco_case(COCO["cases"][0])
    assert json.loads(json.dumps(m.match(truth, detections, "coco", 0.05).about))["metric"] == "coco"

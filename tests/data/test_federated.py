"""LVIS's keys: a class is open where nobody looked for it; what is found there and matches nothing is not wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from ssod.data.formats.coco import read_coco, to_coco
from ssod.data.formats.findings import Context
from ssod.data.formats.records import Labeled
from ssod.evaluation.coco import coco_metrics
from ssod.evaluation.matching import average_precision, fingerprint, match
from ssod.evaluation.voc import voc_metrics
from ssod.utils.errors import SsodError
from tests.small_sets import pictures

CAT, DOG, COW = 10, 20, 30
NEG, PARTLY = "neg_category_ids", "not_exhaustive_category_ids"
BOX = [4.0, 4.0, 30.0, 24.0]


def read(root: Path, *entries: dict, boxes: tuple[tuple[int, int], ...] = (), **keys: list[str]) -> Labeled:
    """Read a set of one entry an image; boxes are (image from 0, category)."""
    names = [f"{i}.jpg" for i in range(len(entries))]
    pictures(root / "photos", names)
    table = {
        "images": [{"id": i, "file_name": name, **more} for i, (name, more) in enumerate(zip(names, entries))],
        "annotations": [
            {"id": n, "image_id": i, "category_id": c, "bbox": BOX, "area": 720} for n, (i, c) in enumerate(boxes, 1)
        ],
        "categories": [{"id": id, "name": name} for id, name in ((CAT, "cat"), (DOG, "dog"), (COW, "cow"))],
    }
    (root / "a.json").write_text(json.dumps(table))
    return read_coco("a.json", "photos", Context(str(root), "data.labeled"), **keys)


def test_an_entry_without_a_name_has_its_address(tmp_path: Path) -> None:
    """LVIS's own files have no file_name; where COCO's images lie in a folder of their part or not, both are found."""
    address = "http://images.cocodataset.org/train2017/{}.jpg"
    for folder in ("photos", "photos/train2017"):
        pictures(tmp_path / folder, ["7.jpg", "9.jpg"])
        table = {
            "images": [{"id": i, "coco_url": address.format(i), "height": 32, "width": 48} for i in (7, 9)],
            "annotations": [{"id": 1, "image_id": 7, "category_id": CAT, "bbox": BOX, "area": 720}],
            "categories": [{"id": CAT, "name": "cat"}],
        }
        (tmp_path / "a.json").write_text(json.dumps(table))
        found = read_coco("a.json", "photos", Context(str(tmp_path), "data.labeled"))
        assert [Path(path).name for path in found.images.paths] == ["7.jpg", "9.jpg"]
        assert all((tmp_path / "photos" / path).is_file() for path in found.images.paths)
        shutil.rmtree(tmp_path / "photos")
    table["images"][0]["coco_url"] = "http://x/../passwd"
    (tmp_path / "a.json").write_text(json.dumps(table))
    found = read_coco("a.json", "photos", Context(str(tmp_path), "data.labeled"))
    assert ".." not in found.images.paths[0], "a file of another folder"


def test_what_nobody_looked_for_is_open(tmp_path: Path) -> None:
    data = read(
        tmp_path,
        {NEG: [DOG], PARTLY: []},  # a cat: complete; no dog; nobody looked for cows
        {NEG: [DOG, COW], PARTLY: [CAT]},  # more cats may be there
        {NEG: []},  # nobody looked for anything but the dog that is there
        {PARTLY: [COW]},  # without a list of absent classes the others are complete
        {},
        {"incomplete": ["dog"], NEG: [DOG, COW, CAT]},  # what either says
        boxes=((0, CAT), (1, CAT), (2, DOG)),
    )
    assert data.incomplete is not None
    open = {
        i: {name for name, is_open in zip(data.classes.names, row) if is_open} for i, row in enumerate(data.incomplete)
    }
    assert open == {0: {"cow"}, 1: {"cat"}, 2: {"cat", "cow"}, 3: {"cow"}, 4: set(), 5: {"dog"}}
    assert data.targets(1).open.tolist() == [True, False, False]
    turned = read_coco("a.json", "photos", Context(str(tmp_path)), classes=["cow", "dog", "cat"])
    assert (turned.incomplete == data.incomplete[:, ::-1]).all()
    back = to_coco(data)["images"]
    assert [row.get("incomplete") for row in back] == [["cow"], ["cat"], ["cat", "cow"], ["cow"], None, ["dog"]]


def test_a_file_without_the_keys_is_complete(tmp_path: Path) -> None:
    assert read(tmp_path, {}, {NEG: None}, boxes=((0, CAT),)).incomplete is None


@pytest.mark.parametrize(
    ("value", "words"), [(7, "integer 7"), ([DOG, 40], "integer 40"), (["dog"], "string 'dog'"), ([True], "boolean")]
)
@pytest.mark.parametrize("key", [NEG, PARTLY])
def test_what_is_no_list_of_ids_is_refused(tmp_path: Path, key: str, value: object, words: str) -> None:
    with pytest.raises(SsodError, match=rf"images\[1\]\.{key}: {words}.*, expected a list of ids"):
        read(tmp_path, {}, {key: value}, boxes=((0, CAT),))


# ---- measured by hand ----------------------------------------------------------------------------------------------


def found(*rows: tuple[int, int, float, bool]) -> list[dict]:
    """Return results (image, category, score, whether it is on the box)."""
    return [
        {"image_id": i, "category_id": c, "score": s, "bbox": BOX if on else [50.0, 40.0, 9.0, 7.0]}
        for i, c, s, on in rows
    ]


FOUND = found(
    (2, CAT, 0.9, False),  # image 2: nobody looked for cats
    (1, CAT, 0.8, False),  # image 1: more cats may be there
    (0, CAT, 0.7, False),  # image 0: cats are complete: wrong
    (0, CAT, 0.6, True),
    (3, CAT, 0.5, False),  # image 3: no cat is there: wrong
    (1, CAT, 0.4, True),
)
ENTRIES = ({NEG: [DOG]}, {NEG: [DOG], PARTLY: [CAT]}, {NEG: [DOG]}, {NEG: [CAT, DOG]})
BOXES = ((0, CAT), (1, CAT))


def truth(root: Path, *, plain: bool = False) -> dict:
    return to_coco(read(root, *([{}] * 4 if plain else ENTRIES), boxes=BOXES))


def test_ap_by_hand(tmp_path: Path) -> None:
    """Counted are wrong, right, wrong, right: precision 1/2 and 2/4 at recall 1/2 and 1, so AP is 1/2.

    If all counted, there would be 3 wrong ones before the first hit, 4 before the second: 1/4 and 2/6, and so 1/3.
    """
    ours, plain = truth(tmp_path), truth(tmp_path, plain=True)
    for table, ap in ((ours, 1 / 2), (plain, 1 / 3)):
        assert coco_metrics(table, FOUND)["AP/cat"] == pytest.approx(ap)
        assert coco_metrics(table, FOUND)["AP50"] == pytest.approx(ap)
        assert voc_metrics(table, FOUND)["AP50/cat"] == pytest.approx(ap)
        for metric in ("coco", "voc", "voc07"):
            assert average_precision(match(table, FOUND, metric))[0, 0] == pytest.approx(ap)
    assert fingerprint(ours) != fingerprint(plain)
    assert coco_metrics(ours, FOUND)["AR100"] == coco_metrics(plain, FOUND)["AR100"] == 1


def test_a_box_that_is_labelled_is_to_be_found_all_the_same(tmp_path: Path) -> None:
    """Image 1 has one more hit on the cat that is found already: it takes nothing, and is not wrong either."""
    ours = truth(tmp_path)
    missed = coco_metrics(ours, [row for row in FOUND if row["image_id"] != 1])
    assert missed["AP50"] == pytest.approx(0.5 * 51 / 101), "recall 1/2 at precision 1/2: 51 of 101 points"
    twice = found((1, CAT, 0.95, True), (1, CAT, 0.94, True), (0, CAT, 0.6, True))
    assert coco_metrics(ours, twice)["AP50"] == pytest.approx(1)
    assert coco_metrics(truth(tmp_path, plain=True), twice)["AP50"] == pytest.approx((51 + 50 * 2 / 3) / 101)


def test_small_and_large_are_judged_likewise(tmp_path: Path) -> None:
    """The box and what is wrong are small: AP of small objects is that of all."""
    ours = truth(tmp_path)
    result = coco_metrics(ours, FOUND)
    assert result["APs"] == result["AP"]
    assert np.isnan(result["APl"])

"""Whoever leaves something out says so, with a count: a walk over the table of filters.

A good set is spoilt once for each row of ``LEFT_OUT``, and ``ssod train`` and ``ssod check`` say it. ``test_filters``
looks for filters in the code that are in no table.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from ssod import build
from ssod.config import Config, load
from ssod.data.checks.visible import too_small
from ssod.data.formats.findings import Findings
from ssod.data.formats.leftout import LEFT_OUT
from ssod.data.formats.records import Classes, Images, Labeled
from ssod.run import check
from ssod.transforms.views import Pipeline
from tests import tool_exports
from tests.data.nano import Nano, picture, voc, voc_object, xml, yolo

# ---- the table -----------------------------------------------------------------------------------------------------

Spoil = Callable[[Nano], Any]


def into(*names: str) -> Spoil:
    """Put files into the folder of the unlabelled images."""

    def spoil(nano: Nano) -> None:
        for i, name in enumerate(names):
            path = nano.root / "more" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            picture(nano.root / "x.png", 50 + i)
            (nano.root / "x.png").rename(path)

    return spoil


def listed(nano: Nano) -> None:
    (nano.root / "more/list.txt").write_text(
        "# all of them\n#u5.jpg\n# u4.JPG\n" + "".join(f"u{i}.jpg\n" for i in range(4))
    )
    nano.section["unlabeled"] = {"format": "folder", "path": "more/list.txt"}


def as_yolo(change: Callable[[Path], Any]) -> Spoil:
    """Make the labelled set a YOLO folder of 12 images, and spoil that."""

    def spoil(nano: Nano) -> None:
        nano.section |= {"labeled": yolo(nano.root / "yolo", 12), "val": None, "classes": None}
        change(nano.root / "yolo")

    return spoil


def as_voc(change: Callable[[Path], Any]) -> Spoil:
    def spoil(nano: Nano) -> None:
        nano.section |= {"labeled": voc(nano.root / "voc"), "val": None}
        change(nano.root / "voc")

    return spoil


def unlabelled_voc_twice(root: Path) -> None:
    (root / "Annotations/000.xml").write_text(xml(objects=voc_object() + voc_object() + voc_object("van")))


def renamed(root: Path, name: str) -> None:
    (root / "labels/train/3.txt").rename(root / "labels/train" / name)


def links(nano: Nano) -> None:
    (nano.root / "far").mkdir()
    (nano.root / "more/far").symlink_to(nano.root / "far")
    (nano.root / "more/.hidden").symlink_to(nano.root / "far")


def index_file(nano: Nano) -> None:
    gone = nano.train["images"][0]["id"]
    nano.train["annotations"] = [row for row in nano.train["annotations"] if row["image_id"] != gone]
    (nano.root / "index.json").write_text(json.dumps({"50.0": {"1": [0, 1, 2, 3]}}))
    nano.section |= {"split": {"percent": 50, "family": "index_file", "file": "index.json"}, "unlabeled": None}


def results(nano: Nano) -> None:
    rows = [
        {"image_id": f"{name}.jpg", "category_id": 1, "bbox": [1, 1, 9, 9], "score": 0.9}
        for name in ("u0", "gone", "far")
    ]
    (nano.root / "results.json").write_text(json.dumps(rows))


def boxes(count: int, **change: Any) -> Spoil:
    """Give the first val image more boxes, no two of which are alike."""

    def spoil(nano: Nano) -> None:
        first = nano.val["annotations"][0]
        nano.val["annotations"] += [
            first | {"id": 100 + i, "bbox": [1 + i % 30, 1 + i // 30, 20, 20]} | change for i in range(count)
        ]

    return spoil


def unicode_forms(nano: Nano) -> None:
    picture(nano.root / "more" / f"{unicodedata.normalize('NFD', 'é')}.jpg", 70)
    (nano.root / "more/list.txt").write_text(f"{unicodedata.normalize('NFC', 'é')}.jpg\nu0.jpg\n")
    nano.section["unlabeled"] = {"format": "folder", "path": "more/list.txt"}


def twice(nano: Nano) -> None:
    nano.train["annotations"].append(nano.train["annotations"][0] | {"id": 900})


def second_filename(root: Path) -> None:
    picture(root / "JPEGImages/other.jpg", 80)
    (root / "Annotations/000.xml").write_text(xml(objects=voc_object() + voc_object("van"), name="other.jpg"))


def data_yaml(root: Path) -> None:
    (root / "data.yaml").write_text("names: [car, van]\ntrain: ../images/train\n")


def title(nano: Nano) -> None:
    rows = [row | {"supercategory": "vehicles"} for row in nano.train["categories"]]
    nano.train["categories"] = [{"id": 0, "name": "vehicles", "supercategory": "none"}, *rows]


def one_class_more(nano: Nano) -> None:
    as_yolo(lambda root: (root / "data.yaml").write_text("names: [car, spare, van]\n"))(nano)
    for path in (nano.root / "yolo/labels/train").iterdir():
        path.write_text(path.read_text().replace("1 0.5", "2 0.5"))
    nano.section["classes"] = ["van", "car"]


def labeled_alone(nano: Nano) -> None:
    gone = nano.train["images"][0]["id"]
    nano.train["annotations"] = [row for row in nano.train["annotations"] if row["image_id"] != gone]
    nano.section["labeled"]["which"] = "labeled"


def exported(export: str, change: Callable[[Path], Any]) -> Spoil:
    """Make the labelled set an export of a tool, and spoil that."""

    def spoil(nano: Nano) -> None:
        root = nano.root / "export"
        tool_exports.EXPORTS[export](root)
        source = {"format": "labelme", "root": str(root)}
        if export == "ls_json":
            source = {"format": "labelstudio", "ann": str(root / "project-1.json"), "images": str(root / "images")}
        nano.section |= {"labeled": source, "val": None, "classes": None}
        change(root)

    return spoil


def stray(root: Path) -> None:
    (root / "notes.json").write_text("{}")


def annotated_twice(root: Path) -> None:
    tasks = tool_exports.tasks("")
    tasks[1]["annotations"] *= 2
    (root / "project-1.json").write_text(json.dumps(tasks))


# name -> what is done, and what is said: {id: count}.
CASES: dict[str, tuple[Spoil, dict[str, int]]] = {
    "hidden folder": (into(".thumbnails/a.jpg", "@eaDir/b.png"), {"L01": 2}),
    "linked folder": (links, {"L02": 1}),
    "other endings": (into("a.gif", "b.HEIC", "c.jpg_", "d.mp4", "no_ending"), {"L03": 5}),
    "comments": (listed, {"L04": 2}),
    "label in another case": (as_yolo(lambda root: renamed(root, "3.TXT")), {"L06": 1, "L05": 1}),
    "label with the image's ending": (as_yolo(lambda root: renamed(root, "3.png.txt")), {"L05": 1, "L06": 1}),
    "label with a blank": (as_yolo(lambda root: renamed(root, "3 .txt")), {"L05": 1, "L06": 1}),
    "label of another folder": (
        as_yolo(lambda root: (root / "labels/train/sub").mkdir() or renamed(root, "sub/3.txt")),
        {"L05": 1, "L06": 1},
    ),
    "label beside the image": (
        as_yolo(lambda root: renamed(root, "../../images/train/3.txt")),
        {"L05": 1, "L06": 1},
    ),
    "image without a label": (as_yolo(lambda root: (root / "labels/train/3.txt").unlink()), {"L06": 1}),
    "image without a label in the index": (index_file, {"L08": 1}),
    "results of other images": (results, {"L09": 2}),
    "below a pixel": (boxes(1, bbox=[4, 5, 0.9, 18]), {"L10": 1}),
    "more than are looked for": (boxes(110), {"L11": 1}),
    "repeated box in COCO": (twice, {"L12": 1}),
    "repeated box in YOLO": (
        as_yolo(lambda root: (root / "labels/train/0.txt").write_text("1 0.5 0.5 0.25 0.5\n" * 3)),
        {"L12": 2},
    ),
    "repeated box in VOC": (as_voc(unlabelled_voc_twice), {"L12": 1}),
    "filename of no image": (
        as_voc(lambda root: (root / "Annotations/000.xml").write_text(xml(objects=voc_object(), name="gone.jpg"))),
        {"L13": 1},
    ),
    "filename of another image": (as_voc(second_filename), {"L14": 1}),
    "path that lies elsewhere": (as_yolo(data_yaml), {"L15": 1}),
    "other unicode form": (unicode_forms, {"L16": 1}),
    "title among the categories": (title, {"L17": 1}),
    "class without a box": (one_class_more, {"L18": 1}),
    "images without labels": (labeled_alone, {"L19": 1}),
    "JSON without shapes": (exported("labelme", stray), {"L20": 1}),
    "two annotations of a task": (exported("ls_json", annotated_twice), {"L21": 1}),
    "path on a server": (exported("ls_json", lambda root: None), {"L15": 3}),
}


def config(nano: Nano, case: str) -> Config:
    nano.config()
    tree = {
        "data": nano.section,
        "views": {
            "labeled": {"weak": []},
            "unlabeled": {"weak": [], "strong": {"start": "weak", "ops": []}},
            "val": [],
        },
        "detector": {"name": "fcos", "backbone": "tiny", "channels": 16, "levels": [3, 5]},
        "method": {"name": "mean_teacher", "burn_in": 1},
        "train": {"steps": 2, "batch": {"labeled": 1, "unlabeled": 1}, "lr": 0.001},
    }
    if "results" in case:
        tree["method"]["teacher"] = {"name": "file", "results": str(nano.root / "results.json")}
    path = nano.root / "my.yaml"
    path.write_text(yaml.safe_dump(tree))
    return load(path)


def told(out: str) -> dict[str, int]:
    """Return {id: count} of the lines that say what was left out."""
    found = {}
    for line in out.splitlines():
        rest = line.partition("[")[2]
        if rest.partition("]")[0] in LEFT_OUT:
            found[rest.partition("]")[0]] = int(rest.split(": ", 3)[2].split()[0])
    return found


def test_every_row_of_the_table_has_a_case() -> None:
    assert {id for _, said in CASES.values() for id in said} == set(LEFT_OUT)


@pytest.mark.parametrize("case", CASES)
def test_train_says_what_is_left_out(case: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    spoil, said = CASES[case]
    nano = Nano(tmp_path)
    spoil(nano)
    cfg = config(nano, case)
    build.read_data(cfg)
    assert told(capsys.readouterr().out) == said
    if "results" not in case:  # which are no part of the data section
        assert check(cfg).code == 0
        assert told(capsys.readouterr().out) == said


def test_train_says_nothing_of_a_good_set(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    build.read_data(config(Nano(tmp_path), "good"))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("part", ["labels in another case", "half beside the images"])
def test_many_label_files_without_an_image_are_refused(part: str, tmp_path: Path) -> None:
    nano = Nano(tmp_path)

    def spoil(root: Path) -> None:
        for i in range(3, 6):
            name = f"{i}.png.txt" if "case" in part else f"../../images/train/{i}.txt"
            (root / f"labels/train/{i}.txt").rename(root / "labels/train" / name)

    as_yolo(spoil)(nano)
    with pytest.raises(Exception, match=r"3 label files have no image \(of 12") as caught:
        build.read_data(config(nano, part))
    assert ("lie beside their images" in str(caught.value)) == ("beside" in part)
    assert ("nearly the name of one: '3.png.txt', '3.png'" in str(caught.value)) == ("case" in part)


def test_a_part_that_is_mostly_without_labels_is_learnt_from_by_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    nano = Nano(tmp_path)
    as_yolo(lambda root: [(root / f"labels/train/{i}.txt").unlink() for i in range(7)])(nano)
    assert len(build.read_data(config(nano, "bare")).labeled) == 5
    assert told(capsys.readouterr().out) == {"L06": 7}


def test_one_entry_an_annotation_is_refused_and_a_few_are_told(tmp_path: Path) -> None:
    nano = Nano(tmp_path)
    rows, boxes = nano.train["images"], nano.train["annotations"]
    by_id = {row["id"]: row for row in rows}
    nano.train["images"] = [by_id[box["image_id"]] | {"id": i} for i, box in enumerate(boxes)]
    nano.train["annotations"] = [box | {"image_id": i} for i, box in enumerate(boxes)]
    with pytest.raises(Exception, match=r"10 files are named by more than one image, .* by ids 0, 1; keep one entry"):
        build.read_data(config(nano, "entries"))


def test_every_kind_is_printed_once_however_many_there_are() -> None:
    findings = Findings()
    for id in range(40):
        for row in range(id + 1):
            findings.repaired(f"X{id}", "f.json", f"row {row}", "odd", "mend")
    lines = findings.kinds()
    assert [line.split("]")[0] for line in lines] == [f"repaired[X{id}" for id in range(40)]
    assert "39 more of this kind" in lines[39]
    assert "row 0" in lines[39]
    for folder in range(9):
        findings.skipped("Y", f"folder{folder}", "", "odd")
    assert findings.kinds()[-1] == "skipped[Y] in 5 other places, too"
    assert len(findings.kinds()) == 45


def test_boxes_that_no_view_shows() -> None:
    """A 4000 x 3000 picture shown 400 wide: what is 10 pixels wide becomes one."""
    corners = np.array([[0, 0, 10, 100], [0, 0, 10.5, 100], [0, 0, 100, 9], [0, 0, 30, 30]], dtype=np.float32)
    data = Labeled(
        images=Images("", ["a.jpg"], ["a"], np.array([[3000, 4000]], dtype=np.int32)),
        classes=Classes(("car",), (1,)),
        boxes=corners,
        labels=np.zeros(4, dtype=np.int64),
        crowd=np.zeros(4, dtype=bool),
        difficult=np.zeros(4, dtype=bool),
        starts=np.array([0, 4]),
    )
    views = {"weak": Pipeline.model_validate([{"resize": {"short": 300}}])}
    assert too_small(data, views).tolist() == [True, False, True, False]
    views["strong"] = Pipeline.model_validate({"start": "weak", "ops": ["flip"]})
    assert too_small(data, views).tolist() == [True, False, True, False]
    views["large"] = Pipeline.model_validate([{"resize": {"short": [300, 600]}}])
    assert too_small(data, views).tolist() == [False] * 4

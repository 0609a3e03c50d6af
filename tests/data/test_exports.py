"""What labelling tools export is read as it was drawn, box by box, from the folder that they write."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from pycocotools import mask
from pydantic import TypeAdapter

from ssod.data.formats.findings import Context
from ssod.data.formats.hulls import around, turned
from ssod.data.formats.infer import MEASURED, data_section, labeled_source
from ssod.data.formats.records import Labeled
from ssod.data.formats.registry import LabeledSource, Source, read_images, read_labeled
from ssod.utils.errors import SsodError
from tests import tool_exports as tools
from tests.tool_exports import CLASSES, EXPORTS, TRUTH, Box

LEARNT = ("trainval", "train")


def read(path: Path, splits: tuple[str, ...] = LEARNT, images: str | None = None, **kwargs: object) -> Labeled:
    """Return what init finds at a path, read."""
    source = labeled_source(str(path), "--labeled", splits, images)
    return read_labeled(TypeAdapter(LabeledSource).validate_python(source), **kwargs)


def boxes(data: Labeled) -> dict[str, list[Box]]:
    """Return {stem of an image: its classes and boxes, sorted}."""
    found = {}
    for row, path in enumerate(data.images.paths):
        rows = range(data.starts[row], data.starts[row + 1])
        names = [data.classes.names[data.labels[i]] for i in rows]
        found[Path(path).stem] = sorted((name, *data.boxes[i].tolist()) for name, i in zip(names, rows))
        assert (Path(data.images.root) / path).is_file()
    return found


def same(found: dict[str, list[Box]], truth: dict[str, list[Box]]) -> None:
    assert found.keys() == truth.keys()
    for stem, expected in truth.items():
        assert [name for name, *_ in found[stem]] == [name for name, *_ in sorted(expected)]
        a, b = ([box for _, *box in sorted(rows)] for rows in (found[stem], expected))
        np.testing.assert_allclose(np.array(a), np.array(b), atol=0.01)


@pytest.mark.parametrize("export", EXPORTS)
def test_an_export_is_read_as_it_was_drawn(export: str, tmp_path: Path) -> None:
    EXPORTS[export](tmp_path / export)
    data = read(tmp_path / export)
    assert sorted(data.classes.names) == CLASSES
    same(boxes(data), TRUTH)
    if export.startswith("rf_") and export != "rf_voc":
        same(boxes(read(tmp_path / export, MEASURED)), TRUTH)


def test_the_exports_of_real_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = Path(__file__).resolve().parents[3] / "shared"
    if not (shared / "cases/tool-exports/make.py").is_file():
        pytest.skip("../shared is not there")
    (tmp_path / "cases/tool-exports").mkdir(parents=True)
    (tmp_path / "data").symlink_to(shared / "data")
    monkeypatch.chdir(tmp_path / "cases/tool-exports")
    runpy.run_path(str(shared / "cases/tool-exports/make.py"))
    photos = str(shared / "data/bccd/JPEGImages")
    for export in sorted(
        path for path in Path().iterdir() if path.is_dir() and path.name not in ("val", "more_photos")
    ):
        data = read(export, images=photos if export.name == "ls_json" else None)
        assert len(data) == (10 if export.name == "labelme" else 60), export
        from_one = export.name.endswith("_voc")  # these are the files themselves, which count pixels from 1
        same(boxes(data), {stem: drawn(shared, stem, from_one) for stem in boxes(data)})


def drawn(shared: Path, stem: str, from_one: bool) -> list[Box]:
    tree = ElementTree.parse(shared / f"data/bccd/Annotations/{stem}.xml")
    width, height = (float(tree.findtext(f"size/{key}") or 0) for key in ("width", "height"))
    found: list[Box] = []
    for item in tree.iter("object"):
        x1, y1, x2, y2 = (float(item.findtext(f"bndbox/{key}") or 0) for key in ("xmin", "ymin", "xmax", "ymax"))
        x1, y1 = (x1 - 1, y1 - 1) if from_one and x1 != x2 and y1 != y2 else (x1, y1)
        x1, y1, x2, y2 = max(x1, 0), max(y1, 0), min(x2, width), min(y2, height)
        found += [(item.findtext("name") or "", x1, y1, x2, y2)] if x1 < x2 and y1 < y2 else []
    return found


# ---- classes ---------------------------------------------------------------------------------------------------------


def test_a_title_above_the_classes_is_no_class(tmp_path: Path) -> None:
    EXPORTS["rf_coco"](tmp_path)
    ctx = Context()
    assert read(tmp_path, ctx=ctx).classes.names == tuple(CLASSES)
    assert [(f.id, f.level, "'parts'" in f.problem) for f in ctx.findings if f.id == "L17"] == [
        ("L17", "skipped", True)
    ]
    tree = tools.coco(title=True)
    tree["annotations"][0]["category_id"] = 0  # somebody drew it: it is a class
    tools.write(tmp_path / "train/_annotations.coco.json", tree)
    assert read(tmp_path).classes.names == ("parts", *CLASSES)


@pytest.mark.parametrize("export", ["ls_coco", "ls_yolo"])
def test_classes_may_leave_out_one_that_no_box_has(export: str, tmp_path: Path) -> None:
    EXPORTS[export](tmp_path)
    if export == "ls_coco":
        tree = tools.coco("images/", 0)
        tree["categories"].insert(1, {"id": 9, "name": "spare"})
        tools.write(tmp_path / "result.json", tree)
    else:
        tools.write(tmp_path / "classes.txt", "\n".join([*CLASSES, "spare"]))
    ctx = Context()
    data = read(tmp_path, ctx=ctx, classes=["nut", "bolt", "disc"])
    assert data.classes.names == ("nut", "bolt", "disc")
    same(boxes(data), TRUTH)
    assert [f.problem for f in ctx.findings if f.id == "L18"] == ["1 classes without a box, first 'spare'"]
    with pytest.raises(SsodError, match="only in file: 'disc'"):
        read(tmp_path, classes=["nut", "bolt", "spare"])


# ---- polygons and masks ----------------------------------------------------------------------------------------------


def test_a_segmentation_without_a_box_is_read_by_its_hull(tmp_path: Path) -> None:
    EXPORTS["ls_coco"](tmp_path)
    tree = tools.coco("images/", 0)
    first, second, third, *_ = tree["annotations"]
    (x, y, w, h) = first.pop("bbox")
    first["segmentation"] = [[x, y + 3, x + w, y, x + 5, y + h], [x + 1, y + 1, x + 2, y + 2, x + 1, y + 2]]
    for row, value in ((second, None), (third, [])):
        x, y, w, h = map(int, row["bbox"])
        pixels = np.zeros((tools.HEIGHT, tools.WIDTH), dtype=np.uint8, order="F")
        pixels[y : y + h, x + w // 2] = 1
        pixels[y + 2, x : x + w] = 1
        row["segmentation"] = mask.encode(pixels)
        row["segmentation"]["counts"] = row["segmentation"]["counts"].decode()
        row["bbox"] = value
    tools.write(tmp_path / "result.json", tree)
    ctx = Context()
    same(boxes(read(tmp_path, ctx=ctx)), TRUTH)
    assert [(f.level, f.count, f.problem[:2]) for f in ctx.findings if f.id == "D21"] == [("repaired", 3, "3 ")]
    first["segmentation"] = [[1, 2, 3]]
    tools.write(tmp_path / "result.json", tree)
    with pytest.raises(SsodError, match=r"annotations\[0\]\.bbox: missing"):
        read(tmp_path)


@pytest.mark.parametrize("seed", range(5))
def test_the_box_of_run_lengths_is_that_of_their_pixels(seed: int) -> None:
    pixels = np.random.default_rng(seed).random((17, 23)) < 0.01 + 0.1 * seed
    runs = np.diff(np.flatnonzero(np.diff(np.r_[2, pixels.T.ravel().astype(int), 2]))).tolist()
    counts = [0, *runs] if pixels[0, 0] else runs
    ys, xs = np.nonzero(pixels)
    expected = (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1) if len(xs) else None
    assert around({"size": [17, 23], "counts": counts}) == expected
    packed = mask.encode(np.asfortranarray(pixels.astype(np.uint8)))["counts"].decode()
    assert around({"size": [17, 23], "counts": packed}) == expected


@pytest.mark.parametrize(
    "odd",
    [None, [], {}, 5, "x", [[]], [["1", "2", "3", "4"]], [[1, 2, 3]], [[1, 2, float("nan"), 4]], {"counts": [1, 2]}]
    + [{"size": [2, 2], "counts": c} for c in ([9, 9], [-1, 2], ["a"], [4], "", [], [1 << 70])]
    + [{"size": s, "counts": [1, 2]} for s in ([2], [0, 0], ["a", 2], [2, 2, 2], None)],
)
def test_what_is_no_mask_has_no_box(odd: object) -> None:
    assert around(odd) is None


def test_yolo_polygons_are_read_by_their_hull(tmp_path: Path) -> None:
    EXPORTS["ls_yolo"](tmp_path)
    _, x1, y1, x2, y2 = TRUTH["b"][0]
    points = [(x1, y1 + 4), (x2, y1), (x2 - 3, y2), (x1 + 2, y1 + 9)]
    text = " ".join(f"{x / tools.WIDTH!r} {y / tools.HEIGHT!r}" for x, y in points)
    tools.write(tmp_path / "labels/b.txt", f"2 {text}\n")
    same(boxes(read(tmp_path)), TRUTH)
    tools.write(tmp_path / "labels/b.txt", f"2 {text} 0.5\n")
    with pytest.raises(SsodError, match=r"b\.txt: line 1: 10 values, expected 5"):
        read(tmp_path)


def test_the_box_of_a_turned_rectangle() -> None:
    np.testing.assert_allclose(turned(10, 20, 30, 40, 90), (-30, 20, 10, 50), atol=1e-9)
    np.testing.assert_allclose(turned(10, 20, 30, 40, 0), (10, 20, 40, 60), atol=1e-9)


def test_shapes_of_label_studio_and_labelme(tmp_path: Path) -> None:
    """A turned rectangle, an ellipse, a polygon and a class in an entry of its own; a polygon and a circle."""
    EXPORTS["ls_json"](tmp_path / "ls")
    tasks = tools.tasks("https://host/data/local-files/?d=some%2Fplace/0123abcd-")
    one = {"x": 50, "y": 50, "width": 10, "height": 20, "rotation": 90, "rectanglelabels": ["nut"]}
    two = {"x": 50, "y": 50, "radiusX": 10, "radiusY": 20, "rotation": 90, "ellipselabels": ["disc"]}
    three = {"points": [[10, 10], [30, 20], [20, 40]], "closed": True, "polygonlabels": ["bolt"]}
    plain = {"x": 0, "y": 0, "width": 10, "height": 10}
    entries = [("rectanglelabels", one), ("ellipselabels", two), ("polygonlabels", three), ("rectangle", plain)]
    entries += [("labels", plain | {"labels": ["nut"]}), ("choices", {"choices": ["good"]})]
    result = [{"id": "same" if "x" in v and v["x"] == 0 else str(i), "type": t, "value": v}
              for i, (t, v) in enumerate(entries)]  # fmt: skip
    tasks[0]["annotations"] = [{"result": result, "was_cancelled": False}]
    tools.write(tmp_path / "ls/project-1.json", tasks)
    truth = [("nut", 40 - 12, 30, 40, 38), ("disc", 40 - 12, 30 - 8, 40 + 12, 30 + 8), ("bolt", 8, 6, 24, 24)]
    same(boxes(read(tmp_path / "ls")), TRUTH | {"a": [*truth, ("nut", 0, 0, 8, 6)]})
    EXPORTS["labelme"](tmp_path / "me")
    shapes = [{"label": "nut", "points": [[5, 9], [20, 5], [9, 30]], "shape_type": "polygon"}]
    shapes += [{"label": "disc", "points": [[40, 30], [43, 34]], "shape_type": "circle"}]
    tools.write(tmp_path / "me/a.json", {"shapes": shapes, "imagePath": "..\\elsewhere\\a.jpg", "imageData": "x" * 99})
    same(boxes(read(tmp_path / "me")), TRUTH | {"a": [("nut", 5, 5, 20, 30), ("disc", 35, 25, 45, 35)]})


@pytest.mark.parametrize("prefix", ["/data/local-files/?d=day%201/", "https://host:8080/day%201/", "day 1/"])
def test_images_of_label_studio_may_lie_in_folders(prefix: str, tmp_path: Path) -> None:
    tools.images(tmp_path / "photos/day 1")
    tools.write(tmp_path / "project.json", tools.tasks(prefix))
    data = read(tmp_path / "project.json", images=str(tmp_path / "photos"))
    same(boxes(data), TRUTH)
    assert data.images.paths == [f"day 1/{stem}.jpg" for stem in TRUTH]
    assert data.images.ids == [10, 11, 12]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"shapes": [{"label": "", "points": [[1, 2], [3, 4]]}]}, r"shapes\[0\]: label missing"),
        ({"shapes": [{"label": "a", "points": [[1, 2], [3, 4]], "shape_type": "line"}]}, "'line' has no box"),
        ({"shapes": [{"label": "a", "points": [[1, 2]], "shape_type": "rectangle"}]}, r"list of 1, expected pairs"),
        ({"shapes": [{"label": "a", "points": [[1, 2], [3, "4"]], "shape_type": "rectangle"}]}, r"list of 2, expected"),
        ({"shapes": [5]}, r"shapes\[0\]: label missing"),
        ({"shapes": {}}, "no list 'shapes'"),
        ({"imagePath": "b.jpg"}, r"b\.json: imagePath: belongs to 'b\.jpg', as 'a\.json' does"),
    ],
)
def test_a_labelme_file_that_is_wrong_is_one_line(change: dict[str, object], words: str, tmp_path: Path) -> None:
    EXPORTS["labelme"](tmp_path)
    source = labeled_source(str(tmp_path), "--labeled", LEARNT)
    tools.write(tmp_path / "a.json", tools.shapes("a") | change)
    with pytest.raises(SsodError, match=words) as caught:
        read_labeled(TypeAdapter(LabeledSource).validate_python(source))
    assert len(caught.value.line()) < 300


@pytest.mark.parametrize(
    ("region", "words"),
    [
        ({"type": "brushlabels", "value": {"rle": [1], "brushlabels": ["nut"]}}, "'brushlabels' has no box"),
        ({"type": "rectangle", "value": {"x": 1, "y": 1, "width": 5, "height": 5}}, "no label, expected one"),
        ({"type": "labels", "value": {"x": 1, "y": 1, "width": 5, "height": 5, "labels": ["a", "b"]}}, "2 labels"),
        (
            {"type": "labels", "value": {"x": "1", "y": 1, "width": 5, "height": 5, "labels": ["a"]}},
            "no finite numbers",
        ),
    ],
)
def test_a_region_of_label_studio_that_is_wrong_is_one_line(
    region: dict[str, object], words: str, tmp_path: Path
) -> None:
    EXPORTS["ls_json"](tmp_path)
    tasks = tools.tasks()
    tasks[1]["annotations"][0]["result"].append(region)
    tools.write(tmp_path / "project-1.json", tasks)
    with pytest.raises(SsodError, match=words) as caught:
        read(tmp_path)
    assert "project-1.json: [1].result[1]" in caught.value.line()


# ---- what is found, and what is not ----------------------------------------------------------------------------------


def test_a_yaml_of_any_name_and_parts_of_a_year(tmp_path: Path) -> None:
    tools.yolo_of_any_name(tmp_path)
    same(boxes(read(tmp_path)), TRUTH)
    tools.write(tmp_path / "my.yaml", "data: {}\ntrain: {steps: 5}\n")  # a config beside it is no set
    same(boxes(read(tmp_path)), TRUTH)
    tools.write(tmp_path / "data.yaml", f"names: {CLASSES}\n")
    assert labeled_source(str(tmp_path), "--labeled", LEARNT)["split"] == "train2017"
    assert labeled_source(str(tmp_path), "--val", MEASURED)["split"] == "val2017"


def test_of_several_jsons_that_of_the_part_is_taken(tmp_path: Path) -> None:
    for part in ("train2017", "val2017"):
        tools.images(tmp_path / part)
        tools.write(tmp_path / f"annotations/instances_{part}.json", tools.coco())
        tools.write(tmp_path / f"annotations/captions_{part}.json", {"images": [], "annotations": []})
    for splits, part in ((LEARNT, "train2017"), (MEASURED, "val2017")):
        source = labeled_source(str(tmp_path), "--labeled", splits)
        assert source["ann"].endswith(f"instances_{part}.json")
        assert source["images"] == str(tmp_path / part)
    (tmp_path / "annotations/instances_val2017.json").rename(tmp_path / "annotations/instances_b.json")
    (tmp_path / "annotations/instances_train2017.json").rename(tmp_path / "annotations/instances_a.json")
    with pytest.raises(SsodError, match=r"holds several sets: .*instances_a\.json, .*instances_b\.json"):
        labeled_source(str(tmp_path), "--labeled", LEARNT)


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        (
            "annotations.xml",
            "<?xml version='1.0'?><annotations></annotations>",
            "CVAT's own XML; export it from CVAT as",
        ),
        ("labels.csv", "a,b\n", "'labels.csv' is a table; export it as COCO JSON"),
        (
            "x.dat",
            "?",
            "holds 3 images, 1 .dat files, and no labels that are read; give a JSON of COCO or Label",
        ),
    ],
)
def test_a_refusal_names_what_was_found_and_what_is_read(file: str, text: str, words: str, tmp_path: Path) -> None:
    tools.images(tmp_path)
    (tmp_path / file).write_text(text)
    with pytest.raises(SsodError) as caught:
        labeled_source(str(tmp_path), "--labeled", LEARNT)
    assert words in caught.value.line()


def test_voc_files_may_say_that_they_are_verified(tmp_path: Path) -> None:
    EXPORTS["rf_voc"](tmp_path)
    path = tmp_path / "train/a.xml"
    path.write_text(path.read_text().replace("<annotation>", '<?xml version="1.0"?>\n<annotation verified="yes">'))
    same(boxes(read(tmp_path)), TRUTH)


def test_a_json_that_is_no_set_is_refused_by_what_it_has(tmp_path: Path) -> None:
    EXPORTS["labelme"](tmp_path)
    with pytest.raises(SsodError, match="is labelme's, of one image; name its folder: "):
        labeled_source(str(tmp_path / "a.json"), "--labeled", LEARNT)
    (tmp_path / "min.json").write_text(json.dumps([{"image": "/data/upload/1/a.jpg", "label": []}]))
    with pytest.raises(SsodError, match=r"is a list of objects with 'image'.*; choose JSON, not JSON-MIN"):
        labeled_source(str(tmp_path / "min.json"), "--labeled", LEARNT)
    (tmp_path / "odd.json").write_text('{"regions": 1}')
    with pytest.raises(SsodError, match=r"has no list 'images' \(it has 'regions'\)"):
        labeled_source(str(tmp_path / "odd.json"), "--labeled", LEARNT)


def test_a_name_that_leads_outside_is_read_by_its_end_or_refused(tmp_path: Path) -> None:
    EXPORTS["ls_coco_media"](tmp_path / "set")
    source = labeled_source(str(tmp_path / "set"), "--labeled", LEARNT)
    assert source["names"] == "last"
    with pytest.raises(SsodError, match="leaves root") as caught:
        read_labeled(TypeAdapter(LabeledSource).validate_python(source | {"names": "path"}))
    assert caught.value.code == 7
    tree = tools.coco("../up/")
    tree["images"][1]["file_name"] = "../down/a.jpg"
    tools.write(tmp_path / "set/result.json", tree)
    with pytest.raises(SsodError, match=r"'\.\./up/a\.jpg' and '\.\./down/a\.jpg' are read as one file"):
        read_labeled(TypeAdapter(LabeledSource).validate_python(source))


# ---- half-labelled sets ----------------------------------------------------------------------------------------------


def half(export: str, root: Path) -> None:
    """Write an export of which nobody labelled image ``b`` yet."""
    EXPORTS[export](root)
    if "coco" in export:
        tree = tools.coco("images/" if export == "ls_coco" else "", 0)
        tree["annotations"] = [row for row in tree["annotations"] if row["image_id"] != 1]
        tools.write(next(iter(root.rglob("*result.json")), root / "annotations/instances_default.json"), tree)
    elif export == "ls_json":
        tasks = tools.tasks()
        tasks[1]["annotations"] = [{"result": [], "was_cancelled": True}]
        tools.write(root / "project-1.json", tasks)
    else:
        next(path for path in root.rglob("b.*") if path.suffix in (".txt", ".xml", ".json")).unlink()


FILES = [
    "ls_yolo",
    "labelimg_yolo",
    "cvat_ultra",
    "rf_voc",
    "ls_voc",
    "labelme",
    "ls_json",
]  # a file or a task for each image


@pytest.mark.parametrize("export", [*FILES, "ls_coco", "cvat_coco"])
def test_the_rest_is_what_nobody_labelled(export: str, tmp_path: Path) -> None:
    half(export, tmp_path / "set")
    EXPORTS["labelme"](tmp_path / "val")
    section = data_section(str(tmp_path / "set"), "rest", str(tmp_path / "val"))
    ctx = Context(root=section.get("root", ""))
    labeled = read_labeled(TypeAdapter(LabeledSource).validate_python(section["labeled"]), ctx)
    same(boxes(labeled), {stem: TRUTH[stem] for stem in "ac"})
    rest = read_images(TypeAdapter(Source).validate_python(section["unlabeled"]), ctx)
    assert [Path(path).stem for path in rest.paths] == ["b"]
    both = read_labeled(TypeAdapter(LabeledSource).validate_python(section["labeled"] | {"which": "all"}), ctx)
    same(boxes(both), TRUTH | {"b": []})
    with pytest.raises(SsodError, match="which: bare: images without labels"):
        read_labeled(TypeAdapter(LabeledSource).validate_python(section["labeled"] | {"which": "bare"}), ctx)


def test_the_labelled_folder_itself_is_no_other_images(tmp_path: Path) -> None:
    EXPORTS["labelme"](tmp_path / "set")
    EXPORTS["ls_voc"](tmp_path / "val")
    for name in ("set", "set/../set"):
        with pytest.raises(SsodError, match="holds the labelled images themselves; name other images, or rest for"):
            data_section(str(tmp_path / "set"), str(tmp_path / name), str(tmp_path / "val"))


@pytest.mark.parametrize("export", FILES)
def test_an_image_without_a_file_is_not_taught_as_background(export: str, tmp_path: Path) -> None:
    half(export, tmp_path)
    ctx = Context()
    same(boxes(read(tmp_path, ctx=ctx)), {stem: TRUTH[stem] for stem in "ac"})
    assert [(f.id, f.count) for f in ctx.findings if f.id in ("L06", "L19")] == [("L06", 1)]


def test_an_empty_file_says_that_there_is_no_object_unless_all_have_one(tmp_path: Path) -> None:
    EXPORTS["ls_yolo"](tmp_path)
    (tmp_path / "labels/b.txt").write_text("\n")
    source = labeled_source(str(tmp_path), "--labeled", LEARNT)

    def rest(which: str) -> list[str]:
        return [Path(p).stem for p in read_images(TypeAdapter(Source).validate_python(source | {"which": which})).paths]

    same(boxes(read(tmp_path)), TRUTH | {"b": []})
    assert (rest("bare"), rest("labeled")) == (["b"], ["a", "c"])
    (tmp_path / "labels/c.txt").unlink()
    same(boxes(read(tmp_path)), {"a": TRUTH["a"], "b": []})
    assert (rest("bare"), rest("labeled")) == (["c"], ["a", "b"])
    tools.write(tmp_path / "labels/b.txt", tools.lines("b"))
    tools.write(tmp_path / "labels/c.txt", tools.lines("c"))
    with pytest.raises(SsodError, match="0 images: none of 3 is without labels"):
        rest("bare")

"""Good files give the right columns, from every format, and every repair is right."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from pydantic import TypeAdapter, ValidationError

from ssod.data.check import check
from ssod.data.coco import to_coco
from ssod.data.datasets import DataConfig, load
from ssod.data.findings import Context, Findings, Rules
from ssod.data.header import read_header, turn_boxes
from ssod.data.image import open_image
from ssod.data.records import Images, Labeled
from ssod.data.sources import LabeledSource, Source, read_images, read_labeled
from ssod.errors import Exit, SsodError
from tests.data.nano import HEIGHT, WIDTH, Nano, picture, voc, voc_object, xml, yolo

SOURCE = TypeAdapter(Source)


def read(at: Path, ctx: Context | None = None, **source: object) -> Labeled:
    return read_labeled(SOURCE.validate_python(source), ctx or Context(str(at)))


def images(at: Path, **source: object) -> Images:
    return read_images(SOURCE.validate_python(source), Context(str(at)))


COCO_SOURCE = {"format": "coco", "ann": "train.json", "images": "train"}


# ---- COCO --------------------------------------------------------------------------------------------------------


def test_coco_equals_pycocotools(tmp_path: Path) -> None:
    nano = Nano(tmp_path)
    nano.train["annotations"].reverse()  # boxes of an image need not be neighbours
    nano.config()
    data = read(tmp_path, **COCO_SOURCE)
    truth = COCO(tmp_path / "train.json")
    assert data.classes.names == ("car", "van", "bus")
    assert data.images.sizes.tolist() == [[HEIGHT, WIDTH]] * 10
    for i, id in enumerate(data.images.ids):
        rows = truth.loadAnns(truth.getAnnIds(id))
        x, y, w, h = np.array([row["bbox"] for row in rows]).T
        np.testing.assert_array_equal(data.targets(i).boxes, np.stack([x, y, x + w, y + h], 1).astype(np.float32))
        labels = [data.classes.ids[label] for label in data.targets(i).labels]
        assert labels == [row["category_id"] for row in rows]


def test_category_ids_with_gaps_zero_and_minus_one_become_contiguous(tmp_path: Path) -> None:
    nano = Nano(tmp_path)
    new = {1: 90, 2: -1, 3: 0}
    for row in nano.train["categories"]:
        row["id"] = new[row["id"]]
    for row in nano.train["annotations"]:
        row["category_id"] = new[row["category_id"]]
    nano.config()
    ctx = Context(str(tmp_path))
    data = read(tmp_path, ctx, **COCO_SOURCE)
    assert data.classes.ids == (-1, 0, 90)
    assert data.classes.names == ("van", "bus", "car")
    assert [f.id for f in ctx.findings] == ["D17"]
    by_id = {row["id"]: row["name"] for row in to_coco(data)["categories"]}
    assert by_id == {-1: "van", 0: "bus", 90: "car"}


def test_to_coco_is_what_was_read(tmp_path: Path) -> None:
    nano = Nano(tmp_path)
    nano.train["annotations"][3]["iscrowd"] = 1
    del nano.train["annotations"][4]["area"]
    nano.config()
    written = to_coco(read(tmp_path, **COCO_SOURCE))
    assert [(r["id"], r["file_name"], r["height"], r["width"]) for r in written["images"]] == [
        (r["id"], r["file_name"], HEIGHT, WIDTH) for r in nano.train["images"]
    ]
    for mine, row in zip(written["annotations"], nano.train["annotations"]):
        assert {k: mine[k] for k in ("image_id", "category_id", "bbox", "iscrowd")} == {
            k: row[k] for k in ("image_id", "category_id", "bbox", "iscrowd")
        }
        assert mine["area"] == row.get("area", 20 * 18.5)  # the mask's where the file has it
    json.dumps(written)


def test_crowds_are_ignore_regions_and_empty_images_negatives(tmp_path: Path) -> None:
    nano = Nano(tmp_path)
    nano.train["annotations"][0]["iscrowd"] = True
    nano.train["annotations"][1]["iscrowd"] = None
    nano.train["annotations"] = [r for r in nano.train["annotations"] if r["image_id"] != nano.train["images"][5]["id"]]
    nano.config()
    data = read(tmp_path, **COCO_SOURCE)
    assert data.targets(0).weight.tolist() == [0, 1]
    assert data.targets(1).weight is None
    assert len(data.targets(5)) == 0


def test_boxes_are_clipped_and_empty_ones_dropped_with_their_columns(tmp_path: Path) -> None:
    nano = Nano(tmp_path)
    rows = nano.train["annotations"]
    rows[0]["bbox"], rows[0]["category_id"] = [5, 5, 0, 9], 3
    rows[1]["bbox"], rows[1]["category_id"] = [-2, 30, 10, 30], 2
    nano.config()
    target = read(tmp_path, **COCO_SOURCE).targets(0)
    assert target.boxes.tolist() == [[0, 30, 8, HEIGHT]]
    assert target.labels.tolist() == [1]


@pytest.mark.parametrize(
    ("box_format", "box"),
    [
        ("xyxy", [16, 12, 48, 36]),
        ("xywh", [16, 12, 32, 24]),
        ("xywh_norm", [0.25, 0.25, 0.5, 0.5]),
        ("xyxy_norm", [0.25, 0.25, 0.75, 0.75]),
    ],
)
def test_every_box_format_means_the_same_box(box_format: str, box: list[float], tmp_path: Path) -> None:
    nano = Nano(tmp_path)
    for row in nano.train["annotations"]:
        row["bbox"] = box
    nano.config()
    data = read(tmp_path, **COCO_SOURCE, box_format=box_format)
    assert set(map(tuple, data.boxes.tolist())) == {(16, 12, 48, 36)}


def test_xyxy_that_is_xywh_is_noticed(tmp_path: Path) -> None:
    nano = Nano(tmp_path)
    nano.train["annotations"][2]["bbox"] = [40, 20, 10, 10]
    nano.config()
    with pytest.raises(SsodError, match="set box_format=xywh"):
        read(tmp_path, **COCO_SOURCE, box_format="xyxy")


def test_absent_sizes_are_read_from_the_files(tmp_path: Path) -> None:
    nano = Nano(tmp_path)
    for row in nano.train["images"]:
        del row["width"], row["height"]
    nano.config()
    assert read(tmp_path, **COCO_SOURCE).images.sizes.tolist() == [[HEIGHT, WIDTH]] * 10
    assert images(tmp_path, **COCO_SOURCE).sizes is None  # not worth opening a million files for


def test_a_malformed_mask_is_never_decoded(tmp_path: Path) -> None:
    nano = Nano(tmp_path)
    nano.train["annotations"][0]["segmentation"] = {"counts": "\x00\xff" * 9, "size": [-1, 1 << 40]}
    nano.config()
    assert len(read(tmp_path, **COCO_SOURCE).boxes) == 20


def test_the_class_list_orders_labels(tmp_path: Path) -> None:
    nano = Nano(tmp_path)
    nano.section["classes"] = ["bus", "car", "van"]
    data = load(nano.config())
    assert data.classes.names == ("bus", "car", "van")
    assert data.classes.ids == (3, 1, 2)
    assert data.labeled.labels[:3].tolist() == [1, 2, 0]


def test_labels_of_val_follow_the_labelled_set_by_name(tmp_path: Path) -> None:
    nano = Nano(tmp_path)
    ids = {1: 30, 2: 20, 3: 10}
    for row in nano.val["categories"]:
        row["id"] = ids[row["id"]]
    for row in nano.val["annotations"]:
        row["category_id"] = ids[row["category_id"]]
    data = load(nano.config())
    assert data.val.classes.names == data.classes.names == ("car", "van", "bus")
    assert data.val.classes.ids == (30, 20, 10)
    assert [row["category_id"] for row in to_coco(data.val)["annotations"]] == [
        row["category_id"] for row in nano.val["annotations"]
    ]


@pytest.mark.parametrize("key", ["annotations", "categories"])
def test_unlabelled_coco_needs_neither_boxes_nor_categories(key: str, tmp_path: Path) -> None:
    nano = Nano(tmp_path)
    del nano.train[key]
    nano.config()
    found = images(tmp_path, **COCO_SOURCE)
    assert len(found) == 10
    assert found.sizes.tolist() == [[HEIGHT, WIDTH]] * 10


def test_unsound_boxes_do_not_matter_in_an_unlabelled_set(tmp_path: Path) -> None:
    nano = Nano(tmp_path)
    nano.train["annotations"] = [{"bbox": "nonsense"}]
    nano.config()
    assert set(vars(images(tmp_path, **COCO_SOURCE))) == {"root", "paths", "ids", "sizes"}


# ---- EXIF --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("turn", range(1, 9))
def test_boxes_turn_with_their_image(turn: int, tmp_path: Path) -> None:
    """A white rectangle in the stored pixels is where the turned box says, once the image is opened upright."""
    pixels = np.zeros((40, 64, 3), dtype=np.uint8)
    pixels[5:15, 20:50] = 255
    exif = Image.Exif()
    exif[0x0112] = turn
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    assert read_header(str(tmp_path / "a.png")) == (40, 64, turn)
    ((x1, y1, x2, y2),) = turn_boxes(np.array([[20, 5, 50, 15]]), 40, 64, turn)
    upright = np.asarray(open_image(str(tmp_path / "a.png")))
    assert (upright[y1:y2, x1:x2] == 255).all()
    assert upright.sum() == pixels.sum()


@pytest.mark.parametrize("stated", [True, False])
def test_ignoring_exif_turns_boxes_and_sizes(stated: bool, tmp_path: Path) -> None:
    nano = Nano(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(tmp_path / "train" / nano.train["images"][0]["file_name"], 0, exif=exif)
    nano.train["annotations"][0]["bbox"] = [10, 5, 20, 8]
    if not stated:
        del nano.train["images"][0]["width"]
    nano.section["exif"] = "ignore"
    findings = Findings()
    data = load(nano.config(), findings)
    assert data.labeled.images.sizes[0].tolist() == [WIDTH, HEIGHT]
    assert data.labeled.targets(0).boxes[0].tolist() == [HEIGHT - 13, 10, HEIGHT - 5, 30]
    assert "D30" in [f.id for f in findings]
    if stated:
        nano.train["images"][0].update(width=HEIGHT, height=WIDTH)
        fixes = [f.fix for f in check(nano.config()).findings if f.level == "error"]
        assert fixes == ["set data.exif=apply if boxes refer to the upright image"]


# ---- VOC ---------------------------------------------------------------------------------------------------------


def test_voc_counts_from_one_and_keeps_difficult(tmp_path: Path) -> None:
    source = voc(tmp_path)
    objects = voc_object("van", ("1.0", " 2 ", "64", "48"), difficult=None) + voc_object("car", difficult="1")
    (tmp_path / "Annotations/000.xml").write_text(xml(objects=objects, name="no_such_file"))
    data = read(tmp_path, **source)
    assert data.classes.names == ("car", "van")
    assert data.images.ids[0] == "000"
    assert data.images.paths[0] == "000.jpg"
    assert data.targets(0).boxes.tolist() == [[0, 1, 64, 48], [4, 5, 25, 30]]
    assert data.targets(0).labels.tolist() == [1, 0]
    assert data.difficult[:2].tolist() == [False, True]
    assert [row["difficult"] for row in to_coco(data)["annotations"]][:3] == [0, 1, 0]


@pytest.mark.parametrize("size", [None, (0, 0), ("x", "")])
def test_voc_without_a_size_is_measured(size: tuple | None, tmp_path: Path) -> None:
    source = voc(tmp_path)
    (tmp_path / "Annotations/002.xml").write_text(xml(size, voc_object()))
    ctx = Context(str(tmp_path))
    assert read(tmp_path, ctx, **source).images.sizes[2].tolist() == [HEIGHT, WIDTH]
    assert [f.id for f in ctx.findings] == ["V03"]


def test_voc_lists_with_crlf_blank_lines_and_a_second_column(tmp_path: Path) -> None:
    source = voc(tmp_path)
    (tmp_path / "ImageSets/Main/train.txt").write_bytes(b"\xef\xbb\xbf001 -1\r\n\r\n 002  1 \r\n003\r\n")
    assert read(tmp_path, **source).images.ids == ["001", "002", "003"]


def test_voc_boxes_without_area_are_dropped_or_refused(tmp_path: Path) -> None:
    source = voc(tmp_path)
    (tmp_path / "Annotations/000.xml").write_text(xml(objects=voc_object() + voc_object(box=(7, 5, 7, 20))))
    ctx = Context(str(tmp_path))
    assert len(read(tmp_path, ctx, **source).targets(0)) == 1
    assert [f.id for f in ctx.findings] == ["D23"]
    with pytest.raises(SsodError, match="zero-area"):
        read(tmp_path, Context(str(tmp_path), rules=Rules(strict=True)), **source)


def test_voc_images_are_found_whatever_their_suffix(tmp_path: Path) -> None:
    source = voc(tmp_path)
    (tmp_path / "JPEGImages/003.jpg").rename(tmp_path / "JPEGImages/003.PNG")
    assert read(tmp_path, **source).images.paths[3] == "003.PNG"


def test_unlabelled_voc_opens_no_annotation(tmp_path: Path) -> None:
    source = voc(tmp_path)
    for path in (tmp_path / "Annotations").iterdir():
        path.write_text("<broken")
    assert images(tmp_path, **source).ids == [f"{i:03d}" for i in range(6)]


def test_a_class_only_val_has_is_an_error_and_one_it_lacks_is_none(tmp_path: Path) -> None:
    train, val = voc(tmp_path / "a"), voc(tmp_path / "b")
    for i in range(6):
        (tmp_path / f"b/Annotations/{i:03d}.xml").write_text(xml(objects=voc_object("van")))
    data = load(DataConfig.model_validate({"labeled": train, "val": val}))
    assert set(data.val.labels.tolist()) == {1}
    assert data.val.classes == data.classes
    (tmp_path / "b/Annotations/000.xml").write_text(xml(objects=voc_object("tram")))
    with pytest.raises(SsodError, match="categories differ: only in val: 'tram'"):
        load(DataConfig.model_validate({"labeled": train, "val": val}))


# ---- YOLO --------------------------------------------------------------------------------------------------------


def test_yolo(tmp_path: Path) -> None:
    source = yolo(tmp_path)
    data = read(tmp_path, **source)
    assert data.classes.names == ("car", "van")
    assert data.images.paths == [f"{i}.png" for i in range(5)]
    assert data.targets(0).boxes.tolist() == [[24, 12, 40, 36]]
    assert data.targets(0).labels.tolist() == [1]
    assert len(data.targets(4)) == 0
    ctx = Context(str(tmp_path))
    read(tmp_path, ctx, **source)
    assert ctx.findings.lines() == []
    assert images(tmp_path, **source).ids == [str(i) for i in range(5)]


def test_yolo_with_the_split_outside_and_names_by_number(tmp_path: Path) -> None:
    source = yolo(tmp_path)
    (tmp_path / "train").mkdir()
    (tmp_path / "images/train").rename(tmp_path / "train/images")
    (tmp_path / "labels/train").rename(tmp_path / "train/labels")
    (tmp_path / "data.yaml").write_text("names: {1: van, 0: car}\n")
    data = read(tmp_path, **source)
    assert data.classes.names == ("car", "van")
    assert len(data.boxes) == 4


# ---- folders, globs, lists ---------------------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("b.jpg", "a/z.PNG", "a/b.jpg", "a/c/d.tif"):
        picture(tmp_path / "set" / name, 1)
    (tmp_path / "set/notes.md").write_text("no image")
    return tmp_path


def test_a_folder_is_searched_recursively_in_a_fixed_order(tree: Path) -> None:
    found = images(tree, format="folder", path="set")
    assert found.paths == ["a/b.jpg", "a/c/d.tif", "a/z.PNG", "b.jpg"]
    assert found.ids == found.paths
    assert found.sizes is None


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [("set/*.jpg", ["b.jpg"]), ("set/a/*", ["b.jpg", "z.PNG"]), ("set/**/*.jpg", ["a/b.jpg", "b.jpg"])],
)
def test_a_glob(pattern: str, expected: list[str], tree: Path) -> None:
    assert images(tree, format="folder", path=pattern).paths == expected


def test_a_list_keeps_its_order_and_looks_nothing_up(tree: Path) -> None:
    text = f"# mine\r\n\r\n./b.jpg\r\nnot/there.jpg\r\n{tree}/set/a/b.jpg\r\nb.jpg\r\n"
    (tree / "set/list.txt").write_text(text, newline="")
    source = SOURCE.validate_python({"format": "folder", "path": "set/list.txt"})
    ctx = Context(str(tree))
    assert read_images(source, ctx).paths == ["b.jpg", "not/there.jpg", "a/b.jpg"]
    assert [f.problem for f in ctx.findings] == ["1 repeated lines"]


def test_a_list_may_lie_elsewhere(tree: Path) -> None:
    (tree / "list.txt").write_text("a/b.jpg\n")
    found = images(tree, format="folder", path="list.txt", images="set")
    assert (found.root, found.paths) == (str(tree / "set"), ["a/b.jpg"])


@pytest.mark.parametrize(
    ("path", "make", "code", "words"),
    [
        ("gone", None, Exit.DATA, "not found"),
        ("sett", None, Exit.DATA, "nearest match 'set'"),
        ("l.txt", "/etc/passwd\n", Exit.UNSAFE, "absolute path"),
        ("l.txt", "../x.jpg\n", Exit.UNSAFE, "leaves root"),
        ("l.txt", "# nothing\n", Exit.DATA, "0 images"),
        ("l.csv", "a.jpg\n", Exit.DATA, "neither a folder nor a .txt list"),
        ("set/*.gif", None, Exit.DATA, "0 images"),
    ],
)
def test_what_is_wrong_with_a_folder_source(path: str, make: str | None, code: Exit, words: str, tree: Path) -> None:
    if make is not None:
        (tree / path).write_text(make)
    with pytest.raises(SsodError) as caught:
        images(tree, format="folder", path=path)
    assert caught.value.code == code
    assert words in caught.value.line()


def unlabelled_list(root: Path, images: int, gone: int) -> DataConfig:
    """A good set whose unlabelled list names ``images`` files, the first ``gone`` of which are not there."""
    nano = Nano(root)
    for i in range(gone, images):
        picture(root / "more" / f"w{i}.jpg", 1000 + i, size=(16, 16))
    (root / "more/list.txt").write_text("".join(f"w{i}.jpg\n" for i in range(images)))
    nano.section["unlabeled"] = {"format": "folder", "path": "more/list.txt"}
    return nano.config()


def test_a_few_missing_unlabelled_images_are_skipped(tmp_path: Path) -> None:
    cfg = unlabelled_list(tmp_path, images=30, gone=3)
    for run in (lambda findings: load(cfg, findings), lambda findings: findings.extend(check(cfg).findings)):
        findings = Findings()
        run(findings)
        assert [(f.level, f.id, f.count) for f in findings] == [("skipped", "I01", 3)]
        assert "'w0.jpg': not found" in findings.lines()[0]


def test_many_missing_unlabelled_images_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(SsodError, match=r"4 of 30 images not found, first 'w0.jpg'") as caught:
        load(unlabelled_list(tmp_path, images=30, gone=4))
    assert caught.value.code == Exit.DATA


def test_an_unreadable_unlabelled_image_is_skipped_and_a_link_out_is_not(tmp_path: Path) -> None:
    cfg = unlabelled_list(tmp_path / "data", images=30, gone=0)
    (tmp_path / "data/more/w5.jpg").write_text("hello")
    report = check(cfg)
    assert [(f.level, f.id) for f in report.findings] == [("skipped", "I04")]
    assert report.code == Exit.OK
    (tmp_path / "data/more/w6.jpg").rename(tmp_path / "outside.jpg")
    (tmp_path / "data/more/w6.jpg").symlink_to(tmp_path / "outside.jpg")
    assert check(cfg).code == Exit.UNSAFE
    with pytest.raises(SsodError, match="resolves outside root"):
        load(cfg)
    assert load(cfg.model_copy(update={"allow_symlinks": True})).unlabeled is not None


# ---- the section -------------------------------------------------------------------------------------------------


def test_a_folder_cannot_be_labelled() -> None:
    with pytest.raises(ValidationError, match="format"):
        TypeAdapter(LabeledSource).validate_python({"format": "folder", "path": "x"})


def test_the_data_root_comes_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Nano(tmp_path).config()
    monkeypatch.setenv("SSOD_DATASETS", str(tmp_path))
    assert len(load(DataConfig.model_validate({"labeled": COCO_SOURCE})).labeled) == 10
    assert len(read_labeled(SOURCE.validate_python(COCO_SOURCE))) == 10
    monkeypatch.delenv("SSOD_DATASETS")
    assert DataConfig.model_validate({"labeled": COCO_SOURCE}).root == "datasets"


@pytest.mark.parametrize("classes", [[], [""], ["a", "a"], [False]])
def test_a_class_list_needs_distinct_names(classes: list) -> None:
    with pytest.raises(ValidationError):
        DataConfig.model_validate({"labeled": COCO_SOURCE, "classes": classes})


def test_the_fingerprint_changes_with_any_annotation_and_not_with_the_folder(tmp_path: Path) -> None:
    first = load(Nano(tmp_path / "a").config()).fingerprint
    assert load(Nano(tmp_path / "b").config()).fingerprint == first
    for i, (path, value) in enumerate(
        [
            (("train", "annotations", 0, "bbox"), [4, 5, 20, 19]),
            (("val", "annotations", 7, "category_id"), 1),
            (("train", "annotations", 1, "iscrowd"), 1),
            (("train", "images", 0, "id"), 5),
        ]
    ):
        nano = Nano(tmp_path / str(i))
        at = getattr(nano, path[0])
        if path[-1] == "id":
            for row in at["annotations"][:2]:
                row["image_id"] = value
        at[path[1]][path[2]][path[3]] = value
        assert load(nano.config()).fingerprint != first
    more = Nano(tmp_path / "more")
    picture(tmp_path / "more/more/u7.jpg", 9)
    assert load(more.config()).fingerprint != first

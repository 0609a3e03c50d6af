"""Good COCO files give the right columns, every repair is right, and so are EXIF turns and the config section."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngImageFile
from pycocotools.coco import COCO
from pydantic import TypeAdapter, ValidationError

from ssod.data.datasets import DataConfig, load
from ssod.data.formats.coco import to_coco
from ssod.data.formats.findings import Context, Findings
from ssod.data.formats.header import read_header, turn_boxes
from ssod.data.formats.image import open_image
from ssod.data.formats.records import Images, Labeled
from ssod.data.formats.registry import LabeledSource, Source, read_images, read_labeled
from ssod.utils.errors import SsodError
from tests.data.nano import HEIGHT, WIDTH, Nano, picture

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
    rows[1]["bbox"], rows[1]["category_id"] = [-2, 30, 10, 20], 2
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
        ("cxcywh", [32, 24, 32, 24]),
        ("cxcywh_norm", [0.5, 0.5, 0.5, 0.5]),
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
    with pytest.raises(SsodError, match=r"set data\.box_format=xywh"):
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


@pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
@pytest.mark.parametrize("turn", range(1, 9))
def test_boxes_turn_with_their_image(turn: int, suffix: str, tmp_path: Path) -> None:
    """A white rectangle in the stored pixels is where the turned box says, once the image is opened upright."""
    pixels = np.zeros((40, 64, 3), dtype=np.uint8)
    pixels[5:15, 20:50] = 255
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(pixels).save(path, exif=exif(turn), **({"lossless": True} if suffix == "webp" else {}))
    assert read_header(str(path)) == (40, 64, turn)
    ((x1, y1, x2, y2),) = turn_boxes(np.array([[20, 5, 50, 15]]), 40, 64, turn)
    upright = np.asarray(open_image(str(path)))
    assert (upright[y1:y2, x1:x2] == 255).all()
    assert upright.sum() == pixels.sum()


def exif(turn: int) -> Image.Exif:
    block = Image.Exif()
    block[0x0112] = turn
    return block


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


XMP = b'XML:com.adobe.xmp\0\0\0\0\0<x:xmpmeta><rdf:Description tiff:Orientation="8"/></x:xmpmeta>'
EXIF_6 = exif(6).tobytes()[6:]  # without "Exif", two zero bytes
NO_CHUNK = chunk(b"tEXt", b"Comment\0none")


@pytest.mark.parametrize(
    ("before", "behind", "turn"),
    [
        (b"", b"", 1),
        (NO_CHUNK, b"", 1),
        (chunk(b"eXIf", EXIF_6), b"", 6),
        (b"", chunk(b"eXIf", EXIF_6), 6),
        (b"", NO_CHUNK + chunk(b"iTXt", XMP), 8),
        (chunk(b"iTXt", XMP), chunk(b"eXIf", EXIF_6), 6),
        (b"", chunk(b"eXIf", b"garbage"), 1),
    ],
    ids=["neither", "comment", "exif first", "exif last", "xmp last", "xmp first and exif last", "broken exif"],
)
def test_a_png_is_turned_as_its_header_says_and_no_pixel_is_decoded(
    before: bytes, behind: bytes, turn: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.png"
    picture(path, 0)
    start, pixels, end = path.read_bytes()[:33], path.read_bytes()[33:-12], path.read_bytes()[-12:]
    path.write_bytes(start + before + pixels + behind + end)
    assert open_image(str(path)).size == ((HEIGHT, WIDTH) if turn >= 5 else (WIDTH, HEIGHT))
    decoded: list[PngImageFile] = []
    monkeypatch.setattr(PngImageFile, "load_prepare", lambda image: decoded.append(image))
    assert read_header(str(path)) == (HEIGHT, WIDTH, turn)
    assert not decoded


def test_the_second_picture_of_an_animated_png_does_not_turn_it(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    frames = [Image.new("RGB", (WIDTH, HEIGHT), color) for color in ("red", "blue")]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    path.write_bytes(path.read_bytes()[:-12] + chunk(b"eXIf", EXIF_6) + path.read_bytes()[-12:])
    assert open_image(str(path)).size == (WIDTH, HEIGHT)
    assert read_header(str(path)) == (HEIGHT, WIDTH, 1)


@pytest.mark.parametrize("stated", [True, False])
def test_ignoring_exif_turns_boxes_and_sizes(stated: bool, tmp_path: Path) -> None:
    nano = Nano(tmp_path)
    picture(tmp_path / "train" / nano.train["images"][0]["file_name"], 0, exif=exif(6))
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
        # The size is that of the upright image, and the box still of the stored pixels, as the key says.
        nano.train["images"][0].update(width=HEIGHT, height=WIDTH)
        findings = Findings()
        again = load(nano.config(), findings)
        assert again.labeled.images.sizes[0].tolist() == [WIDTH, HEIGHT]
        assert again.labeled.targets(0).boxes[0].tolist() == data.labeled.targets(0).boxes[0].tolist()
        assert any("sizes of 1 images" in f.problem for f in findings)


# ---- the section -------------------------------------------------------------------------------------------------


def test_a_folder_cannot_be_labelled() -> None:
    with pytest.raises(ValidationError, match="format"):
        TypeAdapter(LabeledSource).validate_python({"format": "folder", "path": "x"})


@pytest.mark.parametrize(("path", "fits"), [("lists/some.TXT", True), ("s3://b/a.txt", True), ("frames/", False)])
def test_the_folder_of_a_list_belongs_to_a_list(path: str, fits: bool) -> None:
    section = {"format": "folder", "path": path, "images": "s3://bucket/photos"}
    if fits:
        assert TypeAdapter(Source).validate_python(section).images == "s3://bucket/photos"
        return
    with pytest.raises(ValidationError, match=r"where the lines of a \.txt list lie"):
        TypeAdapter(Source).validate_python(section)


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

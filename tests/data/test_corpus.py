"""The table of bad inputs, one case a row: exactly one finding, with the right id, place, words and exit code."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ssod.commands.check import check
from ssod.data.datasets import load
from ssod.data.formats.findings import Findings
from ssod.utils.errors import Exit, SsodError
from tests.data.nano import HEIGHT, WIDTH, Nano, picture
from tests.patience import in_time

Spoil = Callable[[Nano], None]


@dataclass
class Case:
    """One row: what is spoilt, and what must be said about it.

    Attributes:
        field: part of the finding's field.
        words: parts of its line.
        level: ``error``, ``repaired`` or ``warning``.
        only_check: whether only ``check`` looks for it, because it decodes images and compares their contents.
        everywhere: whether the same is found in several sets or images.
    """

    id: str
    spoil: Spoil
    field: str
    words: tuple[str, ...]
    code: Exit = Exit.DATA
    level: str = "error"
    only_check: bool = False
    everywhere: bool = False


def put(*path: Any, to: Any) -> Spoil:
    """Set one value of the training JSON."""

    def spoil(nano: Nano) -> None:
        at = nano.train
        for key in path[:-1]:
            at = at[key]
        at[path[-1]] = to

    return spoil


def drop(*path: Any) -> Spoil:
    """Remove one key of the training JSON."""

    def spoil(nano: Nano) -> None:
        at = nano.train
        for key in path[:-1]:
            at = at[key]
        del at[path[-1]]

    return spoil


def raw(make: Callable[[str], bytes]) -> Spoil:
    """Write other bytes instead of the training JSON."""

    def spoil(nano: Nano) -> None:
        nano.raw = make(json.dumps(nano.train))

    return spoil


def each(change: Callable[[dict], Any], table: str = "annotations") -> Spoil:
    """Change every row of a table."""

    def spoil(nano: Nano) -> None:
        for row in nano.train[table]:
            change(row)

    return spoil


def section(**changes: Any) -> Spoil:
    """Change the config."""
    return lambda nano: nano.section.update(changes)


def both(*spoils: Spoil) -> Spoil:
    """Do one after the other."""

    def spoil(nano: Nano) -> None:
        for one in spoils:
            one(nano)

    return spoil


def box(row: int, *values: Any) -> Spoil:
    return put("annotations", row, "bbox", to=list(values))


def without_mask(spoil: Spoil) -> Spoil:
    """Take the mask of the same annotation away, too: it would give a box."""

    def both(nano: Nano) -> None:
        spoil(nano)
        nano.train["annotations"][8]["segmentation"] = []

    return both


def name(value: str) -> Spoil:
    return put("images", 0, "file_name", to=value)


def absent(nano: Nano) -> None:
    nano.raw = b"absent"
    (nano.root / "train2.json").write_text("{}")


def first_image(nano: Nano) -> Path:
    return nano.root / "train" / nano.train["images"][0]["file_name"]


def crop_bytes(nano: Nano) -> None:
    path = first_image(nano)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def link_out(nano: Nano) -> None:
    outside = nano.root.parent / "outside.jpg"
    picture(outside, 1)
    first_image(nano).unlink()
    first_image(nano).symlink_to(outside)


def replace_by(make: Callable[[Path], None]) -> Spoil:
    def spoil(nano: Nano) -> None:
        path = first_image(nano)
        path.unlink()
        make(path)

    return spoil


def copy_into(folder: str, as_name: str) -> Spoil:
    """Put the bytes of the first labelled image into another set under another name."""
    return lambda nano: (nano.root / folder / as_name).write_bytes(first_image(nano).read_bytes()) and None


def listed(name: str) -> Spoil:
    """Write a list of a single image."""
    return lambda nano: (nano.root / "list.txt").write_text(f"{name}\n") and None


def rotated(nano: Nano) -> None:
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 6
    picture(first_image(nano), 0, exif=exif)


def large(nano: Nano) -> None:
    picture(first_image(nano), 0, size=(4 * WIDTH, HEIGHT))
    nano.train["images"][0]["width"] = 4 * WIDTH


def twice(key: str, table: str, a: int, b: int) -> Spoil:
    """Give row ``b`` the value of row ``a``."""

    def spoil(nano: Nano) -> None:
        nano.train[table][b][key] = nano.train[table][a][key]

    return spoil


def many_boxes(nano: Nano) -> None:
    last = len(nano.train["annotations"])
    for i in range(1000):
        nano.train["annotations"].append({**nano.train["annotations"][4], "id": last + i + 1})


def twin_key(text: str) -> bytes:
    return text.replace('"images": [{"id":', '"images": [{"id": 1, "id":', 1).encode()


BAD_BOX = "annotations[8].bbox"
CASES = [
    Case("D01", absent, "data.labeled.ann", ("not found", "nearest match 'train2.json'")),
    Case("D02", raw(lambda text: b""), "data.labeled.ann", ("empty file",)),
    Case(
        "D03", raw(lambda text: text[: len(text) // 2].encode()), "ann", ("invalid JSON at line 1 col", "end of file")
    ),
    Case("D03", raw(lambda text: text.replace(":", ";", 1).encode()), "ann", ("invalid JSON at line 1 col",)),
    Case("D04", raw(lambda text: b"<html><body>404</body></html>"), "ann", ("not JSON", "HTML")),
    Case("D04", raw(lambda text: b"version https://git-lfs.github.com/spec/v1\noid"), "ann", ("LFS", "git lfs pull")),
    Case("D05", raw(lambda text: text.encode("utf-16")), "ann", ("UTF-16", "UTF-8")),
    Case("D05", raw(lambda text: text.encode("utf-16-le")), "ann", ("UTF-16", "UTF-8")),
    Case("D05", raw(lambda text: text.encode() + b"\xff"), "ann", ("not UTF-8: byte 0xff",)),
    Case("D05", raw(lambda text: text.encode("utf-8-sig")), "ann", ("byte-order mark",), level="repaired"),
    Case("D06", raw(lambda text: b'[{"image_id": 1, "score": 0.5}]'), "ann", ("COCO results list", "annotations")),
    Case("D06", raw(lambda text: b"3"), "ann", ("top level is integer",)),
    Case("D07", drop("categories"), "categories", ("key 'categories' missing", "labelled sets need it")),
    Case("D07", drop("images"), "images", ("key 'images' missing",)),
    Case("D07", drop("annotations"), "annotations", ("key 'annotations' missing",)),
    Case("D07", put("images", to={}), "images", ("object, expected a list",)),
    Case("D07", put("images", 3, to=5), "images[3]", ("integer, expected an object",)),
    Case("D08", put("images", to=[]), "images", ("0 images",)),
    Case("D09", put("categories", to=[]), "categories", ("0 categories",)),
    Case("D10", raw(lambda text: b"[" * 200_000), "ann", ("nesting deeper than 100 at byte 100",)),
    Case("D11", put("images", 3, "id", to=1 << 70), "images[3].id", ("integer out of range", "2^63")),
    Case(
        "D11",
        raw(lambda text: text.replace('"images": [{"id": ', '"images": [{"id": ' + "9" * 5000, 1).encode()),
        "images[0].id",
        ("integer out of range",),
    ),
    Case("D12", box(8, float("nan"), 5, 20, 18), f"{BAD_BOX}[0]", ("nan", "drop or fix")),
    Case("D12", box(8, 5, 5, float("inf"), 18), f"{BAD_BOX}[2]", ("inf",)),
    Case("D12", box(8, 5, 5, 10**400, 18), f"{BAD_BOX}[2]", ("1000000",)),
    Case("D13", raw(twin_key), "images[0]", ("duplicate key 'id' (1, ",)),
    Case("D14", twice("id", "images", 3, 9), "images", ("used 2×", "(rows 3, 9)", "unique")),
    Case("D15", twice("id", "annotations", 3, 9), "annotations", ("1 ids repeated, first 4",)),
    Case("D16", put("categories", 2, "name", to="car"), "categories", ("name 'car' has ids 1 and 3", "merge")),
    Case("D16", put("categories", 2, "id", to=1), "categories", ("id 1 is 'car' and 'bus'",)),
    Case("D16", drop("categories", 2, "name"), "categories[2].name", ("missing",)),
    Case("D18", put("categories", 2, "id", to="3"), "categories[2].id", ("string '3', expected integer",)),
    Case("D18", put("images", 2, "id", to=True), "images[2].id", ("boolean True, expected integer",)),
    Case("D18", drop("images", 2, "id"), "images[2].id", ("missing",)),
    Case(
        "D19",
        put("annotations", 5, "category_id", to=91),
        "annotations[5].category_id",
        ("91 not in categories {1..3}",),
    ),
    Case("D20", put("annotations", 5, "image_id", to=777), "annotations[5].image_id", ("777 has no image; 1 such",)),
    Case("D20", each(lambda row: row.update(image_id=777)), "annotations[0].image_id", ("777 has no image; 20 such",)),
    Case("D21", without_mask(drop("annotations", 8, "bbox")), BAD_BOX, ("missing", "[x, y, width, height]")),
    Case("D21", without_mask(put("annotations", 8, "bbox", to=None)), BAD_BOX, ("missing",)),
    Case("D21", without_mask(box(8)), BAD_BOX, ("missing",)),
    Case("D22", box(8, 1, 2, 3), BAD_BOX, ("3 values, expected 4 numbers",)),
    Case("D22", box(8, 1, 2, 3, 4, 5), BAD_BOX, ("5 values, expected 4 numbers",)),
    Case("D22", box(8, 1, "2", 3, 4), f"{BAD_BOX}[1]", ("string '2', expected 4 numbers",)),
    Case("D22", put("annotations", 8, "bbox", to="1,2,3,4"), BAD_BOX, ("string, expected a list",)),
    Case("D23", box(8, 5, 5, 0, 9), BAD_BOX, ("dropped 1 zero-area boxes, first annotations[8]",), level="repaired"),
    Case("D23", both(box(8, 5, 5, 0, 9), section(strict=True)), BAD_BOX, ("1 zero-area boxes", "strict")),
    Case("D24", box(8, 50, 5, -12, 9), BAD_BOX, ("width -12", "[x1,y1,x2,y2]? set data.labeled.box_format=xyxy")),
    Case(
        "D25",
        each(lambda row: row.update(bbox=[30, 20, 60, 44])),
        "annotations[].bbox",
        ("20 of 20 boxes leave the image as xywh", "set data.labeled.box_format=xyxy"),
    ),
    Case("D26", each(lambda row: row.update(bbox=[0.1, 0.2, 0.3, 0.4])), "annotations[].bbox", ("normalised to 0..1",)),
    Case("D27", box(8, 45, 5, 22.2, 18), "data.labeled", ("clipped 1 boxes", "max 3.2 px"), level="repaired"),
    Case("D27", box(8, 45, 5, 40, 18), BAD_BOX, ("leaves image 64×48 by 21 px", "set data.max_clip=0.4")),
    Case("D28", box(8, 70, 5, 10, 9), BAD_BOX, (f"outside image {WIDTH}×{HEIGHT}", "remove")),
    Case("D28", box(8, 0, 0, 1e30, 9), BAD_BOX, ("outside image",)),
    Case("D28", box(8, 1e30, 0, 0, 9), BAD_BOX, ("outside image",)),
    Case(
        "D29", each(lambda row: row.pop("width"), "images"), "data.labeled", ("10 image sizes read",), level="repaired"
    ),
    Case("D29", put("images", 4, "height", to=0), "data.labeled", ("1 image sizes read",), level="repaired"),
    Case("D29", put("images", 4, "height", to="48"), "images[4].height", ("string '48', expected pixels",)),
    Case("D29", put("images", 4, "width", to=-5), "images[4].width", ("integer -5, expected pixels",)),
    Case(
        "D30",
        put("images", 4, "width", to=80),
        "images[4]",
        (f"says 80×{HEIGHT}, file is {WIDTH}×{HEIGHT}",),
    ),
    Case("D30", lambda nano: nano.val["images"][2].update(height=80), "images[2]", ("says 64×80", "use the image")),
    Case("D30", rotated, "images[0]", ("EXIF orientation 6", "exif=ignore")),
    Case(
        "D31",
        each(lambda row: row.update(iscrowd=1) if row["id"] < 3 else None),
        "data.labeled",
        ("1 images have crowd boxes only", "ignore"),
        level="repaired",
    ),
    Case("D32", put("annotations", 2, "iscrowd", to=2), "annotations[2].iscrowd", ("2, expected 0 or 1",)),
    Case("D33", each(lambda row: row.update(area=0)), "data.labeled", ("20 areas that cannot be",), level="repaired"),
    Case("D33", put("annotations", 8, "area", to=1.0), "data.labeled", ("1 areas that",), level="repaired"),
    Case("D33", put("annotations", 8, "area", to=9999), "data.labeled", ("1 areas that",), level="repaired"),
    Case(
        "D34",
        each(lambda row: row.update(category_id=1) if row["category_id"] == 2 else None),
        "data.labeled",
        ("'van' has 0 labelled boxes",),
        level="warning",
    ),
    Case("D35", put("annotations", to=[]), "data.labeled", ("no boxes at all", "data.unlabeled")),
    Case(
        "D36",
        copy_into("more", "u9.jpg"),
        "data.unlabeled",
        ("/more: ", "1 images are labelled and unlabelled", "u9.jpg", "move them elsewhere, or list the others"),
        level="warning",
    ),
    Case("D36", both(copy_into("more", "u9.jpg"), section(strict=True)), "data.unlabeled", ("1 images are",)),
    Case(
        "D36",
        section(unlabeled={"format": "folder", "path": "train"}),
        "data.unlabeled",
        ("/train: ", "10 images", "or list the others in a .txt file and name that in data.unlabeled.path"),
        level="warning",
    ),
    Case(
        "D36",
        section(unlabeled={"format": "folder", "path": "val/*.jpg"}),
        "data.unlabeled",
        ("/val/*.jpg: ", "unlabelled and in val", "or list the others in a .txt file"),
        level="warning",
    ),
    Case(
        "D36",
        both(listed("train/a0.jpg"), section(unlabeled={"format": "folder", "path": "list.txt"})),
        "data.unlabeled",
        ("/list.txt: ", "1 images are labelled and unlabelled", "remove their lines"),
        level="warning",
    ),
    Case(
        "D36",
        section(unlabeled={"format": "coco", "ann": "val.json", "images": "val"}),
        "data.unlabeled",
        ("/val.json: ", "unlabelled and in val", "remove them from its 'images'"),
        level="warning",
    ),
    Case("D36", twice("file_name", "images", 3, 9), "images", ("1 files are named by more than one",), level="warning"),
    Case("D37", copy_into("val", "v0.jpg"), "data.val", ("1 images are in train and val", "v0.jpg")),
    Case(
        "D37",
        section(val={"format": "coco", "ann": "train.json", "images": "train"}),
        "data.val",
        ("10 images are in train and val",),
    ),
    Case(
        "D38", section(split={"percent": 1}, unlabeled=None), "data.split.percent", ("1 % of 10 = 0 images", "use ≥ 10")
    ),
    Case("D39", section(unlabeled={"format": "folder", "path": "empty"}), "data.unlabeled", ("0 images",)),
    Case("D39", section(split={"percent": 100}, unlabeled=None), "data.unlabeled", ("0 images",)),
    Case("D40", lambda nano: nano.val["categories"][1].update(name="lorry"), "categories", ("only in val: 'lorry'",)),
    Case("D40", section(classes=["car", "van", "tram"]), "categories", ("only in file: 'bus'",), everywhere=True),
    Case(
        "D42", many_boxes, "images[2]", ("1,002 boxes > max_boxes_per_image 1000", "set data.max_boxes_per_image=1002")
    ),
    Case("D43", put("images", 2, "file_name", to=""), "images[2].file_name", ("empty",)),
    Case("D43", drop("images", 2, "file_name"), "images[2].file_name", ("missing",)),
    Case("D43", put("images", 2, "file_name", to=5), "images[2].file_name", ("integer 5, expected string",)),
    Case("S01", name("../../etc/passwd"), "images[0].file_name", ("leaves root", "refused"), Exit.UNSAFE),
    Case("S01", name("a/../../b.jpg"), "images[0].file_name", ("leaves root",), Exit.UNSAFE),
    Case("S02", name("/etc/passwd"), "images[0].file_name", ("absolute path not allowed",), Exit.UNSAFE),
    Case("S03", link_out, "images[0]", ("resolves outside root", "data.allow_symlinks"), Exit.UNSAFE),
    Case("S04", name("http://169.254.169.254/x"), "images[0].file_name", ("URL not allowed",), Exit.UNSAFE),
    Case("S04", name("file:///etc/passwd"), "images[0].file_name", ("URL not allowed",), Exit.UNSAFE),
    Case("S05", name("a\0.jpg"), "images[0].file_name", ("illegal file name",), Exit.UNSAFE),
    Case("S05", name("a" * 5000), "images[0].file_name", ("illegal file name (5000",), Exit.UNSAFE),
    Case("S05", name("\ud800.jpg"), "images[0].file_name", ("illegal file name",), Exit.UNSAFE),
    Case("S06", replace_by(os.mkfifo), "images[0]", ("not a regular file",), Exit.UNSAFE),
    Case("S06", replace_by(Path.mkdir), "images[0]", ("not a regular file",), Exit.UNSAFE),
    Case(
        "S06",
        both(replace_by(lambda p: p.symlink_to("/dev/zero")), section(allow_symlinks=True)),
        "images[0]",
        ("not a regular file",),
        Exit.UNSAFE,
    ),
    Case("S07", name("C:\\x.jpg"), "images[0].file_name", ("backslash", "use '/'"), Exit.UNSAFE),
    Case("S07", name("a\\..\\b.jpg"), "images[0].file_name", ("backslash",), Exit.UNSAFE),
    Case("S07", name("C:/x.jpg"), "images[0].file_name", ("drive",), Exit.UNSAFE),
    Case("S18", both(large, section(max_pixels=5000)), "images[0]", ("max_pixels",), Exit.UNSAFE),
    Case("I01", lambda nano: first_image(nano).unlink(), "images[0]", ("not found under", "(1 missing)")),
    Case(
        "I01",
        section(labeled={"format": "coco", "ann": "train.json", "images": "gone"}),
        "data.labeled",
        ("image folder", "not found"),
    ),
    Case("I02", lambda nano: first_image(nano).write_bytes(b"") and None, "images[0]", ("empty file",)),
    Case("I03", crop_bytes, "images[0]", ("truncated",), only_check=True),
    Case("I04", lambda nano: first_image(nano).write_text("hello") and None, "images[0]", ("not an image",)),
    Case(
        "I14",
        lambda nano: first_image(nano).rename(first_image(nano).with_suffix(".JPG")) and None,
        "images[0]",
        (".JPG' exists (case)",),
    ),
]


def only(findings: Findings, levels: tuple[str, ...]) -> list:
    return [f for f in findings if f.level in levels]


@pytest.mark.parametrize("case", CASES, ids=[f"{case.id}-{i}" for i, case in enumerate(CASES)])
def test_one_row_of_the_table(case: Case, tmp_path: Path) -> None:
    root = tmp_path / "data"
    nano = Nano(root)
    (root / "empty").mkdir()
    case.spoil(nano)
    cfg = nano.config()
    start = time.process_time()
    report = check(cfg, decode="all")
    assert in_time(time.process_time() - start, 2)
    found = report.findings.kept
    assert {f.id for f in found} == {case.id}, report.lines()
    assert len(found) == 1 or case.everywhere
    finding = next(f for f in found if f.id == case.id)
    assert finding.level == case.level
    assert case.field in finding.field
    assert report.code == (case.code if case.level == "error" else Exit.OK)
    line = finding.line()
    assert len(line) <= 300
    assert "\n" not in line
    assert all(word in line for word in case.words), line
    load_says_the_same(case, cfg, line)


def load_says_the_same(case: Case, cfg: Any, line: str) -> None:
    findings = Findings()
    if case.level == "error" and not case.only_check:
        with pytest.raises(SsodError) as caught:
            load(cfg, findings)
        assert caught.value.code == case.code
        assert caught.value.line() in line
        assert caught.value.file
        assert caught.value.field
        assert caught.value.fix
    else:
        load(cfg, findings)
        assert [f.id for f in findings] == ([] if case.only_check else [case.id])


def test_the_good_set_has_no_finding(tmp_path: Path) -> None:
    report = check(Nano(tmp_path).config(), decode="all")
    assert report.lines() == []
    assert report.code == Exit.OK


def test_images_that_the_split_takes_the_labels_from_may_be_unlabelled_ones(tmp_path: Path) -> None:
    nano = Nano(tmp_path)
    nano.section["split"] = {"percent": 30}
    kept = load(nano.config()).labeled.images.paths
    names = [row["file_name"] for row in nano.train["images"] if row["file_name"] not in kept]
    (tmp_path / "list.txt").write_text("".join(f"train/{name}\n" for name in names))
    nano.section["unlabeled"] = {"format": "folder", "path": "list.txt"}
    assert "D36" not in [f.id for f in check(nano.config()).findings]
    (tmp_path / "list.txt").write_text("".join(f"train/{name}\n" for name in [kept[0], *names]))
    (shared,) = [f for f in check(nano.config()).findings if f.id == "D36"]
    assert shared.problem == f"1 images are labelled and unlabelled, first 'train/{kept[0]}'"


def test_only_images_that_keep_their_labels_are_opened_before_training(tmp_path: Path) -> None:
    nano = Nano(tmp_path)
    nano.section["split"] = {"percent": 30}
    del nano.section["unlabeled"]
    data = load(nano.config())
    names = [row["file_name"] for row in nano.train["images"]]
    hidden, kept = data.unlabeled.paths[0], data.labeled.images.paths[1]
    (tmp_path / "train" / hidden).write_text("hello")
    assert load(nano.config()).fingerprint == data.fingerprint
    (tmp_path / "train" / kept).write_text("hello")
    with pytest.raises(SsodError, match="not an image") as caught:
        load(nano.config())
    assert caught.value.field == f"images[{names.index(kept)}] '{kept}'"  # its place in the file, not in the split


def test_check_lists_twenty_of_a_kind_and_counts_the_rest(tmp_path: Path) -> None:
    nano = Nano(tmp_path)
    for i in range(30):
        nano.train["annotations"].append({**nano.train["annotations"][0], "id": 100 + i, "bbox": [1, 2, 3]})
    nano.train["annotations"][0]["bbox"] = [0, 0, -1, 5]
    report = check(nano.config())
    lines = report.lines()
    assert sum("D22" in line and "annotations[" in line for line in lines) == 20
    assert any("10 more of this kind" in line for line in lines)
    assert any("D24" in line for line in lines)


@pytest.mark.parametrize(("name", "place"), [("labels/{}.xml", "labels"), ("a/b/{}.txt", "a/b"), ("c/{}.jpg", "c")])
def test_files_of_one_image_each_are_counted_by_their_folder(name: str, place: str) -> None:
    findings = Findings()
    for i in range(23):
        findings.error("V05", name.format(i), "object", "no box", "draw one")
    findings.error("V06", name.format(0), "object", "another kind", "mend it")
    assert len(findings) == 21
    assert findings.lines()[-1] == f"error[V05] {place}: 3 more of this kind"

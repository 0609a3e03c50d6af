"""Good VOC and YOLO folders, image folders, globs and lists give the right columns."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from ssod.commands.check import check
from ssod.data.datasets import DataConfig, load
from ssod.data.formats.coco import to_coco
from ssod.data.formats.findings import Context, Findings, Rules
from ssod.data.formats.records import Images, Labeled
from ssod.data.formats.registry import Source, read_images, read_labeled
from ssod.utils.errors import Exit, SsodError
from tests.data.nano import HEIGHT, WIDTH, Nano, picture, voc, voc_object, xml, yolo

SOURCE = TypeAdapter(Source)


def read(at: Path, ctx: Context | None = None, **source: object) -> Labeled:
    return read_labeled(SOURCE.validate_python(source), ctx or Context(str(at)))


def images(at: Path, **source: object) -> Images:
    return read_images(SOURCE.validate_python(source), Context(str(at)))


COCO_SOURCE = {"format": "coco", "ann": "train.json", "images": "train"}


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


def test_yolo_classes_are_ordered_by_name_and_not_renamed(tmp_path: Path) -> None:
    train, val = yolo(tmp_path / "a"), yolo(tmp_path / "b")
    (tmp_path / "b/data.yaml").write_text("names: [bus, van, car]\n")  # class 1, of all boxes, is van in both
    (tmp_path / "a/data.yaml").write_text("names: [car, van, bus]\n")
    data = load(DataConfig.model_validate({"labeled": train, "val": val, "classes": ["van", "bus", "car"]}))
    for part, ids in ((data.labeled, (1, 2, 0)), (data.val, (1, 0, 2))):
        assert part.classes.names == ("van", "bus", "car")
        assert part.classes.ids == ids
        assert part.labels.tolist() == [0] * 4
    with pytest.raises(SsodError, match=r"b/data\.yaml: .* differ: only in file: 'van'; only in data.classes: 'tram'"):
        read_labeled(SOURCE.validate_python(val), classes=["tram", "bus", "car"])


@pytest.mark.parametrize("listed", [None, "nc: 2\n"])
def test_yolo_classes_without_names_are_named_by_the_config(listed: str | None, tmp_path: Path) -> None:
    source = yolo(tmp_path)
    (tmp_path / "data.yaml").unlink()
    if listed is not None:
        (tmp_path / "data.yaml").write_text(listed)
    data = read_labeled(SOURCE.validate_python(source), classes=["cat", "dog"])
    assert data.classes.names == ("cat", "dog")
    assert data.labels.tolist() == [1] * 4
    with pytest.raises(SsodError, match=r"data\.yaml: "):
        read_labeled(SOURCE.validate_python(source))


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


@pytest.mark.parametrize(
    ("folder", "pattern", "expected"),
    [
        ("set[1]", "set[1]/*.jpg", ["b.jpg"]),
        ("set[1]", "set[1]", ["b.jpg"]),
        ("set[1]/a*", "set[1]/a*/b.jp[g]", ["b.jpg"]),
        ("set1", "set[1]/*.jpg", ["set1/b.jpg"]),
    ],
)
def test_a_folder_whose_name_looks_like_a_pattern(
    folder: str, pattern: str, expected: list[str], tmp_path: Path
) -> None:
    picture(tmp_path / folder / "b.jpg", 1)
    assert images(tmp_path, format="folder", path=pattern).paths == expected


def test_what_is_absent_in_such_a_folder_is_no_pattern(tmp_path: Path) -> None:
    picture(tmp_path / "set[1]" / "b.jpg", 1)
    with pytest.raises(SsodError, match="not found"):
        images(tmp_path, format="folder", path="set[1]/c.jpg")


def test_a_glob_that_begins_with_a_pattern_is_searched_below_the_root(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tree)
    found = read_images(SOURCE.validate_python({"format": "folder", "path": "s*/*.jpg"}), Context("."))
    assert (found.root, found.paths) == (".", ["set/b.jpg"])


@pytest.mark.parametrize("path", ["more", "more/*.jpg"])
@pytest.mark.parametrize(
    ("odd", "id", "words"),
    [
        (b"z\xff.jpg", "S05", r"'zz\udcff.jpg': illegal file name (not valid Unicode) (2 left out)"),
        (b"z\\.jpg", "S07", "backslash"),
    ],
)
def test_files_with_odd_names_are_left_out(path: str, odd: bytes, id: str, words: str, tmp_path: Path) -> None:
    nano = Nano(tmp_path)
    for name in (odd, b"z" + odd):
        (tmp_path / "more" / os.fsdecode(name)).write_bytes((tmp_path / "more/u0.jpg").read_bytes())
    nano.section["unlabeled"]["path"] = path
    findings = Findings()
    data = load(nano.config(), findings)
    assert data.unlabeled.paths == [f"u{i}.jpg" for i in range(6)]
    (line,) = findings.lines()
    assert line.startswith(f"skipped[{id}] {tmp_path}/more: data.unlabeled: ")
    assert words in line
    assert check(nano.config()).lines() == [line]


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

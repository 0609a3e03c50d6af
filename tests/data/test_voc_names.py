"""A line of a VOC list and an annotation's <filename> mean what they say, with or without the image's ending."""

from __future__ import annotations

from pathlib import Path

import pytest

from ssod.data.formats.findings import Context
from ssod.data.formats.registry import VocSource, read_images, read_labeled
from ssod.utils.errors import SsodError
from tests.data.nano import picture, voc, voc_object, xml


@pytest.fixture
def root(tmp_path: Path) -> Path:
    voc(tmp_path)
    return tmp_path


def listed(root: Path, text: str) -> None:
    (root / "ImageSets/Main/train.txt").write_text(text)


def annotate(root: Path, stem: str, filename: str | None) -> None:
    path = root / f"Annotations/{stem}.xml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(xml(objects=voc_object(), name=filename))


def read(root: Path, ctx: Context | None = None, *, same: bool = True) -> dict[str, str]:
    """Return {id: image}; labelled and unlabelled reading agree."""
    source = VocSource(format="voc", root=str(root), split="train")
    data = read_labeled(source, ctx)
    if same:
        unlabelled = read_images(source)
        assert (unlabelled.paths, unlabelled.ids) == (data.images.paths, data.images.ids)
    return dict(zip(data.images.ids, data.images.paths))


@pytest.mark.parametrize("text", ["000\n001\n", "000.jpg\n001.jpg\n", "./000.jpg\n001\n", "000.jpg 1\n001.jpg -1\n"])
def test_a_line_may_have_the_ending(text: str, root: Path) -> None:
    listed(root, text)
    assert read(root) == {"000": "000.jpg", "001": "001.jpg"}


def test_a_line_with_an_ending_is_that_file(root: Path) -> None:
    picture(root / "JPEGImages/000.png", 7)
    annotate(root, "000", None)
    for ending in ("png", "jpg"):
        listed(root, f"000.{ending}\n")
        assert read(root) == {"000": f"000.{ending}"}
    listed(root, "000.bmp\n")
    with pytest.raises(SsodError, match=r"'000\.bmp': not found"):
        check_there(root)
    listed(root, "000\n")
    with pytest.raises(SsodError, match=r"000\.xml: .*'000\.jpg' and '000\.png' are there; write the ending"):
        read(root)


def check_there(root: Path) -> None:
    from ssod.data.formats.presence import check_files

    ctx = Context()
    source = VocSource(format="voc", root=str(root), split="train")
    check_files(read_labeled(source, ctx).images, "list", ctx)
    ctx.findings.raise_first()


@pytest.mark.parametrize("filename", ["photo_a.png", "photo_a", "set/photo_a.png", "C:\\set\\photo_a.png"])
@pytest.mark.parametrize("stale", [False, True])
def test_the_filename_says_which_image_it_is(filename: str, stale: bool, root: Path) -> None:
    picture(root / "JPEGImages/photo_a.png", 7)
    annotate(root, "000", filename)
    listed(root, "000\n001\n")
    if not stale:
        (root / "JPEGImages/000.jpg").unlink()
    ctx = Context()
    assert read(root, ctx, same=not stale) == {"000": "photo_a.png", "001": "001.jpg"}
    assert [(f.id, f.count) for f in ctx.findings] == ([("L14", 1)] if stale else [])


@pytest.mark.parametrize("filename", ["gone.jpg", "gone", "000.PNG"])
def test_a_filename_of_no_image_is_counted(filename: str, root: Path) -> None:
    for stem in ("000", "001"):
        annotate(root, stem, filename)
    ctx = Context()
    assert read(root, ctx)["000"] == "000.jpg"
    assert [(f.level, f.id, f.count) for f in ctx.findings] == [("warning", "L13", 2)]


def test_two_annotations_of_one_image_are_refused(root: Path) -> None:
    annotate(root, "000", "001.jpg")
    with pytest.raises(SsodError, match=r"001\.xml: .* belongs to '001\.jpg', as 000\.xml does"):
        read(root)


def test_a_line_and_a_filename_that_differ_are_refused(root: Path) -> None:
    annotate(root, "000", "001.jpg")
    listed(root, "000.jpg\n")
    with pytest.raises(SsodError, match=r"<filename> is '001\.jpg', line 1 of the list says '000\.jpg'"):
        read(root)


def test_names_with_dots_folders_and_kept_endings(root: Path) -> None:
    for stem, image in (("a.001", "a.001.png"), ("b.jpg", "b.jpg"), ("c.jpg", "c.jpg.png"), ("day/d", "day/d.jpg")):
        picture(root / "JPEGImages" / image, 5)
        (root / f"Annotations/{stem}.xml").parent.mkdir(exist_ok=True)
        annotate(root, stem, Path(image).name)
    listed(root, "a.001\nb.jpg\nc.jpg\nday/d\n")
    assert read(root) == {"a.001": "a.001.png", "b.jpg": "b.jpg", "c.jpg": "c.jpg.png", "day/d": "day/d.jpg"}
    listed(root, "a.001.png\nday/d.jpg\n")
    assert read(root) == {"a.001": "a.001.png", "day/d": "day/d.jpg"}


def test_an_annotation_that_is_only_looked_up_for_its_filename_may_be_broken(root: Path) -> None:
    (root / "JPEGImages/000.jpg").unlink()
    (root / "Annotations/000.xml").write_text("<broken")
    found = read_images(VocSource(format="voc", root=str(root), split="train"))
    assert found.paths[0] == "000.jpg"  # which is said to be missing by whoever looks

"""Images that programs leave in hidden and system folders and files are in no set, and how many there are is said."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ssod.data.formats.findings import Context
from ssod.data.formats.infer import labeled_source
from ssod.data.formats.registry import CocoSource, FolderSource, VocSource, YoloSource, read_images, read_labeled
from ssod.inference.predict import find_images
from tests.data.nano import picture, voc, yolo

LEFT = [
    ".ipynb_checkpoints/{}-checkpoint.jpg",
    "@eaDir/{}.jpg/SYNOPHOTO_THUMB_M.jpg",
    "@EADIR/{}.jpg",
    ".thumbnails/{}.png",
    ".Trash-1000/files/{}.jpg",
    "__MACOSX/set/._{}.jpg",
    "._{}.jpg",
    ".{}.jpg",
    "$RECYCLE.BIN/S-1-5/{}.jpg",
    "System Volume Information/{}.jpg",
    "lost+found/{}.jpg",
    "#recycle/{}.jpg",
    "below/.cache/{}.jpg",
    ".git/objects/{}.png",
]
SETS: dict[str, tuple[str, Callable[[Path], tuple[list[str], Context]]]] = {}


def of(home: str) -> Callable:
    """Name a way to read images, and the folder that they lie in."""

    def add(read: Callable[[Path, Context], list[str]]) -> Callable:
        SETS[read.__name__] = home, read
        return read

    return add


@of("images/train")
def labelled_yolo(root: Path, ctx: Context) -> list[str]:
    return read_labeled(YoloSource(format="yolo", root=str(root), split="train"), ctx).images.paths


@of("images/train")
def unlabelled_yolo(root: Path, ctx: Context) -> list[str]:
    return read_images(YoloSource(format="yolo", root=str(root), split="train"), ctx).paths


@of("pool")
def folder(root: Path, ctx: Context) -> list[str]:
    return read_images(FolderSource(format="folder", path=str(root / "pool")), ctx).paths


@of("pool")
def pattern(root: Path, ctx: Context) -> list[str]:
    return read_images(FolderSource(format="folder", path=str(root / "pool/**/*.*")), ctx).paths


def names(home: Path) -> None:
    """Write what is meant and, beside it, what is not."""
    picture(home / "a.jpg", 1)
    picture(home / "below/b.jpg", 2)


@pytest.mark.parametrize("left", LEFT)
@pytest.mark.parametrize("kind", SETS)
def test_nothing_hidden_is_picked_up(kind: str, left: str, tmp_path: Path) -> None:
    home, read = SETS[kind]
    yolo(tmp_path)
    names(tmp_path / home)
    for text in ("a", "below/b"):
        (tmp_path / "labels/train/below").mkdir(exist_ok=True)
        (tmp_path / f"labels/train/{text}.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    before = read(tmp_path, Context())
    for i in range(3):
        picture(tmp_path / home / left.format(i), i)
    (tmp_path / home / "Thumbs.db").write_text("x")
    (tmp_path / home / ".DS_Store").write_text("x")
    ctx = Context()
    assert read(tmp_path, ctx) == before
    (found,) = ctx.findings
    assert (found.level, found.id, found.count) == ("skipped", "L01", 3)


def test_what_a_command_is_given_has_no_hidden_image_either(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    names(tmp_path)
    for left in LEFT:
        picture(tmp_path / left.format("x"), 1)
    for given in (tmp_path, tmp_path / "**/*.*"):
        assert find_images(given).paths == ["a.jpg", "below/b.jpg"]
        assert f"{len(LEFT)} images in hidden or system folders and files" in capsys.readouterr().out


def test_a_set_may_lie_in_a_hidden_folder_and_be_named_by_a_pattern_or_a_list(tmp_path: Path) -> None:
    names(tmp_path / ".cache/set")
    ctx = Context()
    for path in (".cache/set", ".cache/set/**/*.jpg", ".cache/s*/**/*.jpg", ".c*/set/**/*.jpg"):
        found = read_images(FolderSource(format="folder", path=str(tmp_path / path)), ctx)
        assert [Path(name).name for name in found.paths] == ["a.jpg", "b.jpg"]
    assert not ctx.findings.lines()
    (tmp_path / "list.txt").write_text(".cache/set/a.jpg\n")
    found = read_images(FolderSource(format="folder", path=str(tmp_path / "list.txt")), ctx)
    assert found.paths == [".cache/set/a.jpg"]
    coco = {"images": [{"id": 1, "file_name": ".cache/set/a.jpg"}, {"id": 2, "file_name": "@eaDir/b.jpg"}]}
    (tmp_path / "coco.json").write_text(json.dumps(coco))
    found = read_images(CocoSource(format="coco", ann=str(tmp_path / "coco.json"), images=str(tmp_path)), ctx)
    assert found.paths == [".cache/set/a.jpg", "@eaDir/b.jpg"]
    assert [(f.level, f.id, f.count) for f in ctx.findings] == [("warning", "L01", 1), ("warning", "L01", 2)]


def test_hidden_folders_and_files_are_no_parts_of_a_set(tmp_path: Path) -> None:
    yolo(tmp_path / "y")
    shutil.copytree(tmp_path / "y/images/train", tmp_path / "y/images/.ipynb_checkpoints")
    assert labeled_source(str(tmp_path / "y"), "--labeled", ("trainval",))["split"] == "train"
    voc(tmp_path / "v")
    (tmp_path / "v/ImageSets/Main/._train.txt").write_text("\0")
    picture(tmp_path / "v/JPEGImages/._000.jpg", 1)
    assert labeled_source(str(tmp_path / "v"), "--labeled", ("trainval",))["split"] == "train"
    ctx = Context()
    assert len(read_labeled(VocSource(format="voc", root=str(tmp_path / "v"), split="train"), ctx)) == 6
    assert not ctx.findings.lines()

"""No name and no link in a data set opens a file that lies outside of it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from ssod.commands.check import check
from ssod.commands.init.write import write_config
from ssod.data.data_config import DataConfig
from ssod.data.datasets import load
from ssod.utils.errors import Exit, SsodError
from tests.data.nano import Nano, picture, voc, yolo

WATCHED: list[str] = []  # folders
OPENED: list[str] = []  # files of them


def _hear(event: str, args: tuple) -> None:
    if WATCHED and event == "open" and isinstance(args[0], (str, bytes, os.PathLike)):
        path = os.path.realpath(os.fsdecode(args[0]))
        OPENED.extend(path for folder in WATCHED if path.startswith(folder))


sys.addaudithook(_hear)  # for good: Python takes none back


@contextmanager
def nothing_opened(folder: Path) -> Iterator[None]:
    """Fail if a file below ``folder`` is opened meanwhile, by whatever name."""
    WATCHED.append(str(folder.resolve()))
    OPENED.clear()
    try:
        yield
    finally:
        WATCHED.clear()
    assert OPENED == []


@pytest.fixture
def away(tmp_path: Path) -> Path:
    """A folder with whatever a data set is made of, outside of every one."""
    folder = tmp_path / "away"
    picture(folder / "a0.jpg", 0)  # with the bytes of an image that is labelled
    picture(folder / "images" / "a0.jpg", 0)
    (folder / "secret").write_text("secret: 1\n")
    (folder / "a.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    (folder / "a.xml").write_text("<annotation/>")
    return folder


def coco_names(data: Path, name: str) -> dict[str, Any]:
    nano = Nano(data)
    nano.train["images"][3]["file_name"] = name
    return nano.config().model_dump(mode="json")


def replace_by_link(file: Path, target: Path) -> None:
    file.unlink(missing_ok=True)
    file.symlink_to(target)


def coco_link(data: Path, away: Path) -> dict[str, Any]:
    section = Nano(data).config().model_dump(mode="json")
    replace_by_link(data / "val" / "v0.jpg", away / "a0.jpg")
    replace_by_link(data / "more" / "u0.jpg", away / "a0.jpg")
    replace_by_link(data / "more" / "plain", away / "secret")
    return section


def coco_folder(data: Path, away: Path) -> dict[str, Any]:
    section = coco_names(data, "sub/a0.jpg")
    (data / "train" / "sub").symlink_to(away / "images")
    return section


def of(write: Callable[[Path], dict], file: str, target: str) -> Callable[[Path, Path], dict[str, Any]]:
    """Return what writes a set whose ``file`` is a link to ``target``."""

    def make(data: Path, away: Path) -> dict[str, Any]:
        source = write(data)
        replace_by_link(data / file, away / target)
        return {"root": str(data), "labeled": source, "val": {**source}}

    return make


def darknet_names(data: Path, away: Path) -> dict[str, Any]:
    source = yolo(data)
    (data / "data.yaml").unlink(missing_ok=True)
    (data / "obj.data").write_text("classes = 1\ntrain = images/train\nnames = ../away/secret\n")
    return {"root": str(data), "labeled": source, "val": {**source}}


SETS: dict[str, Callable[[Path, Path], dict[str, Any]]] = {
    "an absolute name": lambda data, away: coco_names(data, str(away / "a0.jpg")),
    "a name upwards": lambda data, away: coco_names(data, "../../away/a0.jpg"),
    "links in folders": coco_link,
    "a linked folder": coco_folder,
    "data.yaml": of(yolo, "data.yaml", "secret"),
    "labels of YOLO": of(yolo, "labels/train/0.txt", "a.txt"),
    "an image of YOLO": of(yolo, "images/train/0.png", "a0.jpg"),
    "a list of VOC": of(voc, "ImageSets/Main/train.txt", "a.txt"),
    "an annotation of VOC": of(voc, "Annotations/000.xml", "a.xml"),
    "an image of VOC": of(voc, "JPEGImages/000.jpg", "a0.jpg"),
    "names of Darknet": darknet_names,
}


@pytest.mark.parametrize("case", SETS)
def test_a_set_that_leads_outside_opens_nothing_there(tmp_path: Path, away: Path, case: str) -> None:
    section = DataConfig.model_validate(SETS[case](tmp_path / "data", away))
    with nothing_opened(away):
        report = check(section, decode="all")
        with pytest.raises(SsodError) as caught:
            load(section)
    assert report.code in (Exit.DATA, Exit.UNSAFE), report.lines()
    assert caught.value.code in (Exit.DATA, Exit.UNSAFE)


@pytest.mark.parametrize("case", [case for case in SETS if "YOLO" not in case and "VOC" not in case])
def test_init_opens_nothing_outside(tmp_path: Path, away: Path, case: str) -> None:
    section = SETS[case](tmp_path / "data", away)
    data = tmp_path / "data"
    given = {"labeled": str(data / "train.json"), "val": str(data / "val.json"), "unlabeled": str(data / "more")}
    if section["labeled"]["format"] != "coco":
        given = {"labeled": str(data), "val": str(data), "unlabeled": None}
    with nothing_opened(away), suppress(SsodError):
        write_config(tmp_path / "c.yaml", **{key: value for key, value in given.items() if value})

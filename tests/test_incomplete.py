"""Images whose labels are incomplete: what is not labelled there is ignored, from the file to the loss."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ssod.data.data_config import DataConfig
from ssod.data.datasets import load
from ssod.data.formats.findings import Context
from ssod.data.formats.registry import CocoSource, read_labeled
from ssod.utils.config_errors import Source, read_section
from ssod.utils.errors import SsodError
from tests.small_sets import coco

NAMES = ["x.jpg", "y.jpg", "z.jpg"]
COCO = {"format": "coco", "ann": "a.json", "images": "photos"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    coco(tmp_path / "a.json", tmp_path / "photos", NAMES)
    return tmp_path


def said(root: Path, *values: object) -> Path:
    """Write what the entries of the file say of their labels."""
    tree = json.loads((root / "a.json").read_text())
    for entry, value in zip(tree["images"], values):
        entry["incomplete"] = value
    (root / "a.json").write_text(json.dumps(tree))
    return root


def section(root: Path, **parts: Any) -> DataConfig:
    return read_section(DataConfig, {"root": str(root), **parts}, "data", Source("my.yaml", {}), {})


def table(root: Path, **keys: Any) -> list[list[bool]] | None:
    found = read_labeled(CocoSource(**COCO | keys), Context(str(root), "data.labeled")).incomplete
    return None if found is None else found.tolist()


def test_a_file_and_a_config_say_it(root: Path) -> None:
    assert table(root) is None
    assert table(root, incomplete=False) is None
    assert table(root, incomplete=True) == [[True, True]] * 3
    assert table(root, incomplete=["dog"]) == [[False, True]] * 3
    (root / "list.txt").write_text("z.jpg\n")
    assert table(root, incomplete={"images": "list.txt"}) == [[False, False]] * 2 + [[True, True]]
    said(root, True, ["dog"], None)
    assert table(root) == [[True, True], [False, True], [False, False]]
    few = {"images": "list.txt", "classes": ["cat"]}
    assert table(root, incomplete=few) == [[True, True], [False, True], [True, False]]
    data = read_labeled(CocoSource(**COCO), Context(str(root)), classes=["dog", "cat"])
    assert data.subset([2, 1]).incomplete.tolist() == [[False, False], [True, False]]
    assert data.targets(1).open.tolist() == [True, False]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("yes", r"images\[0\]\.incomplete: string 'yes', expected true, false or a list of classes"),
        (1, r"images\[0\]\.incomplete: integer 1, expected"),
        (["dog", 3], r"integer 3, expected a class"),
        (["dgo"], r"unknown class 'dgo'; did you mean 'dog'\?"),
    ],
)
def test_wrong_values_are_found(root: Path, value: object, words: str) -> None:
    with pytest.raises(SsodError, match=words):
        table(said(root, value))


def test_a_wrong_config_is_refused(root: Path) -> None:
    (root / "list.txt").write_text("w.jpg\n")
    for value, words in (
        (["dgo"], r"data\.labeled\.incomplete: unknown class 'dgo'; did you mean 'dog'"),
        ({"images": "list.txt"}, r"1 lines name no image of data\.labeled, first 'w\.jpg'"),
    ):
        with pytest.raises(SsodError, match=words):
            table(root, incomplete=value)
    with pytest.raises(SsodError, match="labels of unlabelled images are never read"):
        section(root, labeled=COCO, unlabeled=COCO | {"incomplete": True})
    said(root, None, ["dog"])
    with pytest.raises(SsodError, match=r"data\.val\.incomplete: 1 images have incomplete labels, first 'y\.jpg'"):
        load(section(root, labeled=COCO, val=COCO))

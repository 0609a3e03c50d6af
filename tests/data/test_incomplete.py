"""Images whose labels are incomplete: who says so, what is wrong with that, and what becomes of it in a merged set."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ssod.commands.merge import merge
from ssod.data.data_config import DataConfig
from ssod.data.datasets import load
from ssod.data.formats.findings import Context, Findings
from ssod.data.formats.registry import CocoSource, read_labeled
from ssod.utils.config_errors import Source, read_section
from ssod.utils.errors import SsodError
from tests.small_sets import coco, yolo

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


def test_a_run_is_another_and_a_class_that_nothing_shows_is_told(root: Path) -> None:
    findings = Findings()
    plain, same, other = (
        load(section(root, labeled=COCO | {"incomplete": value}), findings) for value in (None, False, ["dog"])
    )
    assert plain.fingerprint == same.fingerprint != other.fingerprint
    (told,) = [finding for finding in findings if finding.id == "D47"]
    assert told.problem.startswith("labels of 'dog' are complete in no image")


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
    said(root, value)
    ctx = Context(str(root), "data.labeled")
    with pytest.raises(SsodError, match=words):
        read_labeled(CocoSource(**COCO), ctx)
    assert {finding.id for finding in ctx.findings} == {"D44"}


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


def test_what_is_measured_on_may_be_incomplete_in_part(root: Path) -> None:
    """Boxes are dog, cat, dog: dogs are complete somewhere, and then not any more."""
    coco(root / "b.json", root / "other", NAMES)
    val = COCO | {"ann": "b.json", "images": "other"}
    findings = Findings()
    (root / "list.txt").write_text("y.jpg\n")
    data = load(section(root, labeled=COCO, val=val | {"incomplete": {"images": "list.txt"}}), findings)
    assert data.val.incomplete.tolist() == [[False, False], [True, True], [False, False]]
    (told,) = [finding for finding in findings if finding.id == "D46"]
    assert (told.level, told.count) == ("warning", 1)
    assert told.problem.startswith("1 images have incomplete labels, first 'y.jpg'")
    for what, words in ((["dog"], "'dog' are"), (True, "'cat' and 1 more classes are")):
        with pytest.raises(
            SsodError, match=rf"data\.val\.incomplete: labels of {words} complete in no image to measure"
        ):
            load(section(root, labeled=COCO, val=val | {"incomplete": what}), Findings())


def test_some_sources_of_several(root: Path) -> None:
    """A class that one source lacks may be named there; where nobody does, it is told."""
    tree = json.loads((root / "a.json").read_text())
    tree["categories"][0]["name"] = "cow"
    (root / "b.json").write_text(json.dumps(tree))
    (root / "photos").rename(root / "a")
    coco(root / "a.json", root / "photos", NAMES)
    other = {"format": "coco", "ann": "b.json", "images": "a"}
    ctx = Context(str(root), "data.labeled")
    plain = read_labeled(section(root, labeled=[COCO, other]).labeled, ctx)
    assert plain.incomplete is None
    lacking = [finding for finding in ctx.findings if finding.id == "D45"]
    assert [finding.field for finding in lacking] == ["data.labeled.sources[0]", "data.labeled.sources[1]"]
    assert "incomplete: [cow]" in lacking[0].fix
    ctx = Context(str(root), "data.labeled")
    several = section(root, labeled=[COCO | {"incomplete": ["cow"]}, other | {"incomplete": True}]).labeled
    data = read_labeled(several, ctx, classes=["cow", "cat", "dog"])
    assert data.incomplete.tolist() == [[True, False, False]] * 3 + [[True] * 3] * 3
    assert not [finding for finding in ctx.findings if finding.id == "D45"]
    wrong = section(root, labeled=[COCO | {"incomplete": ["cwo"]}, other]).labeled
    with pytest.raises(SsodError, match=r"sources\[0\]\.incomplete: unknown class 'cwo'; did you mean 'cow'"):
        read_labeled(wrong, Context(str(root), "data.labeled"))


def test_merged_sets_say_what_nobody_could_label(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said(root, True)
    yolo(root / "other", {"train": 1})
    (root / "other" / "data.yaml").write_text("names: [cat, cow]\n")
    written = merge([root / "a.json", root / "other"], root / "all.json", images=[root / "photos"]).labels
    assert written.classes.names == ("cat", "dog", "cow")
    wanted = [[True] * 3, [False, False, True], [False, False, True], [False, True, False]]
    assert written.incomplete.tolist() == wanted
    back = read_labeled(CocoSource(format="coco", ann="all.json", images="."), Context(str(root)))
    assert back.incomplete.tolist() == wanted
    out = capsys.readouterr().out
    assert f"{root / 'other'} has no class dog: its images are written as incomplete there" in out


def test_a_source_that_images_are_held_out_of_says_it_once(root: Path) -> None:
    """What ``ssod init`` writes without ``--val``: labels of images to measure on are then complete, or refused."""
    (root / "val.txt").write_text("z.jpg\n")
    (root / "gaps.txt").write_text("x.jpg\n")
    of_some = {**COCO, "incomplete": {"images": "gaps.txt"}}
    data = load(section(root, labeled=of_some, val=COCO, held_out="val.txt"), Findings())
    assert data.labeled.incomplete is not None
    assert data.labeled.incomplete.any(1).tolist() == [True, False]
    assert data.val is not None
    assert data.val.images.paths == ["z.jpg"]
    with pytest.raises(SsodError, match="labels of 'dog' are complete in no image"):
        load(section(root, labeled={**COCO, "incomplete": True}, val=COCO, held_out="val.txt"), Findings())
    with pytest.raises(SsodError, match="divides one source"):
        section(root, labeled=COCO, val={**COCO, "images": "other"}, held_out="val.txt")

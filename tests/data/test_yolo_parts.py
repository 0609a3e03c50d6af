"""What data.yaml says of a YOLO set is what is read: its path, parts, lists, names and number of classes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ssod.commands.init.write import write_config
from ssod.config import load
from ssod.data import datasets
from ssod.data.formats.findings import Context
from ssod.data.formats.infer import labeled_source
from ssod.data.formats.registry import YoloSource, read_images, read_labeled
from ssod.utils.errors import SsodError
from tests.data.nano import picture

LINE = "0 0.5 0.5 0.25 0.5\n"


def fill(root: Path, folder: str, stems: list[str], labels: str | None = None) -> None:
    """Write images into ``folder`` and their label files into its mirror, or into ``labels``."""
    for stem in stems:
        picture(root / folder / f"{stem}.png", sum(map(ord, folder + stem)))
        text = root / (folder.replace("images", "labels") if labels is None else labels) / f"{stem}.txt"
        text.parent.mkdir(parents=True, exist_ok=True)
        text.write_text(LINE)


@pytest.fixture
def weld(tmp_path: Path) -> Path:
    """A set with stale folders of the usual names beside those that data.yaml is to name."""
    root = tmp_path / "weld"
    for folder, stems in {
        "images/train": ["old0", "old1"],
        "images/val": ["oldv"],
        "images/test": ["t0", "t1", "t2", "t3"],
        "images/reviewed": ["new0", "new1", "new2"],
        "images/line2": ["l0", "l1"],
    }.items():
        fill(root, folder, stems)
    return root


def said(root: Path, text: str) -> None:
    (root / "data.yaml").write_text(text + "names: {0: disc, 1: bar}\n")


def part(root: Path, split: str, ctx: Context | None = None) -> list[str]:
    """Return the stems of a part; labelled and unlabelled reading agree, and every image has its box."""
    source = YoloSource(format="yolo", root=str(root), split=split)
    data = read_labeled(source, ctx)
    assert read_images(source).paths == data.images.paths
    assert data.starts.tolist() == list(range(len(data) + 1))
    return [Path(path).stem for path in data.images.paths]


def lists(root: Path) -> str:
    (root / "some.txt").write_text("images/reviewed/new2.png\n./images/reviewed/new0.png\n")
    return "train: some.txt\n"


def lists_below(root: Path) -> str:
    (root / "lists").mkdir()
    (root / "lists/a.txt").write_text("../images/reviewed/new2.png\n../images/reviewed/new0.png\n")
    return "train: lists/a.txt\n"


def absolute_lines(root: Path) -> str:
    (root / "some.txt").write_text(f"{root}/images/reviewed/new2.png\n{root}/images/reviewed/new0.png\n")
    return f"path: {root}\ntrain: some.txt\n"


def prefixed(root: Path) -> str:
    (root / "some.txt").write_text("data/images/reviewed/new2.png\ndata/images/reviewed/new0.png\n")
    return "train: [some.txt]\n"


def beside(root: Path) -> str:
    fill(root, "frames", ["new2", "new0"], labels="frames")
    return "train: frames\n"


def outside(root: Path) -> str:
    fill(root.parent, "elsewhere/images", ["new0", "new2"])
    return "train: ../elsewhere/images\n"


NEW, TWO = ["new0", "new1", "new2"], ["new0", "new2"]
WAYS: dict[str, tuple[Callable[[Path], str], list[str]]] = {
    "folder": (lambda root: "train: images/reviewed\n", NEW),
    "dot path": (lambda root: "path: .\ntrain: images/reviewed\n", NEW),
    "trailing slash": (lambda root: "train: ./images/reviewed/\n", NEW),
    "path below the file": (lambda root: "path: images\ntrain: reviewed\n", NEW),
    "path above the file": (lambda root: f"path: ../{root.name}/images\ntrain: reviewed\n", NEW),
    "absolute path": (lambda root: f"path: {root}\ntrain: images/reviewed\n", NEW),
    "absolute part": (lambda root: f"train: {root}/images/reviewed\n", NEW),
    "one too many ..": (lambda root: "train: ../images/reviewed\n", NEW),
    "several folders": (lambda root: "train: [images/reviewed, images/line2]\n", [*NEW, "l0", "l1"]),
    "overlapping folders": (lambda root: "train: [images/reviewed, images/reviewed]\n", NEW),
    "beside the labels": (beside, TWO),
    "outside": (outside, TWO),
    "list": (lists, TWO[::-1]),
    "list in a folder": (lists_below, TWO[::-1]),
    "list of absolute lines": (absolute_lines, TWO[::-1]),
    "list with a prefix": (prefixed, TWO[::-1]),
    "list and folder": (lambda root: lists(root)[:-1].replace("some.txt", "[some.txt, images/line2]\n"), None),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_part_is_what_the_file_names(way: str, weld: Path) -> None:
    write, stems = WAYS[way]
    said(weld, write(weld) + f"val: {weld}/images/line2\n")
    found = part(weld, "train")
    assert sorted(found) == sorted(stems or [*TWO, "l0", "l1"])
    if way.startswith("list") and stems:
        assert found == stems  # a list keeps its order
    assert not {name for name in found if name.startswith("old")}
    assert part(weld, "val") == ["l0", "l1"]


def test_a_path_below_the_data_root_and_a_relative_root(weld: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As files that travel with a set have it: the set's name below the folder where all sets lie."""
    monkeypatch.setenv("SSOD_DATASETS", str(weld.parent))
    said(weld, "path: weld\ntrain: images/reviewed\n")
    assert part(weld, "train") == NEW
    monkeypatch.chdir(weld.parent)
    for root in (".", str(weld.parent)):
        monkeypatch.setenv("SSOD_DATASETS", root)
        for text in ("train: images/reviewed\n", f"train: [{weld}/images/reviewed, some.txt]\n"):
            (weld / "some.txt").write_text("images/line2/l0.png\n")
            said(weld, text)
            assert part(Path("weld"), "train") == NEW + ["l0"] * ("some" in text)


@pytest.mark.parametrize("key", ["val", "valid", "validation"])
@pytest.mark.parametrize("split", ["val", "valid"])
def test_val_has_three_names(key: str, split: str, weld: Path) -> None:
    said(weld, f"train: images/reviewed\n{key}: images/line2\n")
    assert part(weld, split) == ["l0", "l1"]


def test_a_part_that_the_file_does_not_name_is_looked_for_where_it_usually_lies(weld: Path) -> None:
    said(weld, "train: images/reviewed\n")
    assert part(weld, "test") == ["t0", "t1", "t2", "t3"]
    with pytest.raises(SsodError, match=r"data\.yaml does not name 'extra' \(only train\)"):
        part(weld, "extra")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("train: images/reviewd\n", r"data\.yaml: train: 'images/reviewd' not found .*nearest match 'reviewed'"),
        ("train: [images/reviewed, gone]\n", r"data\.yaml: train: 'gone' not found"),
        ("train: gone.txt\n", r"data\.yaml: train: 'gone.txt' not found"),
        ("train: ../gone\n", r"data\.yaml: train: '\.\./gone' not found"),
        ("path: /no/where\ntrain: images/reviewed\n", r"data\.yaml: path: '/no/where' is no folder"),
        ("path: /no/where\n", r"data\.yaml: path: '/no/where' is no folder"),
        ("train: data.yaml\n", r"data\.yaml: train: 'data.yaml' is neither a folder nor a \.txt list"),
        ("train: 5\n", r"data\.yaml: train: integer 5, expected a folder"),
        ("train: [images/reviewed, 5]\n", r"data\.yaml: train: list of 2, expected a folder"),
        ("path: [a]\ntrain: images/reviewed\n", r"data\.yaml: path: list of 1, expected"),
        ("nc: 3\ntrain: images/reviewed\n", r"data\.yaml: nc: 3, but names lists 2"),
        ("nc: two\ntrain: images/reviewed\n", r"data\.yaml: nc: string 'two', but names lists 2"),
    ],
)
def test_what_the_file_names_and_is_not_so_is_one_line(text: str, words: str, weld: Path) -> None:
    said(weld, text)
    with pytest.raises(SsodError, match=words) as caught:
        part(weld, "train")
    assert len(caught.value.line()) < 300


def test_lines_of_a_list(weld: Path) -> None:
    said(weld, "train: some.txt\n")
    for lines, words in {
        "images/reviewed/new0.png\nimages/reviewed/gone.png\n": "'images/reviewed/gone.png': not found .*1 missing",
        "images/reviewed/new0.png\nimages/reviewed\n": r"some\.txt: line 2: 'images/reviewed' is no image",
        "../images/new0.png\n": "leaves root",
        "/etc/new0.png\n": "absolute path",
    }.items():
        (weld / "some.txt").write_text(lines)
        with pytest.raises(SsodError, match=words):
            part(weld, "train")


@pytest.mark.parametrize("names", ["{1: disc, 2: bar}", "{a: disc}"])
def test_numbers_of_classes_with_gaps_are_told_as_such(names: str, weld: Path) -> None:
    (weld / "data.yaml").write_text(f"names: {names}\n")
    with pytest.raises(SsodError, match=r"names: classes are numbered .*, expected 0"):
        part(weld, "train")


def test_nc_and_the_classes_of_the_config_agree(weld: Path) -> None:
    (weld / "data.yaml").write_text("nc: 3\n")
    source = YoloSource(format="yolo", root=str(weld), split="train")
    with pytest.raises(SsodError, match=r"nc: 3, but data\.classes lists 2"):
        read_labeled(source, classes=["disc", "bar"])


def test_what_stands_in_the_place_of_data_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Darknet's obj.data with lists, and a class list beside images and labels that have no parts."""
    monkeypatch.chdir(tmp_path)
    picture(Path("pool/p.png"), 1)
    fill(tmp_path / "dark", "obj_train_data", ["a", "b", "c"], labels="obj_train_data")
    (tmp_path / "dark/obj.names").write_text("disc\nbar\n")
    (tmp_path / "dark/train.txt").write_text("data/obj_train_data/b.png\ndata/obj_train_data/a.png\n")
    (tmp_path / "dark/valid.txt").write_text("data/obj_train_data/c.png\n")
    text = "classes = 2\ntrain = data/train.txt\nvalid = data/valid.txt\nnames = data/obj.names\nbackup = backup/\n"
    (tmp_path / "dark/obj.data").write_text(text)
    fill(tmp_path / "flat", "images", ["d", "e"])
    (tmp_path / "flat/classes.txt").write_text("bar\ndisc\n")
    (tmp_path / "flat/notes.json").write_text("{}")
    assert part(tmp_path / "dark", "train") == ["b", "a"]
    assert part(tmp_path / "dark", "val") == ["c"]
    assert part(tmp_path / "flat", ".") == ["d", "e"]
    write_config("my.yaml", "dark", "pool", "flat")
    data = datasets.load(load("my.yaml").data)
    assert (len(data.labeled), len(data.val)) == (2, 2)
    assert data.labeled.classes.names == data.val.classes.names == ("disc", "bar")
    assert (data.labeled.labels.tolist(), data.val.labels.tolist()) == ([0, 0], [1, 1])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("classes = 3\nnames = obj.names\ntrain = train.txt\n", r"obj\.data: nc: 3, but names lists 2"),
        ("names = gone.names\ntrain = train.txt\n", r"obj\.data: names: 'gone\.names' not found"),
        ("names = obj.names\ntrain = gone.txt\n", r"obj\.data: train: 'gone\.txt' not found"),
        ("names: obj.names\n", r"obj\.data: line 1: 'names: obj\.names', expected key = value"),
        ("names = blank.names\ntrain = train.txt\n", r"blank\.names: line 2: no name"),
    ],
)
def test_what_obj_data_names_and_is_not_so_is_one_line(text: str, words: str, tmp_path: Path) -> None:
    fill(tmp_path, "obj_train_data", ["a"], labels="obj_train_data")
    (tmp_path / "obj.names").write_text("disc\nbar")
    (tmp_path / "blank.names").write_text("disc\n\nbar\n")
    (tmp_path / "train.txt").write_text("obj_train_data/a.png\n")
    (tmp_path / "obj.data").write_text(text)
    with pytest.raises(SsodError, match=words):
        part(tmp_path, "train")


def test_init_takes_what_the_file_names_and_never_test_for_val(weld: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(weld.parent)
    picture(Path("pool/p.png"), 1)
    said(weld, "train: images/reviewed\nval: images/line2\ntest: images/test\n")
    (weld / "data.yaml").rename(weld / "weld.yaml")
    said(weld, "train: images/reviewed\nval: images/line2\ntest: images/test\n")
    for name in ("weld", "weld/data.yaml", "weld/weld.yaml"):
        out = f"{name.replace('/', '-')}.out.yaml"
        write_config(out, name, "pool", name)
        data = datasets.load(load(out).data)
        assert (len(data.labeled), len(data.val)) == (3, 2)
    said(weld, "train: images/reviewed\n")
    with pytest.raises(SsodError, match="--val: 'weld' is the labelled set itself"):
        write_config("b.yaml", "weld", "pool", "weld")


def test_without_parts_the_folders_are_the_parts_and_val_comes_before_test(weld: Path) -> None:
    said(weld, "")
    wanted = ("val", "valid", "validation", "test")
    (weld / "images/.ipynb_checkpoints").mkdir()
    assert labeled_source(str(weld), "--val", wanted)["split"] == "val"

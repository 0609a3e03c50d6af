"""``ssod merge``: one JSON from several sets and their corrections, that ``ssod init`` finds the images of."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from ssod.commands.merge import merge
from ssod.commands.sources import read_labels
from ssod.data.formats.findings import Context, Rules
from ssod.data.formats.infer import labeled_source
from ssod.data.formats.registry import CocoSource, read_labeled
from ssod.utils.errors import Exit, SsodError
from tests.small_sets import coco, voc


@pytest.fixture
def sets(tmp_path: Path) -> tuple[Path, Path]:
    """Return a COCO JSON of three images and a VOC folder of two, with the same names of classes in other orders."""
    coco(tmp_path / "first" / "a.json", tmp_path / "first" / "images", ["x.jpg", "y.jpg", "z.jpg"])
    voc(tmp_path / "second", {"train": 2})
    return tmp_path / "first" / "a.json", tmp_path / "second"


def test_two_sets_are_one_that_init_reads(
    sets: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written = merge(sets, tmp_path / "out" / "all.json").labels
    assert sorted(written.images.paths) == [
        *(f"first/images/{name}.jpg" for name in "xyz"),
        *(f"second/JPEGImages/train{i}.jpg" for i in range(2)),
    ]
    source = labeled_source(str(tmp_path / "out" / "all.json"), "--labeled", ("train",))
    assert source["images"] == str(tmp_path), "where info.images says"
    back = read_labeled(CocoSource(**source))
    assert back.images.paths == written.images.paths
    assert back.images.ids == [1, 2, 3, 4, 5]
    assert [back.classes.names[k] for k in back.labels.tolist()] == ["dog", "cat", "dog", "cat", "dog"]
    assert back.boxes.tolist() == written.boxes.tolist()
    assert "5 images, 5 boxes, 2 classes" in capsys.readouterr().out


def test_a_correction_counts_and_is_told(
    sets: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = json.loads(sets[0].read_text())
    tree["images"] = [{**row, "file_name": f"upload/7/{row['file_name']}"} for row in tree["images"][:2]]
    tree["annotations"] = [row for row in tree["annotations"] if row["image_id"] == 1]  # y.jpg: the box was wrong
    corrected = tmp_path / "export" / "result.json"
    corrected.parent.mkdir()
    corrected.write_text(json.dumps(tree))
    written = merge([*sets, corrected], tmp_path / "all.json").labels
    boxes = dict(zip(written.images.paths, (written.starts[1:] - written.starts[:-1]).tolist()))
    assert boxes["first/images/y.jpg"] == 0
    assert boxes["first/images/x.jpg"] == 1
    assert len(written) == 5
    said = capsys.readouterr().out
    assert f"2 images of {sets[0]} are in {corrected}, too; 1 have other boxes there, and those count" in said
    with pytest.raises(SsodError, match="2 images are nowhere") as caught:
        merge([corrected, *sets], tmp_path / "other.json")
    assert caught.value.code == Exit.DATA
    assert not (tmp_path / "other.json").exists()


def test_a_copy_is_the_same_image(sets: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(tmp_path / "first", tmp_path / "copy")
    written = merge([sets[0], tmp_path / "copy" / "a.json"], tmp_path / "all.json").labels
    assert len(written) == 3
    assert "3 images of" in capsys.readouterr().out


def test_refusals(sets: tuple[Path, Path], tmp_path: Path) -> None:
    for sources, out, words in (
        (sets[:1], "all.json", "one set alone"),
        (sets, "all.txt", "is no .json"),
        (sets, "first/a.json", "nothing is written over"),
        ([sets[0], tmp_path / "absent.json"], "all.json", "not found"),
    ):
        with pytest.raises(SsodError, match=words):
            merge(sources, tmp_path / out)
    before = sets[0].read_bytes()
    (tmp_path / "first" / "images" / "y.jpg").unlink()
    with pytest.raises(SsodError, match=r"y\.jpg"):
        merge(sets, tmp_path / "all.json")
    assert sets[0].read_bytes() == before


def test_each_json_takes_the_named_folder_that_has_its_images(tmp_path: Path) -> None:
    names = ["x.jpg", "y.jpg"]
    for place, last in (("first", "z.jpg"), ("second", "w.jpg")):
        coco(tmp_path / place / "a" / "b" / "set.json", tmp_path / f"photos {place}", [*names, last])
    jsons = [tmp_path / place / "a" / "b" / "set.json" for place in ("first", "second")]
    folders = [tmp_path / f"photos {place}" for place in ("first", "second")]
    written = merge(jsons, tmp_path / "all.json", images=folders).labels
    assert sorted(written.images.paths) == [
        *(f"photos first/{name}" for name in ("x.jpg", "y.jpg", "z.jpg")),
        *(f"photos second/{name}" for name in ("w.jpg", "x.jpg", "y.jpg")),
    ]
    with pytest.raises(SsodError, match=r"--images: '.*typo' has the images of none") as refused:
        merge(jsons, tmp_path / "other.json", images=[*folders, tmp_path / "typo"])
    assert refused.value.code == Exit.USAGE
    table = json.loads(jsons[0].read_text())
    table |= {key: [row for row in table[key] if row["id"] < 3] for key in ("images", "annotations")}
    jsons[0].write_text(json.dumps(table))  # x and y alone, which both folders have
    with pytest.raises(SsodError, match="hold different images by the names in"):
        merge(jsons, tmp_path / "other.json", images=folders)


def test_sets_without_a_box_are_written_with_their_classes(sets: tuple[Path, Path], tmp_path: Path) -> None:
    """A set without a box, and one without a class: what the first has all images of the other may lack."""
    tree = json.loads(sets[0].read_text())
    sets[0].write_text(json.dumps(tree | {"annotations": []}))
    for file in (sets[1] / "Annotations").iterdir():
        file.write_text("<annotation><size><width>64</width><height>48</height></size></annotation>")
    merged = merge(sets, tmp_path / "all.json")
    assert (merged.whole.images, merged.whole.boxes, merged.whole.classes) == (5, 0, 2)
    written = json.loads((tmp_path / "all.json").read_text())
    assert written["annotations"] == []
    assert [row["name"] for row in written["categories"]] == ["cat", "dog"]
    assert [row.get("incomplete", False) for row in written["images"]] == [False] * 3 + [True] * 2
    source = CocoSource(format="coco", ann=str(tmp_path / "all.json"), images=str(tmp_path))
    back = read_labeled(source, Context("", "", Rules(needs_objects=False)))
    assert (len(back), back.classes.names) == (5, ("cat", "dog"))
    shutil.copytree(sets[1], tmp_path / "third")
    with pytest.raises(SsodError, match="none of the sets has a box or names a class") as caught:
        merge([sets[1], tmp_path / "third"], tmp_path / "none.json")
    assert caught.value.code == Exit.DATA


def test_a_folder_far_from_the_file_is_not_believed(sets: tuple[Path, Path], tmp_path: Path) -> None:
    """A stranger's JSON names no folder of the machine."""
    merge(sets, tmp_path / "all.json")
    tree = json.loads((tmp_path / "all.json").read_text())
    far = tmp_path / "a" / "b" / "all.json"
    far.parent.mkdir(parents=True)
    far.write_text(json.dumps(tree | {"info": {"images": str(tmp_path)}}))
    with pytest.raises(SsodError, match="cannot find"):
        labeled_source(str(far), "--labeled", ("train",))


@pytest.mark.parametrize("word", ["LABELS", "SOURCES"])
def test_a_folder_with_a_json_whose_images_are_nowhere_is_told(tmp_path: Path, word: str) -> None:
    coco(tmp_path / "set" / "annotations" / "train.json", tmp_path / "elsewhere", ["x.jpg"])
    with pytest.raises(SsodError, match=rf"{word}: cannot find 'x\.jpg' of train\.json"):
        read_labels(tmp_path / "set", word)

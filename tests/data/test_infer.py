"""`ssod init` and the images of a COCO JSON: the right folder, or one line that says which two it may be."""

import json
import shutil
import zlib
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ssod.commands.init.write import write_config
from ssod.config import load
from ssod.utils.errors import SsodError
from tests.small_sets import coco, pictures, voc


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a VOC set and some free pictures, and the current one."""
    voc(tmp_path / "voc", {"trainval": 9, "test": 3})
    pictures(tmp_path / "free", [f"u{i}.png" for i in range(4)])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(*args: str | None, **kwargs: Any) -> str:
    with pytest.raises(SsodError) as caught:
        write_config("refused.yaml", *args, **kwargs)
    assert not Path("refused.yaml").exists()
    return caught.value.line()


def renumbered(folder: Path, first: int, count: int, size: tuple[int, int] = (64, 48)) -> Path:
    """Write pictures named by number, and ``<folder>.json`` about them; each folder has pictures of its own."""
    names = [f"{i:06}.png" for i in range(first, first + count)]
    ann = folder.parent / f"{folder.name}.json"
    coco(ann, folder, names, size)
    for name in names:
        colour = zlib.crc32(f"{folder.name}/{name}".encode())  # as is each picture: no two are the same file
        Image.new("RGB", size, f"#{colour:08x}"[:7]).save(folder / name)
    return ann


def test_images_of_the_labelled_set_are_not_taken_for_those_of_val(here: Path) -> None:
    """Two folders have the names of val.json: that of --images, and the one that it lies in."""
    (here / "few.json").write_text(json.dumps(part(renumbered(here / "photos", 0, 20), 10)))
    own = renumbered(here / "valset", 0, 6).rename(here / "valset/val.json")
    args = ("few.json", None, str(own))
    line = refused(*args, percent=50, images="photos")
    assert line == (
        f"command line: --val-images: '{here}/valset' and '{here}/photos' hold different images by the names in "
        "val.json; name the folder that its file names are relative to"
    )
    for chosen in ("valset", "photos"):
        message = write_config(f"{chosen}.yaml", *args, percent=50, images="photos", val_images=chosen)
        data = load(f"{chosen}.yaml").data
        assert (data.labeled.images, data.val.images) == ("photos", chosen)
        assert f"images in {chosen})" in message
    with pytest.raises(SsodError, match=r"--val-images: '000000\.png' of val\.json is not there"):
        write_config("none.yaml", *args, percent=50, images="photos", val_images="free")
    line = refused("voc", str(own), "voc", images="photos")
    assert line.startswith("command line: --unlabeled: ")
    assert line.endswith(
        "hold different images by the names in val.json; name the folder of its images instead of the JSON"
    )


def part(ann: Path, first: int) -> dict[str, Any]:
    """Return a COCO object without the first images."""
    tree = json.loads(ann.read_text())
    tree["images"] = tree["images"][first:]
    tree["annotations"] = tree["annotations"][first:]
    return tree


def test_one_folder_of_images_for_all_jsons(here: Path) -> None:
    all_ = renumbered(here / "photos", 0, 20)
    (here / "few.json").write_text(json.dumps(part(all_, 10)))
    tree = json.loads(all_.read_text())
    (here / "val.json").write_text(json.dumps(tree | {key: tree[key][:10] for key in ("images", "annotations")}))
    write_config("my.yaml", "few.json", "free", "val.json", images="photos")
    assert load("my.yaml").data.val.images == "photos"


def test_copies_of_the_same_images_are_no_question(here: Path) -> None:
    renumbered(here / "valset", 0, 6)
    shutil.copytree(here / "valset", here / "photos")
    write_config("my.yaml", "voc", "free", "valset.json", images="photos")
    assert load("my.yaml").data.val.images == "valset"


def test_the_sizes_that_are_stated_tell_folders_apart(here: Path) -> None:
    renumbered(here / "photos", 0, 6, (80, 40))
    renumbered(here / "valset", 0, 6)
    write_config("my.yaml", "voc", "free", "valset.json", images="photos")
    write_config("other.yaml", "voc", "free", "photos.json", images="valset")
    assert load("my.yaml").data.val.images == "valset"
    assert load("other.yaml").data.val.images == "photos"


def test_the_folder_with_most_of_the_names_is_meant(here: Path) -> None:
    """The first name alone is no proof."""
    renumbered(here / "valset", 0, 6)
    renumbered(here / "photos", 0, 1)
    write_config("my.yaml", "voc", "free", "valset.json", images="photos")
    assert load("my.yaml").data.val.images == "valset"


def test_the_folder_that_was_named_for_the_labelled_set_is_the_one(here: Path) -> None:
    renumbered(here / "odd", 0, 6)
    renumbered(here / "images", 0, 6)
    assert "command line: --images: " in refused("odd.json", "free", "voc")
    write_config("my.yaml", "odd.json", "free", "voc", images="images")
    assert load("my.yaml").data.labeled.images == "images"
    line = refused("odd.json", "free", "voc", images="free")
    assert line.startswith("command line: --images: '000000.png' of odd.json is not there; ")


def test_a_folder_of_images_without_a_json_is_refused(here: Path) -> None:
    assert "--images: 'free' is for a COCO JSON" in refused("voc", "free", "voc", images="free")
    assert "--val-images: 'free' is for a COCO" in refused("voc", "free", "voc", val_images="free")

"""A folder that several processes label: every image once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ssod.commands.merge import merge
from ssod.data.formats.records import Images
from ssod.inference.label import label_files
from ssod.inference.shard import Shard, read_shard
from ssod.utils.errors import Exit, SsodError
from tests.trained import model_file, photos


def boxes_of(file: Path) -> dict[str, list[Any]]:
    """Return the boxes and classes of each image by its name."""
    table = json.loads(file.read_text())
    names = {row["id"]: row["name"] for row in table["categories"]}
    found: dict[int, list[Any]] = {image["id"]: [] for image in table["images"]}
    for row in table["annotations"]:
        found[row["image_id"]].append((names[row["category_id"]], row["bbox"]))
    return {Path(image["file_name"]).name: found[image["id"]] for image in table["images"]}


def test_what_the_parts_write_is_joined_to_what_one_process_writes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is found in the third part, whose images are every third and pale."""
    weights, folder = model_file(tmp_path / "m.safetensors"), tmp_path / "photos"
    photos(folder, [f"{name}.png" for name in "abcdefgh"])
    label_files(weights, folder, tmp_path / "whole.json", score=0.3, workers=0, batch=1)
    for number in (1, 2, 3):
        part = tmp_path / f"part{number}.json"
        label_files(weights, folder, part, score=0.3, workers=0, batch=1, shard=f"{number}/3")
    parts = [tmp_path / f"part{number}.json" for number in (1, 2, 3)]
    merge([str(part) for part in parts], tmp_path / "all.json")
    assert f"{parts[2]} has no box" in capsys.readouterr().out
    none = [tmp_path / "part3.json", tmp_path / "again.json"]  # where the detector finds nothing at all
    none[1].write_bytes(none[0].read_bytes())
    merged = merge([str(part) for part in none], tmp_path / "none.json")
    assert boxes_of(tmp_path / "none.json") == boxes_of(parts[2]) == {"c.png": [], "f.png": []}
    assert merged.labels.classes.names == ("cat", "dog", "bird")
    assert len(merged.remarks) == 3, "both have no box, and the same images"
    whole = boxes_of(tmp_path / "whole.json")
    close = {image: [(name, pytest.approx(box, abs=0.02)) for name, box in found] for image, found in whole.items()}
    assert boxes_of(tmp_path / "all.json") == close
    assert sum(len(boxes_of(part)) for part in parts) == len(boxes_of(tmp_path / "whole.json"))


def test_parts_have_every_image_once() -> None:
    images = Images("root", list("abcdefgh"), list(range(8)))
    parts = [Shard(number, 3).part(images).paths for number in (1, 2, 3)]
    assert parts == [["a", "d", "g"], ["b", "e", "h"], ["c", "f"]]
    with pytest.raises(SsodError, match="fewer parts") as refused:
        Shard(9, 9).part(images)
    assert refused.value.code == Exit.DATA


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "1/0", "a/b", "-1/3", "1/3/5", "", "1 / 3"])
def test_what_is_no_part_is_refused(text: str) -> None:
    with pytest.raises(SsodError, match="names no part") as refused:
        read_shard(text)
    assert refused.value.code == Exit.USAGE


def test_images_to_label_next_are_chosen_among_all(tmp_path: Path) -> None:
    with pytest.raises(SsodError, match="chooses among all images"):
        label_files("m", "photos", tmp_path / "out", next=2, shard="1/2")

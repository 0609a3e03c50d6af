"""Misspelt keys of COCO entries are told with the right word; what tools write of their own is not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ssod.data.formats.coco import read_coco, read_coco_images
from ssod.data.formats.findings import Context
from ssod.data.formats.misspelt import READ, edits, near
from tests.small_sets import coco

# Of COCO itself, CVAT, Roboflow, FiftyOne, Label Studio, LVIS, Objects365, BDD100K, TAO.
OWN = """
license licenses coco_url flickr_url date_captured extra user_tags attributes keypoints num_keypoints skeleton
caption score track_id instance_id isbbox ignore rotation occluded truncated iou logits mask mask_id video_id frame_id
frame_index synset synonyms frequency def image_count instance_count color
isthing created updated creator is_background group_id labels tags split dataset_id path num_annotations annotated
annotating metadata deleted events milliseconds regenerate_thumbnail category_ids is_crowdsourced visibility comment
file_path image_name original_name original_width original_height bbox_mode category category_name label label_id
class_id description text angle weight complete timestamp url source
"""


@pytest.mark.parametrize("name", READ)
def test_keys_of_tools_are_words_of_their_own(name: str) -> None:
    assert [key for key in OWN.split() if near(key, READ[name])] == []


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("incomplet", "incomplete"),
        ("incompleet", "incomplete"),
        ("Incomplete", "incomplete"),
        ("uncomplete", "incomplete"),
        ("is_crowd", "iscrowd"),
        ("isCrowd", "iscrowd"),
        ("segmentations", "segmentation"),
        ("areas", "area"),
        ("widht", "width"),
        ("filename", "file_name"),
        ("super_category", "supercategory"),
    ],
)
def test_a_misspelt_key_is_known(key: str, meant: str) -> None:
    assert [near(key, read) for read in READ.values() if meant in read] == [meant]


def test_edits_by_hand() -> None:
    assert [edits("abc", word, 3) for word in ("abc", "acb", "ab", "xabc", "bca", "")] == [0, 1, 1, 1, 2, 3]
    assert edits("a", "abcdef", 2) > 2


@pytest.mark.parametrize("read", [read_coco, read_coco_images])
def test_each_is_told_once_with_the_right_word(read: object, tmp_path: Path) -> None:
    coco(tmp_path / "t.json", tmp_path / "im", [f"{i}.jpg" for i in range(5)])
    tree = json.loads((tmp_path / "t.json").read_text())
    for image in tree["images"][1:4]:
        image["incomplet"] = True
    tree["images"][4] |= {"incomplete": True, "incomplet": True, "date_captured": "x", "license": 1}
    tree["annotations"][0] |= {"is_crowd": 1, "attributes": {}}
    tree["annotations"][0].pop("iscrowd", None)
    (tmp_path / "t.json").write_text(json.dumps(tree))
    ctx = Context(str(tmp_path), "data.labeled")
    read("t.json", "im", ctx)  # type: ignore
    told = [finding for finding in ctx.findings if finding.id == "D49"]
    images = (f"{tmp_path}/t.json: images[1].incomplet: ", "3 entries have it", "did you mean 'incomplete'?")
    assert all(word in told[0].line() for word in images)
    assert told[0].level == "warning"
    if read is read_coco_images:  # no annotation is looked at
        assert len(told) == 1
    else:
        (crowd,) = told[1:]
        assert "annotations[0].is_crowd" in crowd.line()
        assert "did you mean 'iscrowd'?" in crowd.line()

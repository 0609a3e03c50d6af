"""What the numbers of a box mean is decided by boxes that one reading alone explains, however few they are."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ssod.data.datasets import DataConfig, load
from ssod.data.formats.areas import _segmented
from ssod.data.formats.coco import to_coco
from ssod.data.formats.findings import Findings
from ssod.utils.errors import SsodError
from tests.data import nano

WIDTH, HEIGHT = 320, 240


def belt(count: int, seed: int = 0, *, right: int = 1) -> np.ndarray:
    """Return [count, 4] corners of parts that lie left and on top, but for ``right`` of them."""
    rng = np.random.default_rng(seed)
    low = rng.uniform((60, 50), (110, 90), (count, 2))
    low[:right] = rng.uniform((200, 50), (260, 90), (right, 2))
    return np.concatenate([low, low + rng.uniform(20, 45, (count, 2))], 1).round(1)


def write(root: Path, boxes: np.ndarray, *, size: tuple[int, int] = (WIDTH, HEIGHT), turn: int = 1, **row: Any) -> dict:
    """Write a labelled set of images with four boxes each; ``size`` is what the JSON says, None = nothing."""
    images, annotations = [], []
    for i in range(0, len(boxes), 4):
        exif = Image.Exif()
        exif[0x0112] = turn
        picture = Image.fromarray(np.full((HEIGHT, WIDTH, 3), i % 250, np.uint8))
        (root / "im").mkdir(parents=True, exist_ok=True)
        picture.save(root / "im" / f"{i}.jpg", exif=exif)
        images.append({"id": i, "file_name": f"{i}.jpg"} | (dict(zip(("width", "height"), size)) if size else {}))
        for box in boxes[i : i + 4].tolist():
            annotations.append({"id": len(annotations) + 1, "image_id": i, "category_id": 1, "bbox": box, **row})
    table = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "part"}]}
    (root / "a.json").write_text(json.dumps(table))
    return {"root": str(root), "labeled": {"format": "coco", "ann": "a.json", "images": "im"}}


def read(section: dict, **changes: Any) -> tuple[np.ndarray, Findings]:
    findings = Findings()
    found = load(DataConfig.model_validate({**section, "split": {"percent": 50}, **changes}), findings)
    return found, findings


def all_boxes(section: dict, source: dict | None = None, **changes: Any) -> np.ndarray:
    from ssod.data.datasets import context, load_labeled

    cfg = DataConfig.model_validate({**section, "labeled": {**section["labeled"], **(source or {})}, **changes})
    return load_labeled(cfg, context(cfg)("labeled")).boxes


def as_format(boxes: np.ndarray, name: str) -> np.ndarray:
    low, high = boxes[:, :2], boxes[:, 2:]
    pairs = {"xyxy": (low, high), "xywh": (low, high - low), "cxcywh": ((low + high) / 2, high - low)}
    raw = np.concatenate(pairs[name.removesuffix("_norm")], 1)
    return raw / (WIDTH, HEIGHT, WIDTH, HEIGHT) if name.endswith("_norm") else raw


# ---- formats -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("right", [1, 5, 20])
@pytest.mark.parametrize("name", ["xyxy", "xyxy_norm", "xywh_norm", "cxcywh", "cxcywh_norm"])
def test_the_right_format_is_named_and_taken(name: str, right: int, tmp_path: Path) -> None:
    boxes = belt(40, right=right)
    if name == "cxcywh":
        boxes[:4] += (WIDTH - 1, HEIGHT - 1) * 2 - boxes[:4, [2, 3, 2, 3]]  # centres near the border speak
    section = write(tmp_path, as_format(boxes, name))
    with pytest.raises(SsodError) as caught:
        all_boxes(section)
    named = re.search(r"set data\.labeled\.box_format=(\w+)", str(caught.value))
    assert named, caught.value
    tried = named[1] if name.endswith("_norm") else name
    assert named[1] in (name, "xywh_norm")  # of shares, pixels or not is all that is seen at first
    if tried == name:
        np.testing.assert_allclose(all_boxes(section, {"box_format": tried}), boxes, atol=0.01)


def test_honest_boxes_stay_as_they_are(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    low = rng.uniform(0, (WIDTH - 40, HEIGHT - 40), (60, 2))
    boxes = np.concatenate([low, low + rng.uniform(10, 40, (60, 2))], 1)
    boxes[:3, 2] = WIDTH + 9  # leans out, as outlines drawn by hand do
    kept = all_boxes(write(tmp_path, as_format(boxes, "xywh")))
    np.testing.assert_allclose(kept, boxes.clip(0, (WIDTH, HEIGHT) * 2), atol=0.01)


def test_what_is_stated_is_believed(tmp_path: Path) -> None:
    boxes = np.array([[100.0, 80, 330, 200]] * 8) + np.arange(8)[:, None]  # large ones, which have room as corners
    section = write(tmp_path, as_format(boxes, "xywh"))
    with pytest.raises(SsodError, match=r"set data\.labeled\.box_format=xyxy, or =xywh"):
        all_boxes(section)
    kept = all_boxes(section, {"box_format": "xywh"})
    np.testing.assert_allclose(kept, boxes.clip(0, (WIDTH, HEIGHT) * 2), atol=0.01)


@pytest.mark.parametrize("name", ["xywh_norm", "xyxy_norm"])
def test_pixels_are_no_shares(name: str, tmp_path: Path) -> None:
    section = write(tmp_path, as_format(belt(40), "xywh"))
    with pytest.raises(SsodError, match=rf"no shares 0\.\.1.*set data\.labeled\.box_format={name[:4]}$"):
        all_boxes(section, {"box_format": name})


def test_shares_that_are_rounded_up_and_shares_among_pixels(tmp_path: Path) -> None:
    shares = as_format(belt(40), "xywh_norm")
    shares[0, 0], shares[0, 2] = 0.8, 1.004
    with pytest.raises(SsodError, match=r"normalised to 0\.\.1"):
        all_boxes(write(tmp_path / "a", shares))
    mixed = as_format(belt(40), "xywh")
    mixed[:7] = shares[1:8]
    with pytest.raises(SsodError, match=r"7 of 40 boxes look normalised to 0\.\.1, the others not"):
        all_boxes(write(tmp_path / "b", mixed))


def test_shares_in_a_voc_folder(tmp_path: Path) -> None:
    section = nano.voc(tmp_path)
    for file in (tmp_path / "Annotations").iterdir():
        box = nano.voc_object(box=(0.1, 0.2, 0.6, 0.7))
        file.write_text(nano.xml(objects=box))
    with pytest.raises(SsodError, match=r"look normalised to 0\.\.1; scale them to pixels"):
        load(DataConfig.model_validate({"labeled": section, "split": {"percent": 50}}))


@pytest.mark.parametrize("kind", ["yolo", "voc"])
def test_far_outside_is_no_repair_in_any_format(kind: str, tmp_path: Path) -> None:
    section = {"yolo": nano.yolo, "voc": nano.voc}[kind](tmp_path)
    if kind == "yolo":
        (tmp_path / "labels" / "train" / "0.txt").write_text("1 0.8 0.5 0.8 0.5\n")  # corners
    else:
        (tmp_path / "Annotations" / "000.xml").write_text(nano.xml(objects=nano.voc_object(box=(40, 5, 90, 30))))
    with pytest.raises(SsodError, match=r"leaves image 64×48 by \d+ px.*set data\.max_clip=0\.[35]"):
        load(DataConfig.model_validate({"labeled": section, "split": {"percent": 50}}))
    assert load(DataConfig.model_validate({"labeled": section, "split": {"percent": 50}, "max_clip": 0.5}))


def test_doubtful_and_silent_sets_get_a_warning(tmp_path: Path) -> None:
    left = as_format(belt(60, right=0), "xyxy") * 0.6  # as xywh nothing leaves the image
    _, findings = read(write(tmp_path / "a", left))
    assert any("have room as xyxy, too" in f.problem and f.level == "warning" for f in findings)
    _, findings = read(write(tmp_path / "b", as_format(belt(60) / 4, "xywh")))
    assert any("per cent" in f.problem and f.level == "warning" for f in findings)


# ---- frames ------------------------------------------------------------------------------------------------------


def spread(width: int, height: int) -> np.ndarray:
    """Return [24, 4] corners of boxes all over a frame, two of them at its far ends."""
    rng = np.random.default_rng(1)
    low = rng.uniform(0, (width - 50, height - 50), (24, 2))
    low[0], low[1] = (width - 50, 10), (10, height - 50)
    return np.concatenate([low, low + 40], 1).round(1)


@pytest.mark.parametrize("size", [(WIDTH, HEIGHT), (HEIGHT, WIDTH), None], ids=["stored size", "upright size", "none"])
@pytest.mark.parametrize("frame", ["stored", "upright"])
@pytest.mark.parametrize("key", ["apply", "ignore"])
def test_boxes_of_turned_images_are_read_in_their_frame_or_refused(
    key: str, frame: str, size: tuple[int, int] | None, tmp_path: Path
) -> None:
    boxes = spread(WIDTH, HEIGHT) if frame == "stored" else spread(HEIGHT, WIDTH)
    section = write(tmp_path, as_format(boxes, "xywh"), size=size, turn=6)
    stored = key == "ignore"
    if stored != (frame == "stored"):
        other = "apply" if stored else "ignore"
        with pytest.raises(SsodError, match=f"set data.exif={other}"):
            load(DataConfig.model_validate({**section, "split": {"percent": 50}, "exif": key}))
    elif not stored and size == (WIDTH, HEIGHT):
        with pytest.raises(SsodError, match="leave width and height out"):
            load(DataConfig.model_validate({**section, "split": {"percent": 50}, "exif": key}))
    else:
        load(DataConfig.model_validate({**section, "split": {"percent": 50}, "exif": key}))
        x1, y1, x2, y2 = boxes.T
        upright = np.stack([HEIGHT - y2, x1, HEIGHT - y1, x2], 1) if stored else boxes
        np.testing.assert_allclose(all_boxes(section, exif=key), upright, atol=0.01)


# ---- areas -------------------------------------------------------------------------------------------------------

SHARE = {"zero": 0, "one": 1.0, "share": 0.02, "image": WIDTH * HEIGHT, "negative": -1, "text": "12", "absent": None}


@pytest.mark.parametrize("area", SHARE.values(), ids=SHARE)
@pytest.mark.parametrize("segmentation", ["none", "polygon", "counts", "packed"])
def test_an_area_that_cannot_be_is_the_segmentation_s_or_the_box_s(
    area: Any, segmentation: str, tmp_path: Path
) -> None:
    box = np.array([[10.0, 20, 50, 60]])  # 40 x 40
    half = {"polygon": [[10, 20, 50, 20, 50, 40, 10, 40]], "counts": {"counts": [5, 300, 10, 500], "size": [240, 320]}}
    half["packed"] = {"counts": "5\\9:X6", "size": [240, 320]}  # 5, 300, 10, then 500 as 200 more than 300
    row = {} if area is None else {"area": area}
    row |= {"segmentation": half[segmentation]} if segmentation != "none" else {}
    section = write(tmp_path, as_format(np.repeat(box, 8, 0), "xywh"), **row)
    found, findings = read(section)
    told = sum(f.count for f in findings if f.id == "D33")
    wrong = area in (0, 1.0, 0.02, WIDTH * HEIGHT)
    assert told == (8 if wrong else 0)
    wanted = 800 if wrong and segmentation != "none" else 1600
    assert {a["area"] for a in to_coco(found.labeled)["annotations"]} == {wanted}


def test_an_area_that_can_be_is_kept(tmp_path: Path) -> None:
    boxes = np.repeat(np.array([[10.0, 20, 50, 60]]), 8, 0)
    for i, area in enumerate((25.0, 800, 1600, 41 * 41)):  # a thin diagonal, half, the box, one that counts its border
        found, findings = read(write(tmp_path / str(i), as_format(boxes, "xywh"), area=area))
        assert {a["area"] for a in to_coco(found.labeled)["annotations"]} == {area}
        assert "D33" not in [f.id for f in findings]


def test_packed_run_lengths_are_those_of_pycocotools() -> None:
    from pycocotools import mask

    rng = np.random.default_rng(0)
    for side in (7, 40, 300):
        picture = np.asfortranarray(rng.random((side, side)) < 0.3, dtype=np.uint8)
        packed = mask.encode(picture)
        assert _segmented({"size": packed["size"], "counts": packed["counts"].decode()}) == picture.sum()
    assert _segmented({"counts": "\x00\xff" * 9, "size": [-1, 1 << 40]}) >= -1e30
    assert _segmented({"counts": None}) == _segmented("x") == _segmented([["a"]]) == _segmented([[1, 2, 3]]) == 0

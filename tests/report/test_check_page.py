"""The page of ``ssod check -o``: each of its parts, names of strangers, and the model that doubts labels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ssod import run
from ssod.commands import check_sheet
from ssod.config import load
from ssod.inference.label_limits import of_score
from ssod.utils.errors import Exit, SsodError
from tests.core.test_plain_text import CONTROLS
from tests.report.test_pages import check
from tests.small import small_config

EVIL = "<img src=x onerror=alert(1)>\x1b[2J\u202e"


def changed(folder: Path, part: str, change: Any) -> None:
    """Change the COCO file of a part."""
    ann = folder / "data" / "annotations" / f"{part}.json"
    table = json.loads(ann.read_text())
    change(table)
    ann.write_text(json.dumps(table))


def odd(table: dict) -> None:
    """Add a box for each question of the page."""
    first, second = (row["id"] for row in table["categories"][:2])
    image = table["images"][0]["id"]
    boxes = [
        (first, [10, 10, 0.5, 0.5]), (first, [0, 0, 64, 63]), (second, [2, 30, 55, 3]),
        (first, [20, 20, 20, 20]), (second, [20, 20, 20, 20.5]), (second, [50, 40, 16, 10]),
    ]  # fmt: skip
    for i, (category, box) in enumerate(boxes):
        row = {"id": 10_000 + i, "image_id": image, "category_id": category, "bbox": box, "iscrowd": 0}
        table["annotations"].append({**row, "area": box[2] * box[3]})


def test_the_sheet_has_each_of_its_parts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cfg = load(small_config(tmp_path))
    changed(tmp_path, "train", odd)
    first, second = (next((tmp_path / "data" / part).iterdir()) for part in ("train", "val"))
    Image.open(first).convert("RGB").resize((64, 64)).point(lambda value: min(255, value + 6)).save(second)
    out = tmp_path / "new" / "sheet.html"
    assert run.check(cfg, out=out).code == 0
    printed = capsys.readouterr().out
    assert "1 of 6 val images nearly repeat labelled ones" in printed
    assert printed.endswith(f"-> {out}\n")
    page = check(out.read_text("utf-8"))
    headings = ["summary", "samples", "near", "boxes", "classes"]
    assert [i for i in page.ids if i in headings] == headings
    text = " ".join(page.text.split())
    for words in (
        "warning[D48]", "within reach of the detector", "6 of 12 labelled images:", "6 of 6 val images:",
        "1 val images nearly repeat labelled ones", f"{first.name} and {second.name}", "kept by the split",
        f" labelled: {first.name}", f" val: {second.name}",
        "labelled, tiny (side below 1% of the image's): 1 of", "side 0.78% of the image's",
        "labelled, huge (95% of the image or more): 1 of", "labelled, long (one side 10 times the other or more): 1 of",
        "55.0 x 3.0; 18.3 : 1", "labelled, two classes (IoU 0.9 or more): 1 of", "IoU 0.98",
        "clipped (outside their images): 1 boxes", "was 50.0, 40.0, 66.0, 50.0",
    ):  # fmt: skip
        assert words in text, words
    whole = out.read_text("utf-8")
    doubted = whole.count('class="rejected"')
    assert doubted >= 5  # one a question, and what else the generated boxes are
    assert whole.count("data:image/jpeg") == 6 + 6 + 2 + doubted  # samples, the pair, and a picture of each
    assert "What the model doubts" not in text
    assert run.check(cfg, out=out).code == 0  # as `ssod report` does, it replaces what is there
    assert [path.name for path in out.parent.iterdir()] == ["sheet.html"]


def test_names_of_strangers_are_harmless(tmp_path: Path) -> None:
    """Also where the data have errors: the page shows what could be read."""
    cfg = load(small_config(tmp_path))
    file = "'\"><svg onload=alert(2)>&amp;\x1b[2J.png"

    def rename(table: dict) -> None:
        table["categories"][0]["name"] = EVIL
        (tmp_path / "data/train" / table["images"][0]["file_name"]).rename(tmp_path / "data/train" / file)
        table["images"][0]["file_name"] = file
        table["images"][1]["file_name"] = "<b>absent</b>.png"

    changed(tmp_path, "train", rename)
    changed(tmp_path, "val", lambda table: table["categories"][0].update(name=EVIL))
    assert run.check(cfg, out=tmp_path / "s.html").code == Exit.DATA
    text = (tmp_path / "s.html").read_text("utf-8")
    page = check(text)
    assert "<img" not in text
    assert "onload=alert(2)>" not in text
    assert "<b>" not in text
    assert set(text).isdisjoint(CONTROLS)
    assert EVIL.replace("\x1b", "\\x1b").replace("\u202e", "\\u202e") in page.text
    assert "error[D18]" in page.text or "error[I01]" in page.text


def test_what_the_model_doubts(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = load(trained.parent / "small.yaml")
    out = tmp_path / "s.html"
    run.check(cfg, out=out, weights=trained / "mean_teacher")
    assert "mean_teacher is sure" in check(out.read_text("utf-8")).text
    monkeypatch.setattr(check_sheet, "limits_of", lambda weights, model: of_score(0.01, len(model.classes)))
    monkeypatch.setattr(check_sheet, "LOOKED_AT", 3)
    run.check(cfg, out=out, weights=trained / "mean_teacher", decode="none")
    text = " ".join(check(out.read_text("utf-8")).text.split())
    assert "missing labels? 0 boxes" not in text
    assert "boxes, in 3 images looked at" in text
    assert "model: " in text


def test_what_cannot_be_done_is_refused_before_an_image_is_read(trained: Path, tmp_path: Path) -> None:
    cfg = load(small_config(tmp_path))
    for words, message in (
        ({"out": tmp_path / "small.yaml"}, r"-o: '.*small\.yaml' does not end in \.html"),
        ({"weights": trained / "mean_teacher"}, "--run: needs a page"),
        ({"out": tmp_path / "s.html", "weights": tmp_path / "absent"}, "absent: .*not found"),
    ):
        with pytest.raises(SsodError, match=message):
            run.check(cfg, **words)
    changed(tmp_path, "train", lambda table: table["categories"][0].update(name="blob"))
    changed(tmp_path, "val", lambda table: table["categories"][0].update(name="blob"))
    with pytest.raises(SsodError, match="the model knows the class 'circle', and the data do not") as caught:
        run.check(cfg, out=tmp_path / "s.html", weights=trained / "mean_teacher", decode="none")
    assert caught.value.code == Exit.DATA
    assert not (tmp_path / "s.html").exists()

"""tools/loop_rounds.py: two rounds in miniature, what the person writes, and going on where it stopped."""

import json
from pathlib import Path

import pytest

from ssod.evaluation.agreement import Agreement
from tests.small_sets import voc
from tools.loop_rounds import by_hand, main, names_of, read_truth, table

ROUNDS = ["--percent", "20", "--next", "3", "--audit", "4", "--score", "0", "--budget", "0.01m"]
SMALL = ["train.steps=2", "train.batch={labeled: 2, unlabeled: 2}", "train.workers=0", "detector.decode.detections=5"]
ROUNDS += [word for change in SMALL for word in ("--set", change)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    voc(tmp_path / "set", {"trainval": 20, "test": 4})
    return tmp_path / "set"


def test_two_rounds_and_a_control(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main([str(folder), *ROUNDS, "-o", str(out)]) == 0
    said = capsys.readouterr().out
    commands = [line.split()[2] for line in said.splitlines() if line.startswith("$ ssod ")]
    assert commands == ["init", "train", "eval", "label", "audit", "audit", "merge", "init", "train", "eval"]
    assert main([str(folder), *ROUNDS, "--control", "-o", str(out)]) == 0, "what is done is not done again"
    more = capsys.readouterr().out
    commands = [line.split()[2] for line in more.splitlines() if line.startswith("$ ssod ")]
    assert commands == ["merge", "init", "train", "eval"]
    before, after = said[said.rindex("| run") :].rstrip(), more[more.rindex("| run") :].rstrip()
    assert after.startswith(before)
    assert (out / "table.md").read_text().rstrip() == after
    cells = [[cell.strip() for cell in row.split("|")[1:-1]] for row in after.splitlines()[2:]]
    assert [row[:3] for row in cells] == [["round 1", "4", "4"], ["round 2", "11", "11"], ["by chance", "11", "11"]]
    assert all(cells[0][5:])
    assert not any(cells[1][5:])
    _is_as_it_should_be(out)
    assert main([str(folder), *ROUNDS, "--seed", "1", "-o", str(out)]) == 2
    assert "was begun with other options" in capsys.readouterr().err


def _is_as_it_should_be(out: Path) -> None:
    """The person labels what was asked for, truly; the control has as many other images."""
    known, asked, audit, chance = (
        names_of(out / file)
        for file in ("train.json", "round1/next/instances.json", "round1/audit/instances.json", "chance.json")
    )
    assert names_of(out / "next.json") == asked
    assert names_of(out / "audit.json") == audit
    assert (len(asked), len(audit), len(chance)) == (3, 4, 3)
    assert not known & (asked | audit | chance)
    assert not audit & (asked | chance)
    assert known | {path.name for path in (out / "more").iterdir()} == names_of(out / "truth.json")


def test_the_person_writes_true_boxes_under_new_numbers(folder: Path, tmp_path: Path) -> None:
    truth = tmp_path / "truth.json"
    rows = [{"id": i, "file_name": f"{i}.jpg"} for i in (4, 7, 9)]
    boxes = [{"id": n, "image_id": i, "bbox": [n, 0, 5, 5]} for n, i in enumerate((4, 9, 9, 7))]
    truth.write_text(json.dumps({"images": rows, "annotations": boxes, "categories": [{"id": 0, "name": "a"}]}))
    by_hand({"9.jpg", "4.jpg"}, truth, tmp_path / "export.json")
    found = json.loads((tmp_path / "export.json").read_text())
    names = {row["id"]: row["file_name"] for row in found["images"]}
    assert sorted(names.values()) == ["4.jpg", "9.jpg"]
    assert not set(names) & {4, 9}
    assert [(names[row["image_id"]], row["bbox"][0]) for row in found["annotations"]] == [
        ("4.jpg", 0),
        ("9.jpg", 1),
        ("9.jpg", 2),
    ]


def test_val_is_not_learnt_from(tmp_path: Path) -> None:
    voc(tmp_path / "a", {"train": 3, "val": 2, "trainval": 5})
    assert len(read_truth(tmp_path / "a")) == 3, "val is measured on, and is part of trainval"
    voc(tmp_path / "a", {"test": 2})
    assert len(read_truth(tmp_path / "a")) == 5


def test_the_table_has_intervals_and_no_number_where_there_is_none() -> None:
    held = {"images": 3, "annotations": 9, "AP": 0.5, "AP50": float("nan")}
    audit, truth = Agreement("all", 10, 8, 20), Agreement("all", 0, 0, 20)
    lines = table({"round 1": held, "round 2": held}, audit, truth).splitlines()
    assert lines[2] == "| round 1 | 3 | 9 | 50.0 | - | 80.0 (49.0 to 94.3) | - | 40.0 (21.9 to 61.3) | 0.0 |"
    assert lines[3].split("|")[5:] == [" - ", *["  "] * 4, ""]


def test_data_that_is_not_there_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "none"), "-o", str(tmp_path / "out")]) != 0
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert not (tmp_path / "out").exists()

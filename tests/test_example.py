"""``docs/example.py`` does what it says, cell by cell, with fewer steps."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCE = (ROOT / "docs" / "example.py").read_text("utf-8")
SMALLER = {"STEPS": "4", "IMAGES, VAL": "20, 6", "SIDE": "64"}


def test_every_cell_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    text = SOURCE
    for name, value in SMALLER.items():
        text, times = re.subn(rf"^{name} = [\d, ]*\d", f"{name} = {value}", text, flags=re.M)
        assert times == 1, "parameters stand at the top, once"
    exec(compile(text, "docs/example.py", "exec"), {"__name__": "__main__"})
    out = capsys.readouterr().out
    assert re.search(r"0 errors, \d+ findings, 20 images", out)
    assert re.search(r"s a step, \d+\.\d\d hours", out)
    assert re.search(r"AP \d\.\d+ with unlabelled images, \d\.\d+ without", out)
    assert "6 images," in out
    assert "not found" in out
    for name in ("shapes.yaml", "runs/mean_teacher/best.safetensors", "compare.html", "detector.pt2"):
        assert (tmp_path / "example" / name).is_file()
    assert (tmp_path / "example" / "predicted" / "results.json").is_file()


def test_cells_are_those_of_a_notebook() -> None:
    cells = re.split(r"^# %%", SOURCE, flags=re.M)[1:]
    assert len(cells) > 8
    assert cells[0].startswith(" [markdown]")
    assert all(cell.strip() for cell in cells)
    parameters = cells[1]
    assert all(f"{name} = " in parameters for name in SMALLER)

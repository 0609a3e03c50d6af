"""tools/gpu_check: every part of it runs without a GPU, so that none fails on its first card."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from ssod.inference.export_parity import Parity
from tools import export_parity, gpu_check, gpu_parts

TINY = ["--tiny", "--device", "cpu", "--rounds", "1"]


def test_every_part_runs_and_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parts = [name for name in gpu_check.PARTS if name not in ("tests", "export")]  # see below
    assert gpu_check.main([*TINY, "-o", str(tmp_path), "--minutes", "60", "--only", *parts]) == 0
    found = json.loads((tmp_path / "gpu_check.json").read_text())
    assert list(found) == parts
    assert all(not {"error", "left_out"} & set(part) for part in found.values())
    (row,) = found["steps"]["rows"]
    assert row["ratio"] == pytest.approx(row["whole"] / row["bare"])
    assert row["tflops"] > 0
    assert row["mfu"] is None
    assert found["loader"]["data_wait"] >= 0
    assert found["thresholds"]["ms"] > 0
    page = (tmp_path / "gpu_check.md").read_text()
    assert page in capsys.readouterr().out
    assert page.startswith("# CPU\n")
    assert "| retinanet | supervised | bf16 |" in page


def test_a_part_that_fails_does_not_stop_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(args: object) -> dict:
        raise RuntimeError("no such\nthing")

    monkeypatch.setitem(gpu_check.PARTS, "machine", broken)
    assert gpu_check.main([*TINY, "-o", str(tmp_path), "--only", "machine", "thresholds"]) == 1
    found = json.loads((tmp_path / "gpu_check.json").read_text())
    assert found["machine"]["error"] == "RuntimeError: no such"
    assert found["thresholds"]["ms"] > 0


def test_no_part_begins_after_its_time(tmp_path: Path) -> None:
    assert gpu_check.main([*TINY, "-o", str(tmp_path), "--minutes", "0", "--only", "thresholds", "steps"]) == 0
    found = json.loads((tmp_path / "gpu_check.json").read_text())
    assert found == {name: {"left_out": "after 0 minutes"} for name in ("thresholds", "steps")}


def test_tests_are_asked_for_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {}

    def run(command: list[str], **keys: object) -> subprocess.CompletedProcess:
        asked.update(keys["env"], command=command)
        return subprocess.CompletedProcess(command, 0, "...\n3 passed in 1.00s\n", "")

    monkeypatch.setattr(gpu_parts.subprocess, "run", run)
    assert gpu_parts.tests(gpu_check.arguments(TINY)) == {"result": "3 passed in 1.00s"}
    assert asked["SSOD_TEST_DEVICE"] == "cpu"
    assert "tests/test_devices.py" in asked["command"]


@pytest.mark.parametrize("differ", [0, 1])
def test_graphs_are_compared_on_the_provider(differ: int, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    swept = export_parity.Sweep(Parity(images=8, differ=differ), 0)
    monkeypatch.setattr(gpu_parts, "convert", lambda model, format: b"graph")
    monkeypatch.setattr(gpu_parts, "runner", lambda *words: asked.append(words))
    monkeypatch.setattr(export_parity, "sweep", lambda model, run, count: swept)
    if differ:
        with pytest.raises(RuntimeError, match="1 differ"):
            gpu_parts.export(gpu_check.arguments(TINY))
        return
    found = gpu_parts.export(gpu_check.arguments(TINY))
    assert "0 differ, 0 crashes" in found["retinanet"]
    assert asked == [(b"graph", "onnx", "CPUExecutionProvider")]


def test_a_row_that_does_not_fit_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> dict:
        raise MemoryError("CUDA out of memory")

    monkeypatch.setattr(gpu_parts, "timed", broken)
    args = gpu_check.arguments(TINY)
    args.until = float("inf")
    (row,) = gpu_parts.steps(args)["rows"]
    assert row["error"] == "MemoryError: CUDA out of memory"
    assert "CUDA out of memory" in gpu_check.table({"steps": {"rows": [row]}})

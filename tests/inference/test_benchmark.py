"""The table of latencies: real programs at the model's own size, by turns, and figures that follow from the calls."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from ssod.inference import benchmark as latency
from ssod.inference.benchmark import Benchmark, Timing, by_turns, summary, view_size
from ssod.inference.export import export
from ssod.inference.model import load
from tests.trained import RESIZE, model_file

Answer = tuple[Tensor, Tensor, Tensor]


def test_programs_take_turns_and_warm_up_is_not_counted() -> None:
    now, calls = 0.0, []

    def program(name: str, seconds: float) -> latency.Run:
        def run(images: Tensor, sizes: Tensor) -> Answer:
            nonlocal now
            calls.append(name)
            now += 100.0 if calls.count(name) <= latency.WARM_UP else seconds
            return images, sizes, images

        return run

    images, sizes = torch.zeros(1, 3, 32, 32), torch.tensor([[32, 32]])
    taken = by_turns({"a": program("a", 0.5), "b": program("b", 2.0)}, images, sizes, lambda: now)
    assert set(np.round(taken["a"], 6)) == {0.5}
    assert set(np.round(taken["b"], 6)) == {2.0}
    assert len(taken["a"]) == len(taken["b"]) == latency.LEAST  # 2.5 s a round, 20 s at most: the least it makes
    counted = calls[2 * latency.WARM_UP :]
    assert counted == ["a", "b"] * latency.LEAST


def test_figures_are_those_of_the_calls() -> None:
    row = summary("onnx", 8, [0.010] * 18 + [0.100] * 2)
    assert row.median == pytest.approx(10)
    assert row.p95 == pytest.approx(100)
    assert row.rate == pytest.approx(800)
    assert row.rounds == 20


@pytest.mark.parametrize(
    ("card", "size"),
    [
        ({}, (96, 128)),  # short 96 of 480
        ({"val_view": []}, (480, 640)),
        ({"val_view": [{"stretch": {"height": 64, "width": 100}}]}, (64, 100)),
        ({"val_view": [], "tiles": {"size": 200}}, (200, 200)),
        ({"val_view": [RESIZE], "tiles": {"size": 200}}, (96, 96)),
    ],
)
def test_the_size_is_that_of_the_models_own_view(tmp_path: Path, card: dict, size: tuple[int, int]) -> None:
    assert view_size(load(model_file(tmp_path / "best.safetensors", **card))) == size


def test_export_times_torch_and_the_graph(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(latency, "SECONDS", 0.0)
    view = [{"stretch": {"height": 60, "width": 90}}]
    found = export(model_file(tmp_path / "best.safetensors", "fcos", val_view=view), "pt2", benchmark=True).benchmark
    assert isinstance(found, Benchmark)
    assert (found.view, found.padded) == ((60, 90), (64, 96))
    assert [(row.name, row.batch) for row in found.rows] == [("torch", 1), ("pt2", 1), ("torch", 8), ("pt2", 8)]
    assert all(row.rounds == latency.LEAST for row in found.rows)
    assert all(0 < row.median <= row.p95 for row in found.rows)
    by_name = {(row.name, row.batch): row for row in found.rows}
    assert by_name["torch", 8].median > by_name["torch", 1].median
    printed = " ".join(capsys.readouterr().out.split())
    assert "90 x 60 pixels, padded to 96 x 64" in printed
    assert latency.processor() in printed
    assert f"torch {torch.__version__.partition('+')[0]}" in printed
    row = found.rows[0]
    assert re.search(rf"torch 1 {row.rounds} {row.median:.1f} {row.p95:.1f} {row.rate:.1f}", printed)


def test_a_table_says_what_it_holds(capsys: pytest.CaptureFixture[str]) -> None:
    Benchmark("AMD [b] CPU, 2 threads", (60, 90), (64, 96), (Timing("onnx", 8, 20, 12.34, 56.78),)).show()
    out = capsys.readouterr().out.split()
    assert out[-6:] == ["onnx", "8", "20", "12.3", "56.8", "648.3"]
    assert "[b]" in out

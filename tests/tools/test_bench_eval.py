"""tools/bench_eval.py: both evaluators see the same boxes and say the same."""

import json

import pytest

from tests.evaluation import oracles
from tools import bench_eval


def test_a_run_of_each(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process; the tool gives each its own, so that their memory is told apart."""
    found = {which: bench_eval.measured(which, 6, 10, 4) for which in ("ours", "pycocotools")}
    assert found["ours"]["numbers"] == found["pycocotools"]["numbers"]
    assert set(found["ours"]["seconds"]) == {"metrics", "matches"}
    assert 0 < found["ours"]["numbers"]["AP"] < 1
    answers = iter(found.values())

    class Child:
        def __init__(self) -> None:
            self.stdout = json.dumps(next(answers))

    monkeypatch.setattr(bench_eval.subprocess, "run", lambda *_, **__: Child())
    bench_eval.main(6, 10, 4)
    told = capsys.readouterr().out
    assert "6 images, 60 detections, 4 classes" in told
    assert "the twelve numbers are equal" in told


def test_its_scene_is_one_that_pycocotools_reads() -> None:
    truth, found = bench_eval.scene(5, 20, 3)
    assert (len(found), len(truth["images"]), len(truth["categories"])) == (100, 5, 3)
    results = [
        {"image_id": int(n), "category_id": int(k), "bbox": box.tolist(), "score": float(score)}
        for n, k, box, score in zip(found.image, found.label, found.boxes, found.scores)
    ]
    stats = oracles.coco(truth, results, [1, 10, 100]).stats.tolist()
    assert list(bench_eval.pycocotools(truth, results).values()) == stats

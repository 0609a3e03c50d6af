"""Labels of an asked precision: limits of each class from the run's own val matches, and what they are refused for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ssod.evaluation import cutoffs, matching
from ssod.evaluation.greedy import IOUS
from ssod.evaluation.matching import Matches
from ssod.inference import label_limits
from ssod.inference.label import label_files
from ssod.inference.model import load
from ssod.utils.errors import Exit, SsodError
from tests.trained import model_file, photos

CLASSES = ("cat", "dog", "bird")
STEP = 12


def matches(classes: tuple[str, ...] = CLASSES) -> Matches:
    """Return 40 detections a class: cats are right from 0.3 on, dogs never are often enough, birds from 0.25 on."""
    scores = np.linspace(0.99, 0.21, 40).astype(np.float32)
    right = [scores >= 0.3, np.arange(40) % 2 == 0, scores >= 0.25]
    order = np.argsort(-np.concatenate([scores] * 3), kind="stable")
    wide = np.ones(len(IOUS), bool)
    return Matches(
        ids=[1],
        classes=classes,
        image=np.zeros(120, np.int32),
        label=np.repeat(np.arange(3), 40)[order].astype(np.int32),
        score=np.concatenate([scores] * 3)[order],
        iou=np.zeros(120, np.float32),
        right=np.concatenate(right)[order, None] & wide,
        counted=np.ones((120, len(IOUS)), bool),
        wanted=np.full((1, 3), 50, np.int32),
    )


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Return a run folder with a best teacher of step 12, and its matches."""
    model_file(tmp_path / "run" / "best.safetensors", step=STEP)
    matching.save(tmp_path / "run" / "eval" / f"step_{STEP}.npz", matches())
    return tmp_path / "run"


def test_each_class_has_the_limit_of_its_own_val_boxes(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]
    photos(tmp_path / "in", names)
    written = label_files(run, tmp_path / "in", tmp_path / "out", precision=1.0).labels
    limits = {c.name: c.score for c in cutoffs.cutoffs(matches(), 1.0)}
    assert limits["dog"] is None
    assert 0.2 < limits["bird"] < limits["cat"] < 0.34
    model = load(run)
    for i, name in enumerate(names):
        found = model(tmp_path / "in" / name, score=0.0)
        kept = [n for n, s in zip(found.names, found.scores.tolist()) if limits[n] is not None and s >= limits[n]]
        assert [CLASSES[k] for k in written.targets(i).labels.tolist()] == kept
    assert len(written.boxes) > 3
    out = capsys.readouterr().out
    assert "left out, since no score is precise enough: dog" in out
    assert "from these scores" in out


def test_a_box_of_just_that_score_is_a_label(run: Path) -> None:
    limits = label_limits.of_precision(run, CLASSES, 1.0)
    scores = [c.score for c in cutoffs.cutoffs(matches(), 1.0)]
    assert np.float32(scores[0]) > limits.above[0] > np.float32(scores[0]) - 1e-6
    assert np.isinf(limits.above[1])
    assert limits.near.tolist() == [np.float32(scores[0]), 0.5, np.float32(scores[2])]
    turned = label_limits.of_precision(run, CLASSES[::-1], 1.0)
    assert turned.above.tolist() == limits.above[::-1].tolist(), "classes go by name"


def refusal(run: Path, precision: float = 1.0, **more: float) -> str:
    with pytest.raises(SsodError) as caught:
        label_files(run, run.parent / "in", run.parent / "out", precision=precision, **more)
    assert not (run.parent / "out").exists()
    assert caught.value.code in (Exit.USAGE, Exit.DATA)
    return caught.value.line()


def test_what_no_limit_can_be_had_from_is_refused(run: Path, tmp_path: Path) -> None:
    photos(tmp_path / "in", ["a.jpg"])
    assert "give one of the two" in refusal(run, score=0.4)
    assert "90 is not above 0 and at most 1" in refusal(run, 90)
    never = matches()
    never.right[:] = False
    table = run / "eval" / f"step_{STEP}.npz"
    matching.save(table, never)
    assert "detections on val of which any is right" in refusal(run)
    matching.save(table, matches(("cat", "dog", "cow")))
    assert "of other classes" in refusal(run)
    table.unlink()
    line = refusal(run)
    assert f"step_{STEP}.npz" in line
    assert "give --score: `ssod eval` prints" in line
    model_file(run / "best.safetensors")  # a card without a step, as of weights that no run wrote
    assert "--precision: no matches" in refusal(run)

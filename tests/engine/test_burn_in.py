"""A run keeps the state in which burn-in ends, and another that would have made the same steps begins with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from ssod.engine.checkpointing import checkpoint
from ssod.engine.checkpointing.burn_in import BurnIn, path_of, said
from ssod.utils.errors import Exit, SsodError
from tests.engine import toy
from tests.engine.crash import difference, final_state
from tests.engine.test_resume import Cut, cut_at

ENDS = 4  # of burn-in; an evaluation falls on it
DECIDING = {"train.lr": 0.05, "classes": ["a", "b"], "data": "abc"}


def burn_in(source: Path | None = None, **changes: Any) -> BurnIn:
    return BurnIn(ENDS, lambda step: {**DECIDING, "step": step, **changes}, source)


def train(path: Path, source: Path | None = None, changes: dict[str, Any] | None = None, **options: Any) -> None:
    options = {"method": {"burn_in": ENDS}, "burn_in": burn_in(source, **(changes or {})), **options}
    toy.run(path, **options)


def rows(path: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if not k.startswith(("time/", "memory/"))} for row in found]


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    train(tmp_path / "kept", keep_burn_in=True)
    return tmp_path / "kept"


def test_who_begins_with_a_burn_in_learns_what_it_would_have_learnt(kept: Path, tmp_path: Path) -> None:
    """Another weight of the pseudo-labels, and nothing to tell the runs apart but who made the first steps."""
    other = {"burn_in": ENDS, "weight": 3.0}
    train(tmp_path / "alone", method=other)
    train(tmp_path / "shared", kept, method=other)
    alone, shared = final_state(tmp_path / "alone"), final_state(tmp_path / "shared")
    assert difference(alone, shared) == []
    assert difference(alone["checkpoint"]["method"], final_state(kept)["checkpoint"]["method"]) != []
    assert json.loads((tmp_path / "shared/burn_in.json").read_text()) == {"from": str(kept), "step": ENDS}
    log = (tmp_path / "shared/train.log").read_text()
    assert f"beginning after step {ENDS} of 12, with the burn-in of {kept}" in log
    assert " step 3/12" not in log


def test_the_state_is_kept_before_the_evaluation_of_its_step(tmp_path: Path) -> None:
    def die(detector: torch.nn.Module) -> dict[str, float]:
        raise Cut

    with pytest.raises(Cut):
        train(tmp_path / "kept", keep_burn_in=True, evaluate=die)
    state = checkpoint.load(path_of(tmp_path / "kept"))
    assert (state["step"], state["pending"]) == (ENDS, True)
    train(tmp_path / "shared", tmp_path / "kept")
    assert [row["step"] for row in rows(tmp_path / "shared") if row["kind"] == "eval"] == [4, 8, 12]


def test_without_the_key_nothing_is_kept(tmp_path: Path) -> None:
    train(tmp_path / "run")
    assert not path_of(tmp_path / "run").exists()
    assert said(tmp_path / "run") is None


def test_what_decided_it_is_read_without_its_weights(kept: Path) -> None:
    assert said(kept) == {**DECIDING, "step": ENDS}
    path_of(kept).write_bytes(b"cut off")
    assert said(kept) is None


@pytest.mark.parametrize("step", [5, 9])
def test_a_run_that_began_so_is_resumed_like_any_other(kept: Path, tmp_path: Path, step: int) -> None:
    train(tmp_path / "calm", kept)
    with pytest.raises(Cut):
        train(tmp_path / "wild", kept, wrap=cut_at(step), save_every=0)
    path_of(kept).unlink()
    train(tmp_path / "wild", kept, save_every=0)
    assert difference(final_state(tmp_path / "calm"), final_state(tmp_path / "wild")) == []
    assert "resuming after step" in (tmp_path / "wild/train.log").read_text()


def test_a_run_with_a_state_of_its_own_goes_on_from_that(kept: Path, tmp_path: Path) -> None:
    with pytest.raises(Cut):
        train(tmp_path / "run", wrap=cut_at(2), save_every=1)
    train(tmp_path / "run", kept, changes={"train.lr": 7})
    assert not (tmp_path / "run/burn_in.json").exists()
    assert "resuming after step 2 of 12" in (tmp_path / "run/train.log").read_text()


def test_a_run_begun_anew_forgets_whose_burn_in_it_had(kept: Path, tmp_path: Path) -> None:
    train(tmp_path / "run", kept)
    for file in (tmp_path / "run/checkpoints").iterdir():
        file.unlink()
    train(tmp_path / "run")
    assert not (tmp_path / "run/burn_in.json").exists()
    assert [row["step"] for row in rows(tmp_path / "run") if row["kind"] == "train"] == [3, 6, 9, 12]


def test_a_run_may_begin_with_its_own(kept: Path) -> None:
    last = final_state(kept)
    for name in (checkpoint.LAST, checkpoint.PREVIOUS):
        (kept / "checkpoints" / name).unlink()
    train(kept, kept)
    assert difference(last["checkpoint"]["method"], final_state(kept)["checkpoint"]["method"]) == []
    assert not (kept / "burn_in.json").exists()


@pytest.mark.parametrize(
    ("changes", "key", "words"),
    [
        ({"train.lr": 0.1}, "train.lr", "0.05 in the state, 0.1 here: that is another burn-in"),
        ({"data": "def"}, "data", "'abc' in the state, 'def' here"),
        ({"views.new": 1}, "views.new", "none in the state, 1 here"),
        ({"world_size": 2, "step": 5}, "step", "4 in the state, 5 here"),
    ],
)
def test_a_state_of_another_burn_in_is_refused(kept: Path, tmp_path: Path, changes: dict, key: str, words: str) -> None:
    with pytest.raises(SsodError) as caught:
        train(tmp_path / "run", kept, changes)
    assert (caught.value.code, caught.value.field) == (Exit.CHECKPOINT, key)
    assert words in caught.value.line()
    assert caught.value.line().count("\n") == 0
    assert not (tmp_path / "run/metrics.jsonl").exists()


def test_a_state_that_is_not_there_or_damaged_or_of_another_model_is_refused(kept: Path, tmp_path: Path) -> None:
    train(tmp_path / "none")
    with pytest.raises(SsodError, match=r"keeps no checkpoints/burn_in.pt; train it with train.keep_burn_in=true"):
        train(tmp_path / "run", tmp_path / "none")
    with pytest.raises(SsodError, match=r"student\.norm\.weight: 10 keys too many"):
        train(tmp_path / "run", kept, norm=False)
    path_of(kept).write_bytes(path_of(kept).read_bytes()[:-9])
    with pytest.raises(SsodError, match="cut off") as caught:
        train(tmp_path / "run", kept)
    assert caught.value.code == Exit.CHECKPOINT


def test_what_a_method_remembers_for_itself_is_as_it_was_built(kept: Path, tmp_path: Path) -> None:
    """A score bank that the other run's method has, or has filled otherwise, is not taken over."""
    state = checkpoint.load(path_of(kept))
    state["method"] = {**state["method"], "bank": torch.full((3,), 9.0), "threshold.scores": torch.ones(2)}
    del state["method"]["seen"], state["schema"]
    checkpoint.save(kept / "checkpoints", state, checkpoint.BURN_IN)
    train(tmp_path / "alone")
    train(tmp_path / "shared", kept)
    assert difference(final_state(tmp_path / "alone"), final_state(tmp_path / "shared")) == []


def test_what_was_told_is_taken_over_without_what_is_the_methods_own(kept: Path, tmp_path: Path) -> None:
    """Of evaluations student and teacher, of the step at which burn-in ends none, and nothing later."""
    told = [
        {"kind": "train", "step": 2, "loss/sup": 1.0, "memory/gb": 5.0},
        {"kind": "eval", "step": 2, "teacher/AP": 0.25, "student/AP": 0.5, "pseudo/kept": 3.0},
        {"kind": "alarm", "step": 2, "text": "the teacher is behind"},
        {"kind": "train", "step": 4, "loss/sup": 0.5},
        {"kind": "eval", "step": 4, "teacher/AP": 0.75, "pseudo/kept": 3.0},
        {"kind": "alarm", "step": 4, "text": "of that evaluation"},
        {"kind": "train", "step": 6, "loss/sup": 0.25},
    ]
    (kept / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in told) + '{"kind": "train", "st')
    (kept / "eval/step_2.json").write_text(json.dumps({"teacher/AP/a": 0.25, "pseudo/kept/a": 3.0}))
    for name in ("step_2.npz", "step_2.pseudo.npz", "step_6.npz"):
        (kept / "eval" / name).write_bytes(b"table")
    with pytest.raises(Cut):
        train(tmp_path / "run", kept, wrap=cut_at(4), eval_every=12)
    assert rows(tmp_path / "run") == [
        {"kind": "train", "step": 2, "loss/sup": 1.0},
        {"kind": "eval", "step": 2, "teacher/AP": 0.25, "student/AP": 0.5},
        told[2],
        told[3],
    ]
    assert "memory" not in (tmp_path / "run/metrics.jsonl").read_text()
    assert sorted(file.name for file in (tmp_path / "run/eval").iterdir()) == ["step_2.json", "step_2.npz"]
    assert json.loads((tmp_path / "run/eval/step_2.json").read_text()) == {"teacher/AP/a": 0.25}


def test_the_best_teacher_is_sought_from_the_end_of_burn_in_on(tmp_path: Path) -> None:
    def run(name: str, source: Path | None = None, **options: Any) -> dict[str, Any]:
        aps = iter((0.4, 0.2, 0.3) if source is None else (0.2, 0.3))
        train(tmp_path / name, source, evaluate=lambda detector: {"AP": next(aps)}, eval_every=3, steps=9, **options)
        return checkpoint.load(tmp_path / name / "checkpoints/last.pt")

    assert run("kept", keep_burn_in=True)["best"] == 0.4
    assert run("shared", tmp_path / "kept")["best"] == 0.3
    assert [row["teacher/AP"] for row in rows(tmp_path / "shared") if row["kind"] == "eval"] == [0.4, 0.2, 0.3]

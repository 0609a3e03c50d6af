"""A run that was interrupted ends bit for bit like one that was not; leaving out any part of the state is noticed."""

import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from ssod.engine import optim
from ssod.engine.checkpointing import checkpoint, resume_check
from ssod.utils.errors import Exit, SsodError
from tests.engine import toy
from tests.engine.crash import difference, final_state

STEPS = 12


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without interruption."""
    path = tmp_path_factory.mktemp("reference") / "run"
    toy.run(path)
    return path


class Cut(Exception):
    """Stands for a process that dies."""


def cut_at(step: int) -> Callable[[Iterator], Iterator]:
    """Let the data of steps before ``step`` through, then die."""

    def wrap(batches: Iterator) -> Iterator:
        for batch in batches:
            if batch.labeled.ids[0] == f"l{step}-0":
                raise Cut
            yield batch

    return wrap


@pytest.mark.parametrize("step", [0, 1, 4, 5, 6, 8, 11])
def test_a_run_that_died_at_a_step_ends_the_same(tmp_path: Path, reference: Path, step: int) -> None:
    with pytest.raises(Cut):
        toy.run(tmp_path / "run", wrap=cut_at(step))
    metrics = toy.run(tmp_path / "run")
    assert difference(final_state(reference), final_state(tmp_path / "run")) == []
    assert metrics == checkpoint.load(reference / "checkpoints/last.pt")["metrics"]


def test_a_run_that_died_three_times_ends_the_same(tmp_path: Path, reference: Path) -> None:
    for step in (6, 7, 11):
        with pytest.raises(Cut):
            toy.run(tmp_path / "run", wrap=cut_at(step))
    toy.run(tmp_path / "run")
    assert difference(final_state(reference), final_state(tmp_path / "run")) == []


@pytest.mark.parametrize("options", [{"optimizer": {"name": "adamw"}}, {"accumulate": 2}, {"precision": "bf16"}])
def test_it_holds_for_other_settings(tmp_path: Path, options: dict) -> None:
    toy.run(tmp_path / "whole", **options)
    with pytest.raises(Cut):
        toy.run(tmp_path / "cut", wrap=cut_at(7), **options)
    toy.run(tmp_path / "cut", **options)
    assert difference(final_state(tmp_path / "whole"), final_state(tmp_path / "cut")) == []


def test_a_finished_run_is_not_trained_again(tmp_path: Path, reference: Path) -> None:
    metrics = toy.run(tmp_path / "run")
    before = (tmp_path / "run/checkpoints/last.pt").read_bytes()
    assert toy.run(tmp_path / "run", wrap=cut_at(12)) == metrics
    assert (tmp_path / "run/checkpoints/last.pt").read_bytes() == before


def files_of(run: Path) -> dict[str, tuple[bytes, int]]:
    """Return content and time of every file but the lock."""
    files = (path for path in run.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(run)): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def test_a_finished_run_stays_as_it_is_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    ap = toy.run(tmp_path / "run")["AP"]
    before = files_of(tmp_path / "run")
    assert "exit.json" in before
    capsys.readouterr()
    toy.run(tmp_path / "run")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1
    assert f"run: already finished at step 12, teacher AP {100 * ap:.1f}" in lines[0]
    assert "nothing to do (to train longer, raise train.steps)" in lines[0]
    assert files_of(tmp_path / "run") == before
    toy.run(tmp_path / "run", steps=16)
    assert "resuming after step 12 of 16" in capsys.readouterr().out
    assert checkpoint.load(tmp_path / "run/checkpoints/last.pt")["step"] == 16


def test_a_run_that_was_killed_after_its_last_step_is_ended_properly(tmp_path: Path) -> None:
    toy.run(tmp_path / "run")
    (tmp_path / "run/exit.json").unlink()
    toy.run(tmp_path / "run")
    assert json.loads((tmp_path / "run/exit.json").read_text())["code"] == 0


@pytest.mark.parametrize("change", [{"data": "9f0e"}, {"config": {"detector": {"depth": 2}}}])
def test_a_refused_resume_writes_nothing(tmp_path: Path, change: dict) -> None:
    toy.run(tmp_path / "run")
    before = files_of(tmp_path / "run")
    with pytest.raises(SsodError) as caught:
        toy.run(tmp_path / "run", identity=change, steps=16)
    assert caught.value.code == Exit.CHECKPOINT
    assert files_of(tmp_path / "run") == before


def test_a_tracker_that_is_not_installed_costs_a_finished_run_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy.run(tmp_path / "run")
    before = files_of(tmp_path / "run")
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(SsodError, match="not installed"):
        toy.run(tmp_path / "run", steps=16, tensorboard=True)
    assert files_of(tmp_path / "run") == before


def test_start_resumption_and_end_are_reported_on_the_screen_and_in_the_log(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    run = tmp_path / "my run"
    with pytest.raises(Cut):
        toy.run(run, wrap=cut_at(7))
    first = capsys.readouterr().out
    assert "resuming" not in first
    assert "finished" not in first
    state = toy.run(run)["AP"]
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "resuming after step 5 of 12"
    assert lines[-2].startswith(f"finished at step 12, teacher AP {100 * state:.1f}, best ")
    assert lines[-2].endswith(": " + str(run / "best.safetensors"))
    assert lines[-1] == f"next: ssod report '{run}', ssod export '{run}'"
    log = (run / "train.log").read_text()
    assert all(line in log for line in (lines[0], *lines[-2:]))


def full(*args: Any) -> Any:
    """Stands for a device without room."""
    raise torch.OutOfMemoryError("CUDA out of memory")


def test_an_evaluation_that_does_not_fit_costs_no_step(tmp_path: Path, reference: Path) -> None:
    with pytest.raises(SsodError) as caught:
        toy.run(tmp_path / "run", evaluate=full)
    assert caught.value.code == Exit.IO
    words = f"state saved; lower it and run it again with -o {tmp_path / 'run'} to go on"
    assert f"eval.batch: out of device memory in the evaluation after step 4, {words}" in str(caught.value)
    assert checkpoint.load(tmp_path / "run/checkpoints/last.pt")["step"] == 4
    toy.run(tmp_path / "run")
    assert difference(final_state(reference), final_state(tmp_path / "run")) == []


def test_what_an_evaluation_meets_costs_no_step(tmp_path: Path, reference: Path) -> None:
    """Whatever ends the process there, its memory say, meets the next process before anything is trained again."""

    def dies(detector: torch.nn.Module) -> dict[str, float]:
        raise Cut

    with pytest.raises(Cut):
        toy.run(tmp_path / "run", evaluate=dies)
    assert checkpoint.load(tmp_path / "run/checkpoints/last.pt")["step"] == 4
    with pytest.raises(Cut):
        toy.run(tmp_path / "run", evaluate=dies, wrap=lambda batches: iter(()))
    toy.run(tmp_path / "run")
    assert difference(final_state(reference), final_state(tmp_path / "run")) == []


def test_an_optimizer_that_does_not_fit_is_reported(tmp_path: Path) -> None:
    """Its state is made in the first good step, after the batch itself has found room."""
    with toy.RunFolder(tmp_path / "run") as folder:
        trainer = toy.trainer(folder)
        trainer.stepper.optimizer.step = full
        with pytest.raises(SsodError, match="step 0: out of device memory in the optimizer's step; raise") as caught:
            trainer.fit()
    assert caught.value.code == Exit.IO


def zero(value: Any) -> Any:
    return torch.zeros_like(value)


# What a careless checkpoint would lack, each as a change of the state that is loaded.
LOSSES: dict[str, Callable[[dict], None]] = {
    "teacher": lambda s: s["method"].update({k: s["method"][k.replace("teacher.model", "student")]
                                             for k in s["method"] if k.startswith("teacher.")}),
    "student": lambda s: s["method"].update({k: zero(v) for k, v in s["method"].items() if k.startswith("student.h")}),
    "batch norm": lambda s: s["method"].update({"student.norm.running_mean": torch.zeros(4)}),
    "bank": lambda s: s["method"].update(bank=torch.zeros(3)),
    "counter": lambda s: s["method"].update(seen=torch.zeros((), dtype=torch.long)),
    "optimizer": lambda s: s.update(optimizer={}),
    "step": lambda s: s.update(step=s["step"] - 1),
    "best": lambda s: s.update(best=None),
    "metrics": lambda s: s.update(metrics={}),
    "window sums": lambda s: s["ranks"][0]["window"].update(sums={}, counts={}),
    "window last": lambda s: s["ranks"][0]["window"].update(last={}),
    "window skipped": lambda s: s["ranks"][0]["window"].update(skipped=5),
}  # fmt: skip


@pytest.mark.parametrize("part", LOSSES)
def test_a_lost_part_of_the_state_is_noticed(
    tmp_path: Path, reference: Path, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control: without it, the comparison could be blind."""
    with pytest.raises(Cut):
        toy.run(tmp_path / "run", wrap=cut_at(6))
    load = checkpoint.load

    def forgetful(path: Path) -> dict:
        state = load(path)
        LOSSES[part](state)
        return state

    monkeypatch.setattr(checkpoint, "load", forgetful)
    toy.run(tmp_path / "run")
    monkeypatch.undo()
    assert difference(final_state(reference), final_state(tmp_path / "run")) != []


def test_the_scale_of_fp16_and_a_streak_of_bad_steps_survive(tmp_path: Path) -> None:
    def poisoned(batches: Iterator) -> Iterator:
        for batch in batches:
            step = int(batch.labeled.ids[0][1:].split("-")[0])
            if step in (3, 4):
                batch.labeled.images.fill_(float("nan"))
            if step == 5:
                raise Cut
            yield batch

    with pytest.raises(Cut):
        toy.run(tmp_path / "run", wrap=poisoned, precision="fp16", save_every=1)
    state = checkpoint.load(tmp_path / "run/checkpoints/last.pt")
    assert state["bad"] == 2
    assert state["scaler"]["scale"] > 0
    with toy.RunFolder(tmp_path / "run") as folder:
        again = toy.trainer(folder, precision="fp16", save_every=1)
        again.resume()
    assert again.tally.bad == 2
    assert again.stepper.scaler.state_dict() == state["scaler"]


def test_metrics_lines_past_the_checkpoint_are_written_anew(tmp_path: Path) -> None:
    with pytest.raises(Cut):
        toy.run(tmp_path / "run", wrap=cut_at(10))
    with open(tmp_path / "run/metrics.jsonl", "a") as file:
        file.write('{"kind": "train", "step": 3, "lr"')  # cut off by the crash
    toy.run(tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [(r["kind"], r["step"]) for r in rows if r["kind"] != "alarm"] == [
        ("train", 3), ("eval", 4), ("train", 6), ("eval", 8), ("train", 9), ("train", 12), ("eval", 12),
    ]  # fmt: skip


CLASSES = {"names": ["a", "b"], "ids": [1, 2]}
CONFIG = {"detector": {"name": "toy", "depth": 2}, "train": {"batch": {"labeled": 4}, "lr": 0.05, "workers": 2},
          "method": {"name": "toy", "score": 0.7}, "views": {"weak": ["flip"]}, "data": {"root": "x"}}  # fmt: skip


def changed(section: str, key: str, value: Any) -> dict:
    return {"config": {**CONFIG, section: {**CONFIG[section], key: value}}}


@pytest.mark.parametrize(
    ("identity", "words"),
    [
        ({"classes": {"names": ["a", "van"], "ids": [1, 2]}}, "classes: differ at 1: 'b' saved, 'van' in the data"),
        ({"classes": {"names": ["a"], "ids": [1]}}, "2 classes saved, the data has 1"),
        ({"classes": {"names": ["a", "b"], "ids": [1, 3]}}, "category ids differ"),
        ({"data": "9f0e"}, "data: the data set changed since step 0 (abc -> 9f0e)"),
        (changed("train", "batch", {"labeled": 8}), "train.batch.labeled 4 -> 8 changes the run; pass --allow-change"),
        (changed("detector", "depth", 3), "detector.depth 2 -> 3"),
        (changed("detector", "new", 1), "detector.new None -> 1"),
        (changed("detector", "weights", "coco"), "detector.weights None -> 'coco' changes the run"),
        (changed("method", "name", "other"), "method.name 'toy' -> 'other'"),
    ],
)  # fmt: skip
def test_another_run_is_refused(tmp_path: Path, identity: dict, words: str) -> None:
    with pytest.raises(Cut):
        toy.run(tmp_path / "run", wrap=cut_at(6), identity={"config": CONFIG})
    with pytest.raises(SsodError) as caught:
        toy.run(tmp_path / "run", identity={"config": CONFIG, **identity})
    assert caught.value.code == Exit.CHECKPOINT
    assert words in str(caught.value)
    key = caught.value.field
    toy.run(tmp_path / "run", identity={"config": CONFIG, **identity}, allow_change=[key])


def test_all_that_differs_is_named_and_allowed_at_once() -> None:
    """Whoever passes what the refusal asks for is not refused once more."""
    batch = {"labeled": 4, "unlabeled": 4}
    saved = {"config": {"train": {"batch": batch, "seed": 0}}, "data": "abc", "world_size": 2}
    two = {**saved, "config": {"train": {"batch": {"labeled": 2, "unlabeled": 2}, "seed": 0}}}
    asked = r"pass --allow-change train.batch.labeled --allow-change train.batch.unlabeled, or start a new run"
    with pytest.raises(SsodError, match=asked):
        resume_check.check(Path("last.pt"), saved, two)
    everything = {**two, "data": "9f0e", "world_size": 1}
    with pytest.raises(SsodError, match=r"saved with 2 processes, now 1; train.batch.labeled 4 -> 2, ") as caught:
        resume_check.check(Path("last.pt"), saved, everything)
    allowed = re.findall(r"--allow-change (\S+[^,\s])", caught.value.fix)
    assert allowed == ["data", "world_size", "train.batch.labeled", "train.batch.unlabeled"]
    assert caught.value.field == "data"
    resume_check.check(Path("last.pt"), saved, everything, allowed)


def test_many_keys_are_accepted_by_their_sections() -> None:
    saved = {"config": {"detector": {f"key{i}": 0 for i in range(9)}, "train": {"seed": 0}}}
    now = {"config": {"detector": {f"key{i}": 1 for i in range(9)}, "train": {"seed": 1}}}
    with pytest.raises(SsodError, match="pass --allow-change detector --allow-change train, or") as caught:
        resume_check.check(Path("last.pt"), saved, now)
    assert caught.value.field == "detector.key0"
    resume_check.check(Path("last.pt"), saved, now, ["detector", "train"])


def test_another_schedule_warns_and_other_paint_does_not(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(Cut):
        toy.run(tmp_path / "run", wrap=cut_at(6), identity={"config": CONFIG})
    with pytest.raises(Cut):
        toy.run(tmp_path / "run", wrap=cut_at(6), identity=changed("train", "workers", 0))
    with pytest.raises(Cut):
        toy.run(tmp_path / "run", wrap=cut_at(6), identity=changed("data", "val", {"root": "moved"}))
    assert caplog.messages == []
    toy.run(tmp_path / "run", identity=changed("train", "lr", 0.1), lr=0.1)
    assert "train.lr 0.05 -> 0.1" in caplog.text


def edited(path: Path, edit: Callable[[dict], None]) -> None:
    """Rewrite a checkpoint, hash and all."""
    state = checkpoint.load(path / "checkpoints/last.pt")
    edit(state)
    torch.save(state, path / "x.pt")
    data = (path / "x.pt").read_bytes()
    trailer = checkpoint._TRAILER.pack(checkpoint._MAGIC, len(data), checkpoint.hashlib.sha256(data).digest())
    (path / "checkpoints/last.pt").write_bytes(data + trailer)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda s: s["method"].pop("student.head.weight"), "student.head.weight: 1 keys missing"),
        (lambda s: s["method"].update(extra=torch.zeros(1)), "extra: 1 keys too many"),
        (lambda s: [s["method"].pop(k) for k in list(s["method"]) if k.startswith("teacher")], "teacher: missing"),
        (lambda s: s["method"].update({"student.head.bias": torch.zeros(6)}), "shape [6], the model has [5]"),
        (lambda s: s["method"]["teacher.model.head.bias"].fill_(float("nan")), "teacher.model.head.bias: 5 non-finite"),
        (lambda s: s.update(schema=99), "schema: 99, this version reads 2; upgrade ssod"),
        (lambda s: s.update(schema=1), "schema: 1, this version reads 2; go on with the ssod that wrote it, or start"),
        (lambda s: s["identity"].update(world_size=2), "saved with 2 processes, now 1"),
    ],
)  # fmt: skip
def test_a_state_that_does_not_fit_is_refused(tmp_path: Path, edit: Callable, words: str) -> None:
    with pytest.raises(Cut):
        toy.run(tmp_path / "run", wrap=cut_at(6))
    edited(tmp_path / "run", edit)
    with pytest.raises(SsodError) as caught:
        toy.run(tmp_path / "run")
    assert caught.value.code == Exit.CHECKPOINT
    assert words in str(caught.value)


@pytest.mark.parametrize("alike", [False, True])
def test_what_other_processes_kept_is_taken_over_with_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, alike: bool
) -> None:
    """The first of two banks, where one process goes on; that there are two is told, if they differ."""
    with pytest.raises(Cut):
        toy.run(tmp_path / "run", wrap=cut_at(6))
    banks = [torch.full((3,), 5.0), torch.full((3,), 5.0 if alike else 6.0)]

    def of_two(state: dict) -> None:
        state["identity"]["world_size"] = 2
        state["ranks"] = [state["ranks"][0] | {"buffers": {"bank": bank}} for bank in banks]

    edited(tmp_path / "run", of_two)
    found = []
    with toy.RunFolder(tmp_path / "run") as folder:
        trainer = toy.trainer(folder, allow_change=("world_size",))
        trainer.resume()
        found.append(trainer.method.bank.tolist())
    assert found == [[5.0] * 3]
    line = "each of 2 processes kept its own bank; of 1 now, number n takes over those of n mod 2"
    assert [line in message for message in caplog.messages] == ([] if alike else [True])


def test_a_weight_decay_of_the_config_is_not_overruled_by_the_file(tmp_path: Path) -> None:
    with pytest.raises(Cut):
        toy.run(tmp_path / "run", wrap=cut_at(6))
    with toy.RunFolder(tmp_path / "run") as folder:
        again = toy.trainer(folder, optimizer={"name": "sgd", "weight_decay": 0.5})
        again.resume()
    assert again.stepper.optimizer.param_groups[0]["weight_decay"] == 0.5
    assert again.stepper.optimizer.state


def moments(path: Path, **options: Any) -> dict[str, dict[str, torch.Tensor]]:
    """Return what the optimiser holds of each parameter once it has taken up a run."""
    with toy.RunFolder(path) as folder:
        again = toy.trainer(folder, **options)
        again.resume()
    return optim.state_by_name(again.stepper.optimizer, again.method)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"name": "adamw", "weight_decay": 0}, {"name": "adamw", "weight_decay": 0.05}),
        ({"name": "sgd"}, {"name": "sgd", "decay_norm_and_bias": False}),
        ({"name": "sgd"}, {"name": "sgd", "backbone_lr": 0.1}),
    ],
)
def test_parameters_that_are_grouped_anew_keep_their_moments(tmp_path: Path, before: dict, after: dict) -> None:
    with pytest.raises(Cut):
        toy.run(tmp_path / "run", wrap=cut_at(6), optimizer=before)
    old, new = (moments(tmp_path / "run", optimizer=o) for o in (before, after))
    assert len(old) == 6
    assert difference(old, new) == []
    toy.run(tmp_path / "run", optimizer=after)


@pytest.mark.parametrize(("before", "after"), [("sgd", "adamw"), ("adamw", "sgd")])
def test_another_optimizer_starts_afresh_and_says_so(
    tmp_path: Path, before: str, after: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(Cut):
        toy.run(tmp_path / "run", wrap=cut_at(6), optimizer={"name": before})
    assert moments(tmp_path / "run", optimizer={"name": after}) == {}
    assert f"the momentum of 6 parameters is of another optimizer than {after}; they start without" in caplog.text
    toy.run(tmp_path / "run", optimizer={"name": after})


def test_micro_batches_add_up_to_the_batch(tmp_path: Path) -> None:
    """Where losses are means over images, four micro-batches are one batch of four times the size."""
    options = {"dropout": 0.0, "norm": False, "method": {"bank": 0.0}, "steps": 20, "log_every": 1, "clip": 0.1}
    for parts in (1, 4):
        toy.run(tmp_path / str(parts), accumulate=parts, **options)
    one, four = (final_state(tmp_path / name) for name in ("1", "4"))
    for key, value in one["best"].items():
        torch.testing.assert_close(four["best"][key], value, rtol=1e-5, atol=1e-6)
    for a, b in zip(one["metrics"], four["metrics"]):
        names = [name for name in a if name.startswith(("sup/", "unsup/", "grad_norm"))]
        assert [b[n] for n in names] == pytest.approx([a[n] for n in names], rel=1e-4, abs=1e-6)


def test_a_batch_that_does_not_divide_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SsodError, match="use a multiple of 3") as caught:
        toy.run(tmp_path / "run", accumulate=3)
    assert caught.value.code == Exit.USAGE

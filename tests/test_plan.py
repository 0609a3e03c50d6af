"""`ssod plan`: the arithmetic by hand, and a few real steps that leave nothing behind."""

import math
import re
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from ssod import build
from ssod.commands import plan as plans
from ssod.commands import plan_timing
from ssod.commands.dry_run import rehearsal
from ssod.commands.plan import plan
from ssod.commands.plan_facts import amounts, facts, half_life, phases, rates
from ssod.commands.plan_timing import time_loading
from ssod.commands.planned import Amounts, Phase, Plan, duration, show
from ssod.config import Config, load
from ssod.data import datasets
from ssod.utils.errors import Exit, SsodError
from tests.small import small_config


@pytest.fixture(scope="module")
def config_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_config(tmp_path_factory.mktemp("plan"))


def rows_of(cfg: Config) -> tuple[dict[str, str], list[str]]:
    data = datasets.load(cfg.data)
    rows, warnings = facts(cfg, data, amounts(cfg, data))
    return dict(rows), warnings


def plan_of(*found: Any, **more: Any) -> Plan:
    return Plan(
        **asdict(Amounts(24, 4, 8, 6, 2, 2, 12.0, 4.5)), **dict(zip(("rows", "warnings", "phases"), found)), **more
    )


# ---- arithmetic --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("decay", "steps"), [(0.5, 1), (0.999, 693), (0.9996, 1733), (0.0, 0)])
def test_half_life(decay: float, steps: int) -> None:
    assert round(half_life(decay)) == steps


def test_phases(config_file: Path) -> None:
    def found(*changes: str) -> list[tuple[str, int, int]]:
        return [(p.name, p.start, p.steps) for p in phases(load(config_file, changes))]

    assert found() == [("burn-in", 0, 6), ("pseudo-labels", 6, 18)]
    assert found("method.burn_in=0") == [("pseudo-labels", 0, 24)]
    assert found("method={name: supervised}") == [("supervised", 0, 24)]
    late = "method={name: consistent_teacher, burn_in: 6, start: 10}"
    assert found(late) == [("burn-in", 0, 6), ("labels only", 6, 4), ("pseudo-labels", 10, 14)]


def test_batches_and_passes(config_file: Path) -> None:
    rows, _ = rows_of(load(config_file, ["train.accumulate=2"]))  # 4 labelled and 8 unlabelled images
    assert rows["labelled"].startswith("4 images")
    assert rows["unlabelled"] == "8 images"
    assert rows["batch labelled"] == "2 = 1 process(es) x 2 part(s) x 1"
    assert rows["passes labelled"] == "12.0"  # 24 steps of 2 from 4
    assert rows["passes unlabelled"] == "4.5"  # 18 steps of 2 from 8
    assert rows["burn-in"] == "6 steps, 25%, 3.0 passes labelled"
    supervised, _ = rows_of(load(config_file, ["method={name: supervised}"]))
    assert "batch unlabelled" not in supervised
    auto, _ = rows_of(load(config_file, ["method.burn_in=auto", "train.eval_every=1"]))
    assert auto["burn-in"] == "at most 14 steps, 58%, 7.0 passes labelled: it may end sooner"


def test_a_teacher_that_is_too_slow(config_file: Path) -> None:
    assert rows_of(load(config_file, ["method.ema.decay=0.9"]))[1] == []
    slow = "method.ema={decay: 0.999, warm_up: false}"
    (warning,) = rows_of(load(config_file, [slow]))[1]
    assert "half-life of 693 steps is longer than the 18 steps with pseudo-labels" in warning
    advised = float(warning.rpartition("decay=")[2].split()[0])
    assert half_life(advised) == pytest.approx(1.8, rel=1e-3)


def test_a_teacher_in_its_warm_up(config_file: Path) -> None:
    rows, warnings = rows_of(load(config_file, ["method.ema={decay: 0.999}"]))
    assert warnings == []
    # 1 - 1 / (23 + 2) after the last of 24 steps, of which log 2 / -log 0.96 = 17 make half
    assert rows["EMA half-life"] == "17 steps (decay 0.999; 0.96 at the end of this run's warm-up)"
    grows, _ = rows_of(load(config_file, ["method.ema={decay: 0.999, growth: 10}"]))
    assert grows["EMA half-life"].endswith("; 0.908 at the end of this run's warm-up)")  # 0.999 (1 - exp(-2.4))


def test_learning_rate_where_it_turns(config_file: Path) -> None:
    cfg = load(config_file, ["train.schedule={name: multistep, milestones: [12, 50]}", "train.warm_up.factor=0.1"])
    assert rates(cfg) == "0: 0.0001, 2: 0.001, 12: 0.0001, 23: 0.0001"


def test_the_whole_run() -> None:
    stretches = [Phase("burn-in", 0, 10, 1.0, 0.5), Phase("pseudo-labels", 10, 20, 2.0, 3.0)]
    assert plan_of([], [], stretches, evaluation=4.0, evaluations=5).seconds == 10 * 1.0 + 20 * 3.0 + 4.0 * 5
    alone = [replace(phase, serial=True) for phase in stretches]
    assert plan_of([], [], alone).seconds == 10 * 1.5 + 20 * 5.0, (
        "without workers nothing is read while the device computes"
    )


def test_the_student_is_evaluated_besides(config_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "time_phase", lambda stepper, batches, phase: replace(phase, compute=1.0, load=2.0))
    monkeypatch.setattr(plans, "time_evaluation", lambda cfg, data, stepper: 3.0)
    for changes, wanted in (([], 3.0), (["train.eval_student=true"], 6.0)):
        cfg = load(config_file, ["train.workers=0", *changes])
        found = plans.measure(cfg, datasets.load(cfg.data))
        assert found.evaluation == wanted
        assert found.seconds == 24 * 3.0 + found.evaluations * wanted


def test_a_config_s_name_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    show(plan_of([("labelled", "[/x] :car:")], ["[/y]"], [Phase("pseudo-labels", 0, 5, 1.0, 2.0)]), "my[/b] [red]")
    printed = capsys.readouterr().out
    assert all(text in printed for text in ("my[/b] [red]", "[/x] :car:", "warning: [/y]"))


def test_what_is_not_timed_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    show(plan_of([], [], [Phase("pseudo-labels", 0, 5, 1.0, 2.0, serial=True)], evaluation=1.0, evaluations=2), "x")
    printed = " ".join(capsys.readouterr().out.split())
    assert "3 (computing 1, then reading 2)" in printed
    assert "The look at pseudo-labels after each evaluation (eval.diagnose) is not counted" in printed


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(7.46, "7.5 s"), (700, "12 min"), (3900, "1 h 05 min"), (48 * 3600 + 3 * 3600 + 60, "2 d 3 h")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_loading_is_timed_without_its_start(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(t=0.0)
    monkeypatch.setattr(plan_timing, "now", lambda device: clock.t)

    def batches():
        for i in range(100):
            clock.t += 50.0 if i == 0 else 0.5  # workers start; then a batch each half second
            yield i

    assert time_loading(batches(), accumulate=2, workers=2) == ([0, 1], 1.0)
    assert time_loading(iter([0]), accumulate=1, workers=0)[0] == [0]


# ---- measured ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["mean_teacher", "supervised"])
def test_a_plan_is_measured_and_leaves_nothing(
    config_file: Path, method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "300")
    cfg = load(config_file, [] if method == "mean_teacher" else ["method={name: supervised}"])
    found = plan(cfg)
    assert not list(tmp_path.iterdir())
    assert [p.name for p in found.phases] == (
        ["burn-in", "pseudo-labels"] if method == "mean_teacher" else ["supervised"]
    )
    assert all(0 < p.compute < 60 and 0 < p.load < 60 for p in found.phases)
    assert found.evaluations == 2
    assert found.evaluation > 0
    assert 0.01 < found.memory_gb < 1000
    assert (found.images_labeled, found.epochs_labeled) == (4, 12.0)
    assert (found.images_unlabeled, found.epochs_unlabeled) == ((8, 4.5) if method == "mean_teacher" else (0, 0.0))
    assert found.hours == pytest.approx((24 * found.seconds_per_step + 2 * found.evaluation) / 3600)
    printed = " ".join(capsys.readouterr().out.split())
    assert re.search(r"in all .* about .* on \w+, measured at load [\d.]+ on \d+ CPUs", printed)
    assert f"seconds per step, {found.phases[-1].name}" in printed
    assert printed.startswith(f"timing a few steps: {', '.join(p.name for p in found.phases)}, evaluation ... ")
    assert ("rarest class" in printed) == (method == "mean_teacher")
    assert any("unlabelled images will not help there" in line for line in found.warnings) == (method == "mean_teacher")


def test_without_validation_images(config_file: Path) -> None:
    found = plan(load(config_file, ["data.val=null", "train.steps=7"]))
    assert (found.evaluation, found.evaluations) == (0.0, 0)


def test_a_rehearsed_step_is_a_whole_step_that_learns_nothing(config_file: Path) -> None:
    cfg = load(config_file)
    data = datasets.load(cfg.data)
    method = build.build_method(cfg, data)
    stepper, step = rehearsal(method, cfg.train), cfg.method.burn_in
    before = {name: value.clone() for name, value in method.state_dict().items()}
    made = stepper.train_step(build.batches(cfg, data, step), step)
    assert all(torch.equal(value, before[name]) for name, value in method.state_dict().items())
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in stepper.parameters if p.ndim > 1)
    assert len(stepper.optimizer.state) == len(stepper.parameters)  # the optimiser did step
    assert {"sup/cls", "unsup/cls"} <= made.values.keys()


@pytest.mark.parametrize(("cpus", "advice"), [(8, "raise train.workers"), (1, "it takes more CPUs")])
def test_slow_reading_is_reported(config_file: Path, monkeypatch: pytest.MonkeyPatch, cpus: int, advice: str) -> None:
    monkeypatch.setattr(plans, "time_phase", lambda stepper, batches, phase: replace(phase, compute=1.0, load=2.0))
    monkeypatch.setattr(plans, "usable_cpus", lambda: cpus)
    cfg = load(config_file, ["train.workers=1", "data.val=null"])
    found = plans.measure(cfg, datasets.load(cfg.data))
    assert sum(advice in warning for warning in found.warnings) == 2
    assert found.seconds == 24 * 2.0


def test_what_training_refuses_is_refused(config_file: Path) -> None:
    with pytest.raises(SsodError, match="lower it to 4 or less") as caught:
        plan(load(config_file, ["train.batch.labeled=5"]))
    assert caught.value.code == Exit.USAGE


def test_a_phase_has_no_time_before_it_is_measured() -> None:
    assert math.isnan(Phase("pseudo-labels", 0, 1).compute)
    assert np.isnan(plan_of([], [], []).memory_gb)

"""tools.bench_step: every moment of a step is charged once, and the two steps do what the page says."""

import time
from pathlib import Path

import pytest
import torch

from ssod.commands import dry_run
from ssod.methods.registry import find, names
from ssod.utils.errors import Exit, SsodError
from tests.small import small_config
from tools import bench_step
from tools.bench_step import Result, bare_step, main
from tools.stopwatch import Stopwatch
from tools.synthetic import Remember, kth, noise

TINY = ["--backbone", "tiny", "--size", "64", "--batch", "2", "--device", "cpu"]


def test_a_stopwatch_charges_every_moment_to_one_phase() -> None:
    moments = iter([0.0, 1.0, 3.0, 7.0, 8.0, 8.0, 10.0])
    watch = Stopwatch(lambda: next(moments))

    class Part:
        def inner(self) -> int:
            return 3

        def outer(self) -> int:
            return self.inner() + 1

    part = Part()
    watch.wrap(part, "inner", "inside", "rest of outer")
    watch.wrap(part, "outer", "outer", "after")
    assert part.outer() == 4  # off: nothing is read
    watch.start()  # 0
    assert part.outer() == 4  # enters at 1, inner from 3 to 7, ends at 8
    watch.stop()  # 8
    assert {name: values for name, values in watch.phases.items() if sum(values)} == {
        "other": [1.0],
        "outer": [2.0],
        "inside": [4.0],
        "rest of outer": [1.0],
    }


def test_remember_keeps_the_last() -> None:
    stream = Remember(iter([1, 2, 3]), 2)
    assert list(stream) == [1, 2, 3]
    assert stream.last == [2, 3]


def test_thresholds_by_count() -> None:
    scores = torch.tensor([0.1, 0.5, 0.3, 0.9])
    assert int((scores > kth(scores, 2)).sum()) == 2
    assert kth(scores, 10) == pytest.approx(0.1)


@pytest.mark.parametrize("detector", ["retinanet", "fcos"])
def test_a_synthetic_run(detector: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = main([*TINY, "--detector", detector, "--steps", "1", "--cpu-time"])
    assert isinstance(found, Result)
    wanted = {"teacher forward", "label", "student forward", "backward", "optimiser", "EMA", "data wait"}
    assert wanted <= set(found.phases)
    assert sum(found.phases.values()) == pytest.approx(found.whole, rel=0.05)
    assert found.ratio == found.whole / found.bare > 0.5
    assert 0 < found.boxes <= 14
    printed = " ".join(capsys.readouterr().out.split())
    assert "ratio" in printed
    assert "nothing else" in printed


def test_a_method_of_two_students_is_compared_with_two(monkeypatch: pytest.MonkeyPatch) -> None:
    passes: list[str] = []
    inner = bench_step.learn
    monkeypatch.setattr(bench_step, "learn", lambda *args: passes.append("student") or inner(*args))
    monkeypatch.setattr(bench_step, "look", lambda *args: passes.append("teacher"))
    found = main([*TINY, "--method", "instant_teaching_rectify", "--steps", "1", "--cpu-time"])
    assert passes == ["student", "student", "teacher"] * 2 * 2  # two rounds, of which one is not counted
    assert found.boxes > 0
    assert found.phases["teacher forward"] > 0


def test_a_supervised_step_has_no_teacher() -> None:
    found = main([*TINY, "--method", "supervised", "--steps", "1", "--cpu-time"])
    assert "teacher forward" not in {name for name, seconds in found.phases.items() if seconds}
    assert found.boxes == 0


SMALL = {
    "fcos": "{name: fcos, backbone: tiny, channels: 16, levels: [3, 5]}",
    "faster_rcnn": "{name: faster_rcnn, backbone: tiny, channels: 16, levels: [3, 5], rpn: {rows: 16, before: [50, 50],"
    " after: [20, 20]}, roi: {rows: 16, hidden: 32, size: 3}}",
}


@pytest.mark.parametrize("detector", SMALL)
def test_a_config(tmp_path: Path, detector: str) -> None:
    changes = ["train.accumulate=2", f"detector={SMALL[detector]}"]
    found = main(["--config", str(small_config(tmp_path)), "--steps", "1", "--device", "cpu", *changes])
    assert found.phases["data wait"] > 0
    assert found.phases["label"] > 0
    assert found.boxes > 0


def test_the_bare_step_moves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    method, cfg, batches = bench_step.synthetic(bench_step.arguments([*TINY, "--method", "mean_teacher"]))
    before = {name: value.clone() for name, value in method.state_dict().items()}
    batch = next(iter(batches(0)))
    seen = []
    inner = method.student.assign
    monkeypatch.setattr(method.student, "assign", lambda out, t: seen.append([len(x) for x in t]) or inner(out, t))
    bare_step(method, batch, bench_step.pseudo_labels(method, batch, cfg), cfg)
    assert seen == [[7, 7], [0, 0]]  # untrained and not calibrated: no pseudo-box
    assert all(torch.equal(value, before[name]) for name, value in method.state_dict().items())
    assert any(p.grad is not None for p in method.student.parameters())
    assert all(p.grad is None for p in method.teacher.parameters())


@pytest.mark.parametrize("name", names())
def test_every_method_has_a_config_to_be_timed_with(name: str) -> None:
    cfg = bench_step.at_once(find(name))
    assert cfg.name == name
    assert getattr(cfg, "unsup_start", 0) < 1000


def test_noise_has_boxes_inside_the_images() -> None:
    batch = noise(3, 96, True)
    assert len(batch.labeled.targets) == 3
    assert all(t.boxes.min() >= 0 and t.boxes.max() <= 96 for t in batch.labeled.targets)
    assert not torch.equal(batch.weak.images, batch.strong.images)


def test_the_clock_is_read_after_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: calls.append("wait"))
    monkeypatch.setattr(dry_run.time, "perf_counter", lambda: calls.append("read") or 1.0)
    dry_run.now(torch.device("cuda"))
    assert calls == ["wait", "read"]
    assert time.process_time() >= 0


def test_options_that_do_not_go_together(capsys: pytest.CaptureFixture[str]) -> None:
    for argv in (["train.lr=1"], ["--cpu-time"]):
        with pytest.raises(SystemExit):
            bench_step.arguments(argv)
    assert "belongs to --config" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--steps", "--size", "--batch", "--candidates"])
@pytest.mark.parametrize("value", ["0", "-1", "two"])
def test_counts_are_one_or_more(option: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        bench_step.arguments([option, value])
    assert f"{option}: '{value}' is not 1 or more" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--detector", "--backbone", "--method"])
def test_a_name_that_is_unknown(option: str) -> None:
    with pytest.raises(SsodError, match="foo") as error:
        main([*TINY, option, "foo"])
    assert error.value.code == Exit.USAGE

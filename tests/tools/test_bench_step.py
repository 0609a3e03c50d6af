"""tools.bench_step: every moment of a step is charged once, and the two steps do what the page says."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from ssod.commands import dry_run
from ssod.commands.dry_run import rehearsal
from ssod.engine.train_config import TrainConfig
from ssod.methods.base import Method
from ssod.methods.registry import find, names
from ssod.structures import Batch
from ssod.utils.errors import Exit, SsodError
from tests.small import small_config
from tools import bench_step
from tools.bench_step import Result, bare_step, main
from tools.fitted import at_once, fitted
from tools.looks import Look, Looks
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


STUDENT, TEACHER = "student forward and backward", "teacher forward"
LOOKS = {  # method, detector: what the page of each says that is looked at
    ("mean_teacher", "retinanet"): f"{TEACHER} 1 of 2 x 64 x 64; {STUDENT} 2 of 2 x 64 x 64",
    ("instant_teaching_rectify", "retinanet"): f"{STUDENT} 4 of 2 x 64 x 64; {TEACHER} 2 of 2 x 64 x 64",
    ("csd", "retinanet"): f"{STUDENT} 4 of 2 x 64 x 64",  # each image and its mirror image
    ("dsl", "fcos"): f"{TEACHER} 1 of 2 x 64 x 64; {STUDENT} 3 of 2 x 64 x 64",  # half the size, on a whole canvas
    ("acrst", "retinanet"): f"{TEACHER} 1 of 2 x 64 x 64; {STUDENT} 1 of 4 x 64 x 64; {STUDENT} 1 of 2 x 64 x 64",
    ("stac", "retinanet"): f"{STUDENT} 2 of 2 x 64 x 64",  # each image was labelled once, before
    ("mix_pl", "retinanet"): f"{TEACHER} 1 of 2 x 64 x 64; {STUDENT} 2 of 2 x 64 x 64; {STUDENT} 1 of 1 x 128 x 96",
}


@pytest.mark.parametrize(("method", "detector"), LOOKS)
def test_the_bare_step_takes_the_looks_of_the_step(method: str, detector: str) -> None:
    found = main([*TINY, "--method", method, "--detector", detector, "--steps", "1", "--cpu-time"])
    assert found.looks == LOOKS[method, detector]
    assert found.ratio > 0.5
    assert (found.boxes > 0) == (method != "csd")  # nobody labels there


def test_each_look_is_noted_with_what_was_asked_of_it() -> None:
    """Of two stages CSD asks the second about the proposals of an image, and about their mirror images in another."""
    method, cfg, batches, _ = synthetic("csd", "faster_rcnn")
    looks = noted(method, cfg, batches)
    assert [len(look.asked) for look in looks] == [1, 1, 1, 1]
    assert [look.labels is None for look in looks] == [False, True, True, True]  # labelled images alone have boxes
    assert [look.searched for look in looks] == [True, True, False, False]  # both kinds, then both mirror images
    assert [len(t) for t in looks[0].labels or ()] == [7, 7]
    assert all(torch.equal(a.asked[0][1], b.asked[0][1]) for a, b in (looks[::2], looks[1::2]))


def test_a_bare_step_learns_what_the_step_learnt() -> None:
    method, cfg, batches, _ = synthetic("supervised", "retinanet")
    looks = noted(method, cfg.model_copy(update={"clip": 0.0}), batches)
    wanted = [p.grad.clone() for p in method.student.parameters() if p.grad is not None]
    bare_step(method, looks, "fp32")
    found = [p.grad for p in method.student.parameters() if p.grad is not None]
    assert len(found) == len(wanted) > 10
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize(
    ("method", "detector", "words"),
    [
        ("unbiased_teacher_v2", None, "retinanet tiny with loss, delta_std, code, spread as its recipe asks"),
        ("efficient_teacher", None, "dense_detector tiny"),
        ("efficient_teacher", "fcos", "fcos tiny"),
        ("dsl", None, "retinanet tiny"),
        ("mean_teacher", None, "retinanet tiny"),
    ],
)
def test_a_method_has_a_detector_that_it_takes(method: str, detector: str | None, words: str) -> None:
    assert fitted(method, detector, "tiny", 64)[1] == words


def test_a_detector_that_a_method_does_not_take() -> None:
    with pytest.raises(SsodError, match="proposals"):
        fitted("dsl", "faster_rcnn", "tiny", 64)


def test_mosaics_are_as_large_as_the_images_ask() -> None:
    kind = find("mix_pl")
    assert at_once(kind).mosaic_size == kind.Config.model_fields["mosaic_size"].default
    assert at_once(kind, 320).mosaic_size == (160, 319)


def synthetic(method: str, detector: str) -> Any:
    """Return what ``bench_step`` would time."""
    return bench_step.synthetic(bench_step.arguments([*TINY, "--method", method, "--detector", detector]))


def noted(method: Method, cfg: TrainConfig, batches: Callable[[int], Iterator[Batch]]) -> list[Look]:
    """Make one step and return its looks."""
    stepper = rehearsal(method, cfg)
    looks = Looks(stepper)
    with looks.noted():
        stepper.train_step(batches(0), bench_step.first_step(method))
    return looks.taken


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
    assert "student forward and backward 4 of 1" in found.looks  # two parts; what they look at to hear is not counted
    assert "student forward 2" not in found.looks


def test_the_bare_step_moves_nothing() -> None:
    method, cfg, batches, _ = synthetic("mean_teacher", "retinanet")
    looks = noted(method, cfg, batches)
    before = {name: value.clone() for name, value in method.state_dict().items()}
    bare_step(method, looks, "fp32")
    taught = [look for look in looks if look.grad]
    assert [[len(t) for t in look.labels or ()] for look in taught] == [[7, 7], [0, 0]]  # not calibrated: no box
    assert all(torch.equal(value, before[name]) for name, value in method.state_dict().items())
    assert any(p.grad is not None for p in method.student.parameters())
    assert all(p.grad is None for p in method.teacher.parameters())


@pytest.mark.parametrize("name", names())
def test_every_method_has_a_config_to_be_timed_with(name: str) -> None:
    cfg = at_once(find(name))
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

"""What a run says: the right numbers, a line with every field, and no harm when it cannot be written."""

import io
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml

from ssod.engine.checkpointing.run_dir import RunFolder
from ssod.engine.logging import log
from ssod.engine.logging.alarms import Watch, advice
from ssod.engine.logging.meters import Window
from ssod.methods.registry import find
from ssod.utils.errors import Exit, SsodError
from tests.engine import toy


def test_a_window_averages_over_the_steps_in_which_a_value_occurs() -> None:
    window = Window()
    window.add({"a": torch.tensor(1.0), "b": torch.tensor(4)})
    window.add({"a": torch.tensor(3.0), "v": torch.tensor([1.0, 2.0])})
    window.add({"a": torch.tensor(5.0), "v": torch.tensor([3.0, 4.0])})
    assert window.read() == {"a": 3.0, "b": 4.0, "v": [3.0, 4.0], "skipped": 0}
    assert window.read() == {"skipped": 0}


def test_a_window_survives_a_restart() -> None:
    window, again = Window(), Window()
    window.add({"a": torch.tensor(1.0), "v": torch.tensor([2.0])})
    window.skipped = 2
    again.load_state_dict(window.state_dict(), torch.device("cpu"))
    for w in (window, again):
        w.add({"a": torch.tensor(2.0)})
    assert again.read() == window.read() == {"a": 1.5, "v": [2.0], "skipped": 2}


LINE = {
    "phase": "burn-in 336/2000",
    "lr": 0.01,
    "loss/sup": 1.23456,
    "loss/unsup": 0.5,
    "pseudo/boxes_per_image": 3.21,
    "labeled/boxes_per_image": 7.3,
    "pseudo/threshold": [0.7, 0.9, 0.8],
    "teacher/AP": 0.2345,
    "time/step": 0.25,
    "time/data": 0.01,
    "memory/gb": 7.96,
    "skipped": 2,
}


def test_the_line_has_every_field() -> None:
    assert log.format_line(336, 20000, 3725, LINE) == (
        "step 336/20000  burn-in 336/2000  eta 1:02:05  lr 0.01  sup 1.235  unsup 0.500  pseudo 3.2/img  "
        "labelled 7.3/img  threshold 0.70-0.90  AP 23.4  0.250 s/step  data 0.010 s  8.0 GB  skipped 2"
    )


def test_the_line_leaves_out_what_is_not_there() -> None:
    text = log.format_line(1, 2, float("nan"), {"time/step": 1.0})
    assert text == "step 1/2  eta ?  1.000 s/step"


def test_every_line_of_metrics_is_valid_json_with_its_step(tmp_path: Path) -> None:
    toy.run(tmp_path / "run", eval_student=True)

    def no_constant(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    text = (tmp_path / "run/metrics.jsonl").read_text()
    rows = [json.loads(line, parse_constant=no_constant) for line in text.splitlines()]
    train, evals = ([r for r in rows if r["kind"] == kind] for kind in ("train", "eval"))
    assert [r["step"] for r in train] == [3, 6, 9, 12]
    assert [r["step"] for r in evals] == [4, 8, 12]
    assert train[-1].keys() >= {"lr", "loss/sup", "loss/unsup", "sup/box", "time/step", "time/data", "memory/gb",
                                "pseudo/boxes_per_image", "labeled/boxes_per_image", "grad_norm"}  # fmt: skip
    assert train[0]["loss/sup"] == pytest.approx(train[0]["sup/box"] + train[0]["sup/cls"])
    assert evals[0].keys() == {"kind", "step", "teacher/AP", "student/AP"}, "per-class numbers have their own file"
    whole = json.loads((tmp_path / "run/eval/step_4.json").read_text())
    assert whole.keys() == {"teacher/AP", "teacher/AP/a", "student/AP", "student/AP/a"}
    assert (tmp_path / "run/train.log").read_text().count("\n") == len(rows) + 2, "two lines on the end"


def test_the_phase_is_that_of_the_last_step(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run") as folder:
        phases = ["burn-in 0/2", "burn-in 1/2", "pseudo-labels", "pseudo-labels"]
        toy.trainer(folder, log_every=1, steps=4, phase=phases.__getitem__).fit()
    rows = [json.loads(x) for x in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [r["phase"] for r in rows if "phase" in r] == phases


def test_the_average_of_a_line_is_that_of_its_steps(tmp_path: Path) -> None:
    for every in (1, 4):
        toy.run(tmp_path / str(every), log_every=every)
    one, four = ([json.loads(x) for x in (tmp_path / n / "metrics.jsonl").read_text().splitlines()] for n in ("1", "4"))
    single = [r["sup/box"] for r in one if r["kind"] == "train"]
    wanted = [sum(single[i : i + 4]) / 4 for i in (0, 4, 8)]
    assert [r["sup/box"] for r in four if r["kind"] == "train"] == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize(("name", "words"), [("metrics.jsonl", "Is a directory"), ("train.log", "No space left")])
def test_a_log_that_cannot_be_written_does_not_stop_the_training(
    tmp_path: Path, name: str, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    """/dev/full takes no byte: every write fails as on a full disk."""
    path = tmp_path / "run" / name
    with RunFolder(path.parent):  # a run of ours, though nothing was trained yet
        pass
    if name == "metrics.jsonl":
        path.mkdir()
    else:
        path.symlink_to("/dev/full")
    toy.run(tmp_path / "run")
    assert (tmp_path / "run/best.safetensors").exists()
    assert [m for m in caplog.messages if name in m and words in m] == caplog.messages
    assert len(caplog.messages) == 1


def test_tensorboard_gets_the_same_numbers(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    toy.run(tmp_path / "run", tensorboard=True)
    events = EventAccumulator(str(tmp_path / "run/tb")).Reload()
    rows = [json.loads(x) for x in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    wanted = [(r["step"], r["sup/box"]) for r in rows if r["kind"] == "train"]
    assert [(e.step, e.value) for e in events.Scalars("sup/box")] == [(s, pytest.approx(v)) for s, v in wanted]
    assert [e.step for e in events.Scalars("teacher/AP")][-1] == 12


def test_without_tensorboard_the_line_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    with pytest.raises(SsodError, match="pip install tensorboard"):
        toy.run(tmp_path / "run", tensorboard=True)


def test_on_a_terminal_there_is_a_bar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: object) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("rich.console.Console.is_terminal", True)
    toy.run(tmp_path / "run")
    shown = capsys.readouterr().out
    assert "12/12" in shown
    assert "s/step" in shown


NOTHING = {"pseudo/boxes_per_image": 0.0, "labeled/boxes_per_image": 7.0, "loss/sup": 1.0, "loss/unsup": 0.1}
FINE = {**NOTHING, "pseudo/boxes_per_image": 3.0}


def test_no_pseudo_box_for_long_is_reported_once_with_the_reason() -> None:
    watch = Watch(patience=200)
    low = {**NOTHING, "pseudo/score_quantiles": [0.01, 0.05, 0.31], "pseudo/score_max": 0.31}
    assert [watch.look(low, 50) for _ in range(3)] == [[], [], []]
    (text,) = watch.look(low, 50)
    assert text == (
        "no pseudo box was kept: teacher score quantiles 0.01 0.05 0.31, teacher score max 0.31; lower method.score"
    )
    assert watch.look(low, 50) == []
    assert watch.look(FINE, 50) == []
    assert [len(watch.look(NOTHING, 100)) for _ in range(3)] == [0, 1, 0], "a new episode is reported again"


def test_too_many_boxes_and_a_loud_loss_are_reported() -> None:
    watch = Watch(patience=100)
    many = watch.look({**FINE, "pseudo/boxes_per_image": 90.0}, 100)
    assert [t.split(":")[0] for t in many] == ["90 pseudo boxes per image against 7.0 labelled ones"]
    (loud,) = watch.look({**FINE, "loss/unsup": 50.0}, 100)
    assert loud.startswith("the loss on unlabelled images is 50 times")


@pytest.mark.parametrize("patience", [0, 100])
def test_what_is_fine_is_not_reported(patience: int) -> None:
    watch = Watch(patience)
    rows = [FINE, {"loss/sup": 1.0}] if patience else [NOTHING]
    assert [watch.look(row, 100) for row in rows * 5] == [[]] * 5 * len(rows)


def rows(missing: float, learning: float = 20.0, stage: str = "dense") -> dict[str, float]:
    return {"loss/sup": 1.0, f"rows/{stage}/learning": learning, f"rows/{stage}/missing": missing}


def test_rows_that_all_miss_their_objects_are_reported_once() -> None:
    watch = Watch(patience=200)
    assert [watch.look(rows(20.0), 50) for _ in range(3)] == [[], [], []], "a run may begin so"
    (text,) = watch.look(rows(19.9), 50)
    assert "predict boxes that do not meet it" in text
    assert all(key in text for key in ("train.seed", "train.lr", "train.warm_up", "detector.align"))
    assert watch.look(rows(20.0), 50) == []
    assert watch.look(rows(19.0), 50) == []
    assert [len(watch.look(rows(20.0), 100)) for _ in range(3)] == [0, 1, 0], "a new episode is reported again"


def test_one_stage_that_misses_all_is_enough() -> None:
    assert len(Watch(100).look(rows(20.0, stage="rpn") | rows(0.0, stage="roi"), 100)) == 1
    assert Watch(100).look(rows(18.0, stage="rpn") | rows(0.0, stage="roi"), 100) == []


def test_a_second_student_is_watched_as_well() -> None:
    peer = {f"peer/{name}": value for name, value in rows(20.0).items() if name.startswith("rows/")}
    assert len(Watch(100).look(rows(0.0) | peer, 100)) == 1


def test_images_without_objects_miss_nothing() -> None:
    watch = Watch(patience=100)
    assert [watch.look(rows(0.0, learning=0.0), 100) for _ in range(5)] == [[]] * 5
    assert watch.look(rows(20.0), 50) == []
    assert watch.look(rows(0.0, learning=0.0), 100) == [], "they do not count"
    assert len(watch.look(rows(20.0), 50)) == 1, "and they end nothing"


@pytest.mark.parametrize("missing", [0.0, 20.0])
def test_a_line_that_did_not_look_counts_as_the_one_before(missing: float) -> None:
    """Rows are counted at every tenth step, and a line may cover one."""
    watch = Watch(patience=100)
    lines = [rows(missing) if step % 10 == 0 else {"loss/sup": 1.0} for step in range(100)]
    told = [bool(watch.look(line, 1)) for line in lines]
    assert told == [False] * 99 + [missing > 0]


def test_the_trainer_tells_the_user(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    toy.run(tmp_path / "run", steps=40, warn_after=10)
    assert capsys.readouterr().out.count("no pseudo box was kept: teacher score quantiles") >= 1


def test_lines_after_a_step_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\nnonsense\n{"step": 3}\n{"step": ')
    log.drop_after(path, 2)
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'
    log.drop_after(tmp_path / "absent", 2)


def test_numbers_that_json_has_not_become_null() -> None:
    assert log._plain([1.0, float("nan"), float("inf")]) == [1.0, None, None]


def slow(batches: Iterator) -> Iterator:
    for batch in batches:
        time.sleep(0.02)
        yield batch


def test_an_evaluation_is_not_counted_as_steps(tmp_path: Path) -> None:
    def score(detector: torch.nn.Module) -> dict[str, float]:
        time.sleep(1.0)
        return toy.score(detector)

    begin = time.perf_counter()
    toy.run(tmp_path / "run", steps=4, log_every=4, eval_every=2, evaluate=score)
    seconds = time.perf_counter() - begin
    (row,) = [r for r in map(json.loads, (tmp_path / "run/metrics.jsonl").read_text().splitlines()) if "lr" in r]
    assert 4 * row["time/step"] < seconds - 2 * 1.0  # no second is counted as both


def test_the_wait_for_data_is_reported_apart(tmp_path: Path) -> None:
    toy.run(tmp_path / "run", wrap=slow)
    rows = [json.loads(x) for x in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    for row in rows:
        if row["kind"] == "train":
            assert 0.02 <= row["time/data"] <= row["time/step"]


def test_without_pseudo_labels_no_key_of_theirs_is_advised() -> None:
    watch = Watch(patience=200)
    watch.judge({"teacher/AP": 0.30})
    text = watch.judge({"teacher/AP": 0.10})["collapse"]
    assert "; lower train.lr;" in text
    assert "method." not in text


def test_an_evaluation_tells_what_is_wrong_once_per_episode() -> None:
    watch = Watch(patience=200)
    watch.look({"pseudo/boxes_per_image": 1.0}, 1)
    assert watch.judge({"teacher/AP": 0.30}) == {}
    (text,) = watch.judge({"teacher/AP": 0.10}).values()
    assert "from 30.0 to 10.0" in text
    assert "method.weight" in text
    assert watch.judge({"teacher/AP": 0.11}) == {}
    assert watch.judge({"teacher/AP": 0.31, "student/AP": 0.315}) == {}
    assert "method.ema.decay" in watch.judge({"teacher/AP": 0.31, "student/AP": 0.35})["behind"]
    assert list(watch.judge({"teacher/AP": 0.1})) == ["collapse"], "a new episode is reported again"
    assert Watch(patience=0).judge({"teacher/AP": 0.1, "student/AP": 0.5}) == {}
    assert Watch(patience=1).judge({"teacher/AP": 0.0}) == {}, "what was never learnt cannot collapse"


def test_a_class_without_pseudo_labels_is_named_when_teaching_has_begun() -> None:
    found = {"teacher/AP": 0.3, "pseudo/kept/cat": 0.0, "pseudo/kept/dog": 0.5, "pseudo/kept/emu": 0.0}
    found |= {"labeled/boxes/cat": 1.5, "labeled/boxes/dog": 2.0, "labeled/boxes/emu": 0.0}
    watch = Watch(patience=200)
    assert watch.judge(found) == {}, "in burn-in nobody needs them"
    watch.look(FINE, 50)
    assert watch.judge(found)["silent"].startswith("no pseudo-label of cat, though")
    assert watch.judge(found) == {}


def test_few_boxes_are_reported() -> None:
    (text,) = Watch(patience=100).look({**FINE, "pseudo/boxes_per_image": 0.3}, 100)
    assert "0.30 pseudo boxes per image against 7.0" in text


@pytest.mark.parametrize(
    ("section", "more", "fewer"),
    [
        ("{name: unbiased_teacher}", "lower method.score", "raise method.score"),
        (
            "{name: mean_teacher, threshold: {name: fixed, score: 0.3}}",
            "lower method.threshold.score",
            "raise method.t",
        ),
        ("{name: consistent_teacher}", "score: ...} sets a lower score", "score: ...} sets a higher score"),
    ],
)
def test_the_key_that_an_alarm_names_is_the_methods_own(section: str, more: str, fewer: str) -> None:
    values = yaml.safe_load(section)
    method = find(values["name"]).Config.model_validate(values)
    watch = Watch(100, *advice(method))
    texts = [watch.look({**FINE, "pseudo/boxes_per_image": count}, 100)[0] for count in (0.0, 0.3, 90.0)]
    assert [word in text for word, text in zip((more, more, fewer), texts)] == [True] * 3
    assert set(re.findall(r"method\.(\w+)", " ".join(texts))) <= type(method).model_fields.keys()


def test_a_collapse_can_end_the_run(tmp_path: Path) -> None:
    found = iter([0.4, 0.1, 0.4])
    with pytest.raises(SsodError, match="the teacher collapsed") as error:
        toy.run(tmp_path / "run", on_collapse="stop", evaluate=lambda detector: {"AP": next(found)})
    assert error.value.code == Exit.DIVERGED
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if row["kind"] == "alarm"] == [8]


class Ascii(io.TextIOWrapper):
    """An output that takes ASCII alone, as under ``PYTHONIOENCODING=ascii`` or ``LC_ALL=C``."""

    def __init__(self, terminal: bool = False) -> None:
        super().__init__(io.BytesIO(), encoding="ascii")
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


@pytest.mark.parametrize("terminal", [False, True])
def test_words_that_the_output_cannot_show_stop_nothing(
    tmp_path: Path, terminal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = Ascii(terminal)
    monkeypatch.setattr(log.sys, "stdout", out)
    run = RunFolder(tmp_path)
    with log.Log(run, steps=2, step=0) as writer:
        writer.alarm(1, "no pseudo-label of Käfer")
        writer.line(1, {"phase": "begin"})
        writer.line(2, {"phase": "Glühwürmchen"})
        log.log_finished(RunFolder(Path("Käfer")), 2, {})
    out.flush()
    shown = out.buffer.getvalue().decode("ascii")
    for text in ("no pseudo-label of K\\xe4fer", "Gl\\xfchw\\xfcrmchen", "step 2/2", "K\\xe4fer: already finished"):
        assert text in shown
    assert "no pseudo-label of Käfer" in run.log.read_text("utf-8")
    assert json.loads(run.metrics.read_text("utf-8").splitlines()[0])["text"] == "no pseudo-label of Käfer"


WRITE = r"""
import sys
from pathlib import Path
from ssod.engine.logging.log import _append, drop_after

path = Path(sys.argv[1])
_append(path, '{"step": 1, "text": "K\u00e4fer \ud800"}')
_append(path, "cut")
drop_after(path, 1)
"""


WRITE = r"""
import sys
from pathlib import Path
from ssod.engine.logging.log import _append, drop_after

path = Path(sys.argv[1])
_append(path, '{"step": 1, "text": "K\u00e4fer \ud800"}')
_append(path, "cut")
drop_after(path, 1)
"""


def test_files_are_utf8_whatever_the_machine_is_set_to(tmp_path: Path) -> None:
    """An interpreter of its own, because the encoding of files is set when it starts."""
    env = {**os.environ, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}
    subprocess.run([sys.executable, "-c", WRITE, str(tmp_path / "log")], check=True, env=env)
    assert (tmp_path / "log").read_text("utf-8") == '{"step": 1, "text": "Käfer \\ud800"}\n'


def test_an_output_that_is_closed_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = Ascii()
    monkeypatch.setattr(log.sys, "stdout", out)
    writer = log.Log(RunFolder(tmp_path), steps=2, step=0)
    out.close()
    writer.say("hello")
    assert "hello" in (tmp_path / "train.log").read_text()


@pytest.mark.parametrize(("system", "told"), [("linux", 2_000_000), ("darwin", 2_048_000_000)])
def test_memory_is_told_in_the_same_unit_on_every_system(
    system: str, told: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log.sys, "platform", system)
    monkeypatch.setattr(log.resource, "getrusage", lambda _: SimpleNamespace(ru_maxrss=told))
    assert log.memory(torch.device("cpu")) == pytest.approx(2.048)

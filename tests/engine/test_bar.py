"""What a person sees of a training: a bar in the last line, text above it, and a terminal that is as it was."""

from __future__ import annotations

import math
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ssod.engine.logging import meters
from ssod.engine.logging.meters import Remaining
from ssod.utils import progress
from ssod.utils.errors import Exit
from tests.engine import toy
from tests.small import small_config, train_command
from tests.terminal import InTerminal, Window, on_terminal

BAR = re.compile(r"step +(\d+)/(\d+) [━─]+ +(\d+)%  (\?|[\d.]+ s/step)  eta (\?|\d+:\d\d:\d\d)")
OF_IMAGES = re.compile(r"evaluation (\d+)/(\d+) [━─]+ +\d+%  ")


def bars(window: Window) -> list[tuple[str, ...]]:
    """Return (step, steps, per cent, pace, time) of each bar that was seen, in order."""
    found = [BAR.fullmatch(line) for lines in window.seen for line in lines if line.startswith("step ") and "%" in line]
    assert all(found), "a bar that is cut off, or broken"
    return list(dict.fromkeys(match.groups() for match in found if match))


def test_the_time_left_knows_of_evaluations_and_of_what_else_comes_between(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(meters.time, "perf_counter", lambda: now[0])
    left = Remaining(100, 40, eval_every=20)  # it goes on from step 40
    assert math.isnan(left.eta(40))
    now[0] = 500.0  # what was prepared, and an evaluation that had been left undone
    left.tick(41, 5.0)
    assert left.eta(41) == pytest.approx(59 * 5.0), "the first step is all that is known"
    for step in range(42, 61):
        now[0] += 0.5
        left.tick(step, 0.5)
    assert left.eta(60) == pytest.approx(40 * 0.5), "nobody knows yet what an evaluation takes"
    now[0] += 30.0 + 0.5
    left.tick(61, 0.5)
    assert left.eta(61) == pytest.approx(39 * 0.5 + 2 * 30.0)
    now[0] += 0.5 + 4.2  # a state was written
    left.tick(62, 0.5)
    assert left.eta(62) == pytest.approx(38 * 0.5 + 2 * 30.0 + 38 * 4.2 / 20)
    for step in range(63, 101):
        now[0] += 0.5 + 30.0 * (step == 81)
        left.tick(step, 0.5)
    assert left.eta(100) == pytest.approx(30.0), "the last evaluation"


@pytest.mark.parametrize(("every", "due"), [(20, [20, 40, 50]), (25, [25, 50]), (0, [50]), (80, [50])])
def test_the_time_left_counts_the_evaluations_that_the_loop_makes(every: int, due: list[int]) -> None:
    left = Remaining(50, 0, eval_every=every)
    assert [step for step in range(1, 51) if left._due(step) > left._due(step - 1)] == due


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_it_moves_at_each_step_and_knows_the_time_left_from_the_first(
    columns: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(batches: Iterator) -> Iterator:
        for batch in batches:
            time.sleep(2 * progress.EVERY)
            yield batch

    monkeypatch.setattr(progress, "RAREST", progress.EVERY)  # on a machine that is busy, too
    window = Window(columns, 30)
    on_terminal(window, monkeypatch)
    toy.run(tmp_path / "run", wrap=slow, steps=8, log_every=100, eval_every=0)
    steps = {}
    for lines in window.seen:
        (shown,) = [line for line in lines if re.match(r"step +\d+/8 [━─]", line)] or [""]
        if shown:
            steps[int(shown.split()[1].partition("/")[0])] = shown
    assert list(steps) == list(range(9))
    assert steps[0].endswith("eta ?")
    assert all(re.search(r"eta 0:00:\d\d$", line) for step, line in steps.items() if step)
    assert all(len(line) <= columns for line in steps.values())
    assert window.sane


@pytest.mark.parametrize("columns", [40, 80])
def test_long_lines_break_between_pairs_and_the_end_has_no_bar(
    columns: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    toy.run(tmp_path / "file", steps=8, log_every=4, eval_every=4)
    plain = [line for line in capsys.readouterr().out.splitlines() if line.startswith("step 4/8 ")]
    assert len(plain) == 1, "a file has a line in one piece"
    assert len(plain[0]) > 80

    window = Window(columns, 40)
    on_terminal(window, monkeypatch)
    toy.run(tmp_path / "run", steps=8, log_every=4, eval_every=4)
    lines = window.everything()
    begin = lines.index(next(line for line in lines if line.startswith("step 4/8 ")))
    more = next(i for i, line in enumerate(lines[begin + 1 :]) if not line.startswith("    "))
    shown = [line.strip() for line in lines[begin : begin + 1 + more]]
    assert len(shown) > 1
    assert all(len(line) <= columns for line in lines)
    names = [[re.sub(r"[\d.]+", "#", pair) for pair in text.split("  ")] for text in ("  ".join(shown), plain[0])]
    assert names[0] == names[1], "no pair is broken"

    ends = [lines for lines in window.seen if any(line.startswith("finished at step 8") for line in lines)]
    assert ends
    assert not any("━" in line for lines in ends for line in lines), "nothing is left to be waited for"


def test_a_training_in_a_terminal(tmp_path: Path) -> None:
    """The real command, stopped and gone on with."""
    config = small_config(tmp_path, train__steps=60, train__eval_every=30, method__burn_in=3)
    window = Window(80, 30)
    first = InTerminal(train_command(config, tmp_path / "run"), window)
    assert first.watch(until=lambda lines: any(re.match(r"step +([5-9]|[1-4]\d)/60 ", line) for line in lines))
    first.signal(signal.SIGTERM)
    first.watch()
    assert first.wait()[0] == Exit.PREEMPTED
    assert window.sane
    assert not any("━" in line for line in window.everything()), "the bar is gone with the process"

    seen = bars(window)
    assert seen[0] == ("0", "60", "0", "?", "?")
    assert any(int(step) % 4 for step, *_ in seen), "it moves between the lines of the log"
    assert all(pace != "?" and eta != "?" for step, _, _, pace, eta in seen if step != "0")
    words = " ".join(" ".join(window.everything()).split())
    assert re.search(r"step 4/60 \S+ eta \d:\d\d:\d\d lr \S+ sup [\d.]+ unsup [\d.]+", words)

    again = Window(80, 30)
    second = InTerminal(train_command(config, tmp_path / "run"), again)
    second.watch()
    assert second.wait()[0] == Exit.OK
    assert again.sane
    seen = bars(again)
    assert int(seen[0][0]) >= 5
    assert seen[-1][:3] == ("60", "60", "100")
    images = [match for lines in again.seen for line in lines if (match := OF_IMAGES.match(line))]
    assert {match[2] for match in images} == {"6"}
    words = " ".join(" ".join(again.everything()).split())
    assert "finished at step 60, " in words
    assert not any("━" in line for line in again.everything())

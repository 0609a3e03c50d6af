"""Bars: they fit any window, move with each step, know the time that is left, and disturb nothing that is printed."""

from __future__ import annotations

import io
import math
import re
import sys

import pytest

from ssod.utils import printing, progress
from ssod.utils.progress import Bar, Pace, Screen, bar, passing, screen, watched
from tests.terminal import Window, on_terminal


def running(total: int = 20000, done: int = 336, pace: float = 0.253) -> Bar:
    found = Bar("step", total, done=done, unit="step")
    found.pace.add(pace)
    return found


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Time that stands still until a test moves it."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    return now


@pytest.mark.parametrize(
    ("width", "wanted"),
    [
        (80, "step   336/20000 ──────────────────────────────    1%  0.253 s/step  eta 1:22:55"),
        (60, "step   336/20000 ──────────    1%  0.253 s/step  eta 1:22:55"),
        (50, "step   336/20000 ──────  0.253 s/step  eta 1:22:55"),
        (40, "step   336/20000 ──────────  eta 1:22:55"),
        (30, "step   336/20000  eta 1:22:55"),
        (20, "step   336/20000"),
        (8, "step   3"),
    ],
)
def test_a_bar_fits_its_window(width: int, wanted: str) -> None:
    assert running().text(width).plain == wanted


def test_a_bar_is_never_wider_than_the_window() -> None:
    for one in (running(), running(2_000_000, 1_999_999, 123.4), Bar("evaluation", 0), Bar("images", 7, done=9)):
        assert all(len(one.text(width).plain) <= width for width in range(1, 200))


def test_a_bar_grows_and_ends_full() -> None:
    lines = [running(10, done).text(80).plain for done in range(11)]
    assert len(set(lines)) == 11
    assert [line.count("━") for line in lines] == sorted(line.count("━") for line in lines)
    assert (lines[0].count("━"), lines[10].count("─")) == (0, 0)
    assert "100%" in lines[10]
    assert "#####" in running(10, 10).text(80, ascii_only=True).plain


def test_images_are_counted_by_the_second() -> None:
    for seconds, words in ((0.004, "250 images/s"), (0.04, "25.0 images/s"), (4.0, "0.25 images/s")):
        one = Bar("images", 100)
        one.pace.add(seconds)
        assert words in one.text(80).plain


def test_the_time_left_is_there_after_the_first_step_and_is_that_of_the_last_ones() -> None:
    pace = Pace()
    assert math.isnan(float(pace))
    pace.add(30.0)
    assert float(pace) == 30.0
    pace.add(0.2)
    assert float(pace) == pytest.approx(0.2), "the first step made things ready"
    for _ in range(300):
        pace.add(0.2)
    pace.add(3.0)  # one step that had to wait
    assert float(pace) < 0.3
    for _ in range(300):
        pace.add(0.4)  # the teacher joins in
    assert float(pace) == pytest.approx(0.4, rel=0.02)


def test_quick_steps_are_averaged_over_seconds() -> None:
    pace = Pace()
    for number in range(2000):
        pace.add(0.001 if number % 100 else 0.101)
    assert float(pace) == pytest.approx(0.002, rel=0.1)


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_lines_stand_above_a_bar_that_keeps_to_the_last_line(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    window = Window(columns, 10)
    terminal = on_terminal(window, monkeypatch)
    with Screen(terminal) as shown:
        shown.rows.append(one := running(30, 0))
        for step in range(1, 31):
            one.done = step
            shown.draw(now=True)
            last = [line for line in window.lines() if line][-1]
            assert last.startswith(f"step {step:2d}/30 ")
            assert "eta " in last
            if step % 10 == 0:
                text = f"step {step}  " + "  ".join(f"loss/{i} 0.123" for i in range(12))
                terminal.print(text)
                print("printed by another", step)
                assert [line for line in window.lines() if line][-1] == last
    assert not any("━" in line for line in window.everything()), "nothing of the bar is left"
    words = " ".join(" ".join(window.everything()).split())
    for step in (10, 20, 30):
        assert f"step {step} loss/0 0.123" in words
        assert f"loss/11 0.123 printed by another {step}" in words
    assert window.sane


def test_it_is_drawn_ten_times_a_second_at_most(monkeypatch: pytest.MonkeyPatch, clock: list[float]) -> None:
    shown = Screen(on_terminal(Window(), monkeypatch))
    drawn = []
    monkeypatch.setattr(shown._live, "refresh", lambda: drawn.append(clock[0]))
    for _ in range(1000):
        clock[0] += 0.01
        shown.draw()
    assert 90 <= len(drawn) <= 100

    def slow() -> None:
        drawn.append(clock[0])
        clock[0] += 0.02  # a slow line to a far terminal

    drawn.clear()
    monkeypatch.setattr(shown._live, "refresh", slow)
    for _ in range(1000):
        clock[0] += 0.1
        shown.draw()
    assert len(drawn) * 0.02 < 0.051 * 1000 * 0.1, "a twentieth of the time"


def test_a_terminal_that_is_gone_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    shown, tried = Screen(on_terminal(Window(), monkeypatch)), []

    def gone() -> None:
        tried.append(1)
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(shown._live, "refresh", gone)
    shown.draw(now=True)
    shown.draw(now=True)
    assert len(tried) == 1


@pytest.mark.parametrize(("name", "value"), [("TERM", "dumb"), ("TERM", "unknown")])
def test_a_terminal_that_cannot_draw_anew_is_left_alone(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    window = Window()
    terminal = on_terminal(window, monkeypatch)
    assert watched(terminal)
    monkeypatch.setenv(name, value)
    assert not watched(terminal)
    with screen(), bar("images", 10) as reach:
        reach(5)
    assert window.bytes == b""


def test_without_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    coloured, plain = (Window() for _ in range(2))
    for window, value in ((coloured, None), (plain, "1")):
        terminal = on_terminal(window, monkeypatch)
        if value is not None:
            monkeypatch.setenv("NO_COLOR", value)
            terminal = printing.console(wrap=True)
        with Screen(terminal) as shown:
            shown.rows.append(running(10, 5))
            shown.draw(now=True)
            assert "━━━━━" in window.lines()[0]
            assert "─────" in window.lines()[0]
    colour = re.compile(rb"\x1b\[[39]\d")  # rich keeps the codes of the first terminal, of 16 colours or more
    assert colour.search(coloured.bytes)
    assert not colour.search(plain.bytes)


@pytest.mark.parametrize(
    ("width", "wanted"),
    [
        (80, ["step 336/20000  burn-in 336/2000  sup 1.235  unsup 0.500"]),
        (34, ["step 336/20000  burn-in 336/2000", "    sup 1.235  unsup 0.500"]),
        (20, ["step 336/20000", "    burn-in 336/2000", "    sup 1.235", "    unsup 0.500"]),
        (3, ["step 336/20000", "    burn-in 336/2000", "    sup 1.235", "    unsup 0.500"]),
    ],
)
def test_a_line_is_broken_between_its_pairs(width: int, wanted: list[str]) -> None:
    line = "step 336/20000  burn-in 336/2000  sup 1.235  unsup 0.500"
    assert printing.between_pairs(line, width).splitlines() == wanted


def test_a_sentence_is_left_to_the_terminal() -> None:
    for text in ("", "the teacher's AP has stopped growing: unlabelled images join in, in a run of-words"):
        assert printing.between_pairs(text, 20) == text


def test_a_pipe_sees_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with screen(), bar("images", 3) as reach:
        reach(3)
        print("a line")
    assert capsys.readouterr() == ("a line\n", "")


def test_a_bar_joins_those_that_are_shown_and_leaves_with_its_work(
    monkeypatch: pytest.MonkeyPatch, clock: list[float]
) -> None:
    window = Window(80, 10)
    with Screen(on_terminal(window, monkeypatch)) as shown:
        shown.rows.append(running(10, 5))
        shown.draw(now=True)
        with screen(), bar("evaluation", 40) as reach:
            clock[0] += 2.0
            reach(10)
            first, second = (line for line in window.lines() if line)
            assert first.startswith("step  5/10 ")
            assert second.startswith("evaluation 10/40 ")
            assert second.endswith("25%  5.0 images/s  eta 0:00:06")
        assert len([line for line in window.lines() if line]) == 1
        with pytest.raises(KeyboardInterrupt), bar("evaluation", 40):
            raise KeyboardInterrupt
        assert len([line for line in window.lines() if line]) == 1
    assert [line for line in window.lines() if line] == []


def test_what_passes_is_counted(monkeypatch: pytest.MonkeyPatch, clock: list[float]) -> None:
    window = Window(80, 10)
    on_terminal(window, monkeypatch)
    seen = []
    with screen():
        for batch in passing(["ab", "cd", "e"], "images", 5, len):
            clock[0] += 1.0
            seen.append(next(line for line in window.lines() if line).split()[1])
            assert batch
    assert seen == ["0/5", "2/5", "4/5"]


def test_files_go_on_taking_what_is_printed_while_a_bar_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """``ssod predict ... > results.txt``: the bar is on standard error."""
    window, results = Window(), io.StringIO()
    on_terminal(window, monkeypatch)
    monkeypatch.setattr(sys, "stdout", results)
    with screen(), bar("images", 3) as reach:
        reach(1)
        print("a result")
    assert results.getvalue() == "a result\n"
    assert b"a result" not in window.bytes
    assert b"images" in window.bytes

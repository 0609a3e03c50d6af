"""``predict`` and ``label`` in a terminal: how many images, how many in a second, and the time that is left."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ssod.inference.label import label_files
from ssod.inference.predict import predict_files
from ssod.utils import progress
from ssod.utils.errors import Exit
from tests.terminal import InTerminal, Window, on_terminal
from tests.trained import model_file, photos

BAR = re.compile(r"images +(\d+)/(\d+) [━─]+ +\d+%  (\?|[\d.]+ images/s)  eta (\?|\d+:\d\d:\d\d)")


@pytest.mark.parametrize("command", [predict_files, label_files])
@pytest.mark.parametrize("columns", [80, 120])
def test_images_are_counted(command: Callable, columns: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = model_file(tmp_path / "m.safetensors")
    photos(tmp_path / "in", [f"{i}.jpg" for i in range(5)])
    monkeypatch.setattr(progress, "EVERY", 0.0)
    monkeypatch.setattr(progress, "RAREST", 0.0)
    window = Window(columns, 30)
    on_terminal(window, monkeypatch)
    command(weights, tmp_path / "in", tmp_path / "out", batch=2)
    seen = [line for lines in window.seen for line in lines if line.startswith("images ")]
    found = [BAR.fullmatch(line) for line in seen]
    assert all(found), seen
    told = dict.fromkeys((match[1], match[2]) for match in found if match)
    assert list(told) == [(count, "5") for count in "0245"]
    assert all(match[3] != "?" and match[4] != "?" for match in found if match and match[1] != "0")
    assert not any("━" in line for line in window.everything())
    assert any("5 images" in line for line in window.everything())
    assert window.sane


def test_a_terminal_is_as_it_was_after_a_signal(tmp_path: Path) -> None:
    weights = model_file(tmp_path / "m.safetensors")
    (picture,) = photos(tmp_path / "in", ["first.jpg"])
    for number in range(2000):
        os.link(picture, tmp_path / "in" / f"{number}.jpg")
    window = Window(80, 30)
    words = [sys.executable, "-m", "ssod", "predict", str(weights), str(tmp_path / "in"), "-o", str(tmp_path / "out")]
    command = InTerminal(words, window)
    assert command.watch(until=lambda lines: any(re.match(r"images +[1-9]\d*/2001 ", line) for line in lines))
    command.signal(signal.SIGTERM)
    command.watch()
    assert command.wait()[0] == Exit.PREEMPTED
    assert window.sane
    assert not any("─" in line for line in window.everything())
    assert window.lines()[0].startswith("ssod: ")
    assert not (tmp_path / "out").exists()

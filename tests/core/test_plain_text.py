"""Names of strangers do nothing to a terminal, and nothing to a program that opens a sheet."""

from __future__ import annotations

import csv
import io
import re
import sys
from contextlib import suppress

import pytest
from rich.table import Table
from rich.text import Text

from ssod.commands.ending import Outlet, one_line_errors
from ssod.data.formats.findings import Finding
from ssod.utils.errors import SsodError
from ssod.utils.plain_text import comma_separated, visible
from ssod.utils.printing import console

CONTROLS = "".join(map(chr, [*range(9), *range(11, 32), *range(127, 160), 0x061C, *range(0x200E, 0x2010),
                             *range(0x2028, 0x202F), *range(0x2066, 0x206A), 0xFEFF, 0xD800, 0xDFFF]))  # fmt: skip
NAME = "cat\x1b]0;owned\x07\x1b[2J\x9b31m\u202egpj.exe"


class Stream(io.StringIO):
    """Standard output on a terminal."""

    encoding = "utf-8"

    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize("say", ["print", "table", "text", "console", "log", "error", "warning"])
def test_whatever_prints_shows_no_control_character(say: str, terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    out = Stream(terminal)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", out)
    refusal = SsodError(NAME, NAME, NAME, NAME)
    with suppress(SystemExit), one_line_errors(debug=False):
        table = Table(NAME)
        table.add_row(Text(NAME) if say == "text" else NAME)
        if say == "print":
            print(NAME)
        elif say == "console":
            console().print(NAME, style="bold")
        elif say == "error":
            raise refusal
        elif say == "warning":
            print(Finding("warning", "D1", NAME, NAME, NAME, NAME).line(), file=sys.stderr)
        elif say == "log":
            bar = console(wrap=True, stderr=True)
            bar.print(NAME, markup=False, highlight=False)
        else:
            console().print(table)
    shown = re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue())  # styles of our own
    assert "cat" in shown
    assert set(shown).isdisjoint(CONTROLS), ascii(shown)


def test_visible_writes_out_what_a_terminal_would_do() -> None:
    assert visible("a\x1b[2J\nb\tä 漢") == "a\\x1b[2J\nb\tä 漢"
    assert set(visible(CONTROLS)).isdisjoint(CONTROLS)


def test_what_the_encoding_has_not_is_written_out() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    print("ä \udcff", file=Outlet(stream))
    stream.flush()
    assert raw.getvalue() == b"\\xe4 \\udcff\n"


@pytest.mark.parametrize("text", ["=cmd|'/C calc'!A0", "+1+1", "-2+3", "@SUM(1)", "\t=1", "\uff1d1"])
def test_no_text_of_a_sheet_is_a_formula(text: str) -> None:
    (row,) = csv.reader(io.StringIO(comma_separated([[text, f"a{text}", -1.5, None, ""]]), newline=""))
    assert row == [f"'{text}", f"a{text}", "-1.5", "", ""]


def test_a_cell_does_not_end_its_line() -> None:
    assert comma_separated([["\r=1", "a\nb"]]) == '\\r=1,"a\nb"\n'


def test_a_long_line_keeps_what_is_to_be_done() -> None:
    line = SsodError("f" * 200, "x", "y" * 1000, "do this").line()
    assert len(line) == 300
    assert line.endswith("...; do this")
    assert len(SsodError("f", "x", "y", "z" * 1000).line()) == 307
    fix = f"run it again with -o /{'path/' * 40} to go on"
    assert SsodError("f" * 200, "x", "y" * 1000, fix).line() == f"{'f' * 97}...; {fix}"

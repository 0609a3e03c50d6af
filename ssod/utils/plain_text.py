"""Text of strangers, made harmless: names of classes and files may hold what moves a terminal's cursor or a sheet.

Escape sequences write over lines, change the title of a window or what its keys do; marks of direction (Unicode's
bidirectional algorithm) show letters in another order than they are in; a cell that begins like a formula is run by the
program that opens the sheet.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from typing import Any

# C0 and C1 but for line feed and tab, delete; marks of direction; line separators of Unicode; halves of characters.
_CONTROL = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
_FORMULA = ("=", "+", "-", "@", "\t", "\uff1d", "\uff0b", "\uff0d", "\uff20")  # the last four are wide forms


def visible(text: str) -> str:
    """Return a text in which each control character is written out, ``\\x1b``; line feeds and tabs stay."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def comma_separated(rows: Iterable[Sequence[Any]]) -> str:
    """Return CSV, in which no text is a formula: one that would be begins with an apostrophe. Numbers stay numbers."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([_cell(value) for value in row] for row in rows)
    return buffer.getvalue()


def _cell(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    text = visible(value)  # a carriage return of its own would end the line
    return f"'{text}" if text.startswith(_FORMULA) else text

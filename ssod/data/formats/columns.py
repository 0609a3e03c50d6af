"""From a list of JSON objects to typed columns: the fast path is a few C loops, the slow one names the culprit."""

from __future__ import annotations

import math
from itertools import chain
from typing import Any

import numpy as np

from ssod.data.formats.findings import Findings, short
from ssod.data.formats.jsonfile import kind


class Rows:
    """One list of a JSON file, e.g. ``annotations``, and where complaints about it go.

    Args:
        name: the list's key.
        rows: its value, already known to be a list.
        file: the file it comes from.
        findings: where findings go.

    Raises:
        SsodError: an element is not an object.
    """

    def __init__(self, name: str, rows: list[Any], file: str, findings: Findings) -> None:
        self.name, self.rows, self.file, self.findings = name, rows, file, findings
        if set(map(type, rows)) - {dict}:
            for i, row in enumerate(rows):
                if type(row) is not dict:
                    self.error("D07", i, "", f"{kind(row)}, expected an object", "remove it")
            findings.raise_first()

    def __len__(self) -> int:
        return len(self.rows)

    def place(self, row: int, key: str) -> str:
        """Name one value, e.g. ``images[3].id``."""
        return f"{self.name}[{row}].{key}" if key else f"{self.name}[{row}]"

    def error(self, id: str, row: int, key: str, problem: str, fix: str) -> None:
        """Record an error about one value."""
        self.findings.error(id, self.file, self.place(row, key), problem, fix)

    def values(self, key: str, default: Any = None) -> list[Any]:
        """Return the raw values of ``key``."""
        return [row.get(key, default) for row in self.rows]

    def integers(self, key: str) -> np.ndarray | None:
        """Return int64 [rows], or None after recording an error for every value that is no 64-bit integer."""
        values = self.values(key)
        if set(map(type, values)) <= {int}:
            try:
                return np.array(values, dtype=np.int64)
            except OverflowError:
                pass
        for i, value in enumerate(values):
            if type(value) is not int:
                problem = "missing" if value is None else f"{kind(value)} {short(value)}, expected integer"
                self.error("D18", i, key, problem, "write it as a plain number")
            elif not -(1 << 63) <= value < 1 << 63:
                self.error("D11", i, key, "integer out of range", "use < 2^63")
        return None

    def strings(self, key: str, id: str) -> list[str] | None:
        """Return the values, or None after recording an error for every one that is no string or is empty."""
        values = self.values(key)
        if set(map(type, values)) <= {str} and all(values):
            return values
        for i, value in enumerate(values):
            if value is None or value == "":
                self.error(id, i, key, "empty" if value == "" else "missing", "give it")
            elif type(value) is not str:
                self.error(id, i, key, f"{kind(value)} {short(value)}, expected string", "put it in quotes")
        return None

    def boxes(self, key: str = "bbox") -> np.ndarray:
        """Return float64 [rows, 4]; rows that are no four finite numbers get an error and are NaN."""
        values = self.values(key)
        if set(map(type, values)) <= {list} and set(map(len, values)) <= {4}:
            flat = list(chain.from_iterable(values))
            if set(map(type, flat)) <= {int, float}:
                try:
                    boxes = np.array(flat, dtype=np.float64).reshape(-1, 4)
                except OverflowError:
                    boxes = np.full((1, 4), np.nan)
                if np.isfinite(boxes).all():
                    return boxes
        boxes = np.full((len(values), 4), np.nan)
        for i, value in enumerate(values):
            if self._box_is_sound(i, key, value):
                boxes[i] = value
        return boxes

    def _box_is_sound(self, row: int, key: str, value: Any) -> bool:
        if value is None or value == []:
            self.error("D21", row, key, "missing", "needs [x, y, width, height]")
        elif type(value) is not list:
            self.error("D22", row, key, f"{kind(value)}, expected a list of 4 numbers", "mend or drop the box")
        elif len(value) != 4:
            self.error("D22", row, key, f"{len(value)} values, expected 4 numbers", "mend or drop the box")
        else:
            for j, number in enumerate(value):
                if type(number) not in (int, float):
                    problem = f"{kind(number)} {short(number)}, expected 4 numbers"
                    self.error("D22", row, f"{key}[{j}]", problem, "mend or drop the box")
                    return False
                if not _finite(number):
                    self.error("D12", row, f"{key}[{j}]", f"{short(number)}", "drop or fix the box")
                    return False
            return True
        return False

    def flags(self, key: str) -> np.ndarray:
        """Return bool [rows]; an absent or null value is False, anything but 0, 1, true and false an error."""
        values = self.values(key, 0)
        if not set(map(type, values)) <= {int, bool} or not set(values) <= {0, 1}:
            for i, value in enumerate(values):
                if value is not None and (type(value) not in (int, bool) or value not in (0, 1)):
                    self.error("D32", i, key, f"{kind(value)} {short(value)}, expected 0 or 1", "mend it")
                    values[i] = 0
        return np.array([bool(value) for value in values], dtype=bool)

    def sizes(self) -> np.ndarray:
        """Return int64 [rows, 2] (height, width); what is absent, null or 0 is 0, anything else unsound an error."""
        both = []
        for key in ("height", "width"):
            values = self.values(key, 0)
            if not set(map(type, values)) <= {int} or max(values, default=0) > 1 << 30 or min(values, default=0) < 0:
                values = [self._side(i, key, value) for i, value in enumerate(values)]
            both.append(values)
        return np.array(both, dtype=np.int64).reshape(2, -1).T

    def _side(self, row: int, key: str, value: Any) -> int:
        if value is None:
            return 0
        if type(value) in (int, float) and _finite(value) and 0 <= value <= 1 << 30 and value == int(value):
            return int(value)
        self.error(
            "D29", row, key, f"{kind(value)} {short(value)}, expected pixels", "give a whole number or leave it out"
        )
        return 0


def _finite(number: int | float) -> bool:
    try:
        return math.isfinite(number)
    except OverflowError:  # an integer beyond the floats
        return False

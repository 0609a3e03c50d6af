"""Columns of numbers that grow on the disk: for what is found in more images than memory has room for."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np


class Spool:
    """Columns that rows are added to, in files without a name, of which nothing is left when the process ends.

    Args:
        folder: on whose disk they are.
        columns: the format of each, and how many numbers a row has of it; None = one, not in a list.
    """

    def __init__(self, folder: Path, **columns: tuple[type[np.generic], int | None]) -> None:
        self._columns = columns
        self._files = {name: tempfile.TemporaryFile(dir=folder) for name in columns}  # noqa: SIM115  # read later

    def add(self, **parts: np.ndarray) -> None:
        """Add rows to the columns that are named, [N, width] or [N].

        Raises:
            OSError: the disk refuses.
        """
        for name, part in parts.items():
            self._files[name].write(np.ascontiguousarray(part, self._columns[name][0]).tobytes())

    def read(self) -> dict[str, np.ndarray]:
        """Return the columns, [N, width] or [N]; the system reads from the disk what is looked at.

        An array that is changed changes in memory alone, and keeps its file as long as it lives.
        """
        found = {}
        for name, (kind, width) in self._columns.items():
            file = self._files[name]
            file.flush()
            size = file.tell()
            flat = np.asarray(np.memmap(file, kind, "c")) if size else np.zeros(0, kind)  # nothing cannot be mapped
            found[name] = flat if width is None else flat.reshape(-1, width)
        return found

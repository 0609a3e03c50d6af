"""How much memory a run takes, by its own word, and how much is free."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from pathlib import Path

MEMINFO = "/proc/meminfo"


class Stated:
    """The memory that a run states in the lines which it writes from now on.

    A run that goes on drops the lines after its checkpoint first: another file takes the place of the one that was
    there, and what both hold is older. Where there is no file yet, all lines will be new.

    Args:
        metrics: the run's ``metrics.jsonl``; each look reads only what is new in it.
    """

    def __init__(self, metrics: Path) -> None:
        self.metrics, self.gb = metrics, 0.0
        self._file, self._end = (metrics.stat().st_ino, metrics.stat().st_size) if metrics.exists() else (None, 0)

    def look(self) -> float:
        """Return memory in GB, 0 until the run has stated it."""
        if not self.metrics.exists():
            return self.gb
        with open(self.metrics, "rb") as file:
            stat = os.fstat(file.fileno())
            if self._file not in (None, stat.st_ino) or stat.st_size < self._end:
                self._end = stat.st_size
            self._file = stat.st_ino
            file.seek(self._end)
            new = file.read()
        whole = new[: new.rfind(b"\n") + 1]  # a line that is cut off is still being written
        self._end += len(whole)
        for line in whole.splitlines():
            with contextlib.suppress(ValueError, AttributeError, RecursionError):  # a line that a full disk cut
                self.gb = json.loads(line).get("memory/gb") or self.gb
        return self.gb


def free_memory(gpu: str | None) -> float | None:
    """Return free memory in GB, of a GPU by its name in ``CUDA_VISIBLE_DEVICES`` or of this machine.

    None where it cannot be found: no ``nvidia-smi``, one that does not know the name (part of a GPU) or shares the
    machine's memory, no ``/proc/meminfo`` (macOS).
    """
    try:
        if gpu is not None:
            command = ["nvidia-smi", "--query-gpu=memory.free", "--format=csv,noheader,nounits", f"--id={gpu}"]
            text = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
            return float(text.split()[0]) * 2**20 / 1e9
        with open(MEMINFO) as file:
            values = dict(line.split(":") for line in file)
        return float(values["MemAvailable"].split()[0]) * 1024 / 1e9
    except (OSError, subprocess.SubprocessError, ValueError, LookupError):
        return None

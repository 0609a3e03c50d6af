"""What a run says while it runs: ``metrics.jsonl`` for machines, ``train.log`` and a line or bar for people.

A log that cannot be written never stops the training: it says so once and goes on.
"""

import json
import logging
import math
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self, TypeVar

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from torch import Tensor

from ssod import atomic, collective
from ssod.engine import dist
from ssod.engine.runfolder import RunFolder
from ssod.errors import Exit, SsodError

Values = dict[str, Any]
T = TypeVar("T")


class Window:
    """Averages since the last line, kept as tensors where they were made: nothing is read before a line is due.

    Scalars are averaged over the steps in which they occur; of vectors the last one counts.
    """

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}
        self.last: dict[str, Tensor] = {}
        self.skipped = 0

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Take in the detached values of one step."""
        for name, value in values.items():
            value = value.detach().float()
            if value.ndim:
                self.last[name] = value
                continue
            self.sums[name] = self.sums[name] + value if name in self.sums else value
            self.counts[name] = self.counts.get(name, 0) + 1

    def read(self) -> Values:
        """Return the averages over steps and ranks, and start anew; every rank calls it."""
        own: Values = {name: float(total) / self.counts[name] for name, total in self.sums.items()}
        own |= {name: value.flatten().tolist() for name, value in self.last.items()}
        own["skipped"] = self.skipped
        self.__init__()
        shares = dist.gather(own)
        merged: Values = {}
        for name in dict.fromkeys(name for share in shares for name in share):
            seen = [share[name] for share in shares if name in share]
            merged[name] = seen[0] if isinstance(seen[0], list) or name == "skipped" else sum(seen) / len(seen)
        return merged

    def state_dict(self) -> dict[str, Any]:
        """Return what makes the next line the same after a restart."""
        return {
            "sums": {name: total.cpu() for name, total in self.sums.items()},
            "last": {name: value.cpu() for name, value in self.last.items()},
            "counts": dict(self.counts),
            "skipped": self.skipped,
        }

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        """Take up a saved window."""
        self.sums = {name: total.to(device) for name, total in state["sums"].items()}
        self.last = {name: value.to(device) for name, value in state["last"].items()}
        self.counts, self.skipped = dict(state["counts"]), state["skipped"]


class Clock:
    """How long the steps since the last line took, and how much of it was waiting; entered around each step."""

    def __init__(self) -> None:
        self.steps, self.seconds, self.waited, self._start = 0, 0.0, 0.0, 0.0

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.seconds += time.perf_counter() - self._start
        self.steps += 1

    def wait_for(self, source: Iterator[T]) -> T:
        """Return the next item of ``source``, and count the wait as one for data."""
        before = time.perf_counter()
        item = next(source)
        self.waited += time.perf_counter() - before
        return item

    def read(self) -> Values:
        """Return seconds per step and how much of it was waiting for data, and start anew."""
        values = {"time/step": self.seconds / self.steps, "time/data": self.waited / self.steps}
        self.__init__()
        return values


class Log:
    """Writes what the loop tells it; on every rank but 0 it writes nothing.

    Args:
        folder: the run.
        steps: the last step, for the bar and the estimate of what is left.
        step: the step the run starts from; later lines of an interrupted run are dropped.
        tensorboard: write event files as well.

    Raises:
        SsodError: code 2 when TensorBoard is wanted and not installed.
    """

    def __init__(self, folder: RunFolder, *, steps: int, step: int, tensorboard: bool = False) -> None:
        self.folder, self.steps = folder, steps
        self.first, self.started = step, time.perf_counter()
        self._broken: set[str] = set()
        self._main = collective.rank() == 0
        self._bar: Progress | None = None
        self._board = _board(folder.tb, step) if tensorboard and self._main else None
        if not self._main:
            return
        self._guarded("metrics.jsonl", lambda: drop_after(folder.metrics, step))
        console = Console(file=sys.stdout)
        if console.is_terminal:
            text = TextColumn("{task.fields[line]}")
            self._bar = Progress(BarColumn(bar_width=20), MofNCompleteColumn(), text, console=console)
            self._task = self._bar.add_task("", total=steps, completed=step, line="")
            self._bar.start()

    def line(self, step: int, values: Values) -> None:
        """Write the training line after ``step`` steps."""
        if not self._main:
            return
        self._record({"kind": "train", "step": step, **values})
        text = format_line(step, self.steps, self.eta(step), values)
        self._text(text)
        if self._bar is not None:
            self._bar.update(self._task, completed=step, line=text)
        else:
            print(text, flush=True)

    def metrics(self, step: int, values: Values) -> None:
        """Write the result of an evaluation after ``step`` steps."""
        if not self._main:
            return
        self._record({"kind": "eval", "step": step, **values})
        shown = "  ".join(f"{name} {100 * v:.1f}" for name, v in values.items() if name.split("/")[-1] in _SHOWN)
        self.say(f"step {step}: {shown}")

    def say(self, text: str) -> None:
        """Write a sentence for people."""
        if not self._main:
            return
        self._text(text)
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False)
        else:
            print(text, flush=True)

    def eta(self, step: int) -> float:
        """Return the seconds that are left, at the pace since the start."""
        done = step - self.first
        return (self.steps - step) * (time.perf_counter() - self.started) / done if done else math.nan

    def sync(self) -> None:
        """Force ``metrics.jsonl`` to the disk: a checkpoint never knows a step that the metrics do not."""
        if self._main and self.folder.metrics.exists():
            self._guarded("metrics.jsonl", lambda: _force(self.folder.metrics))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()
        if self._board is not None:
            self._guarded("tb", self._board.close)

    def _record(self, row: Values) -> None:
        text = json.dumps({name: _plain(value) for name, value in row.items()})
        self._guarded("metrics.jsonl", lambda: _append(self.folder.metrics, text))
        if self._board is not None:
            self._guarded("tb", lambda: self._scalars(row))

    def _scalars(self, row: Values) -> None:
        for name, value in row.items():
            if isinstance(value, (int, float)) and name != "step":
                self._board.add_scalar(name, value, row["step"])
        self._board.flush()

    def _text(self, text: str) -> None:
        stamp = time.strftime("%Y-%m-%d %H:%M:%S")
        self._guarded("train.log", lambda: _append(self.folder.log, f"{stamp} {text}"))

    def _guarded(self, name: str, write: Callable[[], object]) -> None:
        """Write, or say once that it cannot be done."""
        try:
            write()
        except (OSError, SsodError) as error:
            if name not in self._broken:
                self._broken.add(name)
                logging.getLogger("ssod").warning("%s cannot be written (%s); training goes on without it", name, error)


_SHOWN = ("AP", "AP50", "AP75")


def format_line(step: int, steps: int, eta: float, values: Values) -> str:
    """Return the line a user watches. A value that is not there is left out."""
    parts = [f"step {step}/{steps}", str(values.get("phase", "")), f"eta {_duration(eta)}"]
    pattern = {
        "lr": "lr {:.2g}",
        "loss/sup": "sup {:.3f}",
        "loss/unsup": "unsup {:.3f}",
        "pseudo/boxes_per_image": "pseudo {:.1f}/img",
        "labeled/boxes_per_image": "labelled {:.1f}/img",
    }
    parts += [text.format(values[name]) for name, text in pattern.items() if name in values]
    for name, value in values.items():
        if "threshold" in name:
            low, high = (min(value), max(value)) if isinstance(value, list) else (value, value)
            parts.append(f"{name.split('/')[-1]} {low:.2f}" + (f"-{high:.2f}" if high > low else ""))
    if "teacher/AP" in values:
        parts.append(f"AP {100 * values['teacher/AP']:.1f}")
    parts.append(f"{values.get('time/step', math.nan):.3f} s/step")
    if "time/data" in values:
        parts.append(f"data {values['time/data']:.3f} s")
    if "memory/gb" in values:
        parts.append(f"{values['memory/gb']:.1f} GB")
    if values.get("skipped"):
        parts.append(f"skipped {values['skipped']}")
    return "  ".join(part for part in parts if part)


def drop_after(path: Path, step: int) -> None:
    """Remove the lines of ``path`` that are later than ``step``, or cut off; they will be written again."""
    if not path.exists():
        return
    text = path.read_text(errors="replace")
    kept = [line for line in text.splitlines() if _step_of(line) <= step]
    content = "".join(f"{line}\n" for line in kept)
    if content != text:
        atomic.write_text(path, content)


def memory(device: torch.device) -> float:
    """Return the most memory used so far, in GB: of the device, or of the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def _step_of(line: str) -> float:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf


def _plain(value: Any) -> Any:
    """JSON has no NaN: what is not finite becomes null."""
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _append(path: Path, text: str) -> None:
    with open(path, "a") as file:
        file.write(text + "\n")


def _force(path: Path) -> None:
    with open(path, "a") as file:
        os.fsync(file.fileno())


def _duration(seconds: float) -> str:
    if not math.isfinite(seconds):
        return "?"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"


def _board(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        fix = "pip install 'ssod[track]', or set train.tensorboard=false"
        raise SsodError("config", "train.tensorboard", "tensorboard is not installed", fix, code=Exit.USAGE) from None
    return SummaryWriter(str(folder), purge_step=step)

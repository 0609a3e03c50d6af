"""What a run says while it runs: ``metrics.jsonl`` for machines, ``train.log`` and a line or bar for people.

A log that cannot be written never stops the training: it says so once and goes on.
"""

import json
import logging
import math
import os
import resource
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from ssod.engine.checkpointing import lines
from ssod.engine.checkpointing.run_dir import RunFolder
from ssod.engine.logging.meters import Remaining, Values
from ssod.engine.logging.trackers import Name, Trackers
from ssod.utils import atomic, collective, printing
from ssod.utils.errors import SsodError
from ssod.utils.plain_text import visible
from ssod.utils.printing import between_pairs, percent
from ssod.utils.progress import Bar, Screen, as_timer, watched


class Log:
    """Writes what the loop hands it; on every rank but 0 it writes nothing.

    Args:
        folder: the run.
        steps: the last step, for the bar and the estimate of what is left.
        step: the step the run starts from; later lines of an interrupted run are dropped.
        pending: the evaluation after ``step`` comes again; its lines are dropped, too.
        eval_every: steps between evaluations, for the estimate; 0 = one after the last step.
        trackers: where else the numbers go, names of ``trackers.KINDS``.
        classes: names of the classes, for what trackers show of each.

    Raises:
        SsodError: code 2 when a tracker is wanted and not installed.
    """

    def __init__(
        self,
        folder: RunFolder,
        *,
        steps: int,
        step: int,
        pending: bool = False,
        eval_every: int = 0,
        trackers: Sequence[Name] = (),
        classes: Sequence[str] = (),
    ) -> None:
        self.folder, self.steps = folder, steps
        self.remaining = Remaining(steps, step, eval_every)
        self._broken: set[str] = set()
        self._main = collective.rank() == 0
        self._bar: Bar | None = None
        self._screen: Screen | None = None
        self._trackers = Trackers(trackers if self._main else (), folder.path, step, classes)
        if not self._main:
            return
        self._guarded("metrics.jsonl", lambda: drop_after(folder.metrics, step, pending))
        console = printing.console(wrap=True)
        if watched(console):
            self._bar, self._screen = Bar("step", steps, done=step, unit="step"), Screen(console)
            self._bar.pace = self.remaining.pace

    def tick(self, step: int, seconds: float) -> None:
        """Note that ``step`` steps are made, the last in so many seconds; a bar moves, and nothing is waited for."""
        self.remaining.tick(step, seconds)
        if self._bar is not None and self._screen is not None:
            self._bar.done, self._bar.more = step, self.remaining.besides(step)
            self._screen.draw()

    def line(self, step: int, values: Values) -> None:
        """Write the training line after ``step`` steps."""
        if not self._main:
            return
        self._record({"kind": "train", "step": step, **values})
        self.say(format_line(step, self.steps, self.remaining.eta(step), values))

    def metrics(self, step: int, values: Values) -> None:
        """Write the result of an evaluation after ``step`` steps: all of it to ``eval/step_*.json``.

        Numbers of single classes, ``teacher/AP/cat``, stay out of the line in ``metrics.jsonl``.
        """
        if not self._main:
            return
        path = self.folder.eval / f"step_{step}.json"
        self._guarded(str(path), lambda: self.folder.write_json(path, plain(values)))
        overall = {name: value for name, value in values.items() if name.count("/") == 1}
        self._record({"kind": "eval", "step": step, **overall}, tracked=values)
        shown = "  ".join(f"{name} {percent(v)}" for name, v in overall.items() if name.split("/")[1] in _SHOWN)
        if step >= self.steps:
            self._take_bar_away()
        self.say(f"step {step}: {shown}")

    def pictures(self, step: int, draw: Callable[[], dict[str, np.ndarray]]) -> None:
        """Show trackers an evaluation; ``draw`` returns [H, W, 3] uint8 by name, and is called only if one wants it."""
        self._trackers.pictures(step, draw)

    def say(self, text: str) -> None:
        """Write a sentence for people."""
        if not self._main:
            return
        self._text(text)
        screen, shown = self._screen, printable(text)
        if screen is not None:
            shown = between_pairs(shown, screen.console.width)
            self._guarded("the output", lambda: screen.console.print(shown, markup=False, highlight=False))
        else:
            self._guarded("the output", lambda: print(shown, flush=True))

    def end(self, step: int, results: dict[str, float]) -> None:
        """Say that the run has made its last step, and what can be done with it."""
        self._take_bar_away()
        run = shlex.quote(str(self.folder.path))
        self.say(f"finished at step {step}{_percents(results)}: {self.folder.best}")
        self.say(f"next: ssod report {run}, ssod export {run}")

    def alarm(self, step: int, text: str) -> None:
        """Write what should worry the user, for people and, as ``kind: alarm``, for the report."""
        if self._main:
            self._record({"kind": "alarm", "step": step, "text": text})
            self.say(f"step {step}: {text}")

    def sync(self) -> None:
        """Force ``metrics.jsonl`` to the disk: a checkpoint never knows a step that the metrics do not."""
        if self._main and self.folder.metrics.exists():
            self._guarded("metrics.jsonl", lambda: _force(self.folder.metrics))

    def __enter__(self) -> Self:
        if self._screen is not None and self._bar is not None:
            self._screen.rows.append(self._bar)
            self._guarded("the output", self._screen.__enter__)
        return self

    def __exit__(self, *_: object) -> None:
        if self._screen is not None:
            self._guarded("the output", self._screen.__exit__)
        self._trackers.close()

    def _take_bar_away(self) -> None:
        """Show no bar from here on: no step and no evaluation is left, and so no time that it could tell."""
        if self._screen is not None and self._bar in self._screen.rows:
            self._screen.rows.remove(self._bar)
            self._screen.draw(now=True)

    def _record(self, row: Values, *, tracked: Values | None = None) -> None:
        text = json.dumps(plain(row))
        self._guarded("metrics.jsonl", lambda: _append(self.folder.metrics, text))
        self._trackers.scalars(row["step"], row if tracked is None else tracked)

    def _text(self, text: str) -> None:
        stamp = time.strftime("%Y-%m-%d %H:%M:%S")
        self._guarded("train.log", lambda: _append(self.folder.log, f"{stamp} {visible(text)}"))

    def _guarded(self, name: str, write: Callable[[], object]) -> None:
        """Write, or say once that it cannot be done."""
        try:
            write()
        except (OSError, ValueError, SsodError) as error:  # ValueError: a closed file, or words it cannot encode
            if name not in self._broken:
                self._broken.add(name)
                logging.getLogger("ssod").warning("%s cannot be written (%s); training goes on without it", name, error)


_SHOWN = ("AP", "AP50", "AP75")


def first_line(step: int, steps: int, source: Path | None) -> list[str]:
    """Return where a run goes on, with the burn-in of ``source`` if there is one; nothing of one that begins anew."""
    if source is not None:
        return [f"beginning after step {step} of {steps}, with the burn-in of {source}"]
    return [f"resuming after step {step} of {steps}"] if step else []


def warn_without_momentum(folder: Path, parameters: int, optimizer: str) -> None:
    """Warn, once in a job, that what was saved of so many parameters is of another kind of optimiser."""
    if parameters and collective.rank() == 0:
        problem = f"the momentum of {parameters} parameters is of another optimizer than {optimizer}"
        logging.getLogger("ssod").warning(f"{folder}: {problem}; they start without")


def log_finished(folder: RunFolder, step: int, results: dict[str, float]) -> None:
    """Tell, on the screen alone, that a run has no step left to make; ``results`` are fractions by name."""
    if collective.rank() == 0:
        text = f"already finished at step {step}{_percents(results)}; nothing to do"
        print(printable(f"{folder.path}: {text} (to train longer, raise train.steps)"), flush=True)


def printable(text: str) -> str:
    """Return ``text`` as standard output can show it: controls, and what its encoding has not, become ``\\xe4``."""
    out = getattr(sys.stdout, "rich_proxied_file", sys.stdout)  # while a bar is shown, rich stands before it
    encoding = getattr(out, "encoding", None) or "utf-8"
    return visible(text).encode(encoding, "backslashreplace").decode(encoding)


def _percents(values: dict[str, float]) -> str:
    return "".join(f", {name} {percent(value)}" for name, value in values.items())


def format_line(step: int, steps: int, eta: float, values: Values) -> str:
    """Return the line a user watches. A value that is not there is left out."""
    parts = [f"step {step}/{steps}", str(values.get("phase", "")), f"eta {as_timer(eta)}"]
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
    parts += [f"{name[8:]} {percent(value)}" for name, value in values.items() if name.startswith("teacher/")]
    if "time/step" in values:
        parts.append(f"{values['time/step']:.3f} s/step")
    if "time/data" in values:
        parts.append(f"data {values['time/data']:.3f} s")
    if "memory/gb" in values:
        parts.append(f"{values['memory/gb']:.1f} GB")
    if values.get("skipped"):
        parts.append(f"skipped {values['skipped']}")
    return "  ".join(part for part in parts if part)


def drop_after(path: Path, step: int, pending: bool = False) -> None:
    """Remove the lines of ``path`` that are later than ``step``, or cut off; they will be written again.

    ``pending``: and those of its evaluation and what that one gave rise to.
    """
    if not path.exists():
        return
    text = path.read_text("utf-8", errors="replace")
    content = "".join(f"{line}\n" for line in lines.up_to(text.splitlines(), step, pending=pending))
    if content != text:
        atomic.write_text(path, content)


def memory(device: torch.device) -> float:
    """Return the most memory used so far, in GB: of the device, or of the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    unit = 1 if sys.platform == "darwin" else 1024  # bytes; what getrusage counts in
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def plain(values: Values) -> Values:
    """JSON has no NaN: what is not finite becomes null."""
    return {name: _plain(value) for name, value in values.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _append(path: Path, text: str) -> None:
    with open(path, "a", encoding="utf-8", errors="backslashreplace") as file:
        file.write(text + "\n")


def _force(path: Path) -> None:
    with open(path, "ab") as file:
        os.fsync(file.fileno())

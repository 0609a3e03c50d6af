"""Runs side by side: as many as are wanted and, on this machine, as memory allows; none twice."""

from __future__ import annotations

import fcntl
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from rich.console import Console

from ssod.experiments.runs import read_run
from ssod.experiments.sweep import board
from ssod.experiments.sweep.executor import Executor, Local, Started
from ssod.experiments.sweep.memory import Stated, free_memory
from ssod.experiments.sweep.sharing import Sharing
from ssod.experiments.sweep.sweep import Cell, Sweep, finished
from ssod.utils import atomic
from ssod.utils.errors import Exit, SsodError
from ssod.utils.printing import percent
from ssod.utils.signals import Signals

POLL = 0.5  # seconds between two looks at the processes
SPARE = 1.3  # another run starts when so many times its memory is free


@dataclass
class Job:
    """A cell that runs.

    Attributes:
        cell: which.
        process: ``ssod train``.
        log: its output. The file is locked for as long as this, or a process of this machine, has it open.
        slot: its number among those that run at the same time.
        memory: what it says to need.
        started: when, by the monotonic clock.
    """

    cell: Cell
    process: Started
    log: IO[bytes]
    slot: int
    memory: Stated
    started: float = field(default_factory=time.monotonic)


def run_cells(plan: Sweep, console: Console, executor: Executor | None = None) -> dict[str, str]:
    """Run every cell that is not finished.

    A run that another process works on, for another sweep or by itself, is waited for. A run that fails is reported and
    left; the others go on.

    Args:
        plan: the sweep. Logs of its processes go to ``logs/<row>-fold1-seed0.log`` in its folder.
        console: gets a line when a run starts or ends; a terminal also shows how far the runs are.
        executor: where runs are made; None = on this machine.

    Returns:
        What went wrong, by the cell's name; empty when all cells are finished.

    Raises:
        SsodError: code 75 or 130, asked to stop; the runs have saved their states. Code 6, the sweep's folder lies
            where files cannot be locked, so that two sweeps would make one run twice.
    """
    pool = _Pool(plan, console, executor)
    with Signals() as signals, board.shown(console) as show:
        try:
            while pool.waiting or pool.running:
                if signals.code:
                    raise SsodError("sweep", "", "interrupted, states saved", "run it again", code=Exit(signals.code))
                pool.reap()
                pool.fill()
                show(pool.advance())
                if pool.waiting or pool.running:
                    time.sleep(POLL)
        finally:
            pool.stop()
    return pool.failures


class _Pool:
    """The runs of a sweep, from one look at them to the next; see ``run_cells``."""

    def __init__(self, plan: Sweep, console: Console, executor: Executor | None = None) -> None:
        self.plan, self.console = plan, console
        self.total, self.jobs, self.out = len(plan.cells), plan.jobs, plan.out
        self.executor: Executor = executor or Local()
        self.waiting = [cell for cell in plan.cells if not finished(cell)]
        self.done = self.total - len(self.waiting)
        self.sharing = Sharing(plan.cells if plan.share_burn_in and self.waiting else ())
        self.sharing.over |= {cell.name for cell in plan.cells} - {cell.name for cell in self.waiting}
        self.running: list[Job] = []
        self.failures: dict[str, str] = {}
        self.messages: set[str] = set()
        wanted = self.executor.here and any(cell.load().train.device != "cpu" for cell in self.waiting)
        self.gpus = _gpus() if wanted else []
        self._say(f"{self.total} runs, {self.done} finished, {len(self.waiting)} to go, {self.jobs} at a time")

    def advance(self) -> board.Advance:
        """Return where the sweep is."""
        well = self.sharing.over - self.failures.keys()
        ended, running = [cell for cell in self.plan.cells if cell.name in well], [job.cell for job in self.running]
        return board.Advance(self.total, ended, len(self.failures), list(self.waiting), running)

    def fill(self) -> None:
        """Start what there is room for."""
        for cell in list(self.waiting):
            more = self.sharing.options(cell)
            if more is None:
                self._say_once(f"{cell.name} waits for the burn-in of another run")
                continue
            if not self._room():
                return
            log = self._take(cell)
            if log is None:  # another process works on it; it is looked at again later
                self._say_once(f"{cell.name} is run by another process")
                continue
            self.waiting.remove(cell)
            if finished(cell):
                log.close()
                self._count(cell, f"{cell.name} finished elsewhere")
                continue
            self.running.append(self._start(cell, log, more))

    def reap(self) -> None:
        """Take note of the runs that ended."""
        for job in list(self.running):
            code = job.process.poll()
            if code is None:
                continue
            self.running.remove(job)
            job.log.close()
            took = f"{(time.monotonic() - job.started) / 60:.1f} min"
            if finished(job.cell):  # also by another process, which made this one end with an error
                last = read_run(job.cell.folder).last
                self._count(job.cell, f"{job.cell.name} done, AP {percent(last['teacher/AP'])}, {took}")
            elif code == Exit.IO and locked(job.cell.folder):  # `ssod train` by hand was there first, by a second
                self.waiting.append(job.cell)
            else:
                self.failures[job.cell.name] = why(Path(job.log.name), code)
                self._count(job.cell, f"{job.cell.name} failed, {took}: {self.failures[job.cell.name]}")

    def stop(self) -> None:
        """Ask what still runs to save its state, and wait for it."""
        for job in self.running:
            job.process.ask()
        for job in self.running:
            job.process.wait()
            job.log.close()

    def _room(self) -> bool:
        """Whether one more run may start now."""
        if len(self.running) >= self.jobs:
            return False
        if not self.running or not self.executor.here:
            return True
        known = [job.memory.look() for job in self.running]
        if not all(known):
            return False  # nobody knows yet what a run takes
        slot = self._slot()
        gpu = self._gpu(slot)
        free = free_memory(gpu)
        if free is None:
            self._say_once(f"free memory is unknown here; one run at a time{'' if gpu is None else ' on each GPU'}")
            return gpu is not None and gpu not in {self._gpu(job.slot) for job in self.running}
        return free > SPARE * max(known)

    def _slot(self) -> int:
        taken = {job.slot for job in self.running}
        return next(i for i in range(self.jobs) if i not in taken)

    def _gpu(self, slot: int) -> str | None:
        return self.gpus[slot % len(self.gpus)] if self.gpus else None

    def _take(self, cell: Cell) -> IO[bytes] | None:
        """Return the log of a cell, locked, or None while another process works on the cell.

        A process inherits the lock with its output, from before its first moment to its last: whatever becomes of its
        sweep, no other one starts the same cell, or writes into the same log.
        """
        log = self.out / "logs" / f"{cell.name.replace('/', '-')}.log"
        try:
            log.parent.mkdir(parents=True, exist_ok=True)
            file = open(log, "ab")  # noqa: SIM115  open for as long as the process writes
        except OSError as error:
            raise atomic.refused(log, error) from None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            file.close()
            return None
        except OSError:
            file.close()
            problem = "its file system locks no files: two sweeps would make one run twice"
            raise SsodError(self.out, "", problem, "set `out` to a folder on another one", code=Exit.IO) from None
        if locked(cell.folder):
            file.close()
            return None
        return file

    def _start(self, cell: Cell, log: IO[bytes], more: Sequence[str] = ()) -> Job:
        log.truncate(0)
        slot = self._slot()
        env = {}
        if self.executor.here and "OMP_NUM_THREADS" not in os.environ:
            env["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // self.jobs))
        if len(self.gpus) > 1:
            env["CUDA_VISIBLE_DEVICES"] = self._gpu(slot) or ""
        command = [sys.executable, "-m", "ssod", "train", *cell.command(), *more, "-o", str(cell.folder)]
        memory = Stated(cell.folder / "metrics.jsonl")
        try:
            process = self.executor.start(command, log, env)
        except BaseException:
            log.close()  # and with it the lock
            raise
        self._say(f"{cell.name} starts" + (f": {' '.join(more)}" if more else ""))
        return Job(cell, process, log, slot, memory)

    def _count(self, cell: Cell, text: str) -> None:
        self.done += 1
        self.sharing.over.add(cell.name)
        self._say(f"[{self.done}/{self.total}] {text}")

    def _say_once(self, text: str) -> None:
        if text not in self.messages:
            self._say(text)
        self.messages.add(text)

    def _say(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False)


def locked(folder: Path) -> bool:
    """Whether another process has the run folder's lock."""
    lock = folder / ".lock"
    if not lock.exists():
        return False
    with open(lock) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
        fcntl.flock(file, fcntl.LOCK_UN)
    return False


def why(log: Path, code: int) -> str:
    """Return the reason that a process gave for its end: its error line, else its last one."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ssod: error: ")]
    return (errors or lines or [""])[-1].removeprefix("ssod: error: ") + f" (code {code}, {log})"


def _gpus() -> list[str]:
    """Return the GPUs that runs may use, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    return [name for name in visible.split(",") if name][:count] if visible else [str(i) for i in range(count)]

"""Runs side by side, each a process of its own: as many as are wanted and memory allows, none twice."""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from rich.console import Console

from ssod import atomic
from ssod.compare.runs import read_run
from ssod.compare.sweep import Cell, finished
from ssod.engine.signals import Signals
from ssod.errors import Exit, SsodError

POLL = 0.5  # seconds between two looks at the processes
SPARE = 1.3  # another run starts when so many times its memory is free
_PR_SET_PDEATHSIG = 1


@dataclass
class Job:
    """A cell that runs."""

    cell: Cell
    process: subprocess.Popen
    log: IO[bytes]
    slot: int
    started: float = field(default_factory=time.monotonic)

    @property
    def memory(self) -> float:
        """Memory in GB that the run says it uses; 0 until its first line."""
        return memory_of(self.cell.folder)


def run_cells(cells: Sequence[Cell], jobs: int, out: Path, console: Console) -> dict[str, str]:
    """Run every cell that is not finished.

    A run that another process has the lock of is waited for. A run that fails is told and left; the others go on.

    Args:
        cells: all of the sweep.
        jobs: processes at the same time, at most.
        out: where logs of the processes go, ``logs/<row>-fold1-seed0.log``.
        console: gets a line when a run starts or ends.

    Returns:
        What went wrong, by the cell's name; empty when all cells are finished.

    Raises:
        SsodError: code 75 or 130, asked to stop; the runs have saved their states.
    """
    pool = _Pool(list(cells), jobs, out, console)
    with Signals() as signals:
        try:
            while pool.waiting or pool.running:
                if signals.code:
                    raise SsodError("sweep", "", "interrupted, states saved", "run it again", code=Exit(signals.code))
                pool.reap()
                pool.fill()
                if pool.waiting or pool.running:
                    time.sleep(POLL)
        finally:
            pool.stop()
    return pool.failures


class _Pool:
    def __init__(self, cells: list[Cell], jobs: int, out: Path, console: Console) -> None:
        self.total, self.jobs, self.out, self.console = len(cells), jobs, out, console
        self.waiting = [cell for cell in cells if not finished(cell)]
        self.done = self.total - len(self.waiting)
        self.running: list[Job] = []
        self.failures: dict[str, str] = {}
        self.told: set[str] = set()  # cells that are known to run elsewhere
        self.gpus = _gpus() if any(cell.load().train.device != "cpu" for cell in self.waiting) else []
        self._say(f"{self.total} runs, {self.done} finished, {len(self.waiting)} to go, {jobs} at a time")

    def fill(self) -> None:
        """Start what there is room for."""
        for cell in list(self.waiting):
            if not self._room():
                return
            if locked(cell.folder):  # another process works on it; it is looked at again later
                if cell.name not in self.told:
                    self._say(f"{cell.name} is run by another process")
                self.told.add(cell.name)
                continue
            self.waiting.remove(cell)
            if finished(cell):
                self._count(f"{cell.name} finished elsewhere")
                continue
            self.running.append(self._start(cell))

    def reap(self) -> None:
        """Take note of the runs that ended."""
        for job in list(self.running):
            code = job.process.poll()
            if code is None:
                continue
            self.running.remove(job)
            job.log.close()
            took = f"{(time.monotonic() - job.started) / 60:.1f} min"
            if code == 0 and finished(job.cell):
                last = read_run(job.cell.folder).last
                self._count(f"{job.cell.name} done, AP {100 * last['teacher/AP']:.1f}, {took}")
            else:
                self.failures[job.cell.name] = why(Path(job.log.name), code)
                self._count(f"{job.cell.name} failed, {took}: {self.failures[job.cell.name]}")

    def stop(self) -> None:
        """Ask what still runs to save its state, and wait for it."""
        for job in self.running:
            if job.process.poll() is None:
                job.process.send_signal(signal.SIGTERM)
        for job in self.running:
            job.process.wait()
            job.log.close()

    def _room(self) -> bool:
        """Whether one more run may start now."""
        if len(self.running) >= self.jobs:
            return False
        if not self.running:
            return True
        known = [job.memory for job in self.running]
        if not all(known):
            return False  # nobody knows yet what a run takes
        slot = self._slot()
        return free_memory(self.gpus[slot % len(self.gpus)] if self.gpus else None) > SPARE * max(known)

    def _slot(self) -> int:
        taken = {job.slot for job in self.running}
        return next(i for i in range(self.jobs) if i not in taken)

    def _start(self, cell: Cell) -> Job:
        log = self.out / "logs" / f"{cell.name.replace('/', '-')}.log"
        try:
            log.parent.mkdir(parents=True, exist_ok=True)
            file = open(log, "wb")  # noqa: SIM115  open for as long as the process writes
        except OSError as error:
            raise atomic.refused(log, error) from None
        slot = self._slot()
        env = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // self.jobs))} | os.environ
        if len(self.gpus) > 1:
            env["CUDA_VISIBLE_DEVICES"] = self.gpus[slot % len(self.gpus)]
        command = [sys.executable, "-m", "ssod", "train", str(cell.config), "-o", str(cell.folder), *cell.overrides]
        process = subprocess.Popen(
            command,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=env,
            start_new_session=True,  # Ctrl-C is ours alone; the runs are asked once, by stop()
            preexec_fn=_end_with_parent if sys.platform == "linux" else None,
        )
        self._say(f"{cell.name} starts")
        return Job(cell, process, file, slot)

    def _count(self, text: str) -> None:
        self.done += 1
        self._say(f"[{self.done}/{self.total}] {text}")

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


def memory_of(folder: Path) -> float:
    """Return the memory in GB that the latest line of a run states; 0 before the first."""
    if not (folder / "split.json").exists() or not (folder / "config.yaml").exists():
        return 0.0
    rows = read_run(folder).train
    return rows[-1].get("memory/gb") or 0.0 if rows else 0.0


def free_memory(gpu: str | None) -> float:
    """Return free memory in GB: of a GPU by its number, or of this machine."""
    if gpu is not None:
        command = ["nvidia-smi", "--query-gpu=memory.free", "--format=csv,noheader,nounits", f"--id={gpu}"]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        return float(text.split()[0]) * 2**20 / 1e9
    with open("/proc/meminfo") as file:
        values = dict(line.split(":") for line in file)
    return float(values["MemAvailable"].split()[0]) * 1024 / 1e9


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


def _end_with_parent() -> None:
    """Let the run be told to save its state when this process is killed without a chance to tell it."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)

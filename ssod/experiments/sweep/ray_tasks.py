"""Runs of a sweep as tasks of Ray (github.com/ray-project/ray), on its cluster or on this machine."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from ssod.experiments.sweep.executor import Started, note, process, reason
from ssod.utils.errors import Exit, SsodError

SAVING = 30.0  # seconds that a stopped run has to save its state before nobody waits for it any more
LOOK = 0.2  # seconds between two looks at a process; Ray interrupts between them


class Ray:
    """Runs that are tasks of Ray.

    Args:
        address: of a cluster, as ``ray.init`` takes it; None = one of this machine, for as long as this process lives.
        num_cpus: that a task takes.
        num_gpus: that a task takes; None = one, where the cluster has any.
        resources: of other kinds that a task takes.
        init: further arguments of ``ray.init``.

    Raises:
        SsodError: code 2, Ray is not installed, knows no such argument, or has not what a task takes; code 6, it does
            not start, or does not answer.
    """

    here = False

    def __init__(
        self,
        address: str | None = None,
        num_cpus: float = 1,
        num_gpus: float | None = None,
        resources: Mapping[str, float] | None = None,
        init: Mapping[str, Any] | None = None,
    ) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # or Ray tells its makers of each start
        try:
            import ray
        except ImportError:
            raise SsodError("sweep", "executor", "ray is not installed", "pip install 'ssod[ray]'") from None
        self._ray = ray
        plain: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.WARNING}
        plain |= {"include_dashboard": False} if address is None else {}
        if not ray.is_initialized():
            try:
                ray.init(address=address or "local", **{**plain, **(init or {})})
            except Exception as error:  # Ray raises this very class where a machine is too busy for its start
                code = Exit.USAGE if isinstance(error, RuntimeError | TypeError | ValueError) else Exit.IO
                raise _refused(f"does not start: {reason(error)}", code) from None
        has = ray.cluster_resources()
        gpus = float(has.get("GPU", 0) > 0) if num_gpus is None else num_gpus
        takes = {"CPU": num_cpus, "GPU": gpus, **(resources or {})}
        lacking = [f"{n:g} {kind} of {has.get(kind, 0):g}" for kind, n in takes.items() if n > has.get(kind, 0)]
        if address is None and lacking:  # a cluster may still grow, this machine does not
            raise _refused(f"has too little for one run: it takes {', '.join(lacking)}")
        # Whatever ends a task's worker, the pool says so; the run is gone on with by the next sweep.
        options = {"num_cpus": num_cpus, "num_gpus": gpus, "resources": dict(resources or {}), "max_retries": 0}
        self._task = ray.remote(run).options(**options)

    def start(self, command: Sequence[str], log: IO[bytes], env: Mapping[str, str]) -> Started:
        """See ``Executor.start``; the task opens the log itself, on the machine that it comes to."""
        path = str(Path(log.name).absolute())
        return _Task(self._ray, self._task.remote(list(command), path, dict(env), os.getcwd()), path)


def run(command: list[str], log: str, env: dict[str, str], folder: str) -> int:
    """Run a command in ``folder`` and return its exit code; a task that is cancelled lets it save its state first."""
    with open(log, "ab") as file:
        started = process(command, file, env, folder)
        try:
            while started.poll() is None:
                time.sleep(LOOK)
        except KeyboardInterrupt:  # as Ray cancels
            return stop(started)
        return started.returncode


def stop(started: subprocess.Popen) -> int:
    """Ask a run to save its state, wait for its end, and return its exit code."""
    if started.poll() is None:
        started.send_signal(signal.SIGTERM)
    return started.wait()


class _Task:
    def __init__(self, ray: Any, ref: Any, log: str) -> None:
        self._ray, self._ref, self._log = ray, ref, log
        self._code: int | None = None

    def poll(self) -> int | None:
        if self._code is None and self._ready(0):
            self._code = self._ended()
        return self._code

    def _ended(self) -> int:
        try:
            return self._ray.get(self._ref)
        except self._ray.exceptions.TaskCancelledError:
            return Exit.PREEMPTED.value
        except self._ray.exceptions.RayError as error:
            note(self._log, f"ray: {reason(error)}")
            return Exit.IO.value

    def ask(self) -> None:
        if not self._ready(0):
            self._ray.cancel(self._ref)

    def wait(self) -> int | None:
        self._ready(SAVING)
        return self.poll()

    def _ready(self, seconds: float) -> bool:
        return bool(self._ray.wait([self._ref], timeout=seconds)[0])


def _refused(problem: str, code: Exit = Exit.USAGE) -> SsodError:
    return SsodError("sweep", "executor", f"ray {problem}", "see docs/cluster.md", code=code)

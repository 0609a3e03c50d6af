"""Runs of a sweep as jobs of Slurm, by submitit (github.com/facebookincubator/submitit)."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from ssod.experiments.sweep.executor import Started, note, process, reason
from ssod.utils.errors import Exit, SsodError

SAVING = 30.0  # seconds that a stopped run has to save its state before nobody waits for it any more


class Submitit:
    """Runs that are jobs of Slurm, or of submitit's stand-in for it on this machine.

    Args:
        folder: where submitit keeps its files; on a file system that the nodes share.
        cluster: ``slurm`` or ``local``; None = whichever submitit finds.
        parameters: for ``submitit.AutoExecutor.update_parameters``.

    Raises:
        SsodError: code 2, submitit is not installed, finds no such cluster, or knows no such parameter.
    """

    here = False

    def __init__(self, folder: Path, cluster: str | None, parameters: Mapping[str, Any]) -> None:
        try:
            import submitit
        except ImportError:
            raise SsodError("sweep", "executor", "submitit is not installed", "pip install 'ssod[cluster]'") from None
        try:
            self._executor = submitit.AutoExecutor(folder=folder, cluster=cluster)
            self._executor.update_parameters(**parameters)
        except (RuntimeError, NameError, AssertionError, TypeError, ValueError) as error:
            problem = f"submitit refuses it: {reason(error)}"
            raise SsodError("sweep", "executor", problem, "see docs/cluster.md") from None

    def start(self, command: Sequence[str], log: IO[bytes], env: Mapping[str, str]) -> Started:
        """See ``Executor.start``; the job opens the log itself, on the machine that it comes to.

        Raises:
            SsodError: code 6, the cluster takes no such job: an unknown partition, a queue that is full.
        """
        path = str(Path(log.name).absolute())
        try:
            return _Submitted(self._executor.submit(Call(list(command), path, dict(env))), path)
        except RuntimeError as error:  # submitit's own are of this class
            problem = f"submitit cannot hand it over: {reason(error)}"
            fix = "see docs/cluster.md; the same command goes on"
            raise SsodError("sweep", "executor", problem, fix, code=Exit.IO) from None


class Call:
    """A command as submitit makes it: pickled here, called there, and put back into the queue when its time is over.

    Args:
        command, env: as in ``Executor.start``.
        log: file that takes what it prints.
    """

    def __init__(self, command: list[str], log: str, env: dict[str, str]) -> None:
        self._command, self._log, self._env = command, log, env
        self._process: subprocess.Popen | None = None

    def __call__(self) -> int:
        """Run the command and return its exit code."""
        with open(self._log, "ab") as log:
            self._process = process(self._command, log, self._env)
            return self._process.wait()

    def checkpoint(self) -> Any:
        """Let the run save its state, and ask for another turn; submitit calls it when time is short."""
        import submitit

        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait()
        return submitit.helpers.DelayedSubmission(Call(self._command, self._log, self._env))


class _Submitted:
    def __init__(self, job: Any, log: str) -> None:
        self._job, self._log = job, log
        self._code: int | None = None
        self._asked = False  # to end: its run says itself what it saves

    def poll(self) -> int | None:
        if self._code is None and self._job.done():
            error = self._job.exception()
            self._code = self._job.result() if error is None else Exit.IO.value
            if error is not None and not self._asked:
                note(self._log, f"submitit: {reason(error)}")
        return self._code

    def ask(self) -> None:
        self._asked = True
        if not self._job.done():
            self._job.cancel(check=False)

    def wait(self) -> int | None:
        end = time.monotonic() + SAVING
        while not self._job.done(force_check=True) and time.monotonic() < end:
            time.sleep(0.2)
        return self.poll()

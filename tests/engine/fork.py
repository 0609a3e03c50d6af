"""Programs in forked processes: as good as new ones, without the seconds that importing torch takes."""

import json
import multiprocessing
import os
import signal
import socket
import sys
import time
from pathlib import Path

from tests.engine import job
from tests.patience import LONG


class Job:
    """``tests.engine.job`` on its own, with more environment variables if wanted."""

    def __init__(self, folder: Path, env: dict[str, str] | None = None, **options: object) -> None:
        self.errors = folder.parent / f"{folder.name}-{(env or {}).get('RANK', '')}.err"
        args = (folder, json.dumps(options), env or {})
        self.process = multiprocessing.get_context("fork").Process(target=self._work, args=args)
        self.process.start()

    def _work(self, folder: Path, options: str, env: dict[str, str]) -> None:
        os.environ.update(env)
        handle = os.open(self.errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, 2)
        sys.stderr = os.fdopen(2, "w", closefd=False)
        os._exit(job.main(str(folder), options))

    def signal(self, number: int) -> None:
        """Send a signal."""
        os.kill(self.process.pid, number)

    def wait(self, seconds: float = LONG) -> tuple[int, str]:
        """Return the exit code and what was printed as an error; kill it if it takes longer."""
        self.process.join(seconds)
        if self.process.exitcode is None:
            self.signal(signal.SIGKILL)
            self.process.join()
            return 999, self.errors.read_text()
        return self.process.exitcode, self.errors.read_text()


class Pair:
    """Two ranks, with the environment that torchrun gives them."""

    def __init__(self, folder: Path, **options: object) -> None:
        env = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
        self.ranks = [Job(folder, {**env, "RANK": str(r), "LOCAL_RANK": str(r)}, **options) for r in range(2)]

    def wait(self, seconds: float = LONG) -> list[tuple[int, str]]:
        """Return each rank's exit code and errors; 999 = had to be killed."""
        end = time.monotonic() + seconds
        return [rank.wait(max(end - time.monotonic(), 0.1)) for rank in self.ranks]


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]

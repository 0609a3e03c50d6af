"""Programs in forked processes: as good as new ones, without the seconds that importing torch takes."""

import json
import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from multiprocessing import connection
from pathlib import Path

import torch

import ssod.build  # noqa: F401  # a command would import it, each time anew
from ssod import cli
from tests.engine import job
from tests.patience import LONG
from tests.rounding import unplayed

if not torch.cuda.is_available():
    # The first backward pass starts a thread for each device that torch knows, and who is forked after that can make
    # none. An export to ONNX makes it know one: so the first pass is now, where there is none.
    torch.ones(1, requires_grad=True).sum().backward()


class Forked:
    """A process forked from this one; a subclass says what it does.

    Args:
        output: the file that has what it prints.
        env: more environment variables.

    Attributes:
        process: it.
    """

    STREAMS = (1, 2)  # that go into the file

    def __init__(self, output: Path, env: dict[str, str] | None = None) -> None:
        self.output = output
        self.process = multiprocessing.get_context("fork").Process(target=self._begin, args=(env or {},))
        self.process.start()

    def _begin(self, env: dict[str, str]) -> None:
        os.environ.update(env)
        handle = os.open(self.output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for number in self.STREAMS:
            os.dup2(handle, number)
            setattr(sys, {1: "stdout", 2: "stderr"}[number], os.fdopen(number, "w", closefd=False))
        self.work()

    def work(self) -> None:
        """Do it, in the new process."""
        raise NotImplementedError

    def signal(self, number: int) -> None:
        """Send a signal."""
        os.kill(self.process.pid, number)

    def wait(self, seconds: float = LONG) -> tuple[int, str]:
        """Return the exit code and what was printed; kill it if it takes longer."""
        self.process.join(seconds)
        if self.process.exitcode is None:
            self.signal(signal.SIGKILL)
            self.process.join()
            return 999, self.output.read_text()
        return self.process.exitcode, self.output.read_text()


class Command(Forked):
    """A command line of ours, run from the top; what was imported here is all that it finds done.

    Args:
        words: as a shell has them, ``[python, "-m", "ssod", ...]``.
        env: more environment variables.
        output: the file that has what it prints; by default one beside the folder that is named by ``-o``.
    """

    def __init__(self, words: Sequence[str], env: dict[str, str] | None = None, output: Path | None = None) -> None:
        assert words[1:3] == ["-m", "ssod"], words
        self.words = ["ssod", *words[3:]]
        super().__init__(output or Path(f"{words[words.index('-o') + 1]}-{(env or {}).get('RANK', '')}.out"), env)

    def work(self) -> None:
        """Run it; ``multiprocessing`` ends the process with the code of ``SystemExit``."""
        sys.argv = self.words
        with unplayed():
            cli.main()


def run(words: Sequence[str], ranks: int = 1) -> None:
    """Run a command to its end, which must be a good one: in one process, or in several, as torchrun does."""
    started = [Command(words, env) for env in (environments(ranks) if ranks > 1 else [{}])]
    left = {command.process.sentinel: command for command in started}
    while left:
        for sentinel in connection.wait(list(left), LONG) or list(left):
            code, told = left.pop(sentinel).wait(1)
            if code != 0:
                [other.wait(0) for other in left.values()]  # which may wait for this one
            assert code == 0, f"{code}: {told[:3000]} ... {told[-3000:]}"


class Job(Forked):
    """``tests.engine.job`` on its own, with more environment variables if wanted."""

    STREAMS = (2,)

    def __init__(self, folder: Path, env: dict[str, str] | None = None, **options: object) -> None:
        self.folder, self.options = str(folder), json.dumps(options)
        super().__init__(folder.parent / f"{folder.name}-{(env or {}).get('RANK', '')}.err", env)

    def work(self) -> None:
        """Train, and leave no handler of the tests a word."""
        os._exit(job.main(self.folder, self.options))


class Pair:
    """Two ranks, with the environment that torchrun gives them."""

    def __init__(self, folder: Path, **options: object) -> None:
        self.ranks = [Job(folder, env, **options) for env in environments(2)]

    def wait(self, seconds: float = LONG) -> list[tuple[int, str]]:
        """Return each rank's exit code and errors; 999 = had to be killed."""
        end = time.monotonic() + seconds
        return [rank.wait(max(end - time.monotonic(), 0.1)) for rank in self.ranks]


def environments(count: int) -> list[dict[str, str]]:
    """Return the variables that torchrun sets, for each rank of a job."""
    env = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(count)}
    return [{**env, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]

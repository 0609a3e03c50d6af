"""Real processes of the command line, without the seconds that importing torch takes.

``python -m tests.starter`` has imported everything and forks a process for each command that it reads from its input.
The process runs ``ssod.cli.main`` from the top and ends as any Python does, exit handlers included; unlike those of
``multiprocessing``, which end by ``os._exit``. ``Starter`` is the other side.
"""

from __future__ import annotations

import ctypes
import errno
import importlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

_PR_SET_CHILD_SUBREAPER = 36
ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Ended:
    """What became of a command.

    Attributes:
        code: its exit code, negative for a signal; None = it did not end in time and was killed.
        seconds: how long that took.
        left: whether processes that it had started were there when as much time as it had was over once more.
        out, err: what it printed.
    """

    code: int | None
    seconds: float
    left: bool
    out: str
    err: str


class Starter:
    """Starts commands; enter it and leave it.

    Args:
        folder: an empty one, where the output of commands goes; modules in it can be imported by them.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.count = folder, 0

    def __enter__(self) -> Self:
        env = {
            **os.environ,
            "PYTHONPATH": f"{ROOT}{os.pathsep}{self.folder}",
            "OMP_NUM_THREADS": "1",
            "SSOD_ALLOW_CODE": "tests",
        }
        command = [sys.executable, "-m", "tests.starter"]
        self.process = subprocess.Popen(
            command, env=env, cwd=self.folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        return self

    def __exit__(self, *_: object) -> None:
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()

    def run(self, words: Sequence[str], limit: float, *, head: bool = False, **env: str) -> Ended:
        """Run ``ssod WORDS`` and wait for its end, for ``limit`` seconds at most.

        Args:
            words: of the command line.
            limit: seconds.
            head: nobody reads its output any more.
            env: more environment variables.
        """
        return self.run_all(words, limit, [env], head=head)[0]

    def run_all(
        self, words: Sequence[str], limit: float, envs: Sequence[dict[str, str]], *, head: bool = False
    ) -> list[Ended]:
        """Run the same command once for each of ``envs``, at the same time."""
        self.count += 1
        outputs = [str(self.folder / f"output-{self.count}-{i}") for i in range(len(envs))]
        runs = [{"words": list(words), "env": env, "output": out} for env, out in zip(envs, outputs)]
        self.process.stdin.write(json.dumps({"runs": runs, "limit": limit, "head": head}) + "\n")
        self.process.stdin.flush()
        answers = json.loads(self.process.stdout.readline())
        texts = [[Path(f"{out}.{kind}").read_text() for kind in ("out", "err")] for out in outputs]
        return [Ended(*answer, *text) for answer, text in zip(answers, texts)]


def _serve() -> dict[str, Any] | None:
    """Answer requests until there is no more; in a forked process, return what it is to run."""
    if sys.platform == "linux":  # or orphans of a command would be handed to a process that may not look after them
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
    while line := sys.stdin.readline():
        request, pids = json.loads(line), []
        for run in request["runs"]:
            pid = os.fork()
            if pid == 0:
                return {**run, "head": request["head"]}
            pids.append(pid)
        print(json.dumps(_wait(pids, request["limit"])), flush=True)
    return None


def _wait(pids: list[int], limit: float) -> list[tuple[int | None, float, bool]]:
    begin, codes, seconds = time.monotonic(), dict[int, int | None](), dict[int, float]()
    while len(seconds) < len(pids):
        _reap(codes)
        late = time.monotonic() - begin > limit
        for pid in pids:
            if pid not in seconds and (pid in codes or late):
                seconds[pid] = time.monotonic() - begin
        time.sleep(0.01)
    end = time.monotonic() + limit
    ended = [pid for pid in pids if pid in codes]
    while any(map(_lives, ended)) and time.monotonic() < end:
        _reap(codes)
        time.sleep(0.01)
    answers = [(codes[pid] if pid in ended else None, seconds[pid], _lives(pid)) for pid in pids]
    for pid in filter(_lives, pids):
        os.killpg(pid, signal.SIGKILL)
    while any(map(_lives, pids)):
        _reap(codes)
        time.sleep(0.01)
    return answers


def _reap(codes: dict[int, int | None]) -> None:
    """Take note of all processes that have ended."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        codes[pid] = os.waitstatus_to_exitcode(status)


def _lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def _fill_disk(name: str) -> None:
    """Let the disk have no room for files with ``name`` in their names: they are forced to it before they take them."""
    real = os.fsync

    def fsync(handle: int) -> None:
        if name in os.readlink(f"/proc/self/fd/{handle}"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    os.fsync = fsync


def _become(run: dict[str, Any]) -> None:
    """Make this forked process look as if a shell had started it.

    ``FULL`` of its environment names files for which the disk has no room, ``LARGEST`` the bytes that a file may have,
    ``HOOK`` a module to import first.
    """
    os.setpgid(0, 0)
    handles = [os.open(f"{run['output']}.{kind}", os.O_WRONLY | os.O_CREAT, 0o600) for kind in ("out", "err")]
    if run["head"]:
        reader, handles[0] = os.pipe()
        os.close(reader)
    for number, handle in enumerate([os.open(os.devnull, os.O_RDONLY), *handles]):
        os.dup2(handle, number)
    os.environ.update(run["env"])
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts in the background is deaf to it
    if "FULL" in os.environ:
        _fill_disk(os.environ["FULL"])
    if "LARGEST" in os.environ:
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(os.environ["LARGEST"]),) * 2)
    if "HOOK" in os.environ:
        importlib.import_module(os.environ["HOOK"])
    sys.argv = ["ssod", *run["words"]]


if __name__ == "__main__":
    for module in ("torch", "ssod.build", "ssod.commands.evaluate", "ssod.commands.plan"):
        importlib.import_module(module)
    from ssod.cli import main

    mine = _serve()
    if mine is not None:
        _become(mine)
        main()
    else:
        os._exit(0)  # nothing of its own is left to be done, and torch takes a second for its end

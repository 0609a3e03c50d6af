"""The toy run as a program: ``python -m tests.engine.job FOLDER '{"steps": 40}'``, alone or under torchrun.

``pace`` (seconds a step) gives signals time to arrive; ``only`` names one rank that dies, stops or fails at ``at``.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from ssod.utils import collective, distributed, signals
from ssod.utils.errors import Exit, SsodError
from tests.engine import toy
from tests.rounding import played


def slow(pace: float, only: int, at: int, act: str) -> toy.Any:
    """Wait before each batch; on one rank, do something terrible at one step."""

    def wrap(batches: Iterator) -> Iterator:
        for batch in batches:
            time.sleep(pace)
            if collective.rank() == only and batch.labeled.ids[0].startswith(f"l{at}-"):
                if act == "kill":
                    os.kill(os.getpid(), signal.SIGKILL)
                if act == "stop":
                    os.kill(os.getpid(), signal.SIGSTOP)
                if act == "fail":
                    raise SsodError("x.jpg", "", "truncated image", "copy it again", code=Exit.DATA)
                if act == "nan":
                    batch.labeled.images.fill_(float("nan"))
            yield batch

    return wrap


def slow_score(marker: Path) -> toy.Any:
    """An evaluation of half a second that polls as the real one does, and shows by a file that it has begun."""

    def evaluate(detector: torch.nn.Module) -> dict[str, float]:
        marker.touch()
        for _ in range(50):
            if signals.requested():
                break
            time.sleep(0.01)
        stop = max(distributed.gather(signals.requested()))
        if stop:
            raise signals.Stopped(stop)
        return toy.score(detector)

    return evaluate


def main(path: str, options: str = "{}") -> int:
    """Train; return the exit code as the command line would."""
    kwargs = json.loads(options)
    job = {name: kwargs.pop(name, default) for name, default in (("pace", 0.0), ("only", -1), ("at", -1), ("act", ""))}
    if kwargs.pop("slow_eval", False):
        kwargs["evaluate"] = slow_score(Path(path) / "evaluating")
    try:
        with distributed.job(torch.device("cpu"), timeout=kwargs.pop("timeout", 60)):
            toy.run(Path(path), wrap=slow(**job), **kwargs)
    except SsodError as error:
        print(f"ssod: error: {error}", file=sys.stderr, flush=True)
        return error.code
    return Exit.OK


if __name__ == "__main__":
    with played():  # a process that is forked has it from the one that runs the tests
        sys.exit(main(*sys.argv[1:]))

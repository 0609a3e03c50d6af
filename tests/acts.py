"""A method that does a terrible thing at one place of a run, for tests of how runs end.

``ACT=kill@step`` says what and where. ``SECONDS`` are those after which a data worker counts as hung, and a collective
that some rank does not join as an error. A command that reads no method imports this by ``HOOK=tests.acts``.
"""

from __future__ import annotations

import importlib
import os
import signal
import time
from collections.abc import Callable
from multiprocessing import active_children
from typing import Any

import torch
from torch.utils.data import Dataset

from ssod.data.loading.loader import Loading
from ssod.data.loading.workers import run
from ssod.methods.mean_teacher import MeanTeacher
from ssod.utils import distributed

WHAT, _, WHERE = os.environ.get("ACT", "").partition("@")
# Where -> the function before whose first call it happens, once in each process.
PLACES = {
    "reading": ("ssod.data.loading.reader", "open_image"),
    "evaluation": ("ssod.build", "measure"),
    "saving": ("ssod.engine.checkpointing.checkpoint", "save"),
    "tracker": ("torch.utils.tensorboard.SummaryWriter", "add_scalar"),
    "picture": ("ssod.inference.picture_files", "save"),
    "labels": ("ssod.inference.label_writers", "write"),
    "detections": ("ssod.evaluation.measure", "detect"),
}
STEPS = {"first": 0, "step": 2}
LOADERS: list[Any] = []


class Numbers(Dataset):
    def __getitem__(self, k: int) -> int:
        return k


def act() -> None:
    """Do it."""
    me = os.getpid()
    match WHAT:
        case "kill" | "term" | "int":
            os.kill(me, {"kill": signal.SIGKILL, "term": signal.SIGTERM, "int": signal.SIGINT}[WHAT])
        case "int twice":
            os.kill(me, signal.SIGINT)
            os.kill(me, signal.SIGINT)
        case "kill worker":
            os.kill(active_children()[0].pid, signal.SIGKILL)
        case "stop":
            freeze(me)
        case "stall":
            time.sleep(3600)
        case "open":
            LOADERS.append(run(Numbers(), range(100), str, 2, 60))
            next(LOADERS[0])
    if WHAT in ("raise", "open"):
        raise ValueError("a mistake of mine")


def freeze(pid: int) -> None:
    """Stop this process, which another one kills in the end if nobody else does."""
    if os.environ.get("RANK") and os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(4 * float(os.environ["SECONDS"]))
        os.kill(pid, signal.SIGKILL)
        os._exit(0)
    os.kill(pid, signal.SIGSTOP)


def once_before(module: str, name: str, do: Callable[[], None]) -> None:
    """Call ``do`` before the first call of a function, in each process."""
    parent, _, last = module.rpartition(".")
    owner = getattr(importlib.import_module(parent), last, None) or importlib.import_module(module)
    real, done = getattr(owner, name), []

    def function(*args: Any, **words: Any) -> Any:
        if not done:
            done.append(1)
            do()
        return real(*args, **words)

    setattr(owner, name, function)


class Acting(MeanTeacher):
    def forward(self, batch: Any, step: int) -> dict[str, torch.Tensor]:
        if step == STEPS.get(WHERE) and WHAT != "nan":
            act()
        losses = super().forward(batch, step)
        if WHAT == "nan" and step >= STEPS[WHERE]:
            losses = {name: value * torch.nan for name, value in losses.items()}
        return losses


METHOD = Acting

if "SECONDS" in os.environ:
    seconds = int(os.environ["SECONDS"])
    Loading.__init__.__defaults__ = (32, seconds)
    distributed.job.__wrapped__.__kwdefaults__["timeout"] = seconds
if WHERE == "import":
    act()
if WHERE in PLACES:
    once_before(*PLACES[WHERE], act)

"""What a run would lose with its process: the parts of a checkpoint, taken from a trainer and put back."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ssod import collective
from ssod.engine import checkpoint, dist, optim
from ssod.engine import identity as identities
from ssod.errors import Exit, SsodError

if TYPE_CHECKING:
    from ssod.engine.trainer import Trainer

ROLL_BACKS = 3  # so many without a better teacher in between end the run: the cause is not chance


def collect(run: Trainer) -> dict[str, Any]:
    """Return the state of ``run``, on every rank; call it on all of them."""
    own = {"window": run.window.state_dict(), "buffers": _own_buffers(run) if collective.active() else {}}
    return {
        "step": run.step,
        "bad": run.bad,
        "best": run.best,
        "metrics": run.metrics,
        "pending": run.pending,
        "setbacks": run.setbacks,
        "watch": run.watch.state_dict(),
        "identity": run.identity,
        "method": run.method.state_dict(),
        "optimizer": optim.state_by_name(run.optimizer, run.method),
        "scaler": run.scaler.state_dict(),
        "ranks": dist.gather(own),  # what differs between ranks: sums since the last line, say
    }


def resume(run: Trainer) -> None:
    """Take up the checkpoint of the run's folder, if there is one; nothing is written.

    Raises:
        SsodError: code 4, no checkpoint is good or it does not fit; code 6, the disk has no room for more.
    """
    folder, weights = run.folder.checkpoints, run.method.state_dict()
    size = sum(t.numel() * t.element_size() for t in weights.values() if isinstance(t, Tensor))
    size += optim.state_size(run.parameters, run.cfg.optimizer)
    dist.on_rank_zero(lambda: checkpoint.check_space(folder, size, run.rolls_back))
    path = dist.on_rank_zero(lambda: checkpoint.find(folder))
    if path is None:
        return
    saved = _load(run, path)
    run.step, run.pending, run.setbacks = saved["step"], saved["pending"], saved.get("setbacks", 0)
    _put_back(run, saved)
    own = saved["ranks"][collective.rank() % len(saved["ranks"])]
    run.window.load_state_dict(own["window"], run.device)


def roll_back(run: Trainer) -> str:
    """Put all that learns back to where the best teacher was measured; return a line for the log.

    The step goes on counting. What follows is other batches, at the learning rate of their own steps: from the same
    step the same batches would lead to the same end.

    Raises:
        SsodError: code 5, it has happened too often, or there is no state of the best teacher to go back to.
    """
    path = run.folder.checkpoints / checkpoint.BEST
    if not dist.on_rank_zero(path.exists):
        raise collapsed(run, f"the teacher collapsed, and there is no {path.name} to go back to")
    if run.setbacks == ROLL_BACKS:
        raise collapsed(run, f"the teacher collapsed again after {ROLL_BACKS} times of going back")
    saved = _load(run, path)
    run.setbacks += 1
    _put_back(run, saved)
    return f"step {run.step}: back to the state of step {saved['step']} ({run.setbacks} of {ROLL_BACKS})"


def collapsed(run: Trainer, problem: str) -> SsodError:
    """Return the error that ends a run whose teacher is lost."""
    fix = "see the alarm in train.log; best.safetensors keeps the best teacher"
    return SsodError(run.folder.path, "train.on_collapse", problem, fix, code=Exit.DIVERGED)


def _load(run: Trainer, path: Path) -> dict[str, Any]:
    """Read a checkpoint that must be of this run and of this model."""
    saved = checkpoint.load(path)
    dist.on_rank_zero(lambda: identities.check(path, saved["identity"], run.identity, run.allow_change))
    checkpoint.check_model(path, saved["method"], run.method.state_dict())
    return saved


def _put_back(run: Trainer, saved: dict[str, Any]) -> None:
    """Put back what was learned, and what is known about it."""
    run.bad, run.best, run.metrics = saved["bad"], saved["best"], saved["metrics"]
    run.watch.load_state_dict(saved.get("watch", {}))
    run.method.load_state_dict(saved["method"])
    # Rates and decays come from the config, which may have changed; what was learned comes from the file.
    dropped = optim.load_state(run.optimizer, run.method, saved["optimizer"])
    if dropped and collective.rank() == 0:
        problem = f"the momentum of {dropped} parameters is of another optimizer than {run.cfg.optimizer.name}"
        logging.getLogger("ssod").warning(f"{run.folder.path}: {problem}; they start without")
    if saved["scaler"] and run.scaler.is_enabled():
        run.scaler.load_state_dict(saved["scaler"])
    run.method.load_state_dict(saved["ranks"][collective.rank() % len(saved["ranks"])]["buffers"], strict=False)


def _own_buffers(run: Trainer) -> dict[str, Tensor]:
    """Return this rank's own buffers, on the CPU."""
    kept = run.method.state_dict().keys()
    return {name: buffer.cpu() for name, buffer in run.method.named_buffers() if name in kept}

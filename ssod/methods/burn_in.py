"""What decides the steps before the first pseudo-label: runs that agree in it make the same ones.

Such a step is that of ``supervised``, for the methods that say so (``Supervised.burn_in_reads``). Where one run leaves
burn-in, the others may begin; see ``ssod.engine.checkpointing.burn_in``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ssod.engine.checkpointing.resume_check import UNLABELED, flat, kind
from ssod.losses.weighting.criterion import LossConfig, SideLoss, reaches_labeled
from ssod.methods.config import Common, Config
from ssod.methods.ema_config import EmaConfig, cap
from ssod.methods.registry import find
from ssod.utils.plateau import Plateau

MEASURES = ("data.val", "views.val")  # cosmetic for a run that goes on, but its first evaluations are taken over


def ends(method: Common) -> int:
    """Return the first step with pseudo-labels; 0 where there is no burn-in."""
    return method.burn_in if isinstance(method, Config) else 0


def plateau(method: Common) -> Plateau | None:
    """Return what ends a run's burn-in before its last step; None where nothing does."""
    cfg = method.plateau if isinstance(method, Config) else None
    return None if cfg is None else Plateau(cfg.looks, cfg.gain)


def apart(method: Common, on_collapse: str) -> str:
    """Return why no other run may begin with a run's burn-in, nor this run with another's; empty where they may."""
    if find(method.name).burn_in_reads is None:
        return f"'{method.name}' does not say that it learns in burn-in as 'supervised' does"
    if isinstance(method, Config) and method.plateau is not None:
        return "with 'method.plateau' burn-in ends where the run's own evaluations say"
    if method.burns_in_alone:
        return f"with these settings '{method.name}' moves more in burn-in than 'supervised' does"
    if on_collapse == "roll_back":
        return "with train.on_collapse=roll_back a run may go back, and make other steps"
    return ""


def not_kept(method: Common, on_collapse: str) -> str:
    """Return why a run keeps no state at the end of burn-in; empty where it may."""
    if not ends(method):
        return f"'{method.name}' has no burn-in" if not isinstance(method, Config) else "method.burn_in is 0"
    return apart(method, on_collapse)


def deciding(config: Mapping[str, Any], method: Common, step: int) -> dict[str, Any]:
    """Return what decides the first ``step`` steps of a run that ``apart`` has nothing to say about, and their record.

    Args:
        config: resolved, as plain values.
        method: its section ``method``.
        step: where burn-in ends. A run without unlabelled images has no burn-in of its own, and may begin anywhere.

    Returns:
        Plain values by dotted key.
    """
    skipped = ("method.", *UNLABELED)
    leaves = {
        key: value
        for key, value in flat(config).items()
        if (kind(key) != "cosmetic" or key.startswith(MEASURES)) and not key.startswith(skipped)
    }
    own = {
        "burn_in": method.burn_in if isinstance(method, Config) else step,
        "ema": average(method.ema, ends(method), step),
        "loss": losses(method),
        **{key: config["method"][key] for key in find(method.name).burn_in_reads or ()},
    }
    return leaves | flat(own, "method.")


def average(ema: EmaConfig, burn_in: int, step: int) -> dict[str, Any]:
    """Return how the teacher follows in the first ``step`` steps, the same words wherever it follows the same way.

    ``teachers.Ema.decay`` says how: until ``start`` it is a copy, and from there on the decay is capped by
    ``ema_config.cap`` where ``warm_up`` says so. What the cap never reaches, or always holds below the decay, or
    what comes after ``step``, makes no difference.
    """
    start = min(burn_in if ema.start is None else ema.start, step)
    every = ema.every if ema.rule == "ema" and ema.every else 1
    if start == step or (ema.decay == 0 and every == 1):
        return {"start": step, "decay": 0.0, "warm_up": False}
    if ema.warm_up and ema.growth is not None:
        own: dict[str, Any] = {"start": start, "decay": ema.decay, "growth": ema.growth}
    else:
        own = capped(ema, start, step - 1)
    own |= {"buffers": ema.buffers} if ema.buffers else {}
    return own | ({"every": every} if every > 1 else {})


def capped(ema: EmaConfig, start: int, end: int) -> dict[str, Any]:
    """Return what decides the decay of steps ``start`` to ``end`` where ``ema_config.cap`` may hold it down."""
    first, last = (cap(t, ema.gamma) for t in (start, end))
    warm_up = ema.warm_up and first < ema.decay
    own = {"start": start, "decay": min(ema.decay, last) if warm_up else ema.decay, "warm_up": warm_up}
    return own | ({"gamma": ema.gamma} if warm_up and ema.gamma is not None else {})


def losses(method: Common) -> dict[str, Any]:
    """Return the losses and weightings that steps without pseudo-labels have."""
    sup = SideLoss() if method.loss is None else method.loss.sup
    found = {"sup": sup.model_dump(mode="json")}
    if isinstance(method.loss, LossConfig) and reaches_labeled(method.loss.unsup):
        found["unsup"] = method.loss.unsup.model_dump(mode="json")
    return found

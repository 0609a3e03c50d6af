"""How often a short training is measured: an evaluation after every few steps takes longer than the steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ssod.commands.init.edit import with_changes
from ssod.config import Config
from ssod.methods.plateau_config import AUTO

LEAST = 20  # steps between two evaluations
ENOUGH = "10%"  # of the steps between them, where evaluations tell when burn-in ends


def seldom(text: str, tree: Mapping[str, Any], changes: Mapping[str, Any], steps: int) -> str:
    """Return a config's text with fewer evaluations where the usual ones would be fewer than ``LEAST`` steps apart.

    A number that the user gives stays, and where evaluations end burn-in there are ``ENOUGH``.

    Args:
        text: of the config, as it is composed.
        tree: the recipe's sections.
        changes: the user's, section by section.
        steps: of the training, where the user's changes do not say it.
    """
    train, method = changes.get("train", {}), {**tree["method"], **changes.get("method", {})}
    steps = train["steps"] if isinstance(train.get("steps"), int) else steps
    if "eval_every" in train:
        return text
    if method.get("burn_in") == AUTO or method.get("plateau") is not None:
        return with_changes(text, {"train": {"eval_every": ENOUGH}}, why="they end burn-in")
    if float(tree["train"]["eval_every"].removesuffix("%")) / 100 * steps >= LEAST:
        return text
    return with_changes(text, {"train": {"eval_every": LEAST}}, why="there are few steps")


def fewer_evaluations(cfg: Config, changes: Mapping[str, Any]) -> list[str]:
    """Return what a config that names a recipe says besides, as ``KEY=VALUE``, for its evaluations to be as seldom."""
    few = 0 < cfg.train.eval_every < LEAST
    asked = "eval_every" in changes.get("train", {}) or cfg.method.plateau is not None
    return [f"train.eval_every={LEAST}"] if few and not asked else []

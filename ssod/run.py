"""What a user starts: a training, or a check of the data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ssod.build import opened, visible
from ssod.commands.check import check as check_data
from ssod.config import Config
from ssod.data.checks.summary import summary


def train(
    cfg: Config, *, out: Path | None = None, allow_change: Sequence[str] = (), from_burn_in: Path | None = None
) -> dict[str, float]:
    """Train a config to its last step, or go on where its run folder stopped.

    Args:
        cfg: from ``ssod.config.load``.
        out: the run folder; by default a new one below ``runs/<config>``.
        allow_change: dotted keys that may differ from a checkpoint's.
        from_burn_in: folder of a run that was trained with ``train.keep_burn_in``. A run without a checkpoint of its
            own begins where that one's burn-in ended, if its own would have been the same; its best teacher is sought
            from there on.

    Returns:
        The teacher's metrics of the last evaluation, fractions in 0..1.
    """
    with opened(cfg, out=out, allow_change=allow_change, from_burn_in=from_burn_in) as trainer:
        return trainer.fit()


def check(cfg: Config) -> int:
    """Print counts and every finding about a config's data; return the exit code."""
    report = check_data(cfg.data, visible=visible(cfg))
    print("\n".join([*summary(report.counts, report.split), *(report.lines() or ["no findings"])]))
    return int(report.code)

"""What a user starts: a training, or a check of the data."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import get_args

from ssod.build import opened, visible
from ssod.commands.check import Decode
from ssod.commands.check import check as check_data
from ssod.commands.check_sheet import prepare, write_page
from ssod.commands.coverage import coverage, lines
from ssod.config import Config
from ssod.data.checks.summary import summary
from ssod.utils.errors import SsodError


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


def check(cfg: Config, *, decode: Decode | None = None, out: Path | None = None, weights: Path | None = None) -> int:
    """Print counts and every finding about a config's data; return the exit code.

    Args:
        cfg: from ``ssod.config.load``.
        decode: which images to decode, which finds truncated ones and near duplicates: ``none``, a ``sample`` or
            ``all``; None = all of a set of up to 20 000 images, and a sample of a larger one.
        out: an ``.html`` file for a page with pictures; one that is there is replaced. None = no page.
        weights: a run folder or a model file, whose doubts about the labels the page shows; None = no model is asked.

    Raises:
        SsodError: ``decode`` is none of these; ``out`` is no ``.html`` file, or is not named although ``weights`` are;
            the model cannot be read or knows a class that the data have not; the disk refuses.
    """
    if decode not in (None, *get_args(Decode)):
        raise SsodError("command line", "--decode", f"'{decode}' is unknown", f"use {', '.join(get_args(Decode))}")
    judge = None if out is None and weights is None else prepare(out, weights)
    report = check_data(cfg.data, decode=decode, visible=visible(cfg), reach=partial(coverage, cfg))
    said = [f"{part} {count} of {total}" for part, (count, total) in report.decoded.items()]
    seen = [f"images decoded: {', '.join(said)}"] if said else []
    if any(count < total for count, total in report.decoded.values()):
        seen[0] += "; --decode all finds what is truncated in the others, and near duplicates, too"
    counts = [*summary(report.counts, report.split), *lines(report.coverage)]
    print("\n".join([*counts, *seen, *(report.lines() or ["no findings"])]))
    if out is not None:
        write_page(cfg, report, out, judge)
    return int(report.code)

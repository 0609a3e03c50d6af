"""How people call the labelled images of a run: by the number of the draw, not by a hash."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from ssod.experiments.runs import Run


def draw_of(run: Run) -> str:
    """Return ``fold 2``; where nobody drew the labels, ``labels 66515c58``, the first digits of their hash."""
    return f"fold {run.fold}" if run.fold != run.hash[:8] else f"labels {run.fold}"


def draws(runs: Iterable[Run]) -> dict[str, str]:
    """Name the sets of labelled images of some runs, by their hashes, each unlike the others.

    The number of the fold is enough as a rule. Where two sets share it, their shares of the labels are named, too, and
    where these are equal, as when a file changed in between, the first digits of the hashes.
    """
    firsts = {run.hash: run for run in runs}
    short = {key: draw_of(run) for key, run in firsts.items()}
    shares = {
        key: name if firsts[key].percent is None else f"{name} of {firsts[key].percent:g} %"
        for key, name in short.items()
    }
    named = dict(short)
    for longer in (shares, {key: f"{name} ({key[:8]})" for key, name in short.items()}):
        often = Counter(named.values())
        named = {key: longer[key] if often[name] > 1 else name for key, name in named.items()}
    return named

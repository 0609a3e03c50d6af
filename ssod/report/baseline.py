"""The supervised baseline of a run: same detector, same labels, measured alike, without the unlabelled images."""

from __future__ import annotations

from pathlib import Path

from ssod.experiments.baselines import baseline_differences
from ssod.experiments.draws import draws
from ssod.experiments.runs import Run, read_run
from ssod.experiments.settings import CELL, Row, protocols
from ssod.utils.errors import SsodError

MOST_SAID = 40  # letters of a value in a message


def unlike(run: Run, other: Run) -> list[str]:
    """Return why ``other`` is not the supervised baseline of ``run``; nothing where it is."""
    names = draws([run, other])
    ours, theirs = (
        {"detector": r.config["detector"]["name"], "labelled split": names[r.hash], **measured}
        for r, measured in zip((run, other), protocols([run, other]))
    )
    reasons = [] if other.method == "supervised" else [f"its method is {other.method}"]
    differ = [what for what in ours if ours[what] != theirs[what]]
    return reasons + [f"{what} {_short(theirs[what])}, not {_short(ours[what])}" for what in differ]


def named_baseline(run: Run, folder: Path) -> Run:
    """Return the run that somebody names as the supervised baseline of ``run``.

    Raises:
        SsodError: code 2, it is no baseline; names what differs. Code 3 for what is no run folder.
    """
    other = read_run(folder)
    if run.method == "supervised":
        raise SsodError(
            run.path, "method", "supervised: it has no baseline", "set such runs side by side with ssod compare"
        )
    reasons = unlike(run, other)
    if reasons:
        problem = f"is no supervised baseline of {run.path}: {'; '.join(reasons)}"
        raise SsodError(folder, "", problem, "name a supervised run on the same labels, measured alike")
    return other


def find_baseline(run: Run) -> Run | None:
    """Return the likeliest supervised baseline among the runs that are filed with ``run``."""
    if run.method == "supervised":
        return None
    found = []
    for file in filed_with(run.path):
        try:
            other = read_run(file.parent)
            if other.finished and not unlike(run, other):
                found.append(other)
        except SsodError:
            continue  # whatever it is, it is no baseline
    ours = Row("", [run], [])
    return min(
        found, key=lambda o: (len(baseline_differences(ours, Row("", [o], []))), o.seed != run.seed), default=None
    )


def filed_with(path: Path) -> list[Path]:
    """Return ``split.json`` of the runs beside ``path``, and of those that a sweep, or ``ssod train``, filed with it.

    These file runs two folders deep, ``<out>/<row>/fold1-seed0`` and ``runs/<config>/<time>``; nothing is sought
    further away, where other people's runs may be.
    """
    folder = path.resolve()
    two_deep = CELL.fullmatch(folder.name) or folder.parent.parent.name == "runs"
    further = folder.parent.parent.glob("*/*/split.json") if two_deep else ()
    return sorted({*folder.parent.glob("*/split.json"), *further})


def _short(text: str) -> str:
    return text if len(text) <= MOST_SAID else text[: MOST_SAID - 3] + "..."

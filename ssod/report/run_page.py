"""``ssod report RUN``: one page about one run."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from markupsafe import Markup

from ssod import atomic
from ssod.compare.boards import Row, boards_of, protocol, rows_of, twin_differences
from ssod.compare.budget import hours, seen
from ssod.compare.runs import Run, read_run
from ssod.compare.tables import interval
from ssod.engine.identity import flat
from ssod.errors import SsodError
from ssod.report import charts
from ssod.report.compare_page import gain_row
from ssod.report.health import classes, curves, health
from ssod.report.page import Section, alarms, grid, page, sheet, text
from ssod.report.pictures import pictures

CELL = re.compile(r"fold\d+-seed\d+")  # a run's folder in a sweep


def report(run: Path | str, *, out: Path | str | None = None, twin: Path | str | None = None) -> Path:
    """Write the page of a run.

    Args:
        run: its folder; one that is still being written will do.
        out: the file; by default ``report.html`` in the folder.
        twin: folder of the supervised twin; by default looked for beside the run, or in its sweep: a supervised run
            with the same labelled images, measured alike.

    Returns:
        The file.

    Raises:
        SsodError: code 3 for what is no run folder, 6 when the disk refuses.
    """
    own = read_run(Path(run))
    other = read_run(Path(twin)) if twin else find_twin(own)
    target = Path(out) if out else own.path / "report.html"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise atomic.refused(target, error) from None
    atomic.write_text(target, run_page(own, other))
    print(f"-> {target}")
    return target


def run_page(run: Run, twin: Run | None) -> str:
    """Return the page."""
    percent = "" if run.percent is None else f", {run.percent:g} % of the labels"
    title = f"{run.method}, {run.detector}{percent}"
    subtitle = f"{run.path} · split {run.hash[:12]}, fold {run.fold}, seed {run.seed} · {run.state}"
    told = [f"step {row['step']}: {row['text']}" for row in run.alarms]
    sections = [
        summary(run, twin),
        Section("alarms", "Alarms", [alarms(told)] if told else [text("None was raised.")]),
        curves(run, twin),
        classes(run),
        health(run),
        *pictures(run),
        settings(run, twin),
        origin(run),
    ]
    return page(title, subtitle, sections)


def find_twin(run: Run) -> Run | None:
    """Return the likeliest supervised twin among the runs that are filed with ``run``."""
    if run.method == "supervised":
        return None
    found = []
    for file in filed_with(run.path):
        try:
            other = read_run(file.parent)
        except SsodError:
            continue  # whatever it is, it is no twin
        alike = other.method == "supervised" and other.hash == run.hash and other.finished
        if alike and protocol(other) == protocol(run):
            found.append(other)
    ours = Row("", [run], [])
    return min(found, key=lambda o: (len(twin_differences(ours, Row("", [o], []))), o.seed != run.seed), default=None)


def filed_with(path: Path) -> list[Path]:
    """Return ``split.json`` of the runs beside ``path``, and of those that a sweep, or ``ssod train``, filed with it.

    These file runs two folders deep, ``<out>/<row>/fold1-seed0`` and ``runs/<config>/<time>``; nothing is sought
    further away, where other people's runs may be.
    """
    folder = path.resolve()
    two_deep = CELL.fullmatch(folder.name) or folder.parent.parent.name == "runs"
    further = folder.parent.parent.glob("*/*/split.json") if two_deep else ()
    return sorted({*folder.parent.glob("*/split.json"), *further})


def summary(run: Run, twin: Run | None) -> Section:
    """Return the gain over the twin first, then AP and what it cost."""
    blocks: list[Markup] = []
    if run.last is None:
        return Section("summary", "Summary", [text("No evaluation yet.")])
    if twin is not None:
        blocks += _gain(run, twin)
    elif run.method != "supervised":
        blocks.append(text("No supervised twin was found beside this run; name one with --twin to see the gain."))
    labeled, unlabeled = seen(run, run.last["step"])
    best = max(run.evals, key=lambda row: row["teacher/AP"])
    rows = [
        ["AP, last step", f"{100 * run.ap():.1f}"],
        ["AP50, AP75", f"{100 * run.ap('AP50'):.1f}, {100 * run.ap('AP75'):.1f}"],
        ["best AP (chosen on val)", f"{100 * best['teacher/AP']:.1f} at step {best['step']}"],
        ["scores above", f"{run.config['detector']['decode']['score']:g}"],
        ["labelled images seen", f"{labeled} ({run.split['labeled']} different)"],
        ["unlabelled images seen", f"{unlabeled} ({run.split['unlabeled']} different)"],
        ["hours of training", f"{hours(run, run.last['step']):.2f}"],
    ]
    blocks.append(sheet("the teacher", ["what", "how much"], rows))
    return Section("summary", "Summary", blocks)


def _gain(run: Run, twin: Run) -> list[Markup]:
    """Return the gain, with its interval where both runs are finished and saved what it needs."""
    boards, _ = boards_of(rows_of([run, twin]))
    named = f"Twin: {os.path.relpath(twin.path)}"
    gains = [gain for board in boards for gain in board.gains.values()]
    if not gains:
        difference = 100 * (run.ap() - twin.ap()) if twin.last else float("nan")
        why = "no interval: a run is unfinished or saved no eval/step_*.npz"
        return [
            text(f"{difference:+.1f} AP over the supervised twin", "big"),
            text(f"{why}. {named}", "sub"),
        ]
    (gain,) = gains
    figure = charts.intervals([gain_row(run.method, gain)], "Gain, 95 % interval over val images", "AP points")
    return [
        text(f"{interval(gain)} AP over the supervised twin", "big"),
        text(f"95 % interval over val images. {gain.scope.capitalize()}. {named}", "sub"),
        grid([figure], wide=True),
    ]


def settings(run: Run, twin: Run | None) -> Section:
    """Return what the config sets over its base, and where it differs from the twin's."""
    blocks = []
    own = flat(run.config)
    origins = _origins(run)
    if origins:
        base = origins.get("base", "")
        rows = [
            [key, _value(own.get(key)), source]
            for key, source in sorted(origins["keys"].items())
            if source != base and key in own
        ]
        title = f"set over the base {base}" if base else "set in the config; it has no base"
        blocks.append(sheet(title, ["key", "value", "set by"], rows, texts=3))
    if twin is not None:
        theirs = flat(twin.config)
        keys = [key for key in sorted(own.keys() | theirs.keys()) if own.get(key) != theirs.get(key)]
        rows = [[key, _value(own.get(key)), _value(theirs.get(key))] for key in keys]
        blocks.append(sheet("differences to the supervised twin", ["key", "this run", "twin"], rows, texts=3))
    everything = [[key, _value(value)] for key, value in own.items()]
    whole = sheet("resolved config", ["key", "value"], everything, texts=2)
    blocks.append(Markup("<details><summary>All settings</summary>{}</details>").format(whole))
    return Section("config", "Settings", blocks)


def _origins(run: Run) -> dict[str, Any]:
    path = run.path / "origins.json"
    return json.loads(path.read_text("utf-8")) if path.exists() else {}


def origin(run: Run) -> Section:
    """Return split and environment."""
    split = [[key, _value(value)] for key, value in run.split.items()]
    env = [[key, " ".join(value) if key == "command" else _value(value)] for key, value in run.env.items()]
    blocks = [sheet("split", ["what", "value"], split, texts=2), sheet("environment", ["what", "value"], env, texts=2)]
    return Section("origin", "Split and environment", blocks)


def _value(value: object) -> str:
    return "-" if value is None else value if isinstance(value, str) else json.dumps(value)

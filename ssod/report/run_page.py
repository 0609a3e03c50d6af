"""``ssod report RUN``: one page about one run."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from markupsafe import Markup

from ssod.engine.checkpointing.resume_check import flat
from ssod.experiments.baselines import baseline_differences
from ssod.experiments.cost import hours, seen
from ssod.experiments.draws import draw_of
from ssod.experiments.groups import groups_of
from ssod.experiments.runs import Run, read_run
from ssod.experiments.settings import Row, rows_of
from ssod.experiments.tables import interval
from ssod.experiments.verdict import verdict
from ssod.report import charts
from ssod.report.baseline import find_baseline, named_baseline
from ssod.report.compare_page import gain_row
from ssod.report.health import classes, curves, health
from ssod.report.json_files import saved
from ssod.report.page import Section, alarms, grid, page, sheet, text, verdict_list
from ssod.report.pictures import pictures
from ssod.utils import atomic
from ssod.utils.address import refuse_url
from ssod.utils.printing import percent


def report(run: Path | str, *, out: Path | str | None = None, baseline: Path | str | None = None) -> Path:
    """Write the page of a run.

    Args:
        run: its folder; one that is still being written will do.
        out: the file; by default ``report.html`` in the folder.
        baseline: folder of the supervised baseline: a supervised run of the same detector with the same labelled
            images, measured alike; by default looked for beside the run, or in its sweep.

    Returns:
        The file.

    Raises:
        SsodError: code 2 when ``baseline`` is no baseline of the run or ``out`` is an address, 3 for what is no run
            folder, 6 when the disk refuses.
    """
    if out is not None:
        refuse_url(out)
    own = read_run(Path(run))
    other = named_baseline(own, Path(baseline)) if baseline else find_baseline(own)
    target = Path(out) if out else own.path / "report.html"
    atomic.write_text(target, run_page(own, other))
    print(f"-> {target}")
    return target


def run_page(run: Run, baseline: Run | None) -> str:
    """Return the page."""
    labels = "" if run.percent is None else f", {run.percent:g} % of the labels"
    title = f"{run.method}, {run.detector}{labels}"
    subtitle = f"{run.path} · {draw_of(run)}, seed {run.seed} · {run.state}"
    messages = [f"step {row['step']}: {row['text']}" for row in run.alarms]
    sections = [
        summary(run, baseline),
        Section("alarms", "Alarms", [alarms(messages)] if messages else [text("None was raised.")]),
        curves(run, baseline),
        classes(run),
        health(run),
        *pictures(run),
        settings(run, baseline),
        origin(run),
    ]
    return page(title, subtitle, sections)


def summary(run: Run, baseline: Run | None) -> Section:
    """Return the gain over the baseline first, then AP and what it cost."""
    blocks: list[Markup] = []
    if run.last is None:
        return Section("summary", "Summary", [text("No evaluation yet.")])
    if baseline is not None:
        blocks += _gain(run, baseline)
    elif run.method != "supervised":
        blocks.append(
            text("No supervised baseline was found beside this run; name one with --baseline to see the gain.")
        )
    labeled, unlabeled = seen(run, run.last["step"])
    reads_unlabeled = run.method != "supervised"
    rows = [
        ["AP, last step", percent(metric(run.last))],
        ["AP50, AP75", ", ".join(percent(metric(run.last, name)) for name in ("AP50", "AP75"))],
        ["best AP (chosen on val)", _best(run)],
        ["scores above", "-" if run.score is None else f"{run.score:g}"],
        ["labelled images seen", _seen(labeled, run.split.get("labeled"))],
        *([["unlabelled images seen", _seen(unlabeled, run.split.get("unlabeled"))]] if reads_unlabeled else []),
        ["hours of training", f"{hours(run, run.last['step']):.2f}"],
    ]
    if run.begun:
        rows.append(["burn-in", f"the first {run.begun['step']} steps are those of {run.begun['from']}"])
    blocks.append(sheet("the teacher", ["what", "how much"], rows))
    return Section("summary", "Summary", blocks)


def _gain(run: Run, baseline: Run) -> list[Markup]:
    """Return the gain, with its interval where both runs are finished and saved what it needs."""
    named = f"Baseline: {os.path.relpath(baseline.path)}"
    own, theirs = metric(run.last), metric(baseline.last)
    if own is None or theirs is None:
        return [text(f"No gain: {'this run' if own is None else 'the baseline'} has no AP yet. {named}")]
    why = _no_interval(run, "this run") or _no_interval(baseline, "the baseline")
    differing = baseline_differences(Row("", [run], []), Row("", [baseline], []))
    if why:
        return [
            text(f"{100 * (own - theirs):+z.1f} AP over the supervised baseline", "big"),
            verdict_list([verdict(run.method, None, difference=own - theirs, differing=differing, why=why)]),
            text(f"no interval: {why}. {named}", "sub"),
        ]
    groups, _ = groups_of(rows_of([run, baseline]))
    (gain,) = [gain for group in groups for gain in group.gains.values()]
    figure = charts.intervals([gain_row(run.method, gain)], "Gain, 95 % interval over val images", "AP points")
    return [
        text(f"{interval(gain)} AP over the supervised baseline", "big"),
        verdict_list([verdict(run.method, gain, differing=differing)]),
        text(f"95 % interval over val images. {named}", "sub"),
        grid([figure], wide=True),
    ]


def _no_interval(run: Run, name: str) -> str:
    """Return what a run lacks for an interval, or nothing."""
    if not run.finished:
        return f"{name} is at {run.state}" if run.state.startswith("step") else f"{name} {run.state}"
    return "" if run.table is not None else f"{name} saved no eval/step_{run.last['step']}.npz"


def metric(row: dict[str, Any] | None, name: str = "AP") -> float | None:
    """Return a metric of the teacher in a line of the log, a fraction; None where it is not there."""
    return None if row is None else row.get(f"teacher/{name}")


def _best(run: Run) -> str:
    """Return the highest AP of the run's own evaluations and its step; that teacher is ``best.safetensors``."""
    found = [row for row in run.evals if metric(row) is not None and row["step"] >= run.begun.get("step", 0)]
    best = max(found, key=metric, default=None)
    return "-" if best is None else f"{percent(metric(best))} at step {best['step']}"


def _seen(count: int, size: int | None) -> str:
    """Return how many images steps have used, each time counted, and of how many, where ``split.json`` says it."""
    return f"{count}; split.json does not say of how many" if size is None else f"{count}, of a set of {size}"


def settings(run: Run, baseline: Run | None) -> Section:
    """Return what the config sets over its base, and where it differs from the baseline's."""
    own = flat(run.config)
    origins, blocks = saved(run.path / "origins.json", dict[str, str | dict[str, str]])
    if isinstance(origins.get("keys"), dict):
        base = origins.get("base", "")
        rows = [
            [key, _value(own.get(key)), source]
            for key, source in sorted(origins["keys"].items())
            if source != base and key in own
        ]
        title = f"set over the base {base}" if base else "set in the config; it has no base"
        blocks.append(sheet(title, ["key", "value", "set by"], rows, texts=3))
    if baseline is not None:
        theirs = flat(baseline.config)
        keys = [key for key in sorted(own.keys() | theirs.keys()) if own.get(key) != theirs.get(key)]
        rows = [[key, _value(own.get(key)), _value(theirs.get(key))] for key in keys]
        blocks.append(sheet("differences to the supervised baseline", ["key", "this run", "baseline"], rows, texts=3))
    everything = [[key, _value(value)] for key, value in own.items()]
    whole = sheet("resolved config", ["key", "value"], everything, texts=2)
    blocks.append(Markup("<details><summary>All settings</summary>{}</details>").format(whole))
    return Section("config", "Settings", blocks)


def origin(run: Run) -> Section:
    """Return split and environment."""
    split = [[key, _value(value)] for key, value in run.split.items()]
    env = [[key, " ".join(value) if key == "command" else _value(value)] for key, value in run.env.items()]
    blocks = [sheet("split", ["what", "value"], split, texts=2), sheet("environment", ["what", "value"], env, texts=2)]
    return Section("origin", "Split and environment", blocks)


def _value(value: object) -> str:
    return "-" if value is None else value if isinstance(value, str) else json.dumps(value)

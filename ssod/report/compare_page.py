"""The page of ``ssod compare -o compare.html``."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from ssod.experiments.bootstrap import Gain
from ssod.experiments.comparison import Comparison
from ssod.experiments.cost import CURRENCIES, curve
from ssod.experiments.draws import draw_of, draws
from ssod.experiments.groups import Group
from ssod.experiments.settings import Row
from ssod.experiments.standings import Standing
from ssod.experiments.tables import GAIN, GAIN_FOLDS, Sheet, at_equal_cost, published_sheet, ranking
from ssod.report import charts
from ssod.report.axes import COLORS
from ssod.report.charts import Series
from ssod.report.page import Section, alarms, grid, notes, page, sheet, text, verdict_list
from ssod.utils.printing import percent

METHOD = (
    "The gain is AP of a method minus AP of its supervised baseline, which learnt from the same labels; the mean over "
    "folds. The first interval (thick) comes from a paired bootstrap: val images are drawn again with replacement, and "
    "every run is measured on the same draw. It says what other val images would have shown of these very models. The "
    "second (thin) adds in quadrature what folds, or seeds, vary beyond that, with Student's quantile: what other "
    "labels would have given too. With two folds it is wide; take more."
)


def compare_page(found: Comparison) -> str:
    """Return the page of a comparison."""
    sections = [Section("verdict", "Verdict", [verdict_list(found.verdicts)])]
    several = len(found.groups) > 1
    if found.refusals:
        sections.append(Section("refused", "Not ranked together", [alarms(found.refusals)]))
    for number, group in enumerate(found.groups, 1):
        name = f"Group {number}: " if several else ""
        sections += _group(group, [one for one in found.standings if one.group == number], f"b{number}-", name)
    messages = [
        f"{run.method}, {draw_of(run)}, seed {run.seed}, step {row['step']}: {row['text']}"
        for run in found.runs
        for row in run.alarms
    ]
    sections.append(Section("alarms", "Alarms during training", [alarms(messages)] if messages else []))
    if any(group.gains for group in found.groups):
        sections.append(Section("how", "How the interval is made", [text(METHOD)]))
    sections.append(Section("runs", "Runs", [_runs(found.rows)]))
    return page("Comparison of runs", f"{len(found.runs)} runs in {len(found.rows)} rows", sections)


def _runs(rows: Sequence[Row]) -> Markup:
    columns = ["row", "labels", "seed", "AP", "state", "folder"]
    cells, names = [], draws(run for row in rows for run, _ in row.members)
    for row in rows:
        for run, state in row.members:
            ap = percent(run.ap() if run.evals else None)
            cells.append([row.name, names[run.hash], str(run.seed), ap, state, str(run.path)])
    return sheet("every run, AP of its last evaluation", columns, cells, texts=6)


def _group(group: Group, standings: Sequence[Standing], prefix: str, name: str) -> list[Section]:
    gains = sorted((gain_row(row, gain) for row, gain in group.gains.items()), key=lambda row: -row[1])
    forest = charts.intervals(gains, "Gain over the supervised baseline, 95 % interval", "AP points")
    table = ranking(group, standings)
    sections = [
        Section(f"{prefix}gain", f"{name}Gain over the baseline", [grid([forest], wide=True)] if gains else []),
        Section(f"{prefix}table", f"{name}Ranking", [_gain_first(table), notes(table.notes)]),
        Section(f"{prefix}curves", f"{name}Learning curves at equal cost", [grid(_curves(group))]),
    ]
    if len(group.ranked) > 1:
        equal = at_equal_cost(group)
        sections[-1].blocks += [_sheet(equal), notes(equal.notes)]
    reference = published_sheet(group)
    if reference is not None:
        blocks = [_sheet(reference), notes(reference.notes)]
        sections.append(Section(f"{prefix}published", f"{name}Published figures", blocks))
    return sections


def gain_row(name: str, gain: Gain) -> tuple:
    """Return a gain in AP points as ``charts.intervals`` takes it."""
    whole = gain.whole
    return (
        name,
        100 * gain.value,
        tuple(100 * end for end in gain.images),
        None if whole is None else tuple(100 * end for end in whole),
    )


def _sheet(table: Sheet) -> Markup:
    return sheet(table.title, table.columns, table.rows, table.texts)


def _gain_first(table: Sheet) -> Markup:
    """Return the ranking with the gain beside the names, which stay in sight while the rest is scrolled.

    A column of numbers without a single one is left out: there is nothing to be seen in it.
    """
    names = table.columns[:2], (GAIN, GAIN_FOLDS), table.columns[3:], table.columns[2:3]
    order = [table.columns.index(name) for name in dict.fromkeys(name for part in names for name in part)]
    order = [i for i in order if i < table.texts or any(row[i] != "-" for row in table.rows)]
    rows = [[row[i] for i in order] for row in table.rows]
    return sheet(table.title, [table.columns[i] for i in order], rows, texts=2, pinned=1)


def _curves(group: Group) -> list[Markup]:
    """Return a chart for each currency: AP of every run, one colour a row; the ninth row on is dashed."""
    found = []
    for currency, label in CURRENCIES.items():
        series = []
        for color, row in enumerate(group.rows):
            for run in row.runs:
                points = curve(run)
                name = row.name if len(row.runs) == 1 else f"{row.name}, {draw_of(run)}, seed {run.seed}"
                xs, ys = [getattr(p, currency) for p in points], [100 * p.ap for p in points]
                series.append(Series(name, xs, ys, dash=color >= COLORS, color=color, group=row.name))
        found.append(charts.lines(series, f"Teacher AP against {label}", label, "AP"))
    return found

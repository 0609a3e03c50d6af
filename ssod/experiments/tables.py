"""A comparison as tables, and the tables in the forms that people read or paste: terminal, Markdown, LaTeX."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ssod.experiments.bootstrap import Gain
from ssod.experiments.cost import CURRENCIES, equal
from ssod.experiments.groups import Group
from ssod.experiments.published import references
from ssod.experiments.runs import Run
from ssod.experiments.settings import Row, by_fold
from ssod.experiments.standings import Standing
from ssod.utils.printing import percent

WIDE = 160  # columns of a terminal that shows everything
GAIN, GAIN_FOLDS = "gain over baseline [95 %, val images]", "[95 %, and folds]"  # heads of two columns


@dataclass(frozen=True)
class Sheet:
    """One table: texts, ready to be shown.

    Attributes:
        title: above it.
        columns: heads; the first ``texts`` of them are texts, the others numbers.
        rows: cells, as many as columns.
        notes: sentences below it.
        texts: columns on the left that are aligned to the left.
        spare: heads of the columns that a narrow terminal does without.
    """

    title: str
    columns: list[str]
    rows: list[list[str]]
    notes: list[str] = field(default_factory=list)
    texts: int = 1
    spare: tuple[str, ...] = ()


# ---- what the tables say -------------------------------------------------------------------------------------------


def sheets(groups: Sequence[Group], standings: Sequence[Standing]) -> list[Sheet]:
    """Return three sheets a group at most: the ranking, the view at equal cost, the published figures.

    Args:
        groups: rows that may be ranked together.
        standings: of all of them.
    """
    found = []
    for number, group in enumerate(groups, 1):
        name = f"group {number}: " if len(groups) > 1 else ""
        found.append(ranking(group, [one for one in standings if one.group == number], name))
        if len(group.ranked) > 1:
            found.append(at_equal_cost(group, name))
        reference = published_sheet(group, name)
        if reference is not None:
            found.append(reference)
    return found


def ranking(group: Group, standings: Sequence[Standing], name: str = "") -> Sheet:
    """Return the main table: AP over folds and seeds, gain over the baseline, what was spent.

    Args:
        group: its rows.
        standings: of the rows of this group alone, in their order.
        name: of the group, before the title.
    """
    rows = []
    for row, one in zip(group.rows, standings, strict=True):
        rows.append(
            [
                str(one.rank) if one.rank is not None and len(group.ranked) > 1 else "-",
                row.name,
                _counted(row),
                row.spread("AP"),
                *(f"{100 * one.metrics[metric]:.1f}" for metric in ("AP50", "AP75")),
                gain_text(group, row),
                bounds(one.gain_whole),
                f"{one.labeled_seen:,.0f}".replace(",", " "),
                f"{one.unlabeled_seen:,.0f}".replace(",", " "),
                f"{one.hours:.2f}",
            ]
        )
    columns = ["#", "method", "folds x seeds", "AP", "AP50", "AP75", GAIN, GAIN_FOLDS]
    columns += ["labelled seen", "unlabelled seen", "hours"]
    notes = [f"{row.name} has no rank: it {reason}" for row, reason in group.others]
    notes += [
        f"{row.name}: {run.path.name} is not counted: {run.state}" for row in group.rows for run in row.unfinished
    ]
    notes += [*group.notes, *shared_burn_ins(group)]
    for scope in dict.fromkeys(gain.scope for gain in group.gains.values()):
        names = [row.name for row in group.rows if row.name in group.gains and group.gains[row.name].scope == scope]
        notes.append(f"second interval of {', '.join(names)}: {scope}")
    folds = len(group.hashes)
    p = group.protocol
    title = f"{name}teacher after the last step, {folds} split{'s' if folds > 1 else ''}, metric {p['metric']}, "
    title += f"scores above {p['score threshold']}, AP mean ± sd over folds and seeds"
    return Sheet(title, columns, rows, notes, texts=3, spare=("AP75", "labelled seen", "unlabelled seen", "hours"))


def shared_burn_ins(group: Group) -> list[str]:
    """Return which rows went on from the burn-in of another run; one sentence for each they had it from."""
    names = {os.path.realpath(run.path): row.name for row in group.rows for run in row.runs}
    found: dict[tuple[str, int], list[str]] = {}
    for row in group.rows:
        begun = [run.begun for run in row.runs if run.begun]
        for source, step in dict.fromkeys(
            (names.get(os.path.realpath(b["from"]), b["from"]), b["step"]) for b in begun
        ):
            found.setdefault((source, step), []).append(row.name)
    return [
        f"the first {step} steps of {', '.join(rows)} are those of {source}, made once; images and hours count them"
        for (source, step), rows in found.items()
    ]


def at_equal_cost(group: Group, name: str = "") -> Sheet:
    """Return the AP of each ranked row at the largest number of images, and of hours, that all of them spent."""
    runs = {row.name: row.runs for row in group.ranked}
    found = {currency: equal(runs, currency) for currency in CURRENCIES}
    columns = ["method"]
    for currency, (budget, _) in found.items():
        amount = f"{budget:.3g}" if currency == "hours" else f"{budget:,.0f}".replace(",", " ")
        columns.append(f"AP at {amount} {CURRENCIES[currency]}")
    rows = [[row] + [percent(values[row]) for _, values in found.values()] for row in runs]
    notes = ["between two evaluations AP is interpolated; - = a run has no evaluation that early"]
    machines = {machine(run) for row in group.ranked for run in row.runs}
    if len(machines) > 1:
        notes.append(f"hours do not compare: the runs were made on {' | '.join(sorted(machines))}")
    return Sheet(f"{name}at equal cost", columns, rows, notes)


def machine(run: Run) -> str:
    """Return what a run's hours depend on besides its config."""
    gpus = Counter(run.env.get("gpus") or [])
    devices = [f"{count} x {name}" for name, count in sorted(gpus.items())] or [f"{run.env.get('cpus', '?')} CPU cores"]
    return f"{', '.join(devices)}, {run.env.get('world_size', 1)} process(es)"


def published_sheet(group: Group, name: str = "") -> Sheet | None:
    """Return the published figures of the group's protocol, own rows among them; None where there are none."""
    rows = references([run for row in group.rows for run in row.runs])
    if not rows:
        return None
    cells = [
        [p.method, p.detector, p.metric, f"{p.value:.2f}" + (f" ± {p.sd:.2f}" if p.sd else ""), p.source, p.kind]
        for p in rows
    ]
    for row in group.rows:
        for metric in ("AP", "AP50"):
            if any(p.metric == metric for p in rows):
                cells.append([f"{row.name} (ours)", row.first.detector, metric, row.spread(metric), "this run", "-"])
    note = "published runs differ in splits, evaluators and score thresholds: references, not ranked"
    columns = ["method", "detector", "metric", "%", "source", "known from"]
    return Sheet(f"{name}published, {rows[0].protocol}", columns, cells, [note], texts=3)


def gain_text(group: Group, row: Row) -> str:
    """Return ``+4.1 [3.0, 5.2]``; ``baseline`` in the row that others are measured against."""
    if row.name in group.gains:
        return interval(group.gains[row.name])
    if row.name in group.differences:
        return f"{100 * group.differences[row.name]:+z.1f} [no interval]"
    return "baseline" if row.name in group.baselines.values() else "-"


def interval(gain: Gain) -> str:
    """Return ``+4.1 [3.0, 5.2]``, the interval over val images."""
    return f"{100 * gain.value:+z.1f} {bounds(gain.images)}"


def bounds(ends: tuple[float, float] | None) -> str:
    """Return ``[3.0, 5.2]``; ``-`` where there is no interval."""
    return "-" if ends is None else f"[{100 * ends[0]:z.1f}, {100 * ends[1]:z.1f}]"


def _counted(row: Row) -> str:
    """Return ``5 x 2``, or ``5 folds, 7 runs`` where folds have unlike numbers of seeds."""
    more = f" (+{len(row.unfinished)} unfinished)" if row.unfinished else ""
    folds = [len(runs) for runs in by_fold(row.runs).values()]
    if len(set(folds)) == 1:
        return f"{len(folds)} x {folds[0]}{more}"
    return f"{len(folds)} folds, {len(row.runs)} runs{more}"


# ---- the forms -----------------------------------------------------------------------------------------------------


def show(sheet: Sheet, console: Console) -> None:
    """Print a sheet."""
    console.print(sheet.title, style="bold", markup=False, highlight=False)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    shown = [i for i, name in enumerate(sheet.columns) if console.width >= WIDE or name not in sheet.spare]
    for i in shown:
        numbers = i >= sheet.texts
        table.add_column(sheet.columns[i], justify="right" if numbers else "left", overflow="fold")
    for row in sheet.rows:
        table.add_row(*(Text(row[i], no_wrap=i >= sheet.texts) for i in shown))
    console.print(table)
    for note in sheet.notes:
        console.print(f"  {note}", markup=False, highlight=False, soft_wrap=True)


def markdown(sheets: Sequence[Sheet], refusals: Sequence[str] = (), verdicts: Sequence[str] = ()) -> str:
    """Return Markdown tables, the verdicts above them."""
    parts = list(verdicts)
    for sheet in sheets:
        rule = [":--" if i < sheet.texts else "--:" for i in range(len(sheet.columns))]
        rows = [sheet.columns, rule, *([cell.replace("|", "\\|") for cell in row] for row in sheet.rows)]
        parts.append(f"**{sheet.title}**\n\n" + "\n".join(f"| {' | '.join(row)} |" for row in rows))
        if sheet.notes:
            parts.append("\n".join(f"- {note}" for note in sheet.notes))
    parts += [f"> {line}" for line in refusals]
    return "\n\n".join(parts) + "\n"


def latex(sheets: Sequence[Sheet], refusals: Sequence[str] = (), verdicts: Sequence[str] = ()) -> str:
    """Return booktabs tables, the verdicts above them as comments."""
    parts = ["\n".join(["% needs \\usepackage{booktabs}", *(f"% {line}" for line in verdicts)])]
    for sheet in sheets:
        form = "".join("l" if i < sheet.texts else "r" for i in range(len(sheet.columns)))
        body = "\n".join(f"{' & '.join(map(_tex, row))} \\\\" for row in sheet.rows)
        notes = "".join(f"\n% {note}" for note in sheet.notes)
        parts.append(
            f"% {sheet.title}{notes}\n\\begin{{tabular}}{{{form}}}\n\\toprule\n"
            f"{' & '.join(map(_tex, sheet.columns))} \\\\\n\\midrule\n{body}\n\\bottomrule\n\\end{{tabular}}"
        )
    parts += [f"% {line}" for line in refusals]
    return "\n\n".join(parts) + "\n"


_TEX = {"\\": r"\textbackslash{}", "±": r"$\pm$", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}


def _tex(text: str) -> str:
    text = re.sub(r"[\\±~^]|[&%$#_{}]", lambda m: _TEX.get(m[0], f"\\{m[0]}"), text)
    return re.sub(r"(?<![\w.])-(?=\d)", "$-$", text)

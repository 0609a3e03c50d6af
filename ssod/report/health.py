"""Figures about one run: curves, classes, and the health of its pseudo-labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from ssod.diagnostics import curves as numbers
from ssod.diagnostics.curves import MOST_CLASSES, SURE, Scored
from ssod.diagnostics.pseudo_quality import previous
from ssod.diagnostics.pseudofile import Pseudo
from ssod.evaluation.matching import Matches, average_precision
from ssod.experiments.runs import Run
from ssod.report import charts
from ssod.report.charts import Series
from ssod.report.json_files import saved
from ssod.report.label_scores import label_scores
from ssod.report.page import Section, grid, sheet, text
from ssod.utils.errors import SsodError

RIGHT, WRONG = 0, 1  # colours: blue and orange, which every eye tells apart
CHANGE = (
    "Inconsistency is 1 - AP of this teacher's pseudo-labels against the last one's; churn is the share of foreground "
    "rows whose assignment changed."
)


def column(rows: Sequence[dict[str, Any]], name: str, scale: float = 1.0) -> tuple[list[int], list[float | None]]:
    """Return steps and values of a name, where the log has it."""
    found = [(row["step"], row[name]) for row in rows if name in row]
    return [step for step, _ in found], [scale * v if isinstance(v, int | float) else None for _, v in found]


def burn_in(run: Run) -> list[tuple[float, str]]:
    """Return the marks where burn-in ends, and where learning from pseudo-labels begins if that is later."""
    end, start = run.burn_in, run.config["method"].get("start") or 0
    start -= (run.config["method"].get("burn_in") or 0) - end
    marks = [(end, "burn-in ends")] if end else []
    return [*marks, (start, "learns from pseudo-labels")] if start > end else marks


def curves(run: Run, baseline: Run | None) -> Section:
    """Losses, AP of teacher and student, learning rate, time."""
    marks = burn_in(run)
    losses = [Series(label, *column(run.train, f"loss/{label}")) for label in ("sup", "unsup")]
    names = sorted({key for row in run.train for key in row if key.startswith(("sup/", "unsup/"))})
    parts = [Series(name, *column(run.train, name), dash=name.startswith("unsup")) for name in names]
    ap = [
        Series("teacher", *column(run.evals, "teacher/AP", 100)),
        Series("teacher AP50", *column(run.evals, "teacher/AP50", 100)),
        Series("student", *column(run.evals, "student/AP", 100), dash=True),
    ]
    if baseline is not None:
        ap.append(Series("supervised baseline", *column(baseline.evals, "teacher/AP", 100), dash=True))
    figures = [
        charts.lines(ap, "AP on val", "step", "AP", marks=marks),
        charts.lines(losses, "Losses, summed", "step", "loss", marks=marks),
        charts.lines(parts, "Each loss", "step", "loss", marks=marks),
        charts.lines([Series("lr", *column(run.train, "lr"))], "Learning rate", "step", "rate"),
        charts.lines([Series("gradient", *column(run.train, "grad_norm"))], "Norm of the gradient", "step", "norm"),
        charts.lines(
            [Series(n, *column(run.train, f"time/{n}")) for n in ("step", "data")], "Seconds a step", "step", "s"
        ),
        *missing(run),
    ]
    return Section("curves", "Learning curves", [grid(figures)])


def missing(run: Run) -> list[Markup]:
    """Return which share of the rows that learn a labelled object predicts a box that misses it, by stage."""
    stages = {name.split("/")[1] for row in run.train for name in row if name.startswith("rows/")}
    series = []
    for stage in sorted(stages):
        steps, learning = column(run.train, f"rows/{stage}/learning")
        _, missed = column(run.train, f"rows/{stage}/missing")
        shares = [100 * m / n if m is not None and n else None for m, n in zip(missed, learning)]
        series.append(Series(stage, steps, shares))
    title = "Rows whose box misses its labelled object"
    return [charts.lines(series, title, "step", "%", y_range=(0, 100))] if series else []


def classes(run: Run) -> Section:
    """AP of each class and precision against recall, from the saved matches."""
    table = run.table
    if table is None:
        message = "This run saved no eval/step_*.npz: an older version trained it, or it was not evaluated yet."
        return Section("classes", "Classes", [text(message)])
    values = average_precision(table)[0]  # [K, T]
    labels = np.bincount(table.label, minlength=len(table.classes))
    wanted = table.wanted.sum(0)
    order = np.argsort([-1.0 if np.isnan(v[0]) else v.mean() for v in values], kind="stable")
    whole, damaged = _whole(run)
    rows = []
    for k in order[::-1]:
        name = table.classes[k]
        ap, ap50 = (
            ("-", "-") if np.isnan(values[k, 0]) else (f"{100 * v:.1f}" for v in (values[k].mean(), values[k, 0]))
        )
        counts = (str(int(wanted[k])), str(int(labels[k])), str(run.split.get("boxes", {}).get(name, "-")))
        pseudo = [whole.get(f"pseudo/{what}/{name}") for what in ("precision", "recall")]
        rows.append(
            [name, ap, ap50, *counts, *(f"{100 * v:.0f}" if isinstance(v, int | float) else "-" for v in pseudo)]
        )
    columns = ["class", "AP", "AP50", "val boxes", "detections", "labelled boxes"]
    columns += ["pseudo precision", "pseudo recall"]
    told = [i for i in range(len(columns)) if i == 0 or any(row[i] != "-" for row in rows)]
    columns, rows = [columns[i] for i in told], [[row[i] for i in told] for row in rows]
    shown = numbers.ranked(table)
    worst, best = shown[:MOST_CLASSES], shown[::-1][:MOST_CLASSES]
    figures = [_precision_recall(table, best, "Precision against recall, IoU 0.5" + _of(shown, "best classes"))]
    if len(shown) > MOST_CLASSES:
        figures.append(_precision_recall(table, worst, "Precision against recall, IoU 0.5: weakest classes"))
    title = f"after step {run.last['step']}; AP, precision and recall in per cent"
    blocks = [grid(figures, wide=True), sheet(title, columns, rows), *damaged, *label_scores(run)]
    return Section("classes", "Classes", blocks)


def _of(shown: Sequence[int], what: str) -> str:
    return f": {what}" if len(shown) > MOST_CLASSES else ""


def _whole(run: Run) -> tuple[dict[str, Any], list[Markup]]:
    """Return the last ``eval/step_*.json``, which has the numbers of single classes, and a note if it is damaged."""
    kind = dict[str, float | str | list[float | None] | None]
    return saved(run.path / "eval" / f"step_{run.last['step']}.json", kind) if run.last else ({}, [])


def _precision_recall(table: Matches, shown: Sequence[int], title: str) -> Markup:
    series = [Series(table.classes[k], *numbers.precision_recall(table, k)) for k in shown]
    return charts.lines(series, title, "recall", "precision", x_range=(0, 1), y_range=(0, 1))


def health(run: Run) -> Section:
    """What the teacher teaches: how many boxes, how right, how steady; and how the student's rows are weighed."""
    return Section("pseudo", "Pseudo-labels", [*_health(run), *weighting(run)])


def _health(run: Run) -> list[Markup]:
    try:
        look, damaged = previous(run.path / "eval", 1 << 62), []
    except SsodError as error:
        look, damaged = None, [text(f"Left out: {error.line()}")]
    chooses = any("pseudo/boxes_per_image" in row or "pseudo/kept" in row for row in (*run.train, *run.evals))
    if not chooses and look is not None:
        message = "The method chooses no box; it learns from outputs as they are. What the teacher detects:"
        return [text(message), grid(_scores(run, look))]
    if not chooses:
        early = text("The run has logged no pseudo-labels so far.")
        return [*damaged, *([] if run.method == "supervised" else [early])]
    marks = burn_in(run)
    labeled = Series("labelled images", *column(run.train, "labeled/boxes_per_image"))
    boxes = [Series("pseudo boxes, in training", *column(run.train, "pseudo/boxes_per_image")), labeled]
    boxes += [Series(f"fixed set: {n}", *column(run.evals, f"pseudo/{n}"), dash=True) for n in ("kept", "true")]
    quality = [Series(n, *column(run.evals, f"pseudo/{n}", 100)) for n in ("precision", "recall")]
    steady = [Series(n, *column(run.evals, f"pseudo/{n}")) for n in ("inconsistency", "churn")]
    figures = [
        charts.lines(boxes, "Boxes per image", "step", "boxes", marks=marks),
        charts.lines(quality, "Pseudo-labels against the hidden truth", "step", "%", y_range=(0, 100), marks=marks),
        charts.lines(steady, "Change since the evaluation before", "step", "share", y_range=(0, 1), marks=marks),
        thresholds(run),
        *_scores(run, look),
    ]
    measured = [kind for kind, figure in (("precision and recall", figures[1]), ("change", figures[2])) if figure]
    how = f"On a fixed set of unlabelled images, at IoU 0.5, each evaluation measures {' and '.join(measured)}."
    told = [how] if measured else []
    told += [CHANGE] if figures[2] else []
    told += ["The hidden truth is read for these figures alone: training never sees it."] if figures[1] else []
    return [*damaged, *([text(" ".join(told), "small")] if told else []), grid(figures)]


def weighting(run: Run) -> list[Markup]:
    """Return uncertainty and difficulty of wrong and of right rows where a run weighs rows by them, else nothing."""
    logged = {key.rpartition("/")[2] for row in run.train for key in row if key.startswith("weighting/")}
    stages = {"": "", "rpn_": ": proposal network"}
    found = [_weighed(run, prefix, whose) for prefix, whose in stages.items() if f"{prefix}wrong" in logged]
    figures = [figure for of_stage in found for figure in of_stage]
    if not figures:
        return []
    how = (
        "Rows count by how uncertain an auxiliary Bayesian branch is of them (Li et al., ICIP 2020): U is the sigmoid "
        "of its BALD score, D is U / 2 on rows that the student gets right and 1 - U / 2 on those that it gets wrong. "
        "Where U hardly spreads, a row counts by whether the student gets it right, and by nothing else. Running means "
        "over some hundred steps."
    )
    return [text(how, "small"), grid(figures)]


def _weighed(run: Run, prefix: str, whose: str) -> list[Markup]:
    """Return the figures of one stage, whose numbers begin with ``prefix``."""
    sides, marks = {"sup": "labelled", "unsup": "pseudo-labelled"}, burn_in(run)

    def drawn(name: str) -> list[Series]:
        found = []
        for side, images in sides.items():
            for kind, hue in (("wrong", WRONG), ("correct", RIGHT)):
                steps, values = column(run.train, f"weighting/{side}/{prefix}{name}_{kind}")
                # 0 says that there was no such row yet.
                found.append(
                    Series(f"{kind}, {images}", steps, [v or None for v in values], dash=side == "unsup", color=hue)
                )
        return found

    wrong = [
        Series(f"{images} rows", *column(run.train, f"weighting/{side}/{prefix}wrong", 100), dash=side == "unsup")
        for side, images in sides.items()
    ]
    return [
        charts.lines(drawn("U"), f"Uncertainty U of the student's rows{whose}", "step", "U", marks=marks),
        charts.lines(drawn("U_std"), f"Standard deviation of U{whose}", "step", "U", marks=marks),
        charts.lines(drawn("D"), f"Difficulty D, by which rows count{whose}", "step", "D", y_range=(0, 1), marks=marks),
        charts.lines(wrong, f"Rows on which the student is wrong{whose}", "step", "%", marks=marks),
    ]


def thresholds(run: Run) -> Markup:
    """Return thresholds over time, one line a class where a method has such; else the fixed score of the config."""
    names = list(dict.fromkeys(key for row in run.train for key in row if "threshold" in key))
    series = []
    for name in names:
        rows = [row for row in run.train if name in row]
        if not isinstance(rows[-1][name], list):
            series.append(Series(name.split("/")[-1], *column(run.train, name)))
            continue
        count = len(rows[-1][name])
        rows = [row for row in rows if isinstance(row[name], list) and len(row[name]) == count]
        steps = [row["step"] for row in rows]
        labels = run.classes if count == len(run.classes) else [f"{name.split('/')[-1]} {i}" for i in range(count)]
        for k in _spread([row[name] for row in rows], count):
            series.append(Series(labels[k], steps, [row[name][k] for row in rows]))
    fixed = run.config["method"].get("score")
    if not series and isinstance(fixed, int | float):
        steps = [row["step"] for row in run.train if "pseudo/boxes_per_image" in row]
        series = [Series("method.score, fixed", steps, [fixed] * len(steps))]
    return charts.lines(series, "Score thresholds", "step", "score", y_range=(0, 1), marks=burn_in(run))


def _spread(values: Sequence[Sequence[float]], count: int) -> list[int]:
    """Return up to 8 classes, from the lowest last threshold to the highest."""
    order = sorted(range(count), key=lambda k: values[-1][k] if values[-1][k] is not None else 0.0)
    if count <= MOST_CLASSES:
        return list(range(count))
    return [order[i] for i in np.linspace(0, count - 1, MOST_CLASSES).round().astype(int)]


def _histogram(boxes: Scored, low: float) -> Markup:
    """Return how many boxes have which score, from ``low`` on; most score low, and would hide the others."""
    edges, right, wrong = numbers.histogram(boxes, low)
    groups = [("right", right.astype(float).tolist(), RIGHT), ("wrong", wrong.astype(float).tolist(), WRONG)]
    labels = [f"{edge:.2f}" for edge in edges[:-1]]
    above = f" above {low:g}" if low else ""
    return charts.bars(labels, groups, f"Scores{above} of the teacher's boxes, {boxes.where}", "score", "boxes")


def _numbers(value: Any) -> int:
    """Return how many numbers a list holds, 0 for anything else."""
    return len(value) if isinstance(value, list) else 0


def _scores(run: Run, look: Pseudo | None) -> list[Markup]:
    """Return the histogram of scores, right and wrong, and confidence against IoU; of val where truth is not hidden."""
    boxes = numbers.scored(run.table, look)
    if boxes is None:
        return []
    names = ("lowest", "25 %", "median", "75 %", "highest")
    quantiles = [row for row in run.train if _numbers(row.get("pseudo/score_quantiles")) == len(names)]
    lines = [
        Series(name, [row["step"] for row in quantiles], [row["pseudo/score_quantiles"][i] for row in quantiles])
        for i, name in enumerate(names)
    ]
    figures = [
        *(_histogram(boxes, low) for low in (0.0, SURE)),
        charts.heat(
            numbers.confidence_iou(boxes).tolist(), f"Confidence against IoU, {boxes.where}", "confidence", "IoU"
        ),
    ]
    if quantiles:
        figures.append(charts.lines(lines, "Quantiles of the teacher's scores", "step", "score", y_range=(0, 1)))
    return figures

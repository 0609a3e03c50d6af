"""Charts as inline SVG, 360 units wide so that text stays legible on a phone, coloured by the page's CSS variables.

A chart is a ``<figure>``: caption, legend, drawing, what the cursor reads, and the same numbers as a table. Line charts
take the keyboard: arrow keys move a cursor over the data (page.js). What has no number to draw is no figure at all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup, escape

from ssod.report.axes import (
    BOTTOM,
    DIGIT,
    RIGHT,
    TOP,
    WIDTH,
    Frame,
    Series,
    attribute,
    color,
    figure,
    known,
    path,
    short,
    svg,
    table,
    ticks,
)

__all__ = ["Series", "bars", "heat", "intervals", "lines"]


def lines(
    series: Sequence[Series],
    title: str,
    x: str,
    y: str,
    *,
    height: float = 220,
    x_range: tuple[float, float] | None = None,
    y_range: tuple[float, float] | None = None,
    marks: Sequence[tuple[float, str]] = (),
) -> Markup:
    """Draw lines.

    Args:
        series: at most 8 have colours of their own; empty ones are left out.
        title: caption.
        x, y: names of the axes, with units.
        height: of the drawing.
        x_range, y_range: lowest and highest value; None = what the data need.
        marks: vertical lines (x, what happened there).
    """
    series = [s for s in series if any(known(v) for v in s.y)]
    if not series:
        return Markup("")
    xs = [v for s in series for v, w in zip(s.x, s.y) if known(w)] + [m for m, _ in marks]
    ys = [v for s in series for v in s.y if known(v)]
    ends = x_range or (min(xs), max(xs))
    if ends[0] == ends[1]:  # a curve of one point: how far it is from the start can be seen
        ends = (min(0.0, ends[0]), max(0.0, ends[0])) if ends[0] else (0.0, 1.0)
    frame = Frame(ticks(*ends), ticks(*(y_range or (min(ys), max(ys)))), height, ends)
    parts = [frame.axes(x, y)]
    for i, (at, text) in enumerate(marks):
        parts.append(
            f'<line class="mark" x1="{frame.x(at):.1f}" x2="{frame.x(at):.1f}" y1="{TOP}" y2="{height - BOTTOM}"/>'
            f'<text {_beside(frame.x(at), text)} y="{TOP + 9 + 13 * i}">{escape(text)}</text>'
        )
    for i, s in enumerate(series):
        style = f"stroke:var(--c{color(s, i)})" + (";stroke-dasharray:5 3" if s.dash else "")
        parts.append(f'<path class="line" style="{style}" d="{path(s, frame)}"/>')
        points = [(a, b) for a, b in zip(s.x, s.y) if known(b)]
        if len(points) <= 12:
            fill = f"fill:var(--c{color(s, i)})"
            parts += [
                f'<circle style="{fill}" cx="{frame.x(a):.1f}" cy="{frame.y(b):.1f}" r="2.5"/>' for a, b in points
            ]
    data = {
        "label": x,
        "series": [{"name": s.name, "at": [short(v) for v in s.x], "px": [round(frame.x(v), 1) for v in s.x],
                    "value": [short(v) if known(v) else "-" for v in s.y]} for s in series],
    }  # fmt: skip
    body = svg(title, height, "".join(parts), f" tabindex=\"0\" data-chart='{attribute(data)}'")
    legend = list(dict.fromkeys((s.group or s.name, color(s, i), s.dash) for i, s in enumerate(series)))
    legend = legend if len(series) > 1 else []
    return figure(title, legend, body, table(series, x), readout=True)


def _beside(at: float, text: str) -> str:
    """Return class and place of what is written beside a vertical line: on its left where the right has no room."""
    fits = at + 3 + len(text) * DIGIT <= WIDTH
    return f'class="tick" x="{at + 3:.1f}"' if fits else f'class="tick end" x="{at - 3:.1f}"'


def bars(
    labels: Sequence[str], groups: Sequence[tuple[str, Sequence[float], int]], title: str, x: str, y: str
) -> Markup:
    """Draw stacked bars.

    Args:
        labels: below the bars; as many as values.
        groups: (name, values, colour), the first at the bottom.
        title, x, y: caption and axes.
    """
    totals = [sum(values) for values in zip(*(v for _, v, _ in groups))]
    if not totals or max(totals) <= 0:
        return Markup("")
    height = 200.0
    frame = Frame([], ticks(0, max(totals)), height, (0, len(labels)))
    parts = [frame.axes(x, y)]
    wide = (WIDTH - frame.left - RIGHT) / len(labels)
    every = max(1, math.ceil(len(labels) / 6))
    for i, label in enumerate(labels):
        low = 0.0
        for name, values, hue in groups:
            top, bottom = frame.y(low + values[i]), frame.y(low)
            parts.append(
                f'<rect style="fill:var(--c{hue})" x="{frame.left + i * wide + 0.5:.1f}" y="{top:.1f}" '
                f'width="{max(wide - 1, 0.5):.1f}" height="{bottom - top:.1f}"><title>{escape(label)}: '
                f"{escape(name)} {short(values[i])}</title></rect>"
            )
            low += values[i]
        if i % every == 0:
            at = frame.left + (i + 0.5) * wide
            parts.append(f'<text class="tick mid" x="{at:.1f}" y="{height - BOTTOM + 13}">{escape(label)}</text>')
    columns = [Series(name, list(range(len(labels))), list(values)) for name, values, _ in groups]
    legend = [(name, hue, False) for name, _, hue in groups] if len(groups) > 1 else []
    return figure(title, legend, svg(title, height, "".join(parts)), table(columns, x, labels))


def heat(
    counts: Sequence[Sequence[float]], title: str, x: str, y: str, edges: tuple[float, float] = (0.0, 1.0)
) -> Markup:
    """Draw a table of counts [rows of y from low to high][x] as a heat map, darker for more, on a root scale."""
    most = max((v for row in counts for v in row), default=0)
    if not most:
        return Markup("")
    height = 260.0
    marks = [edges[0] + (edges[1] - edges[0]) * i / 5 for i in range(6)]
    frame = Frame(marks, marks, height, edges)
    wide, high = (WIDTH - frame.left - RIGHT) / len(counts[0]), (height - TOP - BOTTOM) / len(counts)
    parts = [frame.axes(x, y)]
    for j, row in enumerate(counts):
        for i, value in enumerate(row):
            if value:
                text = f"{short(value)} with {x} {i / len(row):.2g}-{(i + 1) / len(row):.2g} and {y} "
                text += f"{j / len(counts):.2g}-{(j + 1) / len(counts):.2g}"
                parts.append(
                    f'<rect style="fill:var(--c0);fill-opacity:{0.15 + 0.85 * math.sqrt(value / most):.3f}" '
                    f'x="{frame.left + i * wide:.1f}" y="{height - BOTTOM - (j + 1) * high:.1f}" '
                    f'width="{wide - 0.6:.1f}" height="{high - 0.6:.1f}"><title>{escape(text)}</title></rect>'
                )
    columns = [Series(f"{y} {j / len(counts):.2g}", list(range(len(row))), list(row)) for j, row in enumerate(counts)]
    labels = [f"{i / len(counts[0]):.2g}" for i in range(len(counts[0]))]
    return figure(title, [], svg(title, height, "".join(parts)), table(columns, x, labels))


def intervals(
    rows: Sequence[tuple[str, float, tuple[float, float], tuple[float, float] | None]], title: str, x: str
) -> Markup:
    """Draw values with a thick interval and a thin one around it, one below the other, and a line at 0.

    A thin interval that is very long is cut where the chart ends; the text above it has its ends.

    Args:
        rows: (name, value, inner interval, outer interval if there is one).
        title, x: caption and axis.
    """
    if not rows:
        return Markup("")
    height = TOP + BOTTOM + 40 * len(rows)
    reach = max(0.5, *(end - start for _, _, (start, end), _ in rows))
    ends = [0.0, *(v for _, value, inner, _ in rows for v in (*inner, value - reach, value + reach))]
    marks = ticks(min(ends), max(ends))
    frame = Frame(marks, [], height, (marks[0], marks[-1]), left=RIGHT)
    parts = [frame.axes(x, "")]
    for i, (name, value, inner, outer) in enumerate(rows):
        at = TOP + 40 * i + 28
        zero = f'x1="{frame.x(0):.1f}" x2="{frame.x(0):.1f}" y1="{at - 8}" y2="{at + 10}"'
        parts.append(f'<line class="zero" {zero}/>')
        label = f"{name}: {value:+.1f} [{inner[0]:.1f}, {inner[1]:.1f}]"
        label += f", [{outer[0]:.1f}, {outer[1]:.1f}]" if outer else ""
        parts.append(f'<text class="label" x="{RIGHT}" y="{at - 12}">{escape(label)}</text>')
        for (low, high), wide in ((outer or inner, 1.2), (inner, 5)):
            left, right = (frame.x(min(max(v, marks[0]), marks[-1])) for v in (low, high))
            style = f"stroke:var(--c0);stroke-width:{wide}"
            parts.append(f'<line style="{style}" x1="{left:.1f}" x2="{right:.1f}" y1="{at}" y2="{at}"/>')
        parts.append(f'<circle style="fill:var(--ink)" cx="{frame.x(value):.1f}" cy="{at}" r="4"/>')
    numbers = list(range(len(rows)))
    columns = [Series("gain", numbers, [value for _, value, _, _ in rows])]
    for i, end in enumerate(("low", "high")):
        columns.append(Series(f"{end}, val images", numbers, [inner[i] for _, _, inner, _ in rows]))
        columns.append(Series(f"{end}, and folds", numbers, [o[i] if o else None for _, _, _, o in rows]))
    return figure(title, [], svg(title, height, "".join(parts)), table(columns, "method", [r[0] for r in rows]))

"""What every chart is made of: axes with round numbers, a frame that maps values to units, the figure around it."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

WIDTH, LEFT, RIGHT, TOP, BOTTOM = 360.0, 46.0, 10.0, 10.0, 34.0
DIGIT = 6.5  # units that a digit of a tick is wide
STEP = 1e-3  # smallest step between ticks, over the largest of them: four digits tell them apart
COLORS = 8  # --c0 .. --c7 in style.css
SMALL = 1e-3  # below it a number is written with its power of ten
ROOM = 1.2  # times a single value, to which its axis goes
_MOST_ROWS = 60  # of the table below a chart


@dataclass(frozen=True)
class Series:
    """A line: y over x, a gap where y is None.

    Attributes:
        name: in the readout and the table.
        x, y: the data.
        dash: draws it dashed.
        color: another than its turn's.
        group: stands in the legend for all lines of one group; None = the name.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float | None]
    dash: bool = False
    color: int | None = None
    group: str | None = None


class Frame:
    """Axes, and where a value lies between them.

    Args:
        xticks, yticks: values that have a line or a label.
        height: of the drawing.
        xs: the ends of the axis from left to right.
        left: where it begins, at least; further right where the labels of ``yticks`` need room.
    """

    def __init__(
        self,
        xticks: Sequence[float],
        yticks: Sequence[float],
        height: float,
        xs: tuple[float, float],
        left: float = LEFT,
    ) -> None:
        self.xticks = [t for t in xticks if xs[0] <= t <= xs[1]]
        self.yticks, self.height = yticks, height
        self.left = max(left, *(len(short(tick)) * DIGIT + 6 for tick in yticks), 0.0)
        self.low, self.high = xs if xs[1] > xs[0] else (xs[0] - 0.5, xs[0] + 0.5)
        self.bottom, self.top = (yticks[0], yticks[-1]) if yticks else (0.0, 1.0)

    def x(self, value: float) -> float:
        """Return where ``value`` lies from left to right."""
        return self.left + (value - self.low) / (self.high - self.low) * (WIDTH - self.left - RIGHT)

    def y(self, value: float) -> float:
        """Return where ``value`` lies from top to bottom; outside the axis it is put at its end."""
        share = (min(max(value, self.bottom), self.top) - self.bottom) / ((self.top - self.bottom) or 1)
        return self.height - BOTTOM - share * (self.height - TOP - BOTTOM)

    def axes(self, x: str, y: str) -> str:
        """Draw axes, grid, ticks and names."""
        floor = self.height - BOTTOM
        parts = [f'<line class="axis" x1="{self.left}" x2="{WIDTH - RIGHT}" y1="{floor}" y2="{floor}"/>']
        for tick in self.yticks:
            at = self.y(tick)
            parts.append(
                f'<line class="grid" x1="{self.left}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>'
                f'<text class="tick end" x="{self.left - 4}" y="{at + 3.5:.1f}">{short(tick)}</text>'
            )
        for tick in self.xticks:
            label, at = short(tick), self.x(tick)
            half = len(label) * DIGIT / 2
            where = f'"tick mid" x="{at:.1f}"'
            if at + half > WIDTH - 1:
                where = f'"tick end" x="{WIDTH - 1}"'
            elif at < half + 1:
                where = '"tick" x="1"'
            parts.append(f'<text class={where} y="{floor + 13}">{label}</text>')
        parts.append(f'<text class="name end" x="{WIDTH - RIGHT}" y="{self.height - 5}">{escape(x)}</text>')
        if y:
            parts.append(f'<text class="name" x="2" y="{self.height - 5}">↑ {escape(y)}</text>')
        return "".join(parts)


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Return round numbers that reach from at most ``low`` to at least ``high``.

    ``short`` writes each of them differently: what varies less than that is drawn as flat.
    """
    if high <= low:  # one value says nothing of how much is much: it stands on an axis from 0
        low, high = (min(0.0, ROOM * low), max(0.0, ROOM * low)) if low else (0.0, 1.0)
    raw = max((high - low) / most, STEP * abs(low), STEP * abs(high))
    digits = math.floor(math.log10(raw))
    power = 10.0**digits
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)
    first = math.floor(low / step + 1e-9)
    last = math.ceil(high / step - 1e-9)
    return [round(i * step, 2 - digits) for i in range(first, last + 1)]


def path(s: Series, frame: Frame) -> str:
    """Return the line of a series, broken where a value is missing."""
    parts, pen = [], "M"
    for a, b in zip(s.x, s.y):
        if known(b):
            parts.append(f"{pen}{frame.x(a):.1f} {frame.y(b):.1f}")
            pen = "L"
        else:
            pen = "M"
    return "".join(parts)


def svg(title: str, height: float, body: str, more: str = "") -> Markup:
    """Wrap a drawing."""
    return Markup(f'<svg viewBox="0 0 {WIDTH:g} {height:g}" role="img" aria-label="{escape(title)}"{more}>{body}</svg>')


def figure(
    title: str, legend: Sequence[tuple[str, int, bool]], body: Markup, table: Markup, readout: bool = False
) -> Markup:
    """Put caption, legend (name, colour, dashed), drawing and table together."""
    keys = Markup("").join(
        Markup('<li><i class="key{}" style="--k:var(--c{})"></i>{}</li>').format(" dash" if dash else "", color, name)
        for name, color, dash in legend
    )
    return Markup(
        '<figure class="chart"><figcaption>{}</figcaption>{}{}{}'
        "<details><summary>Numbers</summary>{}</details></figure>"
    ).format(
        title,
        Markup('<ul class="legend">{}</ul>').format(keys) if legend else "",
        body,
        Markup('<output class="readout" aria-live="polite"></output>') if readout else "",
        table,
    )


def table(series: Sequence[Series], x: str, labels: Sequence[str] | None = None) -> Markup:
    """Return the numbers of a chart, thinned out where they are very many."""
    stops = sorted({v for s in series for v in s.x})
    skip = max(1, math.ceil(len(stops) / _MOST_ROWS))
    kept = [v for i, v in enumerate(stops) if i % skip == 0 or i == len(stops) - 1]
    values = [dict(zip(s.x, s.y)) for s in series]
    head = Markup("").join(Markup('<th scope="col">{}</th>').format(name) for name in (x, *(s.name for s in series)))
    rows = Markup("").join(
        Markup('<tr><th scope="row">{}</th>{}</tr>').format(
            labels[int(v)] if labels else short(v),
            Markup("").join(Markup("<td>{}</td>").format(short(at[v]) if known(at.get(v)) else "-") for at in values),
        )
        for v in kept
    )
    return Markup(
        '<div class="scroll" tabindex="0" role="region" aria-label="numbers"><table><thead><tr>{}</tr></thead>'
        "<tbody>{}</tbody></table></div>"
    ).format(head, rows)


def color(s: Series, turn: int) -> int:
    """Return the number of a line's colour."""
    return (turn if s.color is None else s.color) % COLORS


def known(value: float | None) -> bool:
    """Whether there is a finite number."""
    return value is not None and math.isfinite(value)


def short(value: float) -> str:
    """Return a number in few characters: 20k, 0.35, 1.2M, 2.5e-4."""
    for size, sign in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= 10 * 1e3 and abs(value) >= size:
            return f"{value / size:.4g}{sign}"
    if 0 < abs(value) < SMALL:
        digits, power = f"{value:.3e}".split("e")
        return f"{float(digits):g}e{int(power)}"
    return f"{value:.4g}"


def attribute(data: object) -> str:
    """Return JSON that fits between single quotes of an attribute."""
    return json.dumps(data).replace("&", "&amp;").replace("'", "&#39;").replace("<", "&lt;")

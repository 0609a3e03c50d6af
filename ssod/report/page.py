"""The shell of every page, and the blocks that are no charts: tables, notes, alarms."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib.resources import files

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape

from ssod.version import __version__


@dataclass
class Section:
    """A heading and what comes below it."""

    id: str
    title: str
    blocks: list[Markup] = field(default_factory=list)


def page(title: str, subtitle: str, sections: Sequence[Section]) -> str:
    """Return a whole page, style and script inside; sections in which there is nothing are left out."""
    folder = files("ssod.report")
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    template = environment.from_string((folder / "page.html.j2").read_text("utf-8"))
    return template.render(
        title=title,
        subtitle=subtitle,
        sections=[section for section in sections if any(section.blocks)],
        style=Markup((folder / "style.css").read_text("utf-8")),
        script=Markup((folder / "page.js").read_text("utf-8")),
        foot=f"Written by ssod {__version__}. This file needs no network.",
    )


def grid(figures: Iterable[Markup], wide: bool = False) -> Markup:
    """Put figures side by side where there is room; nothing of figures that are empty."""
    whole = Markup("").join(figures)
    return Markup('<div class="grid{}">{}</div>').format(" wide" if wide else "", whole) if whole else whole


def sheet(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], texts: int = 1, pinned: int | None = None
) -> Markup:
    """Return a table whose first ``texts`` columns are texts; it scrolls by itself where it is too wide.

    Where all columns are texts, long ones are broken instead, keys and paths between their parts where that is enough.
    The column ``pinned`` stays in sight.
    """
    broken = texts >= len(columns)

    def cell(kind: str, i: int, value: str) -> Markup:
        style = " ".join(name for name, has in (("text", i < texts), ("pin", i == pinned)) if has)
        return Markup("<{}{}>{}</{}>").format(
            Markup(kind),
            Markup(' class="{}"').format(style) if style else "",
            parted(value) if broken else value,
            Markup(kind[:2]),
        )

    head = Markup("").join(cell('th scope="col"', i, column) for i, column in enumerate(columns))
    body = Markup("").join(
        Markup("<tr>{}</tr>").format(Markup("").join(cell("td", i, value) for i, value in enumerate(row)))
        for row in rows
    )
    style = Markup(' class="wrap"') if broken else ""
    return Markup(
        '<p class="cap">{}</p><div class="scroll" tabindex="0" role="region" aria-label="{}"><table{}>'
        "<thead><tr>{}</tr></thead><tbody>{}</tbody></table></div>"
    ).format(title, title, style, head, body)


def parted(value: str) -> Markup:
    """Return a text that may be broken after dots, slashes and underscores, but in numbers: ``method.`` and ``ema``."""
    return Markup(re.sub(r"(?<=[./_])(?=[^\d./_])", "<wbr>", str(escape(value))))


def notes(lines: Iterable[str]) -> Markup:
    """Return sentences as a list; nothing where there are none."""
    items = Markup("").join(Markup("<li>{}</li>").format(line) for line in lines)
    return Markup('<ul class="notes">{}</ul>').format(items) if items else Markup("")


def alarms(lines: Iterable[str]) -> Markup:
    """Return what should worry the reader."""
    items = Markup("").join(Markup("<li>{}</li>").format(line) for line in lines)
    return Markup('<ul class="alarms">{}</ul>').format(items) if items else Markup("")


def verdict_list(lines: Iterable[str]) -> Markup:
    """Return what a comparison shows, a sentence a line; nothing where there is none."""
    items = Markup("").join(Markup("<li>{}</li>").format(line) for line in lines)
    return Markup('<ul class="verdict">{}</ul>').format(items) if items else Markup("")


def text(sentence: str, style: str = "") -> Markup:
    """Return a paragraph."""
    return Markup('<p class="{}">{}</p>').format(style, sentence) if style else Markup("<p>{}</p>").format(sentence)

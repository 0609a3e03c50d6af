"""The page of ``ssod check -o sheet.html``: what the data hold, and pictures of what a person should look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from markupsafe import Markup

from ssod.data.checks.odd_boxes import Odd, odd_boxes
from ssod.data.checks.report import Report
from ssod.data.formats.records import Labeled
from ssod.data.label_statistics import label_statistics
from ssod.inference.suspects import Suspect
from ssod.report.album import DOUBTED, LABEL, WORDS, Album
from ssod.report.page import Section, alarms, grid, notes, page, sheet, text
from ssod.utils.plain_text import visible

SHOWN = 6  # pictures of a set, or of a pair of sets
ODD = 6  # pictures of a rule


def check_page(
    title: str,
    report: Report,
    album: Album,
    coverage: Sequence[str] = (),
    doubts: Mapping[str, tuple[int, list[Suspect]]] | None = None,
    judge: str = "",
) -> str:
    """Return the page.

    Args:
        title: of the data; what the config is called.
        report: what the check found.
        album: opens the pictures of the report's sets.
        coverage: what is within reach of the detector, in words.
        doubts: per part: how many images a model looked at, and what it doubts there; None = no model was asked.
        judge: what the model is called, and from which scores on it counts as sure.
    """
    sections = [
        summary(report, coverage),
        Section("samples", "Samples", [block for part in report.sets for block in samples(part, album)]),
        near(report, album),
        Section("boxes", "Boxes to look at", [*odd(report, album), *clipped(report, album)]),
    ]
    if doubts is not None:
        blocks = [text(judge), *(block for part, found in doubts.items() for block in doubted(part, *found, album))]
        sections.append(Section("model", "What the model doubts", blocks))
    sections.append(classes(report))
    sizes = ", ".join(f"{len(data)} {WORDS[part]}" for part, data in report.sets.items())
    return visible(page(f"Data of {title}", f"images: {sizes or 'none could be read'}", sections))


def summary(report: Report, coverage: Sequence[str]) -> Section:
    """Return how many images and boxes there are, what the detector reaches, and all findings, errors first."""
    rows = []
    for part, data in report.sets.items():
        decoded = report.decoded.get(part, (0, len(data)))[0]
        boxes, bare = ("-", "-")
        if isinstance(data, Labeled):
            boxes, bare = str(len(data.boxes)), str(int((np.diff(data.starts) == 0).sum()))
        rows.append([WORDS[part], str(len(data)), boxes, bare, str(decoded)])
    lines = report.lines()
    errors = [line for line in lines if line.startswith("error[")]
    others = [line for line in lines if not line.startswith("error[")]
    table = sheet("sets", ["set", "images", "boxes", "no box", "decoded"], rows)
    others = others or ([] if errors else ["no findings"])
    return Section("summary", "Summary", [table, alarms(errors), notes([*coverage, *others])])


def classes(report: Report) -> Section:
    """Return boxes and images of each class."""
    parts = {part: data for part, data in report.sets.items() if isinstance(data, Labeled)}
    if not parts:
        return Section("classes", "Classes")
    names = next(iter(parts.values())).classes.names
    columns, cells = ["class"], [[name] for name in names]
    for part, data in parts.items():
        counts = label_statistics(data)
        columns += [f"{WORDS[part]} boxes", "in images"]
        for row, boxes, images in zip(cells, counts.boxes.tolist(), counts.images_with.tolist()):
            row += [str(boxes), str(images)]
    kept = report.split.get("boxes", {}) if report.split.get("family") else {}
    if kept:
        columns.append("kept by the split")
        for row in cells:
            row.append(str(kept.get(row[0], 0)))
    return Section("classes", "Classes", [sheet("boxes and images of each class, without crowds", columns, cells)])


def samples(part: str, album: Album) -> list[Markup]:
    """Return some images of a set, evenly spread, with their boxes."""
    rows = album.spread(part, SHOWN)
    figures = [album.figure(part, row, album.labels(part, row), album.counts(part, row)) for row in rows]
    return [text(f"{len(rows)} of {album.size(part)} {WORDS[part]} images:"), grid(figures)] if rows else []


def near(report: Report, album: Album) -> Section:
    """Return near duplicates side by side."""
    blocks: list[Markup] = []
    for pair, rows in report.near.items():
        first, second = pair.split("-")
        if not len(rows):
            blocks.append(text(f"{WORDS[first]} and {WORDS[second]} images: none."))
            continue
        said = f"{len(rows)} {WORDS[second]} images nearly repeat {WORDS[first]} ones"
        blocks.append(text(said + (f"; the first {SHOWN}:" if len(rows) > SHOWN else ":")))
        blocks.append(grid([album.pair((first, a), (second, b)) for a, b in rows[:SHOWN].tolist()], wide=True))
    if not report.near:
        blocks = [text("Not looked for: pixels of two sets are needed (--decode all).")]
    return Section("near", "Near duplicates", blocks)


def odd(report: Report, album: Album) -> list[Markup]:
    """Return the boxes that the rules of ``odd_boxes`` ask about."""
    blocks = []
    for part, data in report.sets.items():
        if isinstance(data, Labeled):
            for found in odd_boxes(data):
                title = f"{WORDS[part]}, {found.name} ({found.what}): {len(found.rows)} of {len(data.boxes)} boxes"
                figures = [_odd(part, data, found, i, album) for i in range(min(ODD, len(found.rows)))]
                blocks += [text(title), grid(figures)] if figures else [text(title)]
    return blocks


def _odd(part: str, data: Labeled, found: Odd, i: int, album: Album) -> Markup:
    row, other = int(found.rows[i]), int(found.others[i])
    image = int(np.searchsorted(data.starts, row, side="right")) - 1
    boxes, said = [album.box(part, row, DOUBTED)], album.words(part, row)
    if other >= 0:
        boxes.insert(0, album.box(part, other, LABEL))
        said += f" and {album.words(part, other)}"
    measured = {"tiny": "side {:.2%} of the image's", "huge": "{:.0%} of the image", "long": "{:.1f} : 1"}
    said += "; " + measured.get(found.name, "IoU {:.2f}").format(found.values[i])
    return album.figure(part, image, boxes, said)


def clipped(report: Report, album: Album) -> list[Markup]:
    """Return the boxes that left their images before they were clipped, the farthest of each file first."""
    figures, count = [], sum(f.count for f in report.findings if f.id == "D27" and f.level == "repaired")
    for part, data in report.sets.items():
        if isinstance(data, Labeled):
            place = {path: row for row, path in enumerate(data.images.paths)}
            for path, corners in report.findings.clipped:
                if path in place and len(figures) < ODD:
                    said = f"was {', '.join(f'{value:.1f}' for value in corners)}"
                    figures.append(album.figure(part, place[path], [(DOUBTED, said, corners)], said))
    title = text(f"clipped (outside their images): {count} boxes")
    return [title, grid(figures)] if figures else [title]


def doubted(part: str, looked: int, found: list[Suspect], album: Album) -> list[Markup]:
    """Return detections that no label explains, and labels of another class than the model sees there."""
    blocks = []
    for title, some in (
        ("missing labels?", [one for one in found if one.row < 0]),
        ("another class?", [one for one in found if one.row >= 0]),
    ):
        head = text(f"{WORDS[part]}, {title} {len(some)} boxes, in {looked} images looked at")
        figures = [_doubted(part, one, album) for one in some[:SHOWN]]
        blocks += [head, grid(figures)] if figures else [head]
    return blocks


def _doubted(part: str, one: Suspect, album: Album) -> Markup:
    seen = f"{album.class_name(part, one.label)} {one.score:.2f}"
    labels = album.labels(part, one.image)
    said = f"model: {seen}"
    if one.row >= 0:
        said += f"; label: {album.words(part, one.row)}"
    return album.figure(part, one.image, [*labels, (DOUBTED, seen, one.box)], said)

"""What ``ssod check`` found, as plain values, and the lines that it prints of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ssod.commands.coverage import lines as lines_of_coverage
from ssod.data.checks.report import Report
from ssod.data.checks.summary import summary
from ssod.data.formats.findings import Finding
from ssod.utils.errors import Exit


@dataclass(frozen=True)
class Checked:
    """What a check of the data found.

    Attributes:
        code: the exit code of the command: that of the first error, 0 without one.
        findings: what is wrong, repaired or worth knowing; of one kind in one place the first 20.
        more: one line for each kind of which there are more than 20: how many more.
        counts: by part, ``labeled``, ``val`` and ``unlabeled``: images, boxes, boxes per class, ...
        split: which images keep their labels, as a run's ``split.json`` has it; empty if they could not be drawn.
        decoded: by part: how many images were decoded, and how many there are.
        reached: labelled boxes that the detector can be taught, and how many there are; None = not known.
        text: the lines that the command prints.
    """

    code: Exit
    findings: tuple[Finding, ...]
    more: tuple[str, ...]
    counts: dict[str, dict[str, Any]]
    split: dict[str, Any]
    decoded: dict[str, tuple[int, int]]
    reached: tuple[int, int] | None
    text: tuple[str, ...] = field(repr=False)

    @property
    def errors(self) -> int:
        """How many of ``findings`` are errors."""
        return sum(finding.level == "error" for finding in self.findings)


def checked(report: Report) -> Checked:
    """Return what a report says, without the images that it is about."""
    lines, reach = report.lines(), report.coverage
    told = [f"{part} {count} of {total}" for part, (count, total) in report.decoded.items()]
    seen = [f"images decoded: {', '.join(told)}"] if told else []
    if any(count < total for count, total in report.decoded.values()):
        seen[0] += "; --decode all finds what is truncated in the others, and near duplicates, too"
    counts = [*summary(report.counts, report.split), *lines_of_coverage(reach)]
    return Checked(
        code=report.code,
        findings=tuple(report.findings),
        more=tuple(lines[len(report.findings) :]),
        counts=report.counts,
        split=report.split,
        decoded=report.decoded,
        reached=None if reach is None else (reach.boxes - reach.out, reach.boxes),
        text=(*counts, *seen, *(lines or ["no findings"])),
    )

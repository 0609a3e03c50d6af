"""What a check of the data found, for those who print it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ssod.data.checks.looks import Looks
from ssod.data.checks.reach import Coverage
from ssod.data.formats.findings import Findings
from ssod.data.formats.records import Images, Labeled
from ssod.utils.errors import Exit


@dataclass
class Report:
    """What a check found.

    Attributes:
        findings: errors, repairs and warnings, of every part of the section.
        counts: per part: images, boxes, boxes per class, crowds, images without boxes, sizes; JSON-able.
        split: what ``DataSets.split`` will be; empty if it could not be drawn.
        decoded: per part: how many images were decoded, and how many there are.
        coverage: how many labelled boxes the detector reaches; None = it was not asked, or could not be said.
        sets: per part: what was read of it, before a split; a part with errors may be missing.
        looks: per part: what is kept of the images that were decoded.
        near: per pair of parts, ``labeled-val`` and the like: [P, 2] rows of images that nearly repeat each other.
    """

    findings: Findings = field(default_factory=Findings)
    counts: dict[str, dict[str, Any]] = field(default_factory=dict)
    split: dict[str, Any] = field(default_factory=dict)
    decoded: dict[str, tuple[int, int]] = field(default_factory=dict)
    coverage: Coverage | None = None
    sets: dict[str, Labeled | Images] = field(default_factory=dict)
    looks: dict[str, Looks] = field(default_factory=dict)
    near: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def code(self) -> Exit:
        """The exit code: that of the first error."""
        errors = self.findings.errors()
        return errors[0].code if errors else Exit.OK

    def lines(self) -> list[str]:
        """Return one line per finding: the first 20 of a kind, and how many more there are."""
        return self.findings.lines()

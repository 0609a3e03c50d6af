"""What is wrong with a data set: readers collect findings, ``load`` raises the first error, ``check`` lists all."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from ssod.data.formats.image import AS_THEY_ARE, Pixels
from ssod.utils.address import is_url, plain_url
from ssod.utils.errors import Exit, SsodError

Level = Literal["error", "repaired", "skipped", "warning"]

LONGEST = 300  # characters of a line
# How many findings of one kind are kept word by word; the rest are counted.
KEPT = 20
# Of how many places (see ``Findings``) a training run names each kind of finding.
PLACES = 4


def short(value: object, limit: int = 60) -> str:
    """Return ``repr(value)`` cut in the middle, so that a message stays readable; of a container only its size."""
    if isinstance(value, (list, tuple, dict)):
        return f"{type(value).__name__} of {len(value)}"
    text = repr(value[:500] if isinstance(value, str) else value)
    return text if len(text) <= limit else f"{text[: limit - 12]}...{text[-8:]}"


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, repaired or worth knowing.

    Attributes:
        level: ``error`` stops a run; ``repaired`` and ``skipped`` were dealt with; a ``warning`` is for the user.
        id: the row of the project's table of bad inputs, e.g. ``D14``.
        file: the file at fault.
        field: the key, row or image inside it.
        problem: what is wrong, with the offending value.
        fix: what to do about it.
        code: the exit code of an error.
        count: how many rows, boxes or images this finding stands for.
    """

    level: Level
    id: str
    file: str
    field: str
    problem: str
    fix: str
    code: Exit = Exit.DATA
    count: int = 1

    def error(self) -> SsodError:
        """Return the exception that stops a run."""
        return SsodError(self.file, self.field, self.problem, self.fix, code=self.code)

    def line(self) -> str:
        """Return one line: ``error[D14] file: field: problem; fix``.

        Beyond 300 characters the problem is cut, and what is to be done about it stays.
        """
        head = f"{self.level}[{self.id}] "
        text = head + self.error().line()
        if len(text) <= LONGEST:
            return text
        problem = self.problem[: max(len(self.problem) - (len(text) - LONGEST) - 3, 40)] + "..."
        return head + replace(self, problem=problem).error().line()


class Findings:
    """A list of findings that keeps the first 20 of a kind (level, id, place) and counts the rest.

    A place is a file that holds many images (COCO's), or the folder of files that each belong to one.
    """

    def __init__(self) -> None:
        self.kept: list[Finding] = []
        self.totals: Counter[tuple[str, str, str]] = Counter()
        self.clipped: list[tuple[str, tuple[float, ...]]] = []  # image and corners of boxes, before they were clipped

    def __iter__(self) -> Iterator[Finding]:
        return iter(self.kept)

    def __len__(self) -> int:
        return len(self.kept)

    def add(self, finding: Finding) -> None:
        """Record one finding."""
        kind = (finding.level, finding.id, _place(finding.file))
        self.totals[kind] += 1
        if self.totals[kind] <= KEPT:
            self.kept.append(finding)

    def error(
        self, id: str, file: str, field: str, problem: str, fix: str, *, code: Exit = Exit.DATA, count: int = 1
    ) -> None:
        """Record an error."""
        self.add(Finding("error", id, file, field, problem, fix, code, count))

    def repaired(self, id: str, file: str, field: str, problem: str, fix: str = "", *, count: int = 1) -> None:
        """Record something that was mended, and how often."""
        self.add(Finding("repaired", id, file, field, problem, fix, Exit.OK, count))

    def warning(self, id: str, file: str, field: str, problem: str, fix: str = "", *, count: int = 1) -> None:
        """Record something that the user should judge."""
        self.add(Finding("warning", id, file, field, problem, fix, Exit.OK, count))

    def skipped(self, id: str, file: str, field: str, problem: str, fix: str = "", *, count: int = 1) -> None:
        """Record images that are left out."""
        self.add(Finding("skipped", id, file, field, problem, fix, Exit.OK, count))

    def rows(self, id: str, file: str, rows: np.ndarray, describe: Callable[[int], tuple[str, str, str]]) -> None:
        """Record an error for each of ``rows``; ``describe(row)`` gives field, problem and fix, of kept ones only."""
        for row in rows[:KEPT].tolist():
            self.error(id, file, *describe(row))
        self.totals["error", id, _place(file)] += max(len(rows) - KEPT, 0)

    def fatal(self, id: str, file: str, field: str, problem: str, fix: str, *, code: Exit = Exit.DATA) -> SsodError:
        """Record an error after which nothing more can be read, and return the first one, to be raised."""
        self.error(id, file, field, problem, fix, code=code)
        return self.errors()[0].error()

    def extend(self, others: Findings) -> None:
        """Append the findings of another list."""
        self.kept.extend(others.kept)
        self.totals.update(others.totals)
        self.clipped.extend(others.clipped)

    def errors(self) -> list[Finding]:
        """Return the errors that were kept."""
        return [f for f in self.kept if f.level == "error"]

    def raise_first(self) -> None:
        """Raise the first error, if there is any.

        Raises:
            SsodError: with the finding's file, field, problem, fix and exit code.
        """
        for finding in self.errors():
            raise finding.error()

    def kinds(self) -> list[str]:
        """Return each kind once: the first finding, and how many more there are; of many places of a kind the first."""
        places: Counter[tuple[str, str]] = Counter()
        seen: set[tuple[str, str, str]] = set()
        lines = []
        for finding in self.kept:
            kind = (finding.level, finding.id, _place(finding.file))
            if kind in seen:
                continue
            seen.add(kind)
            places[kind[:2]] += 1
            if places[kind[:2]] <= PLACES:
                more = self.totals[kind] - 1
                lines.append(finding.line() + (f" ({more} more of this kind: ssod check lists them)" if more else ""))
        far = {kind: count - PLACES for kind, count in places.items() if count > PLACES}
        return lines + [f"{level}[{id}] in {count} other places, too" for (level, id), count in far.items()]

    def lines(self) -> list[str]:
        """Return one line per finding and one per kind for those beyond the first 20."""
        more = [
            f"{level}[{id}] {place}: {total - KEPT} more of this kind"
            for (level, id, place), total in self.totals.items()
            if total > KEPT
        ]
        return [f.line() for f in self.kept] + more


def _place(file: str) -> str:
    """Return ``file``, or its folder where it is the image or the labels of one image."""
    shared = os.path.splitext(file)[1] in ("", ".json", ".yaml", ".yml")
    return file if shared else os.path.dirname(file) or file


@dataclass(frozen=True)
class Rules:
    """What a data set may contain; the fields are those of ``DataConfig``."""

    strict: bool = False
    max_boxes_per_image: int = 1000
    max_pixels: int = 89_000_000
    exif: Literal["apply", "ignore"] = "apply"
    allow_symlinks: bool = False
    max_clip: float = 0.1
    cache: str | None = None
    pixels: Pixels = AS_THEY_ARE
    judge_boxes: bool = True  # False where only the number of boxes matters
    needs_objects: bool = True  # False where a set is one of several, and others may have them


def default_root() -> str:
    """Return the folder that relative paths lie under: ``$SSOD_DATASETS``, or ``datasets``."""
    return os.environ.get("SSOD_DATASETS", "datasets")


@dataclass
class Context:
    """What every reader is given besides its source.

    Attributes:
        root: folder that relative paths of the config lie under.
        section: the part of the config that is being read, e.g. ``data.labeled``; for messages.
        rules: what is allowed.
        findings: where findings go.
    """

    root: str = field(default_factory=default_root)
    section: str = "data"
    rules: Rules = Rules()
    findings: Findings = field(default_factory=Findings)

    def path(self, name: str) -> str:
        """Return a path of the config: ``~`` expanded, and under ``root`` unless it is absolute or an address.

        Raises:
            SsodError: code 7, no file can have this name.
        """
        if is_url(name):
            return plain_url(name)
        path = os.path.normpath(os.path.join(os.path.expanduser(self.root), os.path.expanduser(name)))
        if "\0" in path:
            raise SsodError("config", self.section, f"{short(path)}: illegal file name (NUL byte)", "fix the name",
                            code=Exit.UNSAFE)  # fmt: skip
        return path

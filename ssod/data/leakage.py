"""Images that are where they must not be: in the training set and in the one it is measured on."""

from __future__ import annotations

import os

from ssod.data.findings import Context, short
from ssod.data.records import Images


def same_paths(labeled: Images, other: Images, part: str, file: str, ctx: Context) -> None:
    """Compare by path, which needs no disk: see ``report``."""
    mine, theirs = os.path.realpath(labeled.root), os.path.realpath(other.root)
    prefix = os.path.relpath(theirs, mine)
    if prefix == ".":
        known = set(labeled.paths)
        common = [name for name in other.paths if name in known]
    else:
        known = {os.path.join(mine, name) for name in labeled.paths}
        common = [name for name in other.paths if os.path.join(theirs, name) in known]
    report(common, part, file, ctx)


def report(common: list[str], part: str, file: str, ctx: Context) -> None:
    """Record that images are both labelled and in ``part``.

    In ``val`` that is an error: the score would be of images seen in training. In ``unlabeled`` it is a warning, or an
    error if ``strict``: such images are learned from twice.
    """
    if not common:
        return
    first = short(common[0])
    if part == "val":
        problem = f"{len(common)} images are in train and val, first {first}"
        ctx.findings.error("D37", file, ctx.section, problem, "remove them from one", count=len(common))
    elif ctx.rules.strict:
        problem = f"{len(common)} images are labelled and unlabelled, first {first}"
        ctx.findings.error("D36", file, ctx.section, problem, "remove them from data.unlabeled", count=len(common))
    else:
        problem = f"{len(common)} images are labelled and unlabelled, first {first}"
        ctx.findings.warning("D36", file, ctx.section, problem, count=len(common))

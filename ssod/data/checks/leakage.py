"""Images that are where they must not be: in the training set and in the one it is measured on."""

from __future__ import annotations

import hashlib
import os
import stat
from collections import defaultdict
from dataclasses import dataclass

from ssod.data.formats.findings import Context, short
from ssod.data.formats.records import Images
from ssod.data.formats.registry import CocoSource, FolderSource, VocSource, YoloSource

# Which pair is compared -> the row of the table of bad inputs, and what to say of images in both.
_PAIRS = {
    "train-val": ("D37", "are in train and val"),
    "labeled-unlabeled": ("D36", "are labelled and unlabelled"),
    "unlabeled-val": ("D36", "are unlabelled and in val"),
}


@dataclass(frozen=True)
class Blame:
    """Whose images are to go where two sets share some.

    Attributes:
        file: the file or folder that messages name.
        fix: what to do.
        ctx: section, rules and findings.
    """

    file: str
    fix: str
    ctx: Context


def blame_source(source: CocoSource | VocSource | YoloSource | FolderSource, file: str, ctx: Context) -> Blame:
    """Return what a message says of the source ``source`` at ``file``, whose images can be left out.

    Only a list of images can leave some out; a folder or a glob takes what is there.
    """
    match source:
        case FolderSource() if file.lower().endswith(".txt"):
            fix = "remove their lines"
        case FolderSource():
            fix = f"move them elsewhere, or list the others in a .txt file and name that in {ctx.section}.path"
        case VocSource():
            fix = f"remove their lines from ImageSets/Main/{source.split}.txt"
        case YoloSource():
            fix = f"move them out of the images of '{source.split}'"
        case CocoSource():
            fix = "remove them from its 'images'"
    return Blame(file, fix, ctx)


def same_paths(first: Images, second: Images, pair: str, blame: Blame) -> bool:
    """Compare two sets by path, which needs no disk; record what is found and return whether there is any."""
    first, second = sorted((first, second), key=len)
    mine, theirs = os.path.realpath(first.root), os.path.realpath(second.root)
    if mine == theirs:
        known = set(first.paths)
        common = [name for name in second.paths if name in known]
    elif os.path.join(mine, "").startswith(os.path.join(theirs, "")) or theirs.startswith(os.path.join(mine, "")):
        known = {os.path.join(mine, name) for name in first.paths}
        common = [name for name in second.paths if os.path.join(theirs, name) in known]
    else:
        common = []
    return _report(common, pair, blame)


def same_content(first: Images, second: Images, pair: str, blame: Blame, limit: int | None = None) -> bool:
    """Compare two sets by content: files of equal length are hashed. Record what is found, return whether there is any.

    Args:
        first: one set; absent files are left out on both sides.
        second: the other.
        pair: ``train-val``, ``labeled-unlabeled`` or ``unlabeled-val``.
        blame: whose images are to go.
        limit: look at no more than this many images of ``second``; None = all.
    """
    lengths: dict[int, list[str]] = defaultdict(list)
    for name in first.paths:
        path = os.path.join(first.root, name)
        length = _length(path)
        if length:
            lengths[length].append(path)
    digests: dict[int, set[str]] = {}
    common = []
    for name in second.paths[:limit]:
        path = os.path.join(second.root, name)
        length = _length(path)
        if length in lengths:
            if length not in digests:
                digests[length] = {_digest(twin) for twin in lengths[length]}
            digest = _digest(path)
            if digest and digest in digests[length]:
                common.append(name)
    return _report(common, pair, blame)


def _length(path: str) -> int:
    """Return a regular file's length in bytes, 0 for anything else."""
    try:
        info = os.stat(path)
    except (OSError, ValueError):
        return 0
    return info.st_size if stat.S_ISREG(info.st_mode) else 0


def _digest(path: str) -> str:
    """Return a file's SHA-256, or nothing if it must not be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


def _report(common: list[str], pair: str, blame: Blame) -> bool:
    """Record that images are in both sets of a pair.

    In training and validation it is an error: the score would be of images seen in training. Elsewhere it is a warning,
    or an error if ``strict``.
    """
    if not common:
        return False
    id, what = _PAIRS[pair]
    ctx = blame.ctx
    problem = f"{len(common)} images {what}, first {short(common[0])}"
    if id == "D37" or ctx.rules.strict:
        ctx.findings.error(id, blame.file, ctx.section, problem, blame.fix, count=len(common))
    else:
        ctx.findings.warning(id, blame.file, ctx.section, problem, blame.fix, count=len(common))
    return True

"""Images that are where they must not be: in the training set and in the one it is measured on."""

from __future__ import annotations

import hashlib
import os
import stat
from collections import defaultdict

from ssod.data.findings import Context, short
from ssod.data.records import Images

# Which pair is compared -> the row of the table of bad inputs, and what to say of images in both.
_PAIRS = {
    "train-val": ("D37", "are in train and val", "remove them from one"),
    "labeled-unlabeled": ("D36", "are labelled and unlabelled", "remove them from data.unlabeled"),
    "unlabeled-val": ("D36", "are unlabelled and in val", "remove them from data.unlabeled"),
}


def same_paths(first: Images, second: Images, pair: str, file: str, ctx: Context) -> bool:
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
    return _report(common, pair, file, ctx)


def same_content(first: Images, second: Images, pair: str, file: str, ctx: Context, limit: int | None = None) -> bool:
    """Compare two sets by content: files of equal length are hashed. Record what is found, return whether there is any.

    Args:
        first: one set; absent files are left out on both sides.
        second: the other.
        pair: ``train-val``, ``labeled-unlabeled`` or ``unlabeled-val``.
        file: for messages.
        ctx: rules and findings.
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
    return _report(common, pair, file, ctx)


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


def _report(common: list[str], pair: str, file: str, ctx: Context) -> bool:
    """Record that images are in both sets of a pair.

    In training and validation it is an error: the score would be of images seen in training. Elsewhere it is a warning,
    or an error if ``strict``.
    """
    if not common:
        return False
    id, what, fix = _PAIRS[pair]
    problem = f"{len(common)} images {what}, first {short(common[0])}"
    if id == "D37" or ctx.rules.strict:
        ctx.findings.error(id, file, ctx.section, problem, fix, count=len(common))
    else:
        ctx.findings.warning(id, file, ctx.section, problem, fix, count=len(common))
    return True

"""Images that are where they must not be: in the training set and in the one it is measured on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ssod.data.checks.samefile import common_content, common_places
from ssod.data.formats.findings import Context, short
from ssod.data.formats.records import Images
from ssod.data.formats.registry import AnySource, CocoSource, FolderSource, LabelmeSource, VocSource, YoloSource

# Which pair is compared -> the row of the table of bad inputs, and what to say of images in both.
_PAIRS = {
    "train-val": ("D37", "are in train and val"),
    "labeled-unlabeled": ("D36", "are labelled and unlabelled"),
    "unlabeled-val": ("D36", "are unlabelled and in val"),
}
WORDS = {"train": "labelled", "labeled": "labelled", "unlabeled": "unlabelled", "val": "val"}
NAMED = 2  # pairs of near duplicates that a message names


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


def blame_source(source: AnySource, file: str, ctx: Context) -> Blame:
    """Return what a message says of the source ``source`` at ``file``, whose images can be left out.

    Only a list of images can leave some out; a folder or a glob takes what is there.
    """
    match source:
        case FolderSource() if file.lower().endswith(".txt"):
            fix = "remove their lines"
        case FolderSource():
            fix = f"move them elsewhere, or list the others in a .txt file and name that in {ctx.section}.path"
        case LabelmeSource():
            fix = "move them elsewhere"
        case VocSource() if source.split == ".":
            fix = "move them elsewhere"
        case VocSource():
            fix = f"remove their lines from ImageSets/Main/{source.split}.txt"
        case YoloSource():
            fix = f"move them out of the images of '{source.split}'"
        case CocoSource():
            fix = "remove them from its 'images'"
        case _:
            fix = "remove their tasks from it"
    return Blame(file, fix, ctx)


def check_pair(first: Images, second: Images, pair: str, blame: Blame, limit: int | None = None) -> set[str]:
    """Record the images that are in both of two sets, by place or by content; return their names in ``second``.

    In training and validation it is an error: the score would be of images seen in training. Elsewhere it is a warning,
    or an error if ``strict``.

    Args:
        first: one set.
        second: the other.
        pair: ``train-val``, ``labeled-unlabeled`` or ``unlabeled-val``.
        blame: whose images are to go.
        limit: look at the bytes of no more than this many images of ``second``; None = all.
    """
    places = common_places(first, second)
    common = places or common_content(first, second, limit, allow_symlinks=blame.ctx.rules.allow_symlinks)
    if not common:
        return set()
    id, what = _PAIRS[pair]
    ctx, (mine, name) = blame.ctx, common[0]
    twin = "" if places else f", the same as {short(mine)}"
    problem = f"{len(common)} images {what}, first {short(name)}{twin}"
    if id == "D37" or ctx.rules.strict:
        ctx.findings.error(id, blame.file, ctx.section, problem, blame.fix, count=len(common))
    else:
        ctx.findings.warning(id, blame.file, ctx.section, problem, blame.fix, count=len(common))
    return {name for _, name in common}


def tell_near(first: Images, second: Images, rows: np.ndarray, pair: str, blame: Blame) -> None:
    """Record images of ``second`` that have a near duplicate in ``first``: how many, and the first pairs.

    It is a warning: only a person can say whether two frames of a scene are one image too many.

    Args:
        first: one set.
        second: the other.
        rows: [P, 2], from ``near_duplicates``, without what ``check_pair`` has told.
        pair: as in ``check_pair``.
        blame: whose images are to go.
    """
    if not len(rows):
        return
    names = [f"{short(second.paths[b], 40)} like {short(first.paths[a], 40)}" for a, b in rows[:NAMED].tolist()]
    one, other = (WORDS[name] for name in pair.split("-"))
    problem = f"{len(rows)} of {len(second)} {other} images nearly repeat {one} ones: {', '.join(names)}"
    fix = "keep a scene in one set (ssod init --group), or remove them; ssod check -o sheet.html shows them"
    blame.ctx.findings.warning("D48", blame.file, blame.ctx.section, problem, fix, count=len(rows))

"""Parts of the images that were labelled, for a person: those to label next, and a random sample to check."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from ssod.data.checks.samefile import common_content, common_places
from ssod.data.formats.records import Images, Labeled
from ssod.inference import next_images
from ssod.inference.label_limits import Limits
from ssod.inference.model import Detected
from ssod.inference.review_queue import Doubts
from ssod.utils.errors import Exit, SsodError
from ssod.utils.spool import Spool

SEED = 0  # of the sample: the same images give the same one


@dataclass(frozen=True)
class Wanted:
    """What parts to write.

    Attributes:
        next: images to label next; 0 = none.
        audit: images of the sample to check; 0 = none.
        labelled: sets of images that are labelled already, and are in no part.
        counts: labelled boxes of each class by name; a class that it has not counts as others without a box.
    """

    next: int = 0
    audit: int = 0
    labelled: Sequence[Images] = ()
    counts: dict[str, int] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """Return the parts by name."""
        return [name for name, many in (("next", self.next), ("audit", self.audit)) if many]


@dataclass(frozen=True)
class Written:
    """Labels as they are written: N images with their boxes.

    Attributes:
        data: the labels.
        scores: [A], of each box.
        doubts: N.
    """

    data: Labeled
    scores: np.ndarray
    doubts: Doubts

    def subset(self, rows: Sequence[int]) -> Written:
        """Return the images at ``rows``, in that order."""
        starts = self.data.starts
        scores = [self.scores[starts[row] : starts[row + 1]] for row in rows]
        joined = np.concatenate([np.zeros(0, self.scores.dtype), *scores])
        return Written(self.data.subset(rows), joined, Doubts(self.doubts[row] for row in rows))


class Values:
    """What images are worth to a person, taken note of while they are looked through.

    Args:
        limits: of the labels.
        classes: names.
        counts: labelled boxes by name.
        folder: on whose disk the looks of the images are kept.
    """

    def __init__(self, limits: Limits, classes: Sequence[str], counts: dict[str, int], folder: Path) -> None:
        self.near, self.rare = limits.near, next_images.rarity([counts.get(name, 0) for name in classes])
        self.values = array("d")
        self.looks = Spool(folder, looks=(np.float32, next_images.NUMBERS))

    def see(self, picture: Image.Image, detected: Detected) -> None:
        """Take note of the next image."""
        labels, scores = detected.labels.numpy(), detected.scores.numpy()
        self.values.append(next_images.value(labels, scores, self.near, self.rare))
        self.looks.add(looks=next_images.look(picture))

    def choose(self, rows: Sequence[int], most: int) -> list[next_images.Chosen]:
        """Choose among the images at ``rows``."""
        return next_images.choose(self.values, self.looks.read()["looks"], most, rows)


def unlabelled(images: Images, labelled: Sequence[Images]) -> list[int]:
    """Return the places of the images that are in none of the labelled sets, by place or by content.

    Raises:
        SsodError: all are.
    """
    known: set[str] = set()
    for one in labelled:
        pairs = common_places(one, images) + common_content(one, images, allow_symlinks=True)
        known.update(name for _, name in pairs)
    rows = [row for row, path in enumerate(images.paths) if path not in known]
    if not rows:
        problem = f"all {len(images)} images are labelled already"
        raise SsodError(images.root, "", problem, "name images that are not", code=Exit.DATA)
    return rows


def sample(rows: Sequence[int], most: int) -> list[int]:
    """Return up to ``most`` of ``rows``, drawn with equal chances, in their order."""
    chosen = np.random.default_rng(SEED).permutation(len(rows))[:most]
    return [rows[i] for i in sorted(chosen.tolist())]


def drawn(rows: Sequence[int], wanted: Wanted) -> tuple[list[int], list[int]]:
    """Return the sample to check, and the others of ``rows``, among which to choose those to label next.

    The sample is drawn first and from all, so that it tells how right all labels are; no image is asked for twice.
    """
    audit = sample(rows, wanted.audit)
    return audit, sorted({*rows} - {*audit})


def check_enough(free: int, wanted: Wanted) -> None:
    """Refuse a sample that leaves no image to label next.

    Args:
        free: images that nobody labelled.
        wanted: the parts.

    Raises:
        SsodError: naming the option.
    """
    if wanted.next and wanted.audit >= free:
        problem = f"takes all {free} images without labels, and leaves --next none"
        raise SsodError("command line", "--audit", problem, f"give less than {free}, or leave --next out")


def told(name: str, place: Path, wanted: Wanted, free: int) -> str:
    """Return what was written of a part at ``place``, and what to do with it, in one line."""
    audit = min(wanted.audit, free)
    many = f"{audit if name == 'audit' else min(wanted.next, free - audit)} of {free} images without labels"
    if name == "next":
        many += ", none of which is to be checked" if audit else ""
        folder = place.parent if place.suffix == ".json" else place
        return f"to label next: {many} -> {place}; ranked in {folder / 'next.csv'}, drawn in {folder / 'pictures'}"
    return f"to check: {many}, drawn by chance -> {place}; next: correct a copy, then ssod audit {place} CORRECTED"

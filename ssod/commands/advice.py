"""Whether unlabelled images are likely to help, told before a training: numbers, and where the limits come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ssod.config import Config
from ssod.data.checks.foreign import foreignness
from ssod.data.data_config import DataConfig
from ssod.data.datasets import DataSets
from ssod.data.formats.findings import Context, short
from ssod.data.label_statistics import label_statistics
from ssod.methods.registry import find

FEW, SOME = 5, 10  # labelled boxes of a class; see ``PAPER``
PAPER = "arXiv:2601.13380"  # compares MixPL, Semi-DETR and Consistent-Teacher from 1 labelled image a class on
HOLDS = "consistent_teacher"  # the one of these that held between the two
LEAST_RATIO = 1.0
RATIO = "COCO-additional has 1.04, the lowest of published.csv"  # 123 403 unlabelled to 118 287 labelled images
FOREIGN = 0.9

Rows = list[tuple[str, str]]


def advice(cfg: Config, data: DataSets) -> tuple[Rows, list[str]]:
    """Return rows and warnings for ``ssod plan``; none for a method that takes no unlabelled images."""
    if not find(cfg.method.name).uses_unlabeled or data.unlabeled is None:
        return [], []
    parts = [
        rarest(data, cfg.method.name),
        ratio(len(data.labeled), len(data.unlabeled)),
        source(data, cfg.data),
    ]
    return [row for rows, _ in parts for row in rows], [line for _, lines in parts for line in lines]


def rarest(data: DataSets, method: str) -> tuple[Rows, list[str]]:
    """Judge the labelled boxes of each class by its rarest ones."""
    counts = label_statistics(data.labeled)
    boxes, images = counts.boxes.tolist(), counts.images_with.tolist()
    at = min(range(len(boxes)), key=boxes.__getitem__)
    value = f"{boxes[at]} boxes in {images[at]} images ({short(data.classes.names[at])})"
    rows = [("rarest class", f"{value}; {FEW} or more are needed, {SOME} by most methods ({PAPER})")]
    none = too_few(dict(zip(data.classes.names, boxes)))
    some = _named([name for name, count in zip(data.classes.names, boxes) if FEW <= count < SOME])
    lines = []
    if none:
        lines.append(none)
    if some and method != HOLDS:
        only = f"of the methods compared, {HOLDS} alone held there ({PAPER})"
        lines.append(f"{FEW} to {SOME - 1} labelled boxes: {some}; {only}")
    return rows, lines


def too_few(boxes: Mapping[str, int]) -> str:
    """Return which classes have too few labelled boxes for unlabelled images to help; empty if none has."""
    none = _named([name for name, count in boxes.items() if count < FEW])
    return f"fewer than {FEW} labelled boxes: {none}; unlabelled images will not help there ({PAPER})" if none else ""


def ratio(labeled: int, unlabeled: int) -> tuple[Rows, list[str]]:
    """Judge how many unlabelled images there are for a labelled one."""
    value = unlabeled / labeled
    rows = [("unlabelled images for a labelled one", f"{value:.1f} ({RATIO})")]
    few = f"{value:.2f} unlabelled images for a labelled one: fewer than any published gain had ({RATIO})"
    return rows, [few] if value < LEAST_RATIO else []


def source(data: DataSets, cfg: DataConfig) -> tuple[Rows, list[str]]:
    """Judge whether unlabelled images look like labelled ones."""
    assert data.unlabeled is not None
    told = foreignness(data.labeled.images, data.unlabeled, Context(cfg.root, "data", cfg.rules()))
    if told is None:
        return [("told apart from labelled", "not known: fewer than 10 images of a set can be read")], []
    scale = f"AUC {told:.2f}; 0.5 = same source, 1 = foreign, {FOREIGN:g} or more warns (docs/check.md)"
    far = f"unlabelled images look foreign: AUC {told:.2f} of a classifier of colors and edges (docs/check.md)"
    fix = "look at both with ssod check -o sheet.html; labels on images of the new source may be worth more"
    return [("told apart from labelled", scale)], [f"{far}; {fix}"] if told >= FOREIGN else []


def _named(names: Sequence[str]) -> str:
    """Return ``3 classes ('cat', 'dog', ...)``; nothing of none."""
    if not names:
        return ""
    shown = ", ".join(short(name, 30) for name in names[:3]) + (", ..." if len(names) > 3 else "")
    return f"{len(names)} class{'es' if len(names) > 1 else ''} ({shown})"

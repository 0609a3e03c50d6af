"""From the config's ``data`` section to what a run learns from and is measured on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ssod.data import splits
from ssod.data.checks.images import check_images
from ssod.data.checks.leakage import Blame, blame_source, check_pair
from ssod.data.checks.pixels import Census, census, check_pixels
from ssod.data.data_config import DataConfig
from ssod.data.formats.classlists import differences
from ssod.data.formats.findings import Context, Findings, short
from ssod.data.formats.presence import check_files
from ssod.data.formats.records import Classes, Images, Labeled
from ssod.data.formats.registry import NAMES_FOUND, read_images
from ssod.data.held_out import read_part
from ssod.data.stored import Stored
from ssod.utils.schema import Section


@dataclass(frozen=True)
class DataSets:
    """What a run reads.

    Attributes:
        labeled: images with labels, after the split.
        unlabeled: images without, or None.
        val: images to measure on, or None; labels are in the order of ``classes``, ids those of its own file.
        classes: of ``labeled``.
        hidden: the truth of ``unlabeled``, image by image, where the split hid it. Only evaluation may read it.
        split: family, percent, fold, hash, counts and class coverage, ready for JSON.
        fingerprint: changes when an annotation or a list of images does, and not when a folder moves.
        fingerprint_labeled: the same of all but ``unlabeled``: what a run reads before its first pseudo-label.
        stored: the boxes that a file gives for ``unlabeled``, where the method is taught by one.
    """

    labeled: Labeled
    unlabeled: Images | None
    val: Labeled | None
    classes: Classes
    hidden: Labeled | None
    split: dict[str, Any]
    fingerprint: str
    fingerprint_labeled: str
    stored: Stored | None = None

    def with_stored(self, stored: Stored) -> DataSets:
        """Return the same with the boxes of a file, which are data like any other: the fingerprint tells them, too."""
        both = f"{self.fingerprint} {stored.fingerprint}".encode()
        return replace(self, stored=stored, fingerprint=hashlib.blake2b(both, digest_size=16).hexdigest())


def load(cfg: DataConfig, findings: Findings | None = None) -> DataSets:
    """Read everything that ``cfg`` names.

    Of images no pixel is decoded. The headers of those that a run learns from or is measured on by their labels are
    read, so that one that is no image, too large, or of another size than its annotations say is found here. What
    shows later: a labelled image that is truncated, and an unlabelled one that cannot be read.

    Args:
        cfg: the ``data`` section.
        findings: gets what was repaired and what is worth a warning; None = they are dropped.

    Raises:
        SsodError: the first error, before any step is made.
    """
    ctx = context(cfg, findings)
    everything = load_labeled(cfg, ctx("labeled"))
    labeled, hidden, keeps = everything, None, range(len(everything))
    if cfg.split is not None:
        keeps, loses = splits.select(everything, cfg.split, ctx("split"))
        labeled, hidden = everything.subset(keeps), everything.subset(loses)
    unlabeled = None if hidden is None else hidden.images
    if cfg.unlabeled is not None:
        unlabeled, hidden = load_unlabeled(cfg.unlabeled, ctx("unlabeled")), None
    val = load_val(cfg, everything.classes, ctx("val"))
    _check_parts(everything, labeled, unlabeled, val, cfg, ctx)
    check_images(everything.images, keeps, name_of(cfg.labeled, ctx("labeled")), ctx("labeled"))
    if val is not None:
        check_images(val.images, range(len(val)), name_of(cfg.val, ctx("val")), ctx("val"))
    check_pixels_of({"labeled": labeled.images, "unlabeled": unlabeled, "val": val and val.images}, cfg, ctx)
    ctx("labeled").findings.raise_first()
    return DataSets(
        labeled=labeled,
        unlabeled=unlabeled,
        val=val,
        classes=labeled.classes,
        hidden=hidden,
        split=splits.describe(labeled, len(unlabeled or ()), cfg.split),
        fingerprint=_fingerprint(everything, labeled, unlabeled, val),
        fingerprint_labeled=_fingerprint(everything, labeled, val),
    )


def context(cfg: DataConfig, findings: Findings | None = None) -> Callable[[str], Context]:
    """Return a function from the name of a part of the section to the context its reader gets."""
    shared = Findings() if findings is None else findings
    return lambda part: Context(cfg.root, f"data.{part}", cfg.rules(), shared)


def load_labeled(cfg: DataConfig, ctx: Context) -> Labeled:
    """Read the labelled set, before any split."""
    data = read_part(cfg, "labeled", ctx)
    check_files(data.images, name_of(cfg.labeled, ctx), ctx)
    ctx.findings.raise_first()
    return data


def kept(cfg: DataConfig) -> Labeled:
    """Read the labelled images that keep their labels, after the split; nothing else that ``cfg`` names.

    Raises:
        SsodError: what is wrong with them, or with the split.
    """
    ctx = context(cfg)
    everything = load_labeled(cfg, ctx("labeled"))
    return everything if cfg.split is None else everything.subset(splits.select(everything, cfg.split, ctx("split"))[0])


def load_unlabeled(source: Section, ctx: Context) -> Images:
    """Read the list of unlabelled images.

    Raises:
        SsodError: a file leads out of its folder, or more files are missing than training would bear.
    """
    from ssod.data.loading.reader import allowed_bad  # which imports torch

    images = read_images(source, ctx)
    file = name_of(source, ctx)
    missing = check_files(images, file, ctx, needed=False)
    if len(missing) > allowed_bad(len(images)):
        problem = f"{len(missing)} of {len(images)} images not found, first {short(images.paths[missing[0]])}"
        ctx.findings.error("I01", file, ctx.section, problem, "fix the paths or fetch the files", count=len(missing))
    ctx.findings.raise_first()
    return images


def load_val(cfg: DataConfig, classes: Classes, ctx: Context, owner: str = "labeled") -> Labeled | None:
    """Read the validation set and bring its labels into the order of ``classes``, which are those of ``owner``.

    Raises:
        SsodError: the class lists differ. Classes that were found, in files without a list of them, may be fewer.
    """
    if cfg.val is None:
        return None
    found = align(read_part(cfg, "val", ctx), classes, cfg.val, ctx, owner)
    check_files(found.images, name_of(cfg.val, ctx), ctx)
    ctx.findings.raise_first()
    return found


def check_pixels_of(
    parts: Mapping[str, Images | None], cfg: DataConfig, ctx: Callable[[str], Context]
) -> dict[str, Census]:
    """Say what the pixels of the parts of a data set are where there is something to say; return what was seen."""
    seen = {part: census(images, ctx(part)) for part, images in parts.items() if images is not None}
    sources = {"labeled": cfg.labeled, "unlabeled": cfg.unlabeled or cfg.labeled, "val": cfg.val}
    files = {part: name_of(sources[part], ctx(part)) for part in seen}
    check_pixels(seen, files, cfg.pixels(), replace(ctx("labeled"), section="data"))
    return seen


def load_measured(cfg: DataConfig, classes: Classes) -> Labeled | None:
    """Read what a model of ``classes`` is measured on; nothing else that ``cfg`` names has to be there.

    Raises:
        SsodError: as ``load``, about the validation set.
    """
    ctx = context(cfg)("val")
    val = load_val(cfg, classes, ctx, "the model")
    if val is not None:
        check_images(val.images, range(len(val)), name_of(cfg.val, ctx), ctx)
        check_pixels_of({"val": val.images}, cfg, lambda _: ctx)
        ctx.findings.raise_first()
    return val


def align(found: Labeled, classes: Classes, source: Section, ctx: Context, owner: str = "labeled") -> Labeled:
    """Bring the labels of ``found``, read from ``source``, into the order of ``classes``; see ``load_val``."""
    names = classes.names
    # A class that was only not found in a set's files is no contradiction.
    theirs = found.classes.names if not isinstance(source, NAMES_FOUND) else {*found.classes.names, *names}
    problem = differences("val", theirs, owner, names)
    if problem:
        raise ctx.findings.fatal("D40", name_of(source, ctx), "categories", problem, "make the class lists equal")
    own = classes if isinstance(source, NAMES_FOUND) else found.classes  # these have no ids
    ids = dict(zip(own.names, own.ids))
    label = {name: i for i, name in enumerate(names)}
    order = np.array([label[name] for name in found.classes.names], dtype=np.int64)
    in_order = Classes(names, tuple(ids[name] for name in names))
    return found.in_order(in_order, order)


def name_of(source: Section, ctx: Context) -> str:
    """Return the file or folder that a source's messages name."""
    return ctx.path(getattr(source, "ann", None) or getattr(source, "root", None) or source.path)


def _check_parts(
    everything: Labeled,
    labeled: Labeled,
    unlabeled: Images | None,
    val: Labeled | None,
    cfg: DataConfig,
    ctx: Callable[[str], Context],
) -> None:
    """Check what only shows when the parts are seen together."""
    findings, file = ctx("labeled").findings, name_of(cfg.labeled, ctx("labeled"))
    check_split(labeled, None if unlabeled is None else len(unlabeled), file, ctx("split"))
    if val is not None:
        check_pair(everything.images, val.images, "train-val", Blame(file, "remove them from one", ctx("val")))
    if unlabeled is not None and cfg.unlabeled is not None:
        blame = blame_source(cfg.unlabeled, name_of(cfg.unlabeled, ctx("unlabeled")), ctx("unlabeled"))
        check_pair(labeled.images, unlabeled, "labeled-unlabeled", blame)
        if val is not None:
            check_pair(unlabeled, val.images, "unlabeled-val", blame)
    findings.raise_first()


def check_split(labeled: Labeled, unlabeled: int | None, file: str, ctx: Context) -> None:
    """Check what a split left over: record an error if it is nothing, and warn of classes without a labelled box."""
    if labeled.crowd.all():
        problem = f"the {len(labeled)} images that the split labels have no object"
        ctx.findings.error("D35", file, "data.split", problem, "use another fold or a larger percent")
    if unlabeled == 0:
        ctx.findings.error(
            "D39", file, "data.unlabeled", "0 images", "lower data.split.percent, or name a folder as data.unlabeled"
        )
    for name, boxes in splits.coverage(labeled).items():
        if not boxes:
            ctx.findings.warning("D34", file, "data.labeled", f"{short(name)} has 0 labelled boxes")
    open = [] if labeled.incomplete is None else np.flatnonzero(labeled.incomplete.all(0)).tolist()
    for name in (labeled.classes.names[k] for k in open):
        problem = f"labels of {short(name)} are complete in no image: none shows where no such object is"
        ctx.findings.warning("D47", file, "data.labeled", problem, "label some images completely")


def _fingerprint(*parts: Labeled | Images | None) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(b"\x00part")
        images = part.images if isinstance(part, Labeled) else part
        if images is None:
            continue
        digest.update("\n".join(images.paths).encode())
        digest.update("\n".join(map(str, images.ids)).encode())
        if isinstance(part, Labeled):
            digest.update("\n".join(part.classes.names).encode())
            for column in (part.classes.ids, part.boxes, part.labels, part.crowd, part.difficult, part.starts):
                digest.update(np.ascontiguousarray(column).tobytes())
            if part.area is not None:
                digest.update(part.area.tobytes())
            if part.incomplete is not None:
                digest.update(b"\x00incomplete" + part.incomplete.tobytes())
    return digest.hexdigest()

"""Everything that can be found out about the data of a config before the first step: ``ssod check``."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np

from ssod.commands.advice import too_few
from ssod.data import datasets, splits
from ssod.data.checks.decoded import Decode, chosen
from ssod.data.checks.images import check_images
from ssod.data.checks.leakage import Blame, blame_source, check_pair, tell_near
from ssod.data.checks.looks import Looks
from ssod.data.checks.near_duplicates import near_duplicates
from ssod.data.checks.reach import Coverage
from ssod.data.checks.report import Report
from ssod.data.checks.visible import Visible
from ssod.data.datasets import DataConfig
from ssod.data.formats.findings import Context
from ssod.data.formats.presence import check_files
from ssod.data.formats.records import Images, Labeled
from ssod.data.formats.registry import read_images
from ssod.data.held_out import read_part
from ssod.data.loading.reader import allowed_bad
from ssod.utils.errors import SsodError


def check(
    cfg: DataConfig,
    *,
    decode: Decode | None = "none",
    limit: int | None = None,
    visible: Visible | None = None,
    reach: Callable[[Labeled], Coverage | None] | None = None,
) -> Report:
    """Look for everything that is wrong, instead of stopping at the first thing.

    Args:
        cfg: the ``data`` section.
        decode: which images to decode, which finds truncated ones; of the others the headers are read. None = all of a
            set of up to 20 000 images, and a sample of a larger one.
        limit: open at most this many images of each set, and compare at most this many of each pair of sets by
            content; None = all.
        visible: what the views and the detector of the config can show and find; None = it is not asked.
        reach: counts the labelled boxes that the detector reaches; None = it is not asked.
    """
    report = Report()
    labeled = _labeled(cfg, report, decode, limit)
    val = _val(cfg, labeled, report, decode, limit)
    unlabeled = _unlabeled(cfg, report, decode, limit)
    read = {"labeled": labeled, "unlabeled": unlabeled, "val": val}
    report.sets = {part: data for part, data in read.items() if data is not None}
    sets = {"labeled": labeled and labeled.images, "unlabeled": unlabeled, "val": val and val.images}
    ctx = _context(cfg, "labeled")
    for part, seen in datasets.check_pixels_of(sets, cfg, lambda part: replace(ctx, section=f"data.{part}")).items():
        report.counts[part]["pixels"] = seen.line()
    _collect(report, ctx)
    if labeled is not None:
        part = _split(cfg, labeled, report)
        report.coverage = reach(part) if reach is not None and part is not None else None
        if visible is not None:
            for name, data in (("labeled", part), ("val", val)):
                if data is not None:
                    ctx = _context(cfg, name)
                    visible.check(name, data, datasets.name_of(getattr(cfg, name), ctx), ctx)
                    _collect(report, ctx)
        _leakage(cfg, labeled, part, val, unlabeled, report, limit)
    return report


def _context(cfg: DataConfig, part: str) -> Context:
    """Return a context with findings of its own, so that one part's errors do not hide another's."""
    return datasets.context(cfg)(part)


def _collect(report: Report, ctx: Context, error: SsodError | None = None) -> None:
    """Move a part's findings to the report, and ``error`` unless a finding says it already."""
    messages = [f.error().line() for f in ctx.findings]
    if error is not None and error.line() not in messages:
        ctx.findings.error("D00", error.file, error.field, error.problem, error.fix, code=error.code)
    report.findings.extend(ctx.findings)


def _labeled(cfg: DataConfig, report: Report, decode: Decode | None, limit: int | None) -> Labeled | None:
    ctx = _context(cfg, "labeled")
    try:
        data = read_part(cfg, "labeled", ctx)
    except SsodError as error:
        _collect(report, ctx, error)
        _count_anyway(cfg, "labeled", report)
        return None
    _look("labeled", data.images, datasets.name_of(cfg.labeled, ctx), ctx, report, decode, limit, needed=True)
    report.counts["labeled"] = count(data)
    _collect(report, ctx)
    return data


def _val(
    cfg: DataConfig, labeled: Labeled | None, report: Report, decode: Decode | None, limit: int | None
) -> Labeled | None:
    if cfg.val is None:
        return None
    ctx = _context(cfg, "val")
    try:
        data = read_part(cfg, "val", ctx)
        if labeled is not None:
            data = datasets.align(data, labeled.classes, cfg.val, ctx)
    except SsodError as error:
        _collect(report, ctx, error)
        _count_anyway(cfg, "val", report)
        return None
    _look("val", data.images, datasets.name_of(cfg.val, ctx), ctx, report, decode, limit, needed=True)
    report.counts["val"] = count(data)
    _collect(report, ctx)
    return data


def _count_anyway(cfg: DataConfig, part: str, report: Report) -> None:
    """Count a part that could not be read with the declared classes, if it can be with its own."""
    if cfg.classes is not None:
        with suppress(SsodError):  # what is wrong is in the list
            report.counts[part] = count(read_part(cfg.model_copy(update={"classes": None}), part, _context(cfg, part)))


def _unlabeled(cfg: DataConfig, report: Report, decode: Decode | None, limit: int | None) -> Images | None:
    if cfg.unlabeled is None:
        return None
    ctx = _context(cfg, "unlabeled")
    try:
        images = read_images(cfg.unlabeled, ctx)
    except SsodError as error:
        _collect(report, ctx, error)
        return None
    file = datasets.name_of(cfg.unlabeled, ctx)
    bad = _look("unlabeled", images, file, ctx, report, decode, limit, needed=False)
    if bad > allowed_bad(len(images)):
        problem = f"{bad} of {len(images)} images cannot be read"
        ctx.findings.error("I01", file, ctx.section, problem, "remove or replace them", count=bad)
    report.counts["unlabeled"] = {"images": len(images)}
    _collect(report, ctx)
    return images


def _look(
    part: str,
    images: Images,
    file: str,
    ctx: Context,
    report: Report,
    decode: Decode | None,
    limit: int | None,
    *,
    needed: bool,
) -> int:
    """Look at the image files themselves; return how many cannot be read."""
    missing = set(check_files(images, file, ctx, needed=needed))
    rows = [row for row in range(len(images))[:limit] if row not in missing]
    decoded = chosen(rows, decode)
    report.decoded[part] = len(decoded), len(images)
    looks = report.looks[part] = Looks.none_of(len(images) if decoded else 0)
    return len(missing) + check_images(images, rows, file, ctx, decoded=decoded, needed=needed, take=looks.take)


def _split(cfg: DataConfig, labeled: Labeled, report: Report) -> Labeled | None:
    """Return the images that keep their labels; None if they cannot be drawn."""
    ctx = _context(cfg, "split")
    part, rest = labeled, report.counts.get("unlabeled", {}).get("images")
    try:
        if cfg.split is not None:
            keeps, loses = splits.select(labeled, cfg.split, ctx)
            part = labeled.subset(keeps)
            rest = len(loses) if cfg.unlabeled is None else rest
        datasets.check_split(part, rest, datasets.name_of(cfg.labeled, ctx), ctx)
        report.split = splits.describe(part, rest or 0, cfg.split)
        few = too_few({name: boxes for name, boxes in splits.coverage(part).items() if boxes})  # D34 tells of none
        if few and rest:
            ctx.findings.warning("D51", datasets.name_of(cfg.labeled, ctx), "data.labeled", few, "label more of them")
    except SsodError as error:
        _collect(report, ctx, error)
        return None
    _collect(report, ctx)
    return part


def _leakage(
    cfg: DataConfig,
    train: Labeled,
    labeled: Labeled | None,
    val: Labeled | None,
    unlabeled: Images | None,
    report: Report,
    limit: int | None,
) -> None:
    """Compare what must have no image in common: ``labeled`` is the part of ``train`` that keeps its labels."""
    file = datasets.name_of(cfg.labeled, _context(cfg, "labeled"))
    sets = {
        "train": train.images,
        "labeled": None if labeled is None else labeled.images,
        "unlabeled": unlabeled,
        "val": None if val is None else val.images,
    }
    for pair in ("train-val", "labeled-unlabeled", "unlabeled-val"):
        first, second = (sets[name] for name in pair.split("-"))
        if first is not None and second is not None:
            ctx = _context(cfg, "val" if pair == "train-val" else "unlabeled")
            blame = Blame(file, "remove them from one", ctx)
            if pair != "train-val":
                blame = blame_source(cfg.unlabeled, datasets.name_of(cfg.unlabeled, ctx), ctx)
            told = check_pair(first, second, pair, blame, limit)
            _near(report, (train.images if pair != "unlabeled-val" else first, second), pair, blame, told)
            _collect(report, ctx)


def _near(report: Report, images: tuple[Images, Images], pair: str, blame: Blame, told: Collection[str]) -> None:
    """Compare what two sets show; images in ``told`` are known to be in both."""
    parts = pair.replace("train", "labeled")
    looks = [report.looks[part] for part in parts.split("-")]
    if all(len(found.seen) for found in looks):
        rows = near_duplicates(*looks)
        rows = report.near[parts] = rows[[images[1].paths[row] not in told for row in rows[:, 1].tolist()]]
        tell_near(*images, rows, pair, blame)


def count(data: Labeled) -> dict[str, Any]:
    """Return what a labelled set holds; aspect groups are those that batches may be made of."""
    height, width = data.images.sizes.T
    pixels = np.sqrt(height.astype(np.float64) * width)
    own = np.diff(data.starts)
    counts = {
        "images": len(data),
        "boxes": len(data.boxes),
        "boxes_per_class": splits.coverage(data),
        "crowd": int(data.crowd.sum()),
        "difficult": int(data.difficult.sum()),
        "images_without_boxes": int((own == 0).sum()),
        "most_boxes_in_an_image": int(own.max(initial=0)),
        "side": {"min": float(pixels.min()), "median": float(np.median(pixels)), "max": float(pixels.max())},
        "aspect": {"wide": int((width > height).sum()), "other": int((width <= height).sum())},
    }
    if data.incomplete is not None and data.incomplete.any():
        of_class = dict(zip(data.classes.names, data.incomplete.sum(0).tolist()))
        counts["incomplete_images"] = len(data) - len(data.complete())
        counts["incomplete_images_per_class"] = {name: count for name, count in of_class.items() if count}
    return counts

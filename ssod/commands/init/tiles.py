"""Tiles instead of whole images, where ``ssod init`` finds no size of whole images within the budget that will do.

Tiles are tried as large as the budget allows, at the scale of the images first, then enlarged; at each scale the
recipe's anchors and levels first, then others. Neighbours overlap by a fifth of their size, or by as much as all but
2 % of the boxes need to be whole in one of them, up to a half. The first that reach ``ENOUGH`` of the boxes are taken,
or those that reach most, where that is ``LOSS`` more than whole images do.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from ssod.commands.coverage import ENOUGH, reach_of
from ssod.commands.init.budget import Load, cost_in_words, load_of, parts_within
from ssod.commands.init.sizes import (
    LEAST,
    Sample,
    Sizes,
    Wanted,
    options_of,
    pooling,
    read_detector,
    sample_of,
    sides,
    sizes_of,
)
from ssod.data.checks.reach import Seen, Whole
from ssod.data.formats.records import Labeled
from ssod.detectors.d2.config import D2Config
from ssod.structures import Tiles

LOSS = 0.05  # share of the boxes; whole images that lose less stay whole
ZOOMS = (1, 1.5, 2, 3, 4)
SMALLEST, LARGEST = 64, 800  # sides of a tile in pixels of the image, and of the network's input
OVERLAPS = (0.2, 0.5)


def or_tiles(data: Labeled, wanted: Wanted, whole: Sizes, given: Tiles | None = None) -> Sizes:
    """Return tiles and a detector for them, or ``whole`` where tiles do not reach ``LOSS`` more of the boxes.

    Args:
        data: the images that keep their labels.
        wanted: what the choice depends on.
        whole: what was chosen of whole images.
        given: tiles that a user names; they are taken in any case.
    """
    if given is None and (whole.share >= 1 - LOSS or not whole.fits):
        return whole
    plain = whole if given is None else replace(whole, tiles=given, short=given.size, whole=whole.share)
    cfg = read_detector(wanted.detector)
    if isinstance(cfg, D2Config) or data.crowd.all():
        return plain
    tried: list[Sizes] = []
    for found in _candidates(sample_of(data), wanted, cfg, given):
        each = int(np.median(found.tiles.count(sizes_of(data)))) if found.tiles is not None else 1
        tried.append(replace(found, each=each, whole=whole.share))
        if found.share >= ENOUGH:
            return tried[-1]
    best = max(tried, key=lambda found: found.share, default=plain)
    return best if given is not None or best.share > whole.share + LOSS else whole


def _candidates(sample: Sample, wanted: Wanted, cfg: Any, given: Tiles | None) -> Iterator[Sizes]:
    """Yield tiles that fit the budget, with anchors and levels for them, in the order of the head of this file."""
    largest = int(np.median(sample.images.min(1)))
    for zoom in ZOOMS:
        for change, option in options_of(wanted, cfg, sample.seen(np.full(len(sample.boxes), float(zoom)))):
            load, reach = load_of(option, wanted.images, wanted.steps, wanted.taught, 1.0), reach_of(option)
            short = _largest(wanted, load, LEAST.get(cfg.backbone, 224), given and round(given.size * zoom))
            if short is None or reach is None:
                continue
            tiles = given or _tiles(sample, int(short / zoom) // 16 * 16)
            if tiles is None or (given is None and tiles.size >= largest):
                continue
            short = round(tiles.size * zoom)
            parts = parts_within(wanted.budget, load, short, wanted.most_parts) or wanted.most_parts
            share = float(Whole(reach).within(seen_in_tiles(sample, tiles, zoom)).mean())
            cost = cost_in_words(wanted.budget, load, short, parts)
            detector = change | pooling(wanted, option, short)
            yield Sizes(short, wanted.steps, detector, parts, cost, share=share, tiles=tiles)


def seen_in_tiles(sample: Sample, tiles: Tiles, zoom: float) -> Seen:
    """Return boxes in the tile of the grid that shows most of them, enlarged by ``{resize: {ratio: ...}}``."""
    start = np.tile(tiles.around(sample.boxes, sample.images), 2)
    part = replace(sample, boxes=sample.boxes - start, images=tiles.fit(sample.images))
    return part.seen(np.full(len(sample.boxes), zoom))


def _tiles(sample: Sample, size: int) -> Tiles | None:
    """Return tiles that overlap by the length of all but 2 % of the boxes, within ``OVERLAPS``; None = too small."""
    if size < SMALLEST:
        return None
    side = float(np.quantile((sample.boxes[:, 2:] - sample.boxes[:, :2]).max(1), ENOUGH))
    return Tiles(size=size, overlap=min(max(math.ceil(20 * side / size) / 20, OVERLAPS[0]), OVERLAPS[1]))


def _largest(wanted: Wanted, load: Load, least: int, fixed: int | None) -> int | None:
    """Return the longest side of a square input that fits the budget, or ``fixed`` if it does; None = there is none."""
    for short in sorted(sides(LARGEST, least), reverse=True) if fixed is None else [fixed]:
        if short <= LARGEST and parts_within(wanted.budget, load, short, wanted.most_parts) is not None:
            return short
    return None

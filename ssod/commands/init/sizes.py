"""The size of the images, and the anchors and levels of the detector, that ``ssod init`` chooses from labelled boxes.

Sizes of the shorter side are tried in this order: the median of the images, larger ones up to twice that, then smaller
ones; each with the recipe's anchors and levels first, then with others. The first pair that reaches ``ENOUGH`` of the
boxes and fits the budget is taken; where that is a time, with half the steps, too. Where none does, half of these are
tried, down to the fewest that will do, and then it is the first that reaches the most, or two points less: a size is
not changed for nothing. Where not even the smallest size fits, it is that size, and what costs at most ``MARGIN`` of
the cheapest there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import numpy as np

from ssod.commands.coverage import ENOUGH, reach_of
from ssod.commands.init.budget import GB, Budget, cost_in_words, load_of, parts_within
from ssod.data.checks.reach import Seen
from ssod.data.formats.records import Labeled
from ssod.detectors.build import DetectorConfig
from ssod.detectors.d2.config import D2Config
from ssod.structures import Tiles
from ssod.utils.config_errors import Source, read_section
from ssod.utils.errors import SsodError
from ssod.utils.given import given
from ssod.utils.merging import merge

MOST = 3000  # boxes that are tried; of more, so many evenly spread
SLACK = 0.02
MARGIN = 1.25
LEAST = {"tiny": 96}  # the smallest shorter side; of a net with weights from large images it is 224
SCALES = (1.0, 0.75, 0.5, 0.35, 0.25, 1.5, 2.0)  # times the recipe's
FACTORS = (1.0, 0.75, 0.5, 0.35, 0.25, 0.15, 1.5, 2.0, 3.0)  # likewise, of anchors in pixels


@dataclass(frozen=True)
class Sizes:
    """What is chosen.

    Attributes:
        short: shorter side of an image in evaluation, pixels.
        steps: of the training.
        detector: keys of the detector's section that differ from the recipe's.
        accumulate: parts of a step.
        cost: what this will cost, in words; empty = not estimated.
        fits: whether it fits the budget.
        share: of the boxes that are within reach, as far as it was looked at.
        tiles: images are looked at in parts (``tiles``), whose shorter side ``short`` is; None = they are not.
        each: tiles that an image has, the median.
        whole: share that whole images would reach, where there are tiles.
    """

    short: int
    steps: int
    detector: dict[str, Any] = field(default_factory=dict)
    accumulate: int = 1
    cost: str = ""
    fits: bool = True
    share: float = field(default=1.0, compare=False)
    tiles: Tiles | None = None
    each: int = 1
    whole: float = field(default=1.0, compare=False)


@dataclass(frozen=True)
class Wanted:
    """What the choice depends on besides the boxes.

    Attributes:
        detector: the section as the recipe, and the user, have it.
        fixed: its anchors and levels stay: a user, or weights for a whole detector, say what they are.
        images: labelled and unlabelled images per step.
        most_parts: into how many parts a step may be cut.
        steps: how many steps, if that fits the budget.
        fewest: how many will do; those of ``steps`` where a user says how many.
        taught: share of the steps in which unlabelled images teach.
        budget: what it may cost.
    """

    detector: dict[str, Any]
    fixed: bool
    images: tuple[int, int]
    most_parts: int
    steps: int
    fewest: int
    taught: float
    budget: Budget


def choose(data: Labeled, wanted: Wanted) -> Sizes:
    """Return the largest input that fits, and anchors and levels for it.

    Raises:
        SsodError: the detector's section is wrong.
    """
    cfg = read_detector(wanted.detector)
    native = native_side(data, getattr(cfg, "backbone", ""))
    if isinstance(cfg, D2Config) or data.crowd.all():
        return Sizes(native, wanted.steps)
    sample = sample_of(data)
    least = LEAST.get(cfg.backbone, 224)
    options = list(options_of(wanted, cfg, sample.at(native)))
    aspect = min(float(np.median(sample.images.max(1) / sample.images.min(1))), 5 / 3)

    @cache  # what a size reaches does not depend on the steps
    def share(short: int, number: int) -> float:
        reach = reach_of(options[number][1])
        return 1.0 if reach is None else float(reach.within(sample.at(short)).mean())  # None: nothing to choose by

    tried = []
    for some in _shorter(wanted):
        for found in _each(share, some, options, aspect, sides(native, least)):
            if found.share >= ENOUGH:
                return found
            tried.append(found)
    if not tried:
        last = replace(some[-1], budget=_least_budget(some[-1], [option for _, option in options], aspect, least))
        tried = [replace(found, fits=False) for found in _each(share, [last], options, aspect, [least])]
    best = max(found.share for found in tried)
    return next(found for found in tried if found.share >= best - SLACK)


def _shorter(wanted: Wanted) -> list[list[Wanted]]:
    """Return what is wanted, and the same with half the steps; then with half of these, where a time is the budget."""
    steps = [wanted.steps]
    while wanted.budget.seconds is not None and steps[-1] > wanted.fewest:
        steps.append(max(round(steps[-1] // 2, -2), wanted.fewest))
    each = [replace(wanted, steps=count) for count in steps]
    return [each[:2], *([one] for one in each[2:])]


def _each(
    share: Callable[[int, int], float],
    some: Sequence[Wanted],
    options: Sequence[tuple[dict[str, Any], Any]],
    aspect: float,
    shorts: Sequence[int],
) -> Iterator[Sizes]:
    """Yield what each size, and each option at it, reach and cost, with the first of ``some`` that is allowed."""
    for short in shorts:
        for number, (change, option) in enumerate(options):
            loads = [load_of(option, one.images, one.steps, one.taught, aspect) for one in some]
            parts = [parts_within(one.budget, load, short, one.most_parts) for one, load in zip(some, loads)]
            fits = [i for i, count in enumerate(parts) if count is not None]
            if fits:
                wanted, load, count = some[fits[0]], loads[fits[0]], parts[fits[0]] or 1
                cost = cost_in_words(wanted.budget, load, short, count)
                detector = change | pooling(wanted, option, short)
                yield Sizes(short, wanted.steps, detector, count, cost, share=share(short, number))


def _least_budget(wanted: Wanted, options: Sequence[Any], aspect: float, short: int) -> Budget:
    """Return the budget that the cheapest option needs, and a quarter more: boxes are not reached at any price."""
    loads = [load_of(option, wanted.images, wanted.steps, wanted.taught, aspect) for option in options]
    budget = wanted.budget
    if budget.seconds is not None:
        return replace(budget, seconds=MARGIN * min(load.seconds(short, budget.cores) for load in loads))
    parts = 2 ** (wanted.most_parts.bit_length() - 1)
    return replace(budget, memory=GB + MARGIN * (min(load.memory(short, parts) for load in loads) - GB))


def native_side(data: Labeled, backbone: str) -> int:
    """Return the median shorter side of the images, a multiple of 32 between the least and 800 pixels."""
    median = float(np.median(sizes_of(data).min(1)))
    return min(max(round(median / 32) * 32, LEAST.get(backbone, 224)), 800)


def sides(native: int, least: int) -> list[int]:
    """Return the shorter sides to try, in order; multiples of 32 that differ by a seventh or more."""
    larger = sorted({round(native * factor / 32) * 32 for factor in (1.25, 1.5, 1.75, 2.0)} - {native})
    smaller, side = [], native
    while (side := int(side * 0.87) // 32 * 32) >= least:
        smaller.append(side)
    return [native, *larger, *smaller]


@dataclass(frozen=True)
class Sample:
    """Some of the labelled boxes.

    Attributes:
        boxes: [A, 4] float64.
        images: [A, 2], width and height of each box's image.
        labels: [A] int64.
    """

    boxes: np.ndarray
    images: np.ndarray
    labels: np.ndarray

    def at(self, short: int) -> Seen:
        """Return the boxes where ``{resize: {short: ..., long: ...}}`` of the written views puts them."""
        return self.seen(np.minimum(short / self.images.min(1), long_side(short) / self.images.max(1)))

    def seen(self, scale: np.ndarray) -> Seen:
        """Return the boxes in images that are scaled by factors [A]."""
        canvas = np.maximum(np.floor(self.images * scale[:, None] + 0.5), 1)
        return Seen(self.boxes * np.tile(canvas / self.images, 2), canvas, self.labels)


def long_side(short: int) -> int:
    """Return the longest side of an image whose shorter side is to be ``short`` pixels."""
    return round(short * 5 / 3)


def sample_of(data: Labeled) -> Sample:
    """Return up to ``MOST`` boxes, evenly spread; those of crowds are left out."""
    rows = np.flatnonzero(~data.crowd)
    rows = rows[:: max(1, -(-len(rows) // MOST))]
    owner = np.searchsorted(data.starts, rows, side="right") - 1
    images = sizes_of(data)[owner][:, ::-1].astype(np.float64)
    return Sample(data.boxes[rows].astype(np.float64), images, data.labels[rows])


def sizes_of(data: Labeled) -> np.ndarray:
    """Return [N, 2] (height, width): readers of labelled sets state them."""
    return given(data.images.sizes, "labelled images have sizes")


# ---- anchors and levels ------------------------------------------------------------------------------------------


def read_detector(section: Mapping[str, Any]) -> DetectorConfig:
    """Return a detector's section, validated."""
    return read_section(DetectorConfig, dict(section), "detector", Source("config", {}), {})


def options_of(wanted: Wanted, cfg: DetectorConfig, seen: Seen) -> Iterator[tuple[dict[str, Any], DetectorConfig]]:
    """Yield changes of the detector's section, none first and those that cost least next, with what they make of it."""
    yield {}, cfg
    if wanted.fixed:
        return
    for change in _changes(cfg, seen):
        section: dict[str, Any] = {}
        merge(section, wanted.detector, {}, "")
        merge(section, change, {}, "")
        try:
            yield change, read_detector(section)
        except SsodError:  # other keys of the section rule it out
            continue


def _changes(cfg: Any, seen: Seen) -> Iterator[dict[str, Any]]:
    if cfg.name == "dense_detector":
        for factor in FACTORS[1:]:
            yield {"anchors": [[[_short(side * factor) for side in sides] for sides in level] for level in cfg.anchors]}
        return
    shaped = cfg.name == "faster_rcnn" or (cfg.name == "retinanet" and cfg.assigner.name in ("iou", "ratio"))
    for levels in _levels(cfg.levels):
        for anchors in _anchors(cfg.anchors, seen) if shaped else [{}]:
            change = ({"levels": levels} if levels else {}) | ({"anchors": anchors} if anchors else {})
            if change:
                yield change


def _levels(own: tuple[int, int]) -> Iterator[list[int]]:
    """Yield other pyramids: one that begins a level lower, as high and one less. Empty = as it is."""
    yield []
    if own[0] == 3:
        yield [2, own[1] - 1]
        yield [2, own[1]]


def _anchors(own: Any, seen: Seen) -> Iterator[dict[str, Any]]:
    """Yield other anchors: of other scales, of more sizes a level, of the shapes that the boxes have."""
    for ratios in (None, *shapes_of(seen, own.ratios)):
        for octaves in sorted({own.octaves, max(own.octaves, 3)}):
            for scale in SCALES:
                change: dict[str, Any] = {} if scale == 1 else {"scale": _short(own.scale * scale)}
                change |= {} if octaves == own.octaves else {"octaves": octaves}
                yield change | ({} if ratios is None else {"ratios": ratios})


def shapes_of(seen: Seen, own: Sequence[float]) -> list[list[float]]:
    """Return heights over widths of the boxes: three and five of equal parts of them, then up to seven over all."""
    sides = np.maximum(seen.sides, 1e-3)
    logs = np.log(sides[:, 1] / sides[:, 0])
    low, high = np.quantile(logs, [0.02, 0.98])
    evenly = np.linspace(low, high, min(7, 1 + math.ceil((high - low) / math.log(2))))
    parts = [np.quantile(logs, (np.arange(count) + 0.5) / count) for count in (3, 5)]
    found = [sorted({_short(float(ratio)) for ratio in np.exp(ratios)}) for ratios in (*parts, evenly)]
    return [ratios for ratios in found if ratios != sorted(own)]


def pooling(wanted: Wanted, cfg: Any, short: int) -> dict[str, Any]:
    """Return from which side on a second stage reads coarser levels: half the image, where that is below the usual."""
    if wanted.fixed or cfg.name != "faster_rcnn" or short // 2 >= cfg.roi.scale:
        return {}
    return {"roi": {"scale": short // 2}}


def _short(value: float) -> float:
    """Return a number with two digits that count, as people write it."""
    return float(f"{value:.2g}")

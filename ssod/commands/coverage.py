"""Which share of the labelled boxes the detector of a config can be taught, at the size of its view of evaluation."""

from __future__ import annotations

import math

import numpy as np

from ssod.assign.adaptive import AdaptiveConfig
from ssod.assign.center import CenterConfig
from ssod.assign.iou import IoUConfig
from ssod.assign.ratio import RatioConfig
from ssod.config import Config
from ssod.data.checks.reach import Anchored, Coverage, Points, Reach, Seen, Shapes, Sides, Whole, cover
from ssod.data.formats.records import Labeled
from ssod.detectors.anchors import AnchorConfig
from ssod.detectors.build import DetectorConfig
from ssod.detectors.dense_detector import DenseDetectorConfig
from ssod.detectors.faster_rcnn import FasterRcnnConfig
from ssod.detectors.fcos import FcosConfig
from ssod.detectors.retinanet import RetinaNetConfig, strides_of
from ssod.structures import Tiles
from ssod.transforms.transform import chain
from ssod.transforms.views import Pipeline
from ssod.utils import seeding
from ssod.utils.given import given

ENOUGH = 0.98  # share of the boxes that a config should reach


def coverage(cfg: Config, data: Labeled) -> Coverage | None:
    """Count the boxes that the detector of a config reaches in the view of evaluation; crowds do not count.

    Training draws sizes around that view's, and an object that is out of reach there is not found later either. Where
    images are looked at in tiles, a box counts in the tile that shows most of it, and has to be whole there.

    Returns:
        None for a detector whose anchors are not known here: detectron2 reads them from a file of its own.
    """
    reach = reach_of(cfg.detector)
    if reach is None:
        return None
    tiles = cfg.views.tiles
    return cover(seen_in(cfg.views.val, data, tiles), reach if tiles is None else Whole(reach), data.classes.names)


def lines(found: Coverage | None) -> list[str]:
    """Return what ``ssod check`` and ``ssod init`` print of a coverage."""
    if found is None:
        return []
    out = found.beyond()
    return [f"within reach of the detector: {found.within()}", *([f"  out of reach: {out}"] if out else [])]


def doubt(found: Coverage | None) -> tuple[str, str] | None:
    """Return what is wrong with a coverage, and what to do; None where enough is within reach, or nothing is known.

    ``ssod plan`` and ``ssod check`` warn of it, and ``ssod init`` tells it, all by this one rule.
    """
    if found is None or found.share >= ENOUGH:
        return None
    fix = "larger views, or anchors and levels for such sides (ssod init chooses them)"
    if cut_by_tiles(found):
        fix = "larger views.tiles, or whole images: views.tiles=null"
    return f"out of reach of the detector: {found.beyond()}", fix


def cut_by_tiles(found: Coverage) -> bool:
    """Return whether most of what is out of reach is so because tiles are too small for it."""
    return 2 * found.cut > found.out


def reach_of(cfg: DetectorConfig) -> Reach | None:
    """Return which boxes the rows of a detector can take, by its anchors or points and its assigner; None = not known.

    The proposal network of a two-stage detector is asked for an overlap of 0.5, whatever it calls an object.
    """
    match cfg:
        case DenseDetectorConfig():
            return Shapes(tuple(side for level in cfg.anchors for side in level), cfg.assigner.most)
        case FasterRcnnConfig():
            strides = strides_of(cfg)
            return Anchored(strides, sides_of(cfg.anchors, strides))
        case RetinaNetConfig():
            strides = strides_of(cfg)
            return _assigned(cfg.assigner, strides, sides_of(cfg.anchors, strides), 0.0)
        case FcosConfig():
            strides = strides_of(cfg)
            squares = tuple(((float(s), float(s)),) for s in strides)
            return _assigned(cfg.assigner, strides, squares, 0.5 if cfg.points == "middle" else 0.0)
        case _:
            return None


def _assigned(
    assigner: IoUConfig | CenterConfig | AdaptiveConfig | RatioConfig,
    strides: tuple[int, ...],
    sides: tuple[Sides, ...],
    offset: float,
) -> Reach:
    match assigner:
        case IoUConfig():
            return Anchored(strides, sides, assigner.high, offset)
        case CenterConfig():
            return Points(strides, math.inf if assigner.radius == "box" else assigner.radius, offset=offset)
        case RatioConfig():
            return Shapes(tuple(side for level in sides for side in level), assigner.most)
        case AdaptiveConfig():  # any row whose center lies in the box
            return Points(strides, math.inf, 0.0, math.inf, offset)


def sides_of(cfg: AnchorConfig, strides: tuple[int, ...]) -> tuple[Sides, ...]:
    """Return width and height of the anchors of a cell of each level, rounded as ``AnchorConfig.build`` does."""
    roots = [math.sqrt(ratio) for ratio in cfg.ratios]
    exact = [[(s / r, s * r) for r in roots for s in level] for level in cfg.sizes(strides)]
    if cfg.rounding == "none":
        return tuple(map(tuple, exact))
    return tuple(tuple((2.0 * round(w / 2), 2.0 * round(h / 2)) for w, h in level) for level in exact)


def seen_in(view: Pipeline, data: Labeled, tiles: Tiles | None = None) -> Seen:
    """Return the boxes of a labelled set where a view without chance puts them; those of crowds are left out."""
    images = given(data.images.sizes, "labelled images have sizes")
    sizes, group = np.unique(images if tiles is None else tiles.fit(images), axis=0, return_inverse=True)
    acts = [chain(view.ops, seeding.generator(0, "coverage"), (w, h)) for h, w in sizes.tolist()]
    owner = np.repeat(group.reshape(-1), np.diff(data.starts))[~data.crowd]
    boxes = data.boxes[~data.crowd].astype(np.float64)
    if tiles is not None:
        each = np.repeat(images[:, ::-1], np.diff(data.starts), 0)[~data.crowd]
        boxes -= np.tile(tiles.around(boxes, each), 2)
    matrix = np.array([act.matrix for act in acts]).reshape(-1, 3, 3)[owner]
    center, side = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    center = np.einsum("aij,aj->ai", matrix[:, :2, :2], center) + matrix[:, :2, 2]
    half = np.einsum("aij,aj->ai", np.abs(matrix[:, :2, :2]), side) / 2
    canvas = np.array([act.size for act in acts], dtype=np.float64).reshape(-1, 2)[owner]
    return Seen(np.concatenate([center - half, center + half], 1), canvas, data.labels[~data.crowd])

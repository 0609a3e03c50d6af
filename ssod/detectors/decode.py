"""From rows to detections: rank, keep the best, suppress, pad to a fixed size.

Every shape here depends on the input's shape and the settings alone, so that evaluation, pseudo-labels and
``torch.export`` run the same lines. Absent detections are padding with score 0.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor
from torchvision.ops import nms

from ssod.structures import Clusters, Predictions, Targets
from ssod.structures.boxes import clip, iou
from ssod.utils.given import given
from ssod.utils.schema import Section


class DecodeConfig(Section):
    """How a detector's rows become detections."""

    score: float = Field(0.05, ge=0, le=1)
    "Detections must score above this."
    nms: float = Field(0.5, ge=0, le=1)
    "Of two boxes of one class that overlap more than this, the one with the lower score is dropped."
    per_level: int = Field(1000, ge=1, le=100_000)
    "Best (prior, class) pairs of each pyramid level that enter suppression; two-stage: of each image."
    detections: int = Field(100, ge=1, le=100_000)
    "Detections kept per image."
    clip: Literal["last"] | None = None
    """`last` cuts boxes at the border after suppression (detectron2's one-stage detectors; refused with two stages), by
    default before (torchvision, mmdetection). The released Consistent-Teacher cuts no box before it has been moved into
    the student's view; `last`, which is nearer to that, is in its recipe. One setting holds for what the teacher
    labels, for what is measured, of student and teacher, and for what is exported."""


class Detections(NamedTuple):
    """Detections of N images, padded to D per image and sorted by score; a padded one has score 0."""

    boxes: Tensor  # [N, D, 4]
    scores: Tensor  # [N, D] float32
    labels: Tensor  # [N, D] int64
    box_std: Tensor | None = None  # [N, D, 4] logit of the deviation of each side, of detectors that predict it
    # Where a rule is asked for clusters, and None else:
    candidates: Tensor | None = None  # [N, C, 4] as they entered suppression
    owner: Tensor | None = None  # [N, C] int64, the detection that a candidate belongs to, -1 = none

    def to_targets(self) -> list[Targets]:
        """Drop the padding: N Targets. Reads the counts back from the device, once."""
        counts = (self.scores > 0).sum(1).tolist()
        rows = zip(self.boxes, self.labels, self.scores, counts)
        found = [Targets(b[:n], labels[:n], s[:n]) for b, labels, s, n in rows]
        if self.box_std is None:
            return found
        return [replace(t, box_std=std[: len(t)]) for t, std in zip(found, self.box_std)]

    def to_clusters(self) -> Clusters:
        """Drop the padding of detections; see ``structures.Clusters``."""
        missing = "these detections were made without their clusters"
        return Clusters(self.to_targets(), given(self.candidates, missing), given(self.owner, missing))


class Rule(Protocol):
    """How rows become detections."""

    def __call__(
        self, p: Predictions, scores: Tensor, levels: tuple[int, ...], cfg: DecodeConfig, /, *, clusters: bool = False
    ) -> Detections:
        """Return detections of predictions by scores [R, K]; ``levels`` are rows per level of one image.

        With ``clusters`` they say which candidates were suppressed for the sake of which detection.
        """
        ...


def rank(p: Predictions) -> Tensor:
    """Return [R, K] float32 scores; see ``Predictions.scores``."""
    return p.scores()


def detect(
    p: Predictions,
    scores: Tensor,
    levels: tuple[int, ...],
    cfg: DecodeConfig,
    *,
    min_size: float = 0.0,
    clusters: bool = False,
) -> Detections:
    """Turn rows into detections, the images of a batch all at once and each as if it were alone.

    Args:
        p: R rows, the same number for every image.
        scores: [R, K]; pairs at or below ``cfg.score`` are no candidates.
        levels: rows per pyramid level of one image.
        cfg: thresholds and sizes.
        min_size: candidates with a shorter side are dropped.
        clusters: see ``Rule``.
    """
    boxes, values, labels, box_std = candidates(p, scores, levels, cfg)
    boxes = clip(boxes, p.sizes[:, None])
    if min_size:
        values = torch.where(((boxes[..., 2:] - boxes[..., :2]) >= min_size).all(-1), values, 0.0)
    return suppress(boxes, values, labels, scores.shape[1], cfg.nms, cfg.detections, box_std, clusters=clusters)


def candidates(
    p: Predictions, scores: Tensor, levels: tuple[int, ...], cfg: DecodeConfig
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Return the best (row, class) pairs of each level: boxes [N, C, 4], not clipped, scores [N, C], labels [N, C].

    The fourth is ``box_std`` [N, C, 4] of their rows, None where the detector predicts none.

    A pair whose box is inverted scores 0: an aligned head (``heads.fam3d``) takes the corners of a box from different
    cells, where they may change places.
    """
    n, k = p.num_images, scores.shape[1]
    scores = torch.where(scores > cfg.score, scores, 0.0).view(n, -1, k)
    best = [top(part, cfg.per_level) for part in scores.split(levels, 1)]
    starts = [sum(levels[:i]) for i in range(len(levels))]
    rows = torch.cat([pair // k + start for (_, pair), start in zip(best, starts)], 1)
    labels = torch.cat([pair % k for _, pair in best], 1)
    values = torch.cat([value for value, _ in best], 1)

    image = torch.arange(n, device=rows.device)[:, None].expand_as(rows)
    flat = (image * scores.shape[1] + rows).flatten()
    column = labels.flatten() if p.deltas.shape[1] > 1 else torch.zeros_like(flat)
    boxes = p.coder.decode(p.deltas[flat, column].float(), p.priors[flat]).view(n, -1, 4)
    upright = (boxes[..., 2:] >= boxes[..., :2]).all(-1)  # torchvision keeps a box without area, which moving drops
    box_std = None if p.box_std is None else p.box_std[flat].float().view(n, -1, 4)
    return boxes, torch.where(upright, values, 0.0), labels, box_std


def rule_of(cfg: DecodeConfig) -> Rule:
    """Return the rule of a one-stage detector."""
    return clip_last if cfg.clip == "last" else detect


def clip_last(
    p: Predictions, scores: Tensor, levels: tuple[int, ...], cfg: DecodeConfig, *, clusters: bool = False
) -> Detections:
    """Suppress boxes as they were decoded and clip them afterwards, as detectron2's one-stage detectors do."""
    boxes, values, labels, box_std = candidates(p, scores, levels, cfg)
    found = suppress(boxes, values, labels, scores.shape[1], cfg.nms, cfg.detections, box_std, clusters=clusters)
    return without_empty(found._replace(boxes=clip(found.boxes, p.sizes[:, None])))


def without_empty(found: Detections) -> Detections:
    """Turn boxes without area into padding, and move padding to the end."""
    solid = (found.boxes[..., 2:] > found.boxes[..., :2]).all(-1)
    scores, order = torch.where(solid, found.scores, 0.0).topk(found.scores.shape[1], 1)  # ONNX has no stable sort
    boxes = found.boxes.gather(1, order[..., None].expand(-1, -1, 4)) * (scores > 0)[..., None]
    box_std = None if found.box_std is None else found.box_std.gather(1, order[..., None].expand(-1, -1, 4))
    owner = found.owner
    if owner is not None:
        owner = torch.where(owner >= 0, order.argsort(1).gather(1, owner.clamp(min=0)), -1)
    labels = torch.where(scores > 0, found.labels.gather(1, order), 0)
    return Detections(boxes, scores, labels, box_std, found.candidates, owner)


def top(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the ``count`` highest scores of [N, P, K] and their indices into P * K, both [N, count].

    Where there are fewer, the rest are index 0 with score 0: a size that does not depend on P can be exported.
    """
    value, index = F.pad(scores.flatten(1), (0, count)).topk(count, 1)
    return value, torch.where(value > 0, index, 0)


def suppress(
    boxes: Tensor,
    scores: Tensor,
    groups: Tensor,
    num_groups: int,
    threshold: float,
    count: int,
    box_std: Tensor | None = None,
    *,
    clusters: bool = False,
) -> Detections:
    """Non-maximum suppression inside every (image, group) at once.

    Boxes of different images and groups are kept apart by moving each (image, group) to its own cell of a square grid.
    Cells along one line, as in torchvision, reach a million pixels for 8 images of 80 classes, where float32 knows
    coordinates to 1/16 only; the grid stays below 40 000. Outside export the work is done in float64, where moving a
    box is exact: what is suppressed then cannot depend on the rest of the batch.

    Args:
        boxes: [N, C, 4] candidates, clipped or not.
        scores: [N, C], 0 = no candidate.
        groups: [N, C] int64 below ``num_groups``: classes, or pyramid levels.
        num_groups: K.
        threshold: overlap above which the lower score goes.
        count: boxes to keep per image.
        box_std: [N, C, 4], which stays with its box.
        clusters: say for the sake of which box kept each candidate went; not in an export.
    """
    n = boxes.shape[0]
    cell = torch.arange(n, device=boxes.device)[:, None] * num_groups + groups
    exporting = torch.compiler.is_exporting() or torch.onnx.is_in_onnx_export()
    apart = boxes if exporting or boxes.device.type == "mps" else boxes.double()
    side = torch.full((), n * num_groups, dtype=torch.float32, device=boxes.device).sqrt().ceil().long()
    # Not amax: the ONNX exporter wants its dims named. Boxes that are not clipped begin below 0.
    low = apart.detach().min().floor().clamp(max=0)
    pitch = apart.detach().max().ceil() - low + 1
    x, y = (cell % side) * pitch - low, (cell // side) * pitch - low
    apart = (apart + torch.stack([x, y, x, y], -1)).flatten(0, 1)

    flat = scores.flatten()
    parts: Sequence[Tensor] = ()
    if exporting:
        # torchvision promises the tracer two boxes or more, which the graph then insists on: two outside every cell.
        outside = apart.new_tensor([[-2, -2, -1, -1], [-4, -4, -3, -3]])
        kept = nms(torch.cat([apart, outside]), F.pad(flat, (0, 2)), threshold)
    else:
        candidates = (flat > 0).nonzero().squeeze(1)
        # Image by image: all pairs are compared, and on a GPU kept in memory, and pairs of two images are useless.
        parts = candidates.split((scores > 0).sum(1).tolist())
        kept = torch.cat([part[nms(apart[part], flat[part].to(apart), threshold)] for part in parts])
    survives = F.pad(torch.zeros_like(flat), (0, 2)).index_fill(0, kept, 1.0)[:-2]

    value, index = F.pad((flat * survives).view(n, -1), (0, count)).topk(count, 1)
    index = torch.where(value > 0, index, 0)
    row = index[..., None].expand(-1, -1, 4)
    picked = boxes.gather(1, row) * (value > 0)[..., None]
    labels = torch.where(value > 0, groups.gather(1, index), 0)
    found = Detections(picked, value, labels, None if box_std is None else box_std.gather(1, row))
    if not clusters:
        return found
    return found._replace(candidates=boxes, owner=owners(boxes, scores, groups, parts, index, value > 0, threshold))


def owners(
    boxes: Tensor,
    scores: Tensor,
    groups: Tensor,
    parts: Sequence[Tensor],
    index: Tensor,
    real: Tensor,
    threshold: float,
) -> Tensor:
    """Return [N, C] int64: which of the boxes kept each candidate belongs to, -1 = none.

    A candidate belongs to the first box kept that overlaps it by more than ``threshold``, and one that was kept to
    itself. First is the highest score, of equal ones the first candidate. What was suppressed for the sake of a box
    beyond the last one of ``index`` belongs to none.

    Args:
        boxes: [N, C, 4] candidates.
        scores: [N, C].
        groups: [N, C] int64; boxes of two groups do not meet.
        parts: N tensors, the candidates of each image as places in [N * C].
        index: [N, D] int64, places in [C] of the boxes kept, the best first.
        real: [N, D] bool, False = padding.
        threshold: see ``suppress``.
    """
    owner, ranks = torch.full_like(groups, -1), torch.arange(index.shape[1], device=index.device)
    for i, part in enumerate(parts):
        b = boxes[i] if boxes.device.type == "mps" else boxes[i].double()
        kept, rest = index[i], part - i * boxes.shape[1]
        order = kept.argsort(stable=True)  # boxes of one score come from a sort that may turn them around
        order = order[scores[i, kept[order]].argsort(descending=True, stable=True)]
        over = (iou(b[kept], b[rest]) > threshold) & (groups[i, kept][:, None] == groups[i, rest]) & real[i][:, None]
        first = order[over[order].int().argmax(0)]
        of_all = F.pad(owner[i], (0, 1)).index_put((rest,), torch.where(over.any(0), first, -1))
        # A place too many takes the padding.
        owner[i] = of_all.index_put((torch.where(real[i], kept, boxes.shape[1]),), ranks)[:-1]
    return owner

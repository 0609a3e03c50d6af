"""The types everything else speaks: View, Batch, Targets, Pseudo, Predictions, Assignment; Output and Detector.

Axes, once for the whole package: N images, M boxes of one image, R rows (one per prior, all images concatenated),
K classes. Boxes are ``x1, y1, x2, y2`` in pixels of the view they belong to. Labels are ``0..K-1``; background is
never a label, it is what is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any, Literal, Protocol, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssod.boxes import Coder, clip, compose, warp
from ssod.given import given
from ssod.ragged import image_index, select


def _apply(item: Any, fn: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(item, Tensor):
        return fn(item)
    if isinstance(item, list):
        return [_apply(x, fn) for x in item]
    if isinstance(item, dict):
        return {k: _apply(v, fn) for k, v in item.items()}
    return item.map(fn) if isinstance(item, (Targets, View)) else item


@dataclass
class _Mapped:
    """Apply one function to every tensor inside, however deep."""

    def map(self, fn: Callable[[Tensor], Tensor]) -> Self:
        return replace(self, **{f.name: _apply(getattr(self, f.name), fn) for f in fields(self)})

    def to(self, device: torch.device | str) -> Self:
        """Copy to ``device``; overlaps with computation when the memory is pinned. To the CPU it waits."""
        return self.map(lambda t: t.to(device, non_blocking=torch.device(device).type != "cpu"))

    def pin_memory(self) -> Self:
        """Move to page-locked memory; torch's DataLoader calls it."""
        return self.map(lambda t: t.pin_memory())


@dataclass
class Targets(_Mapped):
    """The boxes of one image; ground truth, detections and pseudo-labels alike.

    Attributes:
        boxes: [M, 4] float.
        labels: [M] int64 in ``0..K-1``.
        scores: [M] confidence, or None for ground truth.
        probs: [M, K] soft label, or None for hard ones; what its rows lack to 1 is background.
        weight: [M] trust in the box, None = 1. Weight 0 is an *ignore region*: a prior matched to it learns neither
            object nor background (COCO's crowds are read as that).
    """

    boxes: Tensor
    labels: Tensor
    scores: Tensor | None = None
    probs: Tensor | None = None
    weight: Tensor | None = None

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, keep: Tensor | slice) -> Targets:
        if isinstance(keep, Tensor) and keep.dtype == torch.bool:
            keep = keep.nonzero().squeeze(1)  # waits for the device, and would for every field
        return self.map(lambda t: t[keep])

    @staticmethod
    def empty(like: Tensor) -> Targets:
        """No boxes, on the device and of the float type of ``like``; never a sentinel box."""
        return Targets(like.new_zeros((0, 4)), torch.zeros(0, dtype=torch.long, device=like.device))

    def soft(self, num_classes: int) -> Tensor:
        """Return [M, K] class targets: ``probs`` when there are any, else one-hot labels."""
        if self.probs is not None:
            return self.probs
        return F.one_hot(self.labels, num_classes).to(self.boxes.dtype)

    def trust(self) -> Tensor:
        """Return [M] weights, 1 where none were given."""
        return torch.ones_like(self.boxes[:, 0]) if self.weight is None else self.weight

    def confidence(self) -> Tensor:
        """Return [M] scores of detections or of pseudo-labels.

        Raises:
            TypeError: the boxes are ground truth.
        """
        return given(self.scores, "these boxes are ground truth and have no scores")


@dataclass
class View(_Mapped):
    """One look at N images: pixels, where they came from, and how to get back.

    Attributes:
        images: [N, 3, H, W] RGB, padded with 0 at the bottom and right to the common, stride-divisible size; uint8
            in 0..255 or float in 0..1. Normalisation belongs to the detector.
        sizes: [N, 2] int64, (height, width) of each image without its padding.
        matrix: [N, 3, 3] float32, pixels of the original image -> pixels of this view.
        keys: [N] int64, one random key per image (``ssod.seeding``).
        ids: N image ids, as the data set's file names them; for messages and results.
        targets: N ``Targets`` in this view's pixels, or None where there are no labels.
    """

    images: Tensor
    sizes: Tensor
    matrix: Tensor
    keys: Tensor
    ids: list[Any] = field(default_factory=list)
    targets: list[Targets] | None = None

    def __len__(self) -> int:
        return len(self.images)

    def truth(self) -> list[Targets]:
        """Return ``targets`` of labelled images.

        Raises:
            TypeError: the images have no labels.
        """
        return given(self.targets, "these images have no labels")

    def flipped(self) -> View:
        """Mirror each image about its own vertical axis, padding kept at the right; targets are not carried."""
        width = self.sizes[:, 1]
        column = torch.arange(self.images.shape[-1], device=self.images.device)
        source = torch.where(column < width[:, None], width[:, None] - 1 - column, column)  # [N, W]
        index = source[:, None, None, :].expand(-1, 3, self.images.shape[-2], -1)
        mirror = torch.eye(3, dtype=self.matrix.dtype, device=self.matrix.device).repeat(len(self), 1, 1)
        mirror[:, 0, 0], mirror[:, 0, 2] = -1, width.to(mirror)
        return replace(self, images=self.images.gather(3, index), matrix=compose(mirror, self.matrix), targets=None)


@dataclass
class Batch(_Mapped):
    """What one step learns from.

    Attributes:
        labeled: every labelled image, once per labelled view of the config (Unbiased Teacher has two).
        views: the unlabelled images by view name; ``batch.weak`` and ``batch.strong`` read from here. Empty while the
            method wants no unlabelled images (burn-in, supervised).
    """

    labeled: View
    views: dict[str, View] = field(default_factory=dict)

    @property
    def weak(self) -> View:
        """The view the teacher sees."""
        return self.views["weak"]

    @property
    def strong(self) -> View:
        """The view the student sees."""
        return self.views["strong"]


@dataclass
class Pseudo(_Mapped):
    """What a teacher says about N images; its lists always move and mix together.

    Attributes:
        cls: N Targets, the boxes that teach classes.
        box: N Targets, the boxes that teach places; None = those of ``cls``.
        unsure: N Targets that are neither object nor background, unless a method reads them; None = there are none.
    """

    cls: list[Targets]
    box: list[Targets] | None = None
    unsure: list[Targets] | None = None

    def each(self, change: Callable[[list[Targets]], list[Targets]]) -> Pseudo:
        """Apply ``change`` to every list that there is: the only way to change boxes and keep them together."""
        lists = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{name: change(images) for name, images in lists.items() if images is not None})

    def move(self, src: View, dst: View, min_size: float = 1.0) -> Pseudo:
        """Carry every box from the pixels of ``src`` into those of ``dst``.

        Corners are mapped, their axis-aligned hull is clipped to the image, and a box with a side of ``min_size``
        pixels or less is dropped: it has left the view, and what stays of it would teach a wrong place.
        """
        # inv_ex: unlike inv it does not wait for the device to report singular matrices.
        transfer = compose(dst.matrix, torch.linalg.inv_ex(src.matrix).inverse)
        return self.each(lambda targets: move_targets(targets, transfer, dst.sizes, min_size))

    def with_ignored(self) -> list[Targets]:
        """Return ``cls`` with the boxes of ``unsure`` behind them as ignore regions."""
        if self.unsure is None:
            return self.cls
        ignored = [replace(t, weight=torch.zeros_like(t.boxes[:, 0])) for t in self.unsure]
        return [join(pair) for pair in zip(self.cls, ignored)]


def join(parts: Sequence[Targets]) -> Targets:
    """Return the union of some boxes of one image; truth counts as 1 among boxes with a score."""
    scored, soft = (any(getattr(t, name) is not None for t in parts) for name in ("scores", "probs"))
    weighed = any(t.weight is not None for t in parts)
    classes = next((t.probs.shape[1] for t in parts if t.probs is not None), 0)
    scores = [torch.ones_like(t.boxes[:, 0]) if t.scores is None else t.scores for t in parts]
    return Targets(
        torch.cat([t.boxes for t in parts]),
        torch.cat([t.labels for t in parts]),
        torch.cat(scores) if scored else None,
        torch.cat([t.soft(classes) for t in parts]) if soft else None,
        torch.cat([t.trust() for t in parts]) if weighed else None,
    )


def move_targets(targets: Sequence[Targets], transfer: Tensor, sizes: Tensor, min_size: float = 1.0) -> list[Targets]:
    """Warp each image's boxes by its matrix [N, 3, 3], clip to ``sizes`` [N, 2] and drop what became too small."""
    counts = [len(t) for t in targets]
    image = image_index(counts, transfer.device)
    boxes = torch.cat([t.boxes for t in targets])
    boxes = clip(warp(boxes, transfer[image]), sizes[image])
    moved = [replace(t, boxes=b) for t, b in zip(targets, boxes.split(counts))]
    return select(moved, (boxes[:, 2:] - boxes[:, :2]).amin(1) > min_size)


@dataclass
class Predictions:
    """What a head says about R priors; an anchor, an FCOS point, an RPN anchor and a RoI are all rows.

    Attributes:
        logits: [R, K] for sigmoid heads, [R, K + 1] with background **last** for softmax heads.
        deltas: [R, C, 4] encoded boxes, C = 1 (class-agnostic) or K.
        priors: [R, 4] boxes.
        image: [R] int64, which image a row belongs to; sorted.
        sizes: [N, 2] int64, (height, width) of the images.
        coder: turns ``deltas`` and ``priors`` into boxes and back.
        softmax: whether ``logits`` are of a softmax head.
        quality: [R] logit of centerness or IoU, or None.
        levels: rows per pyramid level of one image, for heads with a fixed number of rows per image.
        strides: pixels per cell of each level, parallel to ``levels``.
        grids: cells (height, width) of each level, parallel to ``levels``.
        spread: [R, 4] logit of the uncertainty of each side, for heads that predict one.
    """

    logits: Tensor
    deltas: Tensor
    priors: Tensor
    image: Tensor
    sizes: Tensor
    coder: Coder
    softmax: bool = False
    quality: Tensor | None = None
    levels: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()
    grids: tuple[tuple[int, int], ...] = ()
    spread: Tensor | None = None

    def __len__(self) -> int:
        return len(self.priors)

    @property
    def num_images(self) -> int:
        """N, also when some image has no row; symbolic in an export, where ``len`` would fix it."""
        return self.sizes.shape[0]

    @property
    def num_classes(self) -> int:
        """K."""
        return self.logits.shape[1] - int(self.softmax)

    def probs(self) -> Tensor:
        """Return [R, K] foreground probabilities in float32."""
        logits = self.logits.float()
        return logits.softmax(-1)[:, :-1] if self.softmax else logits.sigmoid()

    def deltas_of(self, labels: Tensor | None) -> Tensor:
        """Return [R, 4]: deltas of class ``labels`` [R], or the only ones, for which labels may be None."""
        if self.deltas.shape[1] == 1:
            return self.deltas[:, 0]
        labels = given(labels, "each class has deltas of its own here, and no labels say which are meant")
        return self.deltas[torch.arange(len(labels), device=labels.device), labels]

    def boxes(self, labels: Tensor | None = None) -> Tensor:
        """Return [R, 4] decoded boxes in float32, of class ``labels`` or of the likeliest class; not clipped."""
        if labels is None and self.deltas.shape[1] > 1:
            labels = self.probs().argmax(-1)
        return self.coder.decode(self.deltas_of(labels).float(), self.priors)

    def __getitem__(self, keep: Tensor) -> Predictions:
        """Select rows; the fixed row count per level is lost."""
        rows = ("logits", "deltas", "priors", "image", "quality", "spread")
        picked = {n: getattr(self, n)[keep] for n in rows if getattr(self, n) is not None}
        return replace(self, **picked, levels=(), strides=(), grids=())


@dataclass
class Assignment:
    """What each of R rows is asked to predict: the waist between methods and losses.

    Attributes:
        cls: [R] int64 with K for background, or [R, K] soft targets whose missing mass is background. The first form
            is K times smaller and is what hard labels use.
        cls_weight: [R], 0 = ignore.
        box: [R, 4] the box to regress; anything where ``box_weight`` is 0.
        box_weight: [R], above 0 = foreground; or [R, 4], a weight for each encoded side, any above 0 = foreground.
        quality: [R] target of the quality branch, or None.
        matched: [R] int64 index of the target over all images concatenated, -1 background, -2 ignored; None where
            rows were asked for a teacher's map and not for boxes.
        normalizer: what a loss is divided by, [] or [R], by its name ``cls``, ``box`` or ``quality``; a loss that is
            not named has the detector's own.
    """

    cls: Tensor
    cls_weight: Tensor
    box: Tensor
    box_weight: Tensor
    quality: Tensor | None = None
    matched: Tensor | None = None
    normalizer: dict[str, Tensor] = field(default_factory=dict)

    @property
    def fg(self) -> Tensor:
        """[R] bool, rows with a box to regress."""
        return self.box_weight > 0 if self.box_weight.ndim == 1 else (self.box_weight > 0).any(1)

    @cached_property
    def fg_rows(self) -> Tensor:
        """[rows with fg] int64, which they are; searched once, as each search waits for the device."""
        return self.fg.nonzero().squeeze(1)

    def soft(self, num_classes: int) -> Tensor:
        """Return [R, K] float32 class targets."""
        if self.cls.ndim == 2:
            return self.cls.float()
        hot = torch.zeros(len(self.cls), num_classes + 1, device=self.cls.device)  # F.one_hot makes int64
        return hot.scatter_(1, self.cls[:, None], 1.0)[:, :num_classes]

    def labels(self) -> Tensor:
        """Return [R] int64: the class of each row; meaningful on foreground rows only."""
        return self.cls if self.cls.ndim == 1 else self.cls.argmax(-1)

    def matches(self) -> Tensor:
        """Return ``matched``.

        Raises:
            TypeError: rows were asked for a teacher's map.
        """
        return given(self.matched, "these rows were asked for a teacher's map and are matched to no boxes")

    def weighed_box(self, loss: Tensor) -> Tensor:
        """Return the box loss of each foreground row, [F], times its weight.

        Args:
            loss: [F] of whole boxes; [F, 4], a number a side, where ``box_weight`` has one for each side.
        """
        weight = self.box_weight[self.fg_rows]
        if loss.shape != weight.shape:
            raise TypeError(f"box losses {tuple(loss.shape)}, but weights of them {tuple(weight.shape)}")
        return loss * weight if weight.ndim == 1 else (loss * weight).sum(-1)

    def weighed_quality(self, loss: Tensor) -> Tensor:
        """Return the quality loss of each foreground row, [F], times the mean weight of its sides."""
        weight = self.box_weight[self.fg_rows]
        return loss * (weight if weight.ndim == 1 else weight.mean(-1))


# (predictions) -> [R, K] float32, by which detections are ranked and cut.
Rank = Callable[[Predictions], Tensor]


class Output(Protocol):
    """What a detector saw in a view."""

    @property
    def stages(self) -> dict[str, Predictions]:
        """Its dense maps: ``dense``, or ``rpn``."""
        ...

    @property
    def proposals(self) -> list[Tensor] | None:
        """N x [P_i, 4] without gradient, best first, for ``score``; None with one stage."""
        ...

    @property
    def pyramid(self) -> list[Tensor]:
        """The feature map of each level, [N, channels, h, w]."""
        ...

    def detections(self, score: float | None = None, rank: Rank | None = None) -> list[Targets]:
        """Decode, threshold and suppress; N Targets with scores, clipped to the images.

        ``score`` replaces the configured threshold, ``rank`` the detector's own ranking of the same maps.
        """
        ...

    def score(self, boxes: list[Tensor]) -> Predictions:
        """Say what is in these boxes, N tensors [M_i, 4]; row ``j`` of image ``i`` answers for box ``j``."""
        ...


# {stage: (what was said, what should have been said)}; stages are "dense", or "rpn" and "roi".
Assigned = dict[str, tuple[Predictions, Assignment]]

# (predictions, assignment) -> one loss per row: [R], except box and quality losses, [rows with fg].
RowLoss = Callable[[Predictions, Assignment], Tensor]
# ... with parameters behind these two, which a config may set.
Formula = Callable[..., Tensor]

# What a head has, by which row losses fit it or do not.
Kind = Literal["sigmoid", "softmax", "box", "spread", "aligned", "quality"]


class Priors(nn.Module):
    """The priors of a canvas: (height, width) and the (height, width) in cells of each level -> [rows, 4].

    Attributes:
        per_cell: priors of a cell.
    """

    per_cell: int


class Detector(nn.Module):
    """Answers four questions: predict, assign, reduce, and how losses are divided. It knows no teacher and no method.

    Attributes:
        num_classes: K.
        backbone: images to a pyramid.
        anchors: the priors of its dense rows.
        rows: its own row losses by name.
        weights: factor of each loss by name.
        pretrained_heads: whether pyramid and heads have weights from a file, too.
    """

    num_classes: int
    backbone: nn.Module
    anchors: Priors
    rows: dict[str, RowLoss]
    weights: dict[str, float]
    pretrained_heads: bool = False

    @property
    def body(self) -> nn.Module:
        """What is below the pyramid: that is all that an image classifier's weights are for."""
        raise NotImplementedError

    @property
    def channels(self) -> int:
        """Channels of every level of the pyramid."""
        raise NotImplementedError

    @property
    def kinds(self) -> Mapping[str, Kind]:
        """The row losses of this head by name, and what each must be made for."""
        raise NotImplementedError

    def predict(self, view: View) -> Output:
        """Look at a view. No losses, no resizing; batch-norm follows ``train()`` / ``eval()``."""
        raise NotImplementedError

    def assign(self, out: Any, cls: list[Targets], box: list[Targets] | None = None) -> Assigned:
        """Say what each row should have predicted.

        Args:
            out: what it saw in N images.
            cls: the boxes that teach classes.
            box: the boxes that teach places; None = those of ``cls``. The proposal network learns both from ``cls``.
        """
        raise NotImplementedError

    def reduce(
        self,
        assigned: Assigned,
        rows: Mapping[str, RowLoss] | None = None,
        factors: Mapping[str, float] | None = None,
    ) -> dict[str, Tensor]:
        """Turn assignments into scalar losses: cls, box, quality, rpn_cls, rpn_box, as the detector has them.

        Args:
            assigned: from ``assign``, or what a method made of it.
            rows: replace single row losses by name; the detector's own serve where it is silent.
            factors: of single losses by name, on top of the detector's own.
        """
        raise NotImplementedError

    def cls_normalizer(self, stage: str, p: Predictions, a: Assignment) -> Tensor:
        """Return what ``reduce`` divides the class loss of rows by, [] or [R], up to a factor that all rows share."""
        raise NotImplementedError

"""What rows say and what they are asked to say; losses of rows.

Axes, once for the whole package: N images, M boxes of one image, R rows (one per prior, all images concatenated),
K classes. Boxes are ``x1, y1, x2, y2`` in pixels of the view they belong to. Labels are ``0..K-1``; background is
never a label, it is what is missing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from ssod.structures.boxes import Coder
from ssod.utils.given import given


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
        quality: [R] logit of centerness, of IoU, or of objectness, or None.
        objectness: whether ``quality`` is the logit of a row's being an object at all, whatever its class. All rows
            learn it, and ``logits`` then are of the class that an object has, which rows of objects alone learn.
        levels: rows per pyramid level of one image, for heads with a fixed number of rows per image.
        strides: pixels per cell of each level, parallel to ``levels``.
        grids: cells (height, width) of each level, parallel to ``levels``.
        box_std: [R, 4] logit of the deviation of each encoded number, for heads that predict one.
        cls_features: what the class output read, [N, C, h, w] of each level, or one [R, C]; None where it is unknown.
    """

    logits: Tensor
    deltas: Tensor
    priors: Tensor
    image: Tensor
    sizes: Tensor
    coder: Coder
    softmax: bool = False
    quality: Tensor | None = None
    objectness: bool = False
    levels: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()
    grids: tuple[tuple[int, int], ...] = ()
    box_std: Tensor | None = None
    cls_features: list[Tensor] | None = None

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
        """Return [R, K] foreground probabilities in float32, of a head with ``objectness`` its product with the class.

        With objectness and one class, which no row has to learn, that of an object.
        """
        logits = self.logits.float()
        probs = logits.softmax(-1)[:, :-1] if self.softmax else logits.sigmoid()
        if self.quality is None or not self.objectness:
            return probs
        known = self.quality.float().sigmoid()[:, None]
        return known if self.num_classes == 1 else probs * known

    def scores(self) -> Tensor:
        """Return [R, K] float32, by which rows are ranked: ``probs``, or their geometric mean with the quality (FCOS).

        With objectness, which ``probs`` hold already, ``probs``.
        """
        probs = self.probs()
        if self.quality is None or self.objectness:
            return probs
        return (probs * self.quality.float().sigmoid()[:, None]).sqrt()

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
        """Select rows; the fixed row count per level and what the class output read are lost."""
        rows = ("logits", "deltas", "priors", "image", "quality", "box_std")
        picked = {n: getattr(self, n)[keep] for n in rows if getattr(self, n) is not None}
        return replace(self, **picked, levels=(), strides=(), grids=(), cls_features=None)


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
        quality_weight: [R], how much each row's quality counts; None = foreground rows, by their ``box_weight``.
        matched: [R] int64 index of the target over all images concatenated, -1 background, -2 ignored; None where
            rows were asked for a teacher's map and not for boxes.
        normalizer: what a loss is divided by, [] or [R], by its name ``cls``, ``box`` or ``quality``; a loss that is
            not named has the detector's own. ``centerness`` [] divides the box loss of a detector that weighs it so.
        box_std: [R, 4] logit of the deviation of each side of ``box``, as the teacher predicts it; None where it does
            not, and any number where no box was found.
        quality_of: the rows and boxes that the quality branch learns; None = those of this assignment.
        open: [N, K] bool, the classes of which each image may have boxes that nobody labelled; None = there are none.
            A row without a class is then asked about the others alone, see ``unknown``; class losses see to it.
    """

    cls: Tensor
    cls_weight: Tensor
    box: Tensor
    box_weight: Tensor
    quality: Tensor | None = None
    quality_weight: Tensor | None = None
    matched: Tensor | None = None
    normalizer: dict[str, Tensor] = field(default_factory=dict)
    box_std: Tensor | None = None
    quality_of: Assignment | None = None
    open: Tensor | None = None

    @property
    def fg(self) -> Tensor:
        """[R] bool, rows with a box to regress."""
        return self.box_weight > 0 if self.box_weight.ndim == 1 else (self.box_weight > 0).any(1)

    @cached_property
    def fg_rows(self) -> Tensor:
        """[rows with fg] int64, which they are; searched once, as each search waits for the device."""
        return self.fg.nonzero().squeeze(1)

    @property
    def quality_rows(self) -> Tensor | slice:
        """The rows that the quality branch learns, as an index: ``fg_rows``, or, where each has a weight, all."""
        return self.fg_rows if self.quality_weight is None else slice(None)

    def soft(self, num_classes: int) -> Tensor:
        """Return [R, K] float32 class targets."""
        if self.cls.ndim == 2:
            return self.cls.float()
        hot = torch.zeros(len(self.cls), num_classes + 1, device=self.cls.device)  # F.one_hot makes int64
        return hot.scatter_(1, self.cls[:, None], 1.0)[:, :num_classes]

    def doubtful(self, image: Tensor) -> Tensor:
        """Return [R] bool: rows without a class, of which ``image`` [R], that may be of an object nobody labelled."""
        return torch.zeros_like(self.cls_weight, dtype=torch.bool) if self.open is None else unknown(self, image).any(1)

    def labels(self) -> Tensor:
        """Return [R] int64: the class of each row; meaningful on foreground rows only."""
        return self.cls if self.cls.ndim == 1 else self.cls.argmax(-1)

    def matches(self) -> Tensor:
        """Return ``matched``.

        Raises:
            TypeError: rows were asked for a teacher's map.
        """
        return given(self.matched, "these rows were asked for a teacher's map and are matched to no boxes")

    def each_side(self, factor: Tensor) -> Tensor:
        """Return a factor of some rows, [F], in the shape that multiplies their ``box_weight``: [F] or [F, 1]."""
        return factor if self.box_weight.ndim == 1 else factor[:, None]

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
        """Return the quality loss of ``quality_rows`` times their weight: their own, or the mean of a box's sides."""
        if self.quality_weight is not None:
            return loss * self.quality_weight
        weight = self.box_weight[self.fg_rows]
        return loss * (weight if weight.ndim == 1 else weight.mean(-1))


def unknown(a: Assignment, image: Tensor, cls: Tensor | None = None) -> Tensor:
    """Return [R, K] bool: of which classes nobody knows whether a row is.

    A row that no box was found for may be of any class that is open in its image. A row of a labelled box has that
    box's class, and no other one.

    Args:
        a: an assignment with ``open``.
        image: [R] int64, which image a row belongs to.
        cls: of these rows; None = ``a.cls``.
    """
    open, cls = given(a.open, "the labels of some image are incomplete"), a.cls if cls is None else cls
    nothing = cls == open.shape[1] if cls.ndim == 1 else cls.sum(-1) == 0
    return open[image] & nothing[:, None]


# (predictions) -> [R, K] float32, by which detections are ranked and cut.
Rank = Callable[[Predictions], Tensor]


# {stage: (what was predicted, what should have been)}; stages are "dense", or "rpn" and "roi".
Assigned = dict[str, tuple[Predictions, Assignment]]

# (predictions, assignment) -> one loss per row: [R], except box and quality losses, [rows with fg] or [R].
RowLoss = Callable[[Predictions, Assignment], Tensor]
# ... with parameters behind these two, which a config may set.
Formula = Callable[..., Tensor]

# What a head has, by which row losses fit it or do not.
Kind = Literal["sigmoid", "softmax", "box", "box_std", "aligned", "spread", "quality"]

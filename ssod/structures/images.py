"""Views of images, and batches of views."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ssod.structures.boxes import compose
from ssod.structures.mapped import Mapped
from ssod.structures.pieces import Pieces
from ssod.structures.targets import Targets
from ssod.utils.given import given


@dataclass
class View(Mapped):
    """One look at N images: pixels, where they came from, and how to get back.

    Attributes:
        images: [N, 3, H, W] RGB, padded with 0 at the bottom and right to the common, stride-divisible size; uint8
            in 0..255 or float in 0..1. Normalisation belongs to the detector.
        sizes: [N, 2] int64, (height, width) of each image without its padding.
        matrix: [N, 3, 3] float32, pixels of the original image -> pixels of this view, as if it had not been cut.
        keys: [N] int64, one random key per image (``ssod.utils.seeding``).
        ids: N image ids, as the data set's file names them; for messages and results.
        targets: N ``Targets`` in this view's pixels, or None where there are no labels.
        half_size: whether a detector looks at every second pixel alone, with a pyramid that begins one level finer. Its
            maps are then as large as those of all pixels, and all places stay those of the full size.
        per_image: looks at each image that stand side by side, of labelled images as many as these have views.
        pieces: how unlabelled images were cut, and where the parts went; None where all are whole.
        tiles: of how many tiles the image of each row consists, where a row shows one of them and what is found is to
            be merged; None = each row stands for itself.
    """

    images: Tensor
    sizes: Tensor
    matrix: Tensor
    keys: Tensor
    ids: list[Any] = field(default_factory=list)
    targets: list[Targets] | None = None
    half_size: bool = False
    per_image: int = 1
    pieces: Pieces | None = None
    tiles: list[int] | None = None

    def __len__(self) -> int:
        return len(self.images)

    def truth(self) -> list[Targets]:
        """Return ``targets`` of labelled images.

        Raises:
            TypeError: the images have no labels.
        """
        return given(self.targets, "these images have no labels")

    def first(self) -> View:
        """Return the first look at each image alone."""
        if self.per_image == 1:
            return self
        rows = slice(None, None, self.per_image)
        tensors = {name: getattr(self, name)[rows] for name in ("images", "sizes", "matrix", "keys")}
        targets = None if self.targets is None else self.targets[rows]
        return replace(self, **tensors, ids=self.ids[rows], targets=targets, per_image=1)

    def flipped(self) -> View:
        """Mirror each image about its own vertical axis, padding kept at the right; targets are not carried."""
        width = self.sizes[:, 1]
        column = torch.arange(self.images.shape[-1], device=self.images.device)
        source = torch.where(column < width[:, None], width[:, None] - 1 - column, column)  # [N, W]
        index = source[:, None, None, :].expand(-1, 3, self.images.shape[-2], -1)
        mirror = torch.eye(3, dtype=self.matrix.dtype, device=self.matrix.device).repeat(len(self), 1, 1)
        mirror[:, 0, 0].fill_(-1)
        mirror[:, 0, 2] = width.to(mirror)
        pieces, images = self.pieces and self.pieces.then(mirror), self.images.gather(3, index)
        return replace(self, images=images, matrix=compose(mirror, self.matrix), targets=None, pieces=pieces)


@dataclass
class Batch(Mapped):
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
